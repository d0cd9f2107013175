"""A Gaussian process from the known spots to all others, on position, image features and their product.

    kernel   position · e(position) + image · e(image) + stain · e(stain) + e(wide position) · (near_image · e(image) + near_stain · e(stain))
             with e(view) = exp(-|difference|² / (2 length²)): near spots, similar spots, and similar spots that are not far away
    labels   known expression minus the mean of its layer, as scores on its leading directions (250 noisy genes from 200 spots have few
             degrees of freedom); a deep spot has more weight than a shallow one
    answer   exact posterior (Rasmussen & Williams 2006, algorithm 2.1): mean and variance per spot, turned back into genes

The kernel is chosen on the known spots by hiding discs of them (of several known layers that overlap: one layer after the other).
"""
from models.gp.choice import Hidings, choose_kernel, chunks, draw_hidings
from models.gp.kernel import Kernel, at_zero, covariance, inverse, squared_distances
from models.gp.labels import centred, leading_directions, spot_weights
from models.gp.process import BLOCK, GaussianProcess, fit, predict
