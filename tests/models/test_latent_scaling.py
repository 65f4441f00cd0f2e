"""The scaling of latents: published numbers, ranges of images, what is kept with weights."""

import numpy as np
import pytest

from guidestar.models.autoencoders.scaling import PUBLISHED, LatentScaling, fitted, from_json


def latents(channels=4):
    return np.float32(np.random.RandomState(0).standard_normal((2, 3, 3, channels)) * 5)


def test_stable_diffusions_factor_multiplies_and_images_keep_their_range():
    scaling = PUBLISHED["dit"]
    np.testing.assert_allclose(scaling.to_network(latents()), 0.18215 * latents(), rtol=1e-6)
    image = np.linspace(-1, 1, 12, dtype=np.float32).reshape(1, 2, 2, 3)
    np.testing.assert_array_equal(scaling.to_encoder(image), image)
    np.testing.assert_array_equal(scaling.from_decoder(image), image)


def test_edm2_standardises_channels_to_a_half_and_gives_images_from_zero_to_one():
    scaling = PUBLISHED["edm2"]
    z = np.array([5.81 + 4.17, 3.25 - 4.62, 0.12, -2.15 + 2 * 3.28], np.float32)
    np.testing.assert_allclose(scaling.to_network(z), [0.5, -0.5, 0, 1], atol=1e-6)
    np.testing.assert_allclose(scaling.to_encoder(np.array([-1.0, 0, 1])), [0, 0.5, 1])
    np.testing.assert_allclose(scaling.from_decoder(np.array([0, 0.5, 1])), [-1, 0, 1])


@pytest.mark.parametrize("name", PUBLISHED)
def test_both_ways_undo_each_other(name):
    scaling = PUBLISHED[name]
    there = scaling.to_network(latents())
    np.testing.assert_allclose(scaling.to_autoencoder(there), latents(), atol=1e-4)
    image = np.float32(np.random.RandomState(1).uniform(-1, 1, (2, 4, 4, 3)))
    np.testing.assert_allclose(scaling.from_decoder(scaling.to_encoder(image)), image, atol=1e-6)


def test_a_fitted_scaling_gives_the_spread_asked_for():
    z = latents(3) * np.float32([1, 2, 3]) + np.float32([4, 5, -6])
    mean, std = z.mean((0, 1, 2)), z.std((0, 1, 2))
    scaled = fitted(mean, std, to_std=0.7, image_range="symmetric").to_network(z)
    np.testing.assert_allclose(scaled.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std((0, 1, 2)), 0.7, rtol=1e-5)


def test_numpy_stays_numpy():
    assert isinstance(PUBLISHED["edm2"].to_network(latents()), np.ndarray)
    assert PUBLISHED["edm2"].to_network(latents()).dtype == np.float32


def test_what_json_keeps_is_the_same_scaling():
    scaling = LatentScaling("unit", (1, 2), (0.5, 3), autoencoder="ab12", file="vae.safetensors")
    assert from_json(scaling.to_json()) == scaling


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(image_range="bytes"), "not one of symmetric, unit"),
        (dict(shift=(0.0,)), "1 shifts and 2 scales"),
        (dict(shift=(), scale=()), "0 shifts and 0 scales"),
        (dict(scale=(1.0, 0.0)), "must be positive"),
        (dict(scale=(1.0, float("inf"))), "must be finite"),
    ],
)
def test_what_is_no_scaling_is_refused(change, message):
    fields = dict(image_range="unit", shift=(0.0, 0.0), scale=(1.0, 1.0))
    with pytest.raises(ValueError, match=message):
        LatentScaling(**(fields | change))


def test_data_that_is_none_and_channels_that_do_not_spread_are_refused():
    with pytest.raises(ValueError, match="is no scaling of latents"):
        from_json({"image_range": "unit"})
    with pytest.raises(ValueError, match="cannot be scaled"):
        fitted([0.0, 0.0], [1.0, 0.0], image_range="unit")
