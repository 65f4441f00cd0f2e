"""Resizing: what torch, TensorFlow's form in torch-fidelity and pytorch-fid make of an image."""

import numpy as np
import places
import pytest
from golden.make_extractors import images, pixels

from guidestar.core.resampling import cubic, linear, linear_from_corners, separable


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(places.GOLDEN / "extractors.npz"))


def resized(x, between, height, width, **options):
    rows, columns = between(x.shape[1], height, **options), between(x.shape[2], width, **options)
    return np.asarray(separable(rows, columns, x.astype(np.float32)))


SIZES = [(32, 32), (299, 299), (400, 310)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_from_corners_as_tensorflow_does(golden, height, width):
    found = resized(images(1, height, width, 3), linear_from_corners, 299, 299)
    expected = golden[f"graph/{height}x{width}"].transpose(1, 2, 0)
    np.testing.assert_allclose(found[0, ::23, ::17], expected, atol=255 * 5e-6)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_between_centres_as_torch_does(golden, height, width):
    x = images(1, height, width, 3) / np.float32(255)
    found = 2 * resized(x, linear, 299, 299) - 1
    expected = golden[f"pytorch_fid/{height}x{width}"].transpose(1, 2, 0)
    np.testing.assert_allclose(found[0, ::23, ::17], expected, atol=5e-6)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (224, 224), (300, 250)])
def test_antialiased_cubic_as_torch_does(golden, height, width):
    found = resized(images(1, height, width, 3), cubic, 224, 224, antialias=True)
    expected = golden[f"antialias/{height}x{width}"].transpose(1, 2, 0)
    np.testing.assert_allclose(found[0, ::17, ::13], expected, atol=255 * 5e-6)


@pytest.mark.parametrize(("length", "wanted"), [(37, 16), (37, 24), (16, 37)])
@pytest.mark.parametrize(
    ("name", "options"),
    [("offset", dict(offset=0.1)), ("plain", {}), ("antialias", dict(antialias=True))],
)
def test_cubic_as_torch_does(golden, length, wanted, name, options):
    found = resized(pixels(1, length, length, 2), cubic, wanted, wanted, **options)
    expected = golden[f"positions/{name}_{length}_{wanted}"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("between", [linear, linear_from_corners, cubic])
def test_a_row_keeps_its_mean_level_and_its_own_length(between):
    assert np.allclose(between(11, 29).sum(axis=1), 1)
    np.testing.assert_allclose(between(7, 7), np.eye(7), atol=1e-12)


def test_places_worked_by_hand():
    # 2 pixels to 4: from corners at 0, 1/2, 1, 3/2; between centres at -1/4, 1/4, 3/4, 5/4.
    shares = linear_from_corners(2, 4)[:, 1]
    np.testing.assert_allclose(shares, [0, 0.5, 1, 1])
    np.testing.assert_allclose(linear(2, 4)[:, 1], [0, 0.25, 0.75, 1])
