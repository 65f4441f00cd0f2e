"""A denoiser as a classifier: closed forms, exact posteriors, and what a budget may leave out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import MEANS, SPREAD, Labelled, mixture_denoiser, mixture_posterior
from tables.everyday import few

from guidestar import evaluation, input_pipeline, models
from guidestar.core.errors import UserError
from guidestar.core.random import NOISE, sample_keys
from guidestar.data.images import from_uint8
from guidestar.data.sources.tfds_arrays import default_data_dir
from guidestar.evaluation.denoising_errors import _spread, require_stages

KEY = jax.random.key(0)
LEVELS = np.geomspace(0.02, 20.0, 64)


def classified(images, sigmas=LEVELS, denoiser=None, **options):
    return evaluation.diffusion_classifier(
        denoiser or Labelled(), images, sigmas=sigmas, key=KEY, **options
    )


@pytest.mark.longer
def test_errors_of_gaussian_data_have_their_closed_form():
    # x - D = (x - m) s^2' + sigma eps (1 - s^2'), with s^2' = sigma^2 / (spread^2 + sigma^2).
    x, sigma, draws = np.full((3, 40, 40, 1), 0.3, np.float32), 0.8, 60
    found = classified(x, np.full(draws, sigma))
    total = SPREAD**2 + sigma**2
    for label, mean in enumerate(MEANS):
        exact = ((0.3 - mean) ** 2 * sigma**2 + SPREAD**4) / total**2
        np.testing.assert_allclose(found.errors[:, label], exact, rtol=0.01)
    assert (found.classes == 1).all() and (found.draws == draws).all()


def test_with_an_exact_denoiser_it_is_the_likeliest_class():
    points = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    logits = np.asarray(mixture_posterior(jnp.asarray(points), 0.02))
    clear = np.abs(logits[:, 0] - logits[:, 1]) > 1.0
    assert clear.sum() > 40 and 0 < logits.argmax(1)[clear].mean() < 1
    sigmas = np.geomspace(0.005, 50.0, 4000)
    found = classified(points[clear], sigmas, mixture_denoiser(), num_classes=2)
    np.testing.assert_array_equal(found.classes, logits[clear].argmax(1))
    # Summed over the plane and over log sigma they differ as the log-densities do.
    step = np.log(sigmas[-1] / sigmas[0])
    gap = (found.errors[:, 1] - found.errors[:, 0]) * 2 * step
    np.testing.assert_allclose(gap, (logits[:, 0] - logits[:, 1])[clear], atol=0.7, rtol=0.1)


def test_the_noise_of_all_classes_is_the_same():
    # Equal classes have equal errors, draw by draw.
    def same(x, sigma, label):
        return x / (1 + sigma**2) + 0 * label[:, None]

    points = np.random.default_rng(1).normal(size=(5, 2))
    found = classified(points, denoiser=jax.tree_util.Partial(same), num_classes=4)
    assert (np.ptp(found.errors, axis=1) < 1e-6).all() and found.errors.std(axis=0).min() > 1e-3


def test_an_image_is_the_same_in_any_batch_and_order():
    points = np.random.default_rng(2).normal(size=(7, 2))
    whole = classified(points)
    some = classified(points[[5, 2]], indices=[5, 2], batch_size=4)
    np.testing.assert_allclose(some.errors, whole.errors[[5, 2]], rtol=1e-5)


STAGES = ((8, 3), (24, 2), (64, 1))


@pytest.fixture(scope="module")
def several():
    """Points, and a denoiser of six classes in a row."""

    def denoise(x, sigma, label):
        mean = jnp.asarray(label, x.dtype)[:, None]
        return mean + (x - mean) * 0.04 / (0.04 + sigma**2)

    random = np.random.default_rng(3)
    points = random.integers(0, 6, (40, 1)) + random.uniform(-0.3, 0.3, (40, 2))
    return points, jax.tree_util.Partial(denoise)


@pytest.mark.longer
def test_a_budget_spends_what_its_stages_say_and_finds_the_same_classes(several):
    points, denoiser = several
    brute = classified(points, denoiser=denoiser, num_classes=6)
    cheap = classified(points, denoiser=denoiser, num_classes=6, stages=STAGES, batch_size=50)
    assert (brute.draws == 64).all()
    assert (np.sort(cheap.draws, axis=1) == [8, 8, 8, 24, 64, 64]).all()
    np.testing.assert_array_equal(cheap.classes, brute.classes)
    np.testing.assert_array_equal(brute.classes, points.mean(1).round())
    # Those that went all the way have the errors that they have without a budget.
    full = cheap.draws == 64
    np.testing.assert_allclose(cheap.errors[full], brute.errors[full], rtol=1e-4)


def brute_force(denoiser, images, sigmas):
    """Return the error ``[image, class, draw]`` of every class, an image and a draw at a time."""
    denoise = jax.jit(lambda x, sigma, label: denoiser(x, sigma, label))
    labels = np.arange(denoiser.num_classes)
    errors = np.empty((len(images), len(labels), len(sigmas)))
    for i, (x, own) in enumerate(
        zip(images, sample_keys(KEY, NOISE, np.arange(len(images))), strict=True)
    ):
        for n, sigma in enumerate(_spread(sigmas)):
            eps = np.asarray(jax.random.normal(jax.random.fold_in(own, n), x.shape))
            noised = np.repeat((x + sigma * eps)[None], len(labels), axis=0)
            found = np.asarray(denoise(noised, jnp.float32(sigma), labels), np.float64)
            guessed = (noised.astype(np.float64) - found) / sigma
            errors[i, :, n] = np.square(guessed - eps).mean((1, 2, 3))
    return errors


@pytest.mark.parametrize(
    ("weights", "data", "count", "draws"),
    [
        ("digits", "digits", 2, 6),
        pytest.param("fashion_mnist_dit", "fashion_mnist", 8, 16, marks=pytest.mark.longer),
        pytest.param(
            "fashion_mnist_dit_unmirrored", "fashion_mnist", 8, 16, marks=pytest.mark.longer
        ),
    ],
)
@pytest.mark.parametrize("staged", few(1, [True, False]))
def test_shipped_denoisers_have_the_errors_of_brute_force_class_by_class(
    weights, data, count, draws, staged
):
    if data != "digits" and not (default_data_dir() / data).is_dir():
        pytest.skip(f"no {data} in {default_data_dir()}, which $TFDS_DATA_DIR names")
    images = from_uint8(input_pipeline.load_source(data, "test").read(np.arange(count))[0])
    denoiser, sigmas = models.load(weights), np.geomspace(0.05, 20.0, draws)
    every = brute_force(denoiser, images, sigmas)
    stages = ((draws // 3, 5), (draws // 2, 2), (draws, 1)) if staged else ()
    found = classified(images, sigmas, denoiser, stages=stages, batch_size=32)
    total = np.cumsum(every, axis=2)
    given = np.take_along_axis(total, found.draws[..., None] - 1, axis=2)[..., 0] / found.draws
    np.testing.assert_allclose(found.errors, given, rtol=2e-5)
    whole = total[..., -1] / draws
    # Of the classes that went all the way the nearest, which is the nearest of all without stages.
    went = np.where(found.draws == draws, whole, np.inf)
    np.testing.assert_array_equal(found.classes, went.argmin(axis=1))
    assert (np.sort(found.draws, axis=1)[:, -2:] == draws).all()
    print(
        f"{weights}: {(found.classes == whole.argmin(axis=1)).sum()} of {count} images have brute "
        f"force's class for {found.draws.sum() / found.draws.size / draws:.0%} of its evaluations; "
        f"errors differ by {np.abs(found.errors / given - 1).max():.1e} at most"
    )


def test_any_beginning_of_the_draws_is_spread_over_the_levels():
    levels = np.log(_spread(np.geomspace(0.01, 100.0, 64)))
    np.testing.assert_allclose(np.sort(levels), np.log(np.geomspace(0.01, 100.0, 64)), atol=1e-4)
    for first in (4, 8, 16, 24):
        gaps = np.diff(np.sort(levels[:first]))
        assert gaps.max() < 2.1 * (levels.max() - levels.min()) / first


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (((8, 2), (8, 1)), "rise from stage to stage"),
        (((8, 2), (32, 1)), "the last are 64"),
        (((0, 2), (64, 1)), "rise from stage to stage"),
        (((8, 6), (64, 1)), "of 6 classes"),
        (((8, 2), (64, 2)), "fewer from stage to stage"),
        (((64, 2),), "is to keep 1"),
    ],
)
def test_stages_that_lead_nowhere_are_refused(stages, message):
    with pytest.raises(UserError, match=message):
        require_stages(stages, 64, 6)


def test_what_cannot_classify_is_refused():
    points = np.zeros((2, 2))
    with pytest.raises(UserError, match="knows no classes"):
        classified(points, denoiser=jax.tree_util.Partial(lambda x, s, c: x))
    with pytest.raises(UserError, match=r"no pytree.*models\.wrap"):
        classified(points, denoiser=lambda x, s, c: x, num_classes=2)
    with pytest.raises(UserError, match="numbers above 0"):
        classified(points, [1.0, 0.0])
    with pytest.raises(UserError, match="errors of image 9 are not finite"):
        classified(np.array([[0.0, 0.0], [np.nan, 0.0]]), indices=[4, 9])
