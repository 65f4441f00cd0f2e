"""The Haar transform: orthonormal, inverted by its transpose, bands in their place."""

import jax.numpy as jnp
import numpy as np
import pytest

from guidestar.models.autoencoders.haar import analysis, pyramid, synthesis


def matrix(height=4, width=6, channels=2):
    """Return the transform of images of this size as a matrix."""
    size = height * width * channels
    basis = jnp.eye(size).reshape(size, height, width, channels)
    return np.asarray(analysis(basis)).reshape(size, size)


def test_a_square_of_four_pixels_gives_four_bands_worked_by_hand():
    square = jnp.array([[7.0, 1.0], [3.0, 5.0]])[None, :, :, None]
    # Means, top less bottom, left less right, one diagonal less the other.
    np.testing.assert_array_equal(analysis(square)[0, 0, 0], [8, 0, 2, 4])


def test_the_transform_is_orthonormal():
    transform = matrix()
    np.testing.assert_allclose(transform @ transform.T, np.eye(len(transform)), atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 2, 1), (4, 6, 2), (3, 8, 10, 3), (5, 2, 16, 16, 4)])
def test_synthesis_undoes_analysis_and_analysis_synthesis(shape):
    x = np.float32(np.random.RandomState(0).standard_normal(shape))
    bands = analysis(x)
    assert bands.shape == (*shape[:-3], shape[-3] // 2, shape[-2] // 2, 4 * shape[-1])
    np.testing.assert_allclose(synthesis(bands), x, atol=1e-6)
    np.testing.assert_allclose(analysis(synthesis(bands)), bands, atol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(bands), jnp.linalg.norm(x), rtol=1e-6)


def test_synthesis_is_the_transpose():
    size = 4 * 6 * 2
    basis = jnp.eye(size).reshape(size, 2, 3, 8)
    inverse = np.asarray(synthesis(basis)).reshape(size, size)
    np.testing.assert_allclose(inverse, matrix().T, atol=1e-6)


@pytest.mark.parametrize(
    ("direction", "band"), [((1, 0), "vertical"), ((0, 1), "horizontal"), ((1, 1), "diagonal")]
)
def test_stripes_lie_in_the_band_of_their_direction(direction, band):
    row, column = np.mgrid[:8, :8]
    stripes = (-1.0) ** (direction[0] * row + direction[1] * column)
    bands = analysis(jnp.asarray(stripes)[..., None])
    energy = dict(
        zip(("low", "vertical", "horizontal", "diagonal"), (bands**2).sum((0, 1)), strict=True)
    )
    assert energy.pop(band) == 64 and not any(energy.values())


def test_levels_keep_the_low_band_in_the_images_range():
    flat = jnp.full((1, 16, 16, 3), 0.7)
    levels = pyramid(flat, 3)
    assert [level.shape for level in levels] == [(1, 8, 8, 12), (1, 4, 4, 12), (1, 2, 2, 12)]
    for level in levels:
        np.testing.assert_allclose(level[..., :3], 0.7, rtol=1e-6)
        np.testing.assert_allclose(level[..., 3:], 0, atol=1e-6)


def test_a_level_is_the_transform_of_means_over_squares():
    x = np.float32(np.random.RandomState(1).standard_normal((2, 8, 8, 3)))
    means = x.reshape(2, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(pyramid(x, 2)[1], pyramid(means, 1)[0], atol=1e-6)


def test_sizes_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="even sizes, got 8x7"):
        analysis(jnp.zeros((1, 8, 7, 3)))
    with pytest.raises(ValueError, match="even sizes, got 3x3"):
        pyramid(jnp.zeros((1, 12, 12, 1)), 3)
    with pytest.raises(ValueError, match="6 channels are not 4 bands"):
        synthesis(jnp.zeros((1, 4, 4, 6)))
