"""A Gaussian process from the known spots to all others, on position, image features and their product.

    kernel      position · e(position) + image · e(image) + stain · e(stain)
                + e(wide position) · (near_image · e(image) + near_stain · e(stain))
                with e(view) = exp(-|difference|² / (2 length²)): near spots, similar spots, similar spots not far away
    labels      known expression minus the mean of its layer, as scores on its leading directions (250 noisy genes of
                200 spots have few degrees of freedom); a spot with more counts has more weight
    prediction  exact posterior (Rasmussen & Williams 2006, algorithm 2.1): mean and variance per spot, converted back
                to genes

The kernel is chosen on the known spots: discs of them are hidden and predicted; of several known layers that overlap,
one layer after the other.
"""
from models.gp.choice import Hidings, choose_kernel, chunks, draw_hidings
from models.gp.kernel import Kernel, at_zero, covariance, inverse, squared_distances
from models.gp.labels import centred, leading_directions, spot_weights
from models.gp.process import BLOCK, GaussianProcess, fit, predict

__all__ = ["BLOCK", "GaussianProcess", "Hidings", "Kernel", "at_zero", "centred", "choose_kernel", "chunks",
           "covariance", "draw_hidings", "fit", "inverse", "leading_directions", "predict", "spot_weights",
           "squared_distances"]
