"""Gaussians fitted to data: their denoiser, their flow in closed form, and the jump it allows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import keys, two_classes
from oracles.solver_runs import exact_end, line_mixture

from guidestar import guidance, samplers
from guidestar.samplers.gaussian_fit import GaussianFit, fit_gaussian
from guidestar.samplers.priors import gaussian, teleport

SHAPE = (2, 3)
DIM = 6


def data(count=400, seed=0, shape=SHAPE, offset=0.0):
    """Return correlated samples of very different variances along different directions."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(DIM, DIM)) * np.array([2.0, 1.0, 0.5, 0.3, 0.1, 0.02])
    return (random.normal(size=(count, DIM)) @ mixing.T + offset).reshape(count, *shape)


def moments(samples):
    flat = samples.reshape(len(samples), -1)
    return flat.mean(axis=0), np.cov(flat.T, bias=True)


def unit(count, *shape, seed=1):
    return samplers.unit_noise(keys(count, seed), shape)


def run(denoise, sigmas, noise, prior, solver=None, condition=None):
    return samplers.sample(
        denoise,
        guidance.unguided(),
        solver or samplers.euler(),
        sigmas,
        noise,
        condition,
        keys(len(noise)),
        prior=prior,
    )


def moment_fit(mixture):
    """Return the Gaussian with a mixture's own moments, which no finite set of samples has."""
    weights = np.exp(mixture.log_weights)
    mean = weights @ mixture.means
    within = np.einsum(
        "kde,ke,kfe->kdf", mixture.eigenvectors, mixture.eigenvalues, mixture.eigenvectors
    )
    apart = np.einsum("kd,kf->kdf", mixture.means - mean, mixture.means - mean)
    values, vectors = np.linalg.eigh(np.einsum("k,kdf->df", weights, within + apart))
    return GaussianFit(*map(jnp.asarray, (mean, values, vectors)), (mixture.dim,))


def exact_gaussian(samples):
    """Return the flow of ``N(mean, covariance)``, by the covariance itself and no eigenvectors."""
    mean, covariance = moments(samples)

    def flow(x, sigma, to):
        vectors, roots = np.linalg.eigh(covariance)[::-1]
        gains = np.sqrt((roots + to**2) / (roots + sigma**2))
        offset = x.reshape(len(x), -1) - mean
        return (mean + offset @ (vectors * gains) @ vectors.T).reshape(x.shape)

    return flow


@pytest.mark.parametrize("sigma", [0.05, 1.0, 30.0])
def test_the_denoiser_is_the_best_affine_one(sigma, x64):
    samples = data()
    mean, covariance = moments(samples)
    fit, x = fit_gaussian(samples), unit(20, *SHAPE) * sigma
    gain = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(DIM))
    expected = mean + (x.reshape(20, -1) - mean) @ gain.T
    np.testing.assert_allclose(fit.denoise(x, sigma).reshape(20, -1), expected, atol=1e-11)
    np.testing.assert_array_equal(fit(x, sigma, None), fit.denoise(x, sigma))


def test_fewer_samples_than_dimensions_span_what_there_is(x64):
    # The same Gaussian from the samples' own singular vectors as from the whole covariance.
    samples = data(4)
    fit, x = fit_gaussian(samples), unit(20, *SHAPE)
    assert fit.eigenvectors.shape == (DIM, 4)
    many = fit_gaussian(np.repeat(samples, 3, axis=0))
    assert many.eigenvectors.shape == (DIM, DIM)
    np.testing.assert_allclose(fit.denoise(x, 0.7), many.denoise(x, 0.7), atol=1e-8)
    np.testing.assert_allclose(fit.jump(x, 5.0, 0.7), many.jump(x, 5.0, 0.7), atol=1e-8)


def test_no_direction_has_less_variance_than_the_floor(x64):
    # A coordinate that never changes, as the corners of digits: its mean is known for certain.
    samples = data(shape=(DIM,))
    samples[:, 2] = 0.7
    assert fit_gaussian(samples).eigenvalues[-1] == 1e-10
    fit = fit_gaussian(samples, floor=0.01)
    np.testing.assert_allclose(fit.eigenvalues[-1], 0.01)
    x = unit(4, DIM)
    np.testing.assert_allclose(fit.denoise(x, 0.0), x, atol=1e-12)
    np.testing.assert_allclose(fit_gaussian(samples).denoise(x, 0.5)[:, 2], 0.7, atol=1e-8)


def test_the_jump_is_the_flow_of_its_denoiser(x64):
    fit = fit_gaussian(data())
    start = 8 * unit(3, *SHAPE)
    sigmas = samplers.karras(200, 0.5, 8.0, final_zero=False)
    end = run(fit, sigmas, start / 8, gaussian(), samplers.deis(4, "rhork"))
    np.testing.assert_allclose(fit.jump(start, 8.0, 0.5), end, atol=1e-7)


@pytest.mark.parametrize("rank", [None, 2])
def test_jumps_compose_undo_each_other_and_may_be_nothing(rank, x64):
    fit, x = fit_gaussian(data(), rank=rank), 80 * unit(5, *SHAPE)
    np.testing.assert_allclose(fit.jump(x, 80.0, 80.0), x, rtol=1e-12, atol=1e-12)
    half = fit.jump(x, 80.0, 7.0)
    np.testing.assert_allclose(fit.jump(half, 7.0, 0.3), fit.jump(x, 80.0, 0.3), atol=1e-11)
    np.testing.assert_allclose(fit.jump(half, 7.0, 80.0), x, atol=1e-10)


def test_what_a_low_rank_leaves_out_shrinks_with_the_noise(x64):
    samples = data()
    fit, full = fit_gaussian(samples, rank=2), fit_gaussian(samples)
    assert fit.eigenvectors.shape == (DIM, 2)
    np.testing.assert_allclose(fit.eigenvalues, full.eigenvalues[:2])
    x = 10 * unit(5, *SHAPE)
    outside = np.eye(DIM) - fit.eigenvectors @ fit.eigenvectors.T

    def left_out(y):
        return (y.reshape(5, -1) - fit.mean) @ outside

    np.testing.assert_allclose(left_out(fit.jump(x, 10.0, 2.0)), left_out(x) / 5, atol=1e-12)
    np.testing.assert_allclose(left_out(fit.denoise(x, 10.0)), 0, atol=1e-12)
    inside = np.asarray(fit.eigenvectors)
    np.testing.assert_allclose(
        (fit.jump(x, 10.0, 2.0) - full.jump(x, 10.0, 2.0)).reshape(5, -1) @ inside, 0, atol=1e-11
    )


@pytest.mark.parametrize("start", [40.0, 5.0, 0.3])
def test_gaussian_data_may_be_jumped_to_any_level(start, x64):
    # The rest of the way in the finest steps ends where the flow from sigma_max ends.
    samples = data()
    fit, noise = fit_gaussian(samples), unit(4, *SHAPE)
    sigmas = samplers.karras(60, 0.1, start, final_zero=False)
    end = run(fit, sigmas, noise, teleport(fit, 80.0), samplers.deis(4, "rhork"))
    np.testing.assert_allclose(end, exact_gaussian(samples)(80 * noise, 80.0, 0.1), atol=1e-5)


def test_a_jump_to_its_own_start_is_the_gaussian_prior():
    fit, noise = fit_gaussian(data()), unit(4, *SHAPE)
    x = teleport(fit, 80.0)(noise, jnp.float32(80.0), keys(4))
    np.testing.assert_allclose(x, 80 * noise, rtol=1e-5)


@pytest.mark.longer
def test_the_gaussians_own_start_gives_its_own_distribution(x64):
    samples = data()
    mean, covariance = moments(samples)
    fit = fit_gaussian(samples)
    x = teleport(fit, 20.0, start="fit")(unit(40_000, *SHAPE), 0.5, keys(1))
    got_mean, got = moments(np.asarray(x))
    exact = covariance + 0.25 * np.eye(DIM)
    spread = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    np.testing.assert_allclose(got_mean, mean, atol=5 * np.sqrt(spread.max() / 40_000))
    assert np.abs((got - exact) / spread).max() < 5 * np.sqrt(2 / 40_000)
    # With few directions the others still have the noise's own deviation.
    low = fit_gaussian(samples, rank=1)
    x = np.asarray(low.draw(unit(40_000, *SHAPE), 0.5)).reshape(40_000, -1) - low.mean
    outside = x - x @ low.eigenvectors @ low.eigenvectors.T
    np.testing.assert_allclose((outside**2).sum() / 40_000, (DIM - 1) * 0.25, rtol=0.02)


@pytest.mark.longer
def test_on_a_mixture_the_error_falls_with_the_level_jumped_to(x64):
    mixture = line_mixture()
    fit = moment_fit(mixture)
    noise = jnp.array([[-1.2], [-0.3], [0.4], [1.5]])
    errors, levels = [], (0.5, 2.0, 8.0, 32.0)
    for level in levels:
        jumped = teleport(fit, 80.0)(noise, level, keys(4))
        errors.append(np.abs(jumped - exact_end(mixture, 80 * noise, 80.0, level)).max())
    assert errors[0] > 0.1
    assert all(high < low / 10 for low, high in zip(errors[:-1], errors[1:], strict=True)), errors


@pytest.mark.longer
def test_the_error_of_the_denoiser_shows_where_to_jump_to():
    *_, both = two_classes()
    points = both.sample(jax.random.key(0), 4000)
    fit = moment_fit(both)
    levels = [0.05, 0.3, 2.0, 10.0, 50.0]
    error = fit.error(lambda x, s, c: both.denoise(x, s), points, levels, jax.random.key(1))
    assert error.shape == (5,) and error.argmax() == 1
    assert (np.diff(error[1:]) < 0).all() and error[-1] < 0.01
    own = fit.error(fit, points, levels, jax.random.key(1))
    np.testing.assert_allclose(own, 0, atol=1e-6)
    # The difference of two constants is known.
    far = fit.error(lambda x, s, c: fit.denoise(x, s) + 3.0, points, levels, jax.random.key(1))
    np.testing.assert_allclose(far, 3.0, rtol=1e-5)


@pytest.mark.longer
def test_jumping_saves_steps_on_a_mixture():
    # Nine steps after the jump, against twelve from 80 down: nearer to the truth at less cost.
    *_, both = two_classes()
    fit = moment_fit(both)
    noise = unit(200, 2)

    def denoise(x, sigma, condition):
        return both.denoise(x, sigma)

    def end(sigmas, prior):
        return run(denoise, sigmas, noise, prior, samplers.heun())

    truth = end(samplers.karras(400), gaussian())
    plain = np.abs(end(samplers.karras(12), gaussian()) - truth).mean()
    jumped = np.abs(end(samplers.karras(9, sigma_max=3.0), teleport(fit)) - truth).mean()
    assert jumped < 0.6 * plain


# By class.


def labelled():
    labels = np.array([0, 1, 2, 0, 1, 2, 2] * 40)
    samples = data(len(labels)) * (1 + labels[:, None, None]) + labels[:, None, None]
    return samples, labels


@pytest.mark.longer
def test_each_class_has_its_own_gaussian_and_the_null_label_all_of_them():
    samples, labels = labelled()
    fit, x = fit_gaussian(samples, labels), 3 * unit(5, *SHAPE)
    assert fit.null_condition == 3
    wanted = jnp.array([2, 0, 3, 1, 2])
    sets = [samples[labels == k] for k in range(3)] + [samples]
    for method in (
        lambda one, *c: one.denoise(x, 2.0, *c),
        lambda one, *c: one.jump(x, 9.0, 2.0, *c),
        lambda one, *c: one.draw(x, 2.0, *c),
    ):
        whole = [method(fit_gaussian(one)) for one in sets]
        expected = jnp.stack([whole[k][i] for i, k in enumerate(wanted)])
        np.testing.assert_allclose(method(fit, wanted), expected, atol=1e-4)
        np.testing.assert_allclose(method(fit), whole[3], atol=1e-4)
    assert np.isnan(fit.denoise(x, 2.0, jnp.array([0, 4, 1, 2, 3]))[1]).all()


@pytest.mark.longer
def test_the_jump_takes_the_condition_of_the_run():
    samples, labels = labelled()
    fit, noise, wanted = (
        fit_gaussian(samples, labels, rank=3),
        unit(4, *SHAPE),
        jnp.array([1, 0, 2, 3]),
    )
    sigmas = [5.0, 1.0]
    got, kept = samplers.sample(
        fit,
        guidance.unguided(),
        samplers.euler(),
        sigmas,
        noise,
        wanted,
        keys(4),
        prior=teleport(fit, 40.0),
        save="x",
    )
    np.testing.assert_allclose(kept["x"][0], fit.jump(40 * noise, 40.0, 5.0, wanted), atol=1e-4)
    alone = run(fit, sigmas, noise[2:3], teleport(fit, 40.0), condition=wanted[2:3])
    np.testing.assert_allclose(alone[0], got[2], atol=1e-4)


def test_guided_by_its_null_label_a_fit_is_a_denoiser_like_any():
    samples, labels = labelled()
    fit, noise, wanted = fit_gaussian(samples, labels), unit(4, *SHAPE), jnp.array([1, 0, 2, 2])
    one_step = samplers.sample(
        fit, guidance.cfg(3.0), samplers.euler(), [4.0, 0.0], noise, wanted, keys(4)
    )
    given, null = fit.denoise(4 * noise, 4.0, wanted), fit.denoise(4 * noise, 4.0)
    np.testing.assert_allclose(one_step, null + 3 * (given - null), atol=1e-3)


@pytest.mark.longer
def test_classes_of_few_samples_stand_beside_larger_ones(x64):
    samples, labels = data(40), np.array([0] * 38 + [1] * 2)
    fit, x = fit_gaussian(samples, labels), unit(2, *SHAPE)
    alone = fit_gaussian(samples[38:])
    np.testing.assert_allclose(
        fit.jump(x, 3.0, 0.5, jnp.array([1, 1])), alone.jump(x, 3.0, 0.5), atol=1e-12
    )


# Programs and files.


def test_a_new_fit_and_a_new_sigma_max_compile_nothing(compilations):
    fits, noise = [fit_gaussian(data(seed=i)) for i in range(2)], unit(4, *SHAPE)

    def denoise(x, sigma, condition):
        return x / (1 + sigma**2)

    first = run(denoise, samplers.karras(4, sigma_max=9.0), noise, teleport(fits[0]))
    with compilations() as compiled:
        other = run(denoise, samplers.karras(4, sigma_max=7.0), noise, teleport(fits[1], 60.0))
    assert not compiled
    assert np.abs(first - other).max() > 0


@pytest.mark.parametrize("by_class", [False, True])
def test_a_fit_survives_its_file(by_class, tmp_path):
    samples, labels = labelled()
    fit = fit_gaussian(samples, labels if by_class else None, rank=4)
    fit.save(tmp_path / "digits.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["digits.npz"]
    loaded = GaussianFit.load(str(tmp_path / "digits.npz"))
    assert jax.tree.structure(loaded) == jax.tree.structure(fit)
    jax.tree.map(np.testing.assert_array_equal, loaded, fit)
    prior, noise = teleport(str(tmp_path / "digits.npz"), sigma_max=50), unit(3, *SHAPE)
    expected = teleport(fit, 50.0)(noise, 5.0, keys(3))
    np.testing.assert_array_equal(prior(noise, 5.0, keys(3)), expected)


def test_a_fit_of_any_memory_layout_is_saved_as_it_is(tmp_path):
    fit = fit_gaussian(data())
    arrays = [np.asfortranarray(getattr(fit, n)) for n in ("mean", "eigenvalues", "eigenvectors")]
    GaussianFit(*arrays, fit.shape).save(tmp_path / "fit.npz")
    jax.tree.map(np.testing.assert_array_equal, GaussianFit.load(tmp_path / "fit.npz"), fit)


def broken(tmp_path, **changes):
    fit_gaussian(data()).save(tmp_path / "fit.npz")
    arrays = dict(np.load(tmp_path / "fit.npz")) | changes
    np.savez(tmp_path / "fit.npz", **{k: v for k, v in arrays.items() if v is not None})
    return tmp_path / "fit.npz"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": None}, "holds no Gaussian fit"),
        ({"mean": np.array([{"a": 1}])}, "holds no Gaussian fit"),  # a pickle
        ({"mean": np.zeros(5)}, "no Gaussian fit"),
        ({"mean": np.full(DIM, np.nan)}, "no Gaussian fit"),
        ({"eigenvalues": -np.ones(DIM)}, "no Gaussian fit"),
        ({"eigenvectors": np.zeros((DIM, DIM - 1))}, "no Gaussian fit"),
        ({"shape": np.array([2.0, 3.0])}, "no Gaussian fit"),
        ({"shape": np.array([2, 4])}, "no Gaussian fit"),
    ],
)
def test_files_of_something_else_are_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        teleport(broken(tmp_path, **changes))
    assert "samplers.fit_gaussian(data).save(path)" in str(caught.value)


def test_no_file_and_no_archive_are_refused_with_the_way_to_make_one(tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*fit_gaussian\(data\).save\(path\)"):
        teleport(fit=str(tmp_path / "none.npz"))
    (tmp_path / "text.npz").write_text("not an archive")
    np.save(tmp_path / "one.npz.npy", np.zeros(3))
    (tmp_path / "cut.npz").write_bytes(broken(tmp_path).read_bytes()[:200])
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("text.npz", "one.npz.npy", "cut.npz", "empty.npz", "."):
        with pytest.raises(ValueError, match="holds no Gaussian fit"):
            teleport(tmp_path / name)


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fit: fit_gaussian(np.zeros(3)), "must be samples"),
        (lambda fit: fit_gaussian(np.zeros((0, 3))), "must be samples"),
        (lambda fit: fit_gaussian(np.full((4, 3), np.inf)), "must be finite"),
        (lambda fit: fit_gaussian(data(), rank=0), "rank must be a positive integer"),
        (lambda fit: fit_gaussian(data(), rank=7), "rank 7 is above .* dimension 6"),
        (lambda fit: fit_gaussian(data(), floor=0.0), "floor > 0"),
        (lambda fit: fit_gaussian(data(4), [0, 1, 1]), r"one integer per sample \(4\)"),
        (lambda fit: fit_gaussian(data(2), [0.0, 1.0]), "one integer per sample"),
        (lambda fit: fit_gaussian(data(2), [0, 2]), "none of class 1"),
        (lambda fit: fit_gaussian(data(2), [-1, 0]), "labels must be 0, 1"),
        (lambda fit: teleport(fit, 0.0), "sigma_max > 0"),
        (lambda fit: teleport(fit, start="data"), "start is noise or fit"),
        (
            lambda fit: run(fit, [90.0, 1.0], unit(2, *SHAPE), teleport(fit)),
            "starts at sigma 90, above sigma_max=80",
        ),
        (
            lambda fit: run(fit, [9.0, 1.0], unit(2, 3, 2), teleport(fit)),
            r"of shape \(2, 3\), not \(3, 2\)",
        ),
        (
            lambda fit: fit_gaussian(*labelled()).denoise(unit(2, *SHAPE), 1.0, jnp.ones((2, 4))),
            r"takes labels \[batch\]",
        ),
        (
            lambda fit: fit_gaussian(*labelled()).denoise(unit(2, *SHAPE), 1.0, {"text": 1}),
            r"takes labels \[batch\]",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(fit_gaussian(data()))
