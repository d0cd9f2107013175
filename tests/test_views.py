"""The views of the Gaussian process: surroundings, and features without a slide's own stain."""
import numpy as np

from models.views import spot_views, surroundings


def test_surroundings_average_the_own_layer():
    position = np.array([[0.0, 0], [1, 0], [0, 0], [50, 0]])
    matrix = surroundings(position, np.array([2, 2, 1, 1])).toarray()
    near = np.exp(-0.5)
    own, other = 1 / (1 + near), near / (1 + near)
    np.testing.assert_allclose(matrix, [[own, other, 0, 0], [other, own, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def test_views_forget_a_slides_own_stain():
    generator = np.random.default_rng(0)
    position, layer = generator.uniform(0, 8, (80, 2)), np.arange(80) // 40
    feature = generator.normal(0, 1, (80, 30))
    stained = np.where((layer == 1)[:, None], 3 * feature - 5, feature)
    one, other = (spot_views(position, layer, {"image": values, "stain": values[:, :20]})
                  for values in (feature, stained))
    assert one["image"].shape == (80, 60) and one["stain"].shape == (80, 40)  # at most 30 and 20 components
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=1e-4)
