"""EDM's augmentation: exact geometry where it can be, its nine numbers, and no trace of it at 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.loss_examples import Stub, fixed, images, keys, only

from guidestar.core.random import fold_each
from guidestar.models.preconditioning import EDM
from guidestar.training.losses import Denoising
from guidestar.training.noise.augmentation import LABELS, SYM6, AugmentPipe, Draws, resampled
from guidestar.training.noise.corruption import AUGMENT

SIDE = 24
ROW, COLUMN = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
# A bump well inside the image, wide enough that resampling it loses next to nothing.
BUMP = np.exp(-((ROW - 10) ** 2 + (COLUMN - 13) ** 2) / 18)[..., None].astype(np.float32)
warp = jax.jit(resampled)


def draws(**values):
    return Draws(*(jnp.float32(values.get(name, 0.0)) for name in Draws._fields))


def bump_at(row, column, wide=18.0, high=18.0):
    return np.exp(-((ROW - row) ** 2) / high - (COLUMN - column) ** 2 / wide)[..., None]


def test_the_filter_and_its_even_shifts_are_orthonormal():
    products = [SYM6[2 * n :] @ SYM6[: len(SYM6) - 2 * n] for n in range(6)]
    np.testing.assert_allclose(products, [1, 0, 0, 0, 0, 0], atol=1e-11)
    assert SYM6.sum() == pytest.approx(np.sqrt(2), rel=1e-10)


@pytest.mark.parametrize("shape", [(16, 16, 3), (9, 14, 1)])
def test_the_identity_changes_nothing(shape):
    image = jax.random.normal(jax.random.key(0), shape)
    np.testing.assert_allclose(warp(image, jnp.eye(2), jnp.zeros(2)), image, atol=2e-6)


@pytest.mark.parametrize("shift", [(1, 0), (0, -2), (3, 2)])
def test_a_shift_by_whole_pixels_moves_them_and_mirrors_the_border(shift):
    image = np.asarray(jax.random.normal(jax.random.key(0), (12, 10, 2)))
    right, down = shift
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    expected = padded[4 - down : 16 - down, 4 - right : 14 - right]
    found = warp(image, jnp.eye(2), jnp.array(shift, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=3e-6)


CENTRE = (SIDE - 1) / 2
CASES = {
    "flip_x": (draws(flip_x=1), bump_at(10, SIDE - 1 - 13)),
    "flip_y": (draws(flip_y=1), bump_at(SIDE - 1 - 10, 13)),
    # 2^0.2 times as large, about the centre.
    "scale": (
        draws(scale=1),
        bump_at(
            CENTRE + (10 - CENTRE) * 2**0.2,
            CENTRE + (13 - CENTRE) * 2**0.2,
            18 * 2**0.4,
            18 * 2**0.4,
        ),
    ),
    # What was at (column, row) (1.5, -1.5) from the centre is at (-1.5, -1.5) after a quarter turn.
    "angle": (draws(angle=np.pi / 2), bump_at(CENTRE - 1.5, CENTRE - 1.5)),
    # Wider by 2^0.2, lower by as much.
    "stretch": (
        draws(stretch=1),
        bump_at(
            CENTRE + (10 - CENTRE) / 2**0.2,
            CENTRE + (13 - CENTRE) * 2**0.2,
            18 * 2**0.4,
            18 / 2**0.4,
        ),
    ),
    # Along the columns instead.
    "axis": (
        draws(stretch=1, axis=np.pi / 2),
        bump_at(
            CENTRE + (10 - CENTRE) * 2**0.2,
            CENTRE + (13 - CENTRE) / 2**0.2,
            18 / 2**0.4,
            18 * 2**0.4,
        ),
    ),
    # An eighth of the side for each unit: 3 pixels.
    "shift": (draws(shift_x=1, shift_y=-2 / 3), bump_at(8, 16)),
}


@pytest.mark.parametrize("case", CASES)
def test_each_operation_does_to_a_smooth_image_what_it_says(case):
    what, expected = CASES[case]
    found = jax.jit(AugmentPipe().apply)(BUMP, what)
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_the_labels_are_the_nine_numbers_of_the_paper():
    what = draws(flip_x=1, scale=-0.5, angle=1.0, stretch=2.0, axis=0.5, shift_x=0.3, shift_y=-0.7)
    expected = [1, 0, -0.5, np.cos(1) - 1, np.sin(1), 2 * np.cos(0.5), 2 * np.sin(0.5), 0.3, -0.7]
    np.testing.assert_allclose(what.labels, expected, rtol=1e-6)
    np.testing.assert_array_equal(draws().labels, np.zeros(LABELS))


@pytest.mark.longer
def test_operations_are_drawn_as_often_as_asked_and_mirror_images_half_the_time():
    many = jax.vmap(AugmentPipe(probability=0.2).draw)(keys(20_000))
    shares = {name: float((value != 0).mean()) for name, value in many._asdict().items()}
    assert shares["flip_x"] == pytest.approx(0.5, abs=0.02)
    assert shares["flip_y"] == pytest.approx(0.1, abs=0.01)
    assert shares["axis"] == pytest.approx(0.5, abs=0.02)
    for name in ("scale", "angle", "stretch", "shift_x"):
        assert shares[name] == pytest.approx(0.2, abs=0.015)
    np.testing.assert_array_equal(many.shift_x != 0, many.shift_y != 0)
    drawn = many.scale[many.scale != 0]
    assert float(drawn.std()) == pytest.approx(1, abs=0.05)
    assert abs(float(jnp.corrcoef(many.scale != 0, many.angle != 0)[0, 1])) < 0.03


@pytest.mark.longer
def test_without_operations_images_pass_unchanged_with_labels_of_zeros():
    image = images(3)["x"]
    same, labels = AugmentPipe(probability=0.0, mirror=0.0)(image, keys(3))
    np.testing.assert_allclose(same, image, atol=2e-6)
    np.testing.assert_array_equal(labels, np.zeros((3, LABELS)))


@pytest.mark.longer
def test_an_image_is_augmented_the_same_in_any_batch():
    image, pipe = images(4)["x"], jax.jit(AugmentPipe(0.9))
    whole = pipe(image, keys(4))
    for i in range(4):
        alone = pipe(image[i : i + 1], keys(4)[i : i + 1])
        np.testing.assert_allclose(alone[0][0], whole[0][i], atol=1e-6)
        np.testing.assert_array_equal(alone[1][0], whole[1][i])


@pytest.mark.longer
def test_a_loss_shows_the_network_the_augmented_image_and_its_labels():
    network, batch = Stub(lambda params, x, time: jnp.zeros_like(x)), images(4)
    pipe = AugmentPipe(0.9)
    Denoising(EDM(), fixed(1e-4, augment=pipe))(only(network, {}), batch, keys(4))
    given = network.seen[0]
    image, labels = pipe(batch["x"], fold_each(keys(4), AUGMENT))
    np.testing.assert_array_equal(given["augment"], labels)
    np.testing.assert_allclose(given["x"] * np.sqrt(0.25 + 1e-8), image, atol=1e-3)


@pytest.mark.parametrize("bad", [{"probability": 1.2}, {"mirror": -0.1}, {"shift_std": -1}])
def test_a_pipe_that_cannot_be_is_refused(bad):
    with pytest.raises(ValueError, match="augmentation:"):
        AugmentPipe(**bad)


def test_points_are_refused():
    with pytest.raises(ValueError, match="takes images"):
        AugmentPipe()(jnp.zeros((4, 2)), keys(4))
