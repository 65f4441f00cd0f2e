"""Weights of noise levels: published numbers, and one loss seen from x0, noise and velocity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guidestar.core.registry import registry
from guidestar.models import preconditioning as p
from guidestar.training.noise import weightings as w

EDM = p.EDM(0.5)
SIGMA = jnp.array([0.002, 0.1, 0.5, 1.0, 4.0, 80.0])


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        # At sigma 0.1, 1 and 4, so at SNR 100, 1 and 1/16.
        (w.uniform("x0"), (1, 1, 1)),
        (w.uniform("eps"), (100, 1, 1 / 16)),
        (w.uniform("v"), (101, 2, 17 / 16)),
        (w.edm(0.5), (0.26 / 0.0025, 1.25 / 0.25, 16.25 / 4)),
        (w.min_snr(), (5, 1, 1 / 16)),
        (w.min_snr(0.5), (0.5, 0.5, 1 / 16)),
        (w.truncated_snr(), (100, 1, 1)),
        (w.p2(), (100 / 101, 1 / 2, 1 / 17)),
        (w.p2(gamma=0.5), (100 / 101**0.5, 1 / 2**0.5, 1 / 16 / (17 / 16) ** 0.5)),
        (w.p2(gamma=0.0), (100, 1, 1 / 16)),
    ],
)
def test_weights_of_x0_are_the_papers(weighting, expected):
    found = weighting(jnp.array([0.1, 1.0, 4.0]), EDM)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("preconditioner", "same"),
    [
        (EDM, w.edm(0.5)),
        (p.EDM(1.0), w.uniform("v")),
        (p.VP(), w.uniform("eps")),
        (p.VE(), w.uniform("eps")),
        (p.IDDPM(), w.uniform("eps")),
        (p.Discrete(), w.uniform("eps")),
        (p.Discrete(predicts="velocity"), w.uniform("v")),
        (p.Direct(), w.uniform("x0")),
        (p.Flow(), lambda sigma, _: ((1 + sigma) / sigma) ** 2),
    ],
)
def test_the_plain_loss_of_a_networks_output_is_that_of_what_it_predicts(preconditioner, same):
    found = w.uniform("network")(SIGMA, preconditioner)
    np.testing.assert_allclose(found, same(SIGMA, preconditioner), rtol=1e-4)


# squared error of each target, from an estimate of x0.
def _eps(x0, x, sigma):
    return (x - x0) / sigma


def _v(x0, x, sigma):
    scale = jnp.sqrt(1 + sigma**2)
    return (_eps(x0, x, sigma) - sigma * x0) / scale


def _network(x0, x, sigma):
    skip, out, _, _ = EDM.coefficients(sigma)
    return (x0 - skip * x) / out


PREDICTIONS = {"x0": lambda x0, x, sigma: x0, "eps": _eps, "v": _v, "network": _network}


@pytest.mark.parametrize("weighting", [w.min_snr(), w.p2(), w.truncated_snr(), w.edm()])
@pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0])
def test_a_weighting_gives_the_same_gradient_whichever_prediction_is_compared(weighting, sigma):
    clean, guess, noise = np.random.default_rng(0).normal(size=(3, 7))
    x, level = jnp.asarray(clean + sigma * noise), jnp.asarray(sigma)

    def loss(guess, target):
        predict = PREDICTIONS[target]
        error = predict(guess, x, level) - predict(jnp.asarray(clean), x, level)
        return jnp.mean(w.converted(weighting, target)(level, EDM) * error**2)

    with jax.enable_x64(True):
        gradients = [jax.grad(loss)(jnp.asarray(guess), target) for target in w.TARGETS]
    for gradient in gradients[1:]:
        np.testing.assert_allclose(gradient, gradients[0], rtol=1e-5)


def test_weights_are_finite_at_extreme_noise_levels():
    ends = jnp.array([1e-6, 1e6])
    for make in (registry("weighting")[name].build for name in registry("weighting")):
        assert np.isfinite(make()(ends, EDM)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: w.uniform("score"), "target 'score' is not one of x0"),
        (lambda: w.converted(w.p2(), "u"), "target 'u' is not one of"),
        (lambda: w.min_snr(0), "must be above 0"),
        (lambda: w.p2(k=0), "k above 0"),
    ],
)
def test_a_weighting_that_is_none_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
