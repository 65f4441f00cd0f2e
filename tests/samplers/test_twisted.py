"""Twisted particles: exact for every twist, best with the best, and tempered ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import Labelled, keys, mixture_denoiser, mixture_posterior
from oracles.particle_runs import LEVELS, TILTED, Linear, on_the_line, start

from guidestar import guidance, samplers
from guidestar.core.pytrees import pytree
from guidestar.core.random import fold_each, unit_noise
from guidestar.evaluation import rewards
from guidestar.guidance import operators
from guidestar.samplers.loop import SOLVER_STREAM
from guidestar.samplers.solvers.solver import Kernel

SUM = Linear()
ONE = operators.matrix([[1.0]])
# N(0, 1), y = 1.5 with noise 0.5: the posterior is N(1.2, 0.2), and log p(y) is this.
EVIDENCE, CONSTANT = -1.93051, -0.5 * np.log(2 * np.pi * 0.25)
GAUSSIAN_LEVELS = np.append(np.geomspace(10.0, 0.05, 16), 0.0)
# The exact kernel of N(0, 1) is Gaussian, and this one.
UNIT_KERNEL = samplers.ancestral(variance="beta")


@jax.tree_util.Partial
def unit(x, sigma, condition):
    """Denoise N(0, 1)."""
    return x / (1 + sigma**2)


def posterior(particles, count, levels=GAUSSIAN_LEVELS, solver=None, **options):
    """Return draws ``[group, particle]``, log evidence and the effective shares of each step."""
    made = solver or samplers.twisted(ONE, [1.5], 1.0, particles, UNIT_KERNEL, noise=0.5, **options)
    first = np.float32(np.sqrt(1 + levels[0] ** 2) / levels[0])
    noise = first * jax.random.normal(jax.random.key(0), (particles * count, 1))
    x, kept = samplers.sample(
        unit, guidance.unguided(), made, levels, noise, None, keys(particles * count), save="info"
    )
    info = {name: np.asarray(value, np.float64) for name, value in kept["info"].items()}
    evidence = info["log_evidence"][-1].reshape(count, particles)[:, 0] + CONSTANT
    return np.asarray(x).reshape(count, particles), evidence, info["effective"] / particles


# Mean, and mean and spread of the log evidence, of an independent computation.
@pytest.mark.parametrize(
    ("variance", "mean", "log_evidence", "spread", "least"),
    [
        (1.0, 1.2, -1.9302, 0.015, 0.6),
        pytest.param(np.inf, 1.179, -1.959, 0.21, 0.2, marks=pytest.mark.longer),
        pytest.param(0.0, 1.39, -2.77, 0.99, 0.0, marks=pytest.mark.longer),
    ],
)
def test_every_twist_has_the_right_evidence_and_the_best_varies_least(
    variance, mean, log_evidence, spread, least
):
    draws, evidence, shares = posterior(16, 1000, variance=variance)
    error = draws.mean(axis=1).std() / np.sqrt(len(draws))
    if variance == 1.0:
        assert abs(draws.mean() - mean) < 4 * error and abs(draws.var() - 0.2) < 0.015
        # The best twist with the kernel's own variance, which the best kernel has not.
        assert evidence.std() < 0.12
    else:
        assert abs(draws.mean() - mean) < 4 * error + 0.02
        assert abs(evidence.mean() - log_evidence) < 0.2 * spread + 4 * spread / np.sqrt(1000)
        assert abs(evidence.std() / spread - 1) < 0.25
    if variance:
        ratio = np.exp(evidence - EVIDENCE)
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(len(ratio))
    assert shares.min() >= least


@pytest.mark.longer
def test_the_best_twist_leaves_all_particles_effective_as_steps_get_shorter():
    # So high that the first particles fit alike, too.
    few, many = (
        posterior(16, 20, np.append(np.geomspace(100.0, 0.02, steps), 0.0))[2].min()
        for steps in (20, 800)
    )
    assert few < 0.9 and many > 0.99


@pytest.mark.longer
def test_an_overconfident_twist_is_worse_than_none():
    far, _, _ = posterior(16, 1000, variance=0.0)
    likelihood = rewards.likelihood(ONE, [1.5], 0.5)
    bootstrap = samplers.steer(likelihood, 1.0, 16, UNIT_KERNEL, resample_below=0.0)
    none, evidence, _ = posterior(16, 1000, solver=bootstrap)
    assert abs(none.mean() - 1.143) < 0.03 and abs(evidence.mean() + 2.02) < 0.08
    assert abs(none.mean() - 1.2) < abs(far.mean() - 1.2)
    # A twist to the power of nothing is no twist, and the end weighs: the same figures.
    plain = samplers.das(likelihood, 1.0, 16, UNIT_KERNEL, rate=1e-9, resample_below=0.0)
    same, _, _ = posterior(16, 1000, solver=plain)
    assert abs(same.mean() - none.mean()) < 0.03


# N(0, 1) with the exact kernel: the tilt by exp(x) is N(1, 1), and its log-normaliser 1/2.
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (samplers.das, {}),
        pytest.param(samplers.das, {"tempering": "adaptive"}, marks=pytest.mark.longer),
        pytest.param(samplers.das, {"rate": 1e6}, marks=pytest.mark.longer),
        pytest.param(samplers.das, {"scheme": "residual"}, marks=pytest.mark.longer),
        pytest.param(samplers.twisted, {}, marks=pytest.mark.longer),
    ],
)
@pytest.mark.parametrize("particles", [32, pytest.param(256, marks=pytest.mark.longer)])
def test_particles_sample_the_tilt(make, options, particles):
    count = 200
    solver = make(SUM, scale=1.0, particles=particles, kernel=UNIT_KERNEL, **options)
    draws, evidence, shares = posterior(particles, count, solver=solver)
    error = draws.mean(axis=1).std() / np.sqrt(count)
    # The last step returns the prediction, of a variance that is short by the last level's.
    assert abs(draws.mean() - 1) < 4 * error + 0.6 / particles
    assert abs(draws.var() - 1) < 0.05
    ratio = np.exp(evidence - CONSTANT - 0.5)
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(count)
    if options.get("tempering") == "adaptive":
        assert shares[:-1].min() > 0.45


@pytest.mark.longer
@pytest.mark.parametrize("make", [samplers.das, samplers.twisted])
def test_mixtures_are_tilted_whatever_the_kernel(make):
    # The kernel's own law is weighed too: by importance, from many of its draws.
    noise = start(64 * 300)
    every = keys(64 * 300)
    plain, solver = samplers.ancestral(), make(SUM, scale=2.0, particles=64)
    base, x = (
        np.asarray(
            samplers.sample(on_the_line, guidance.unguided(), s, LEVELS, noise, None, every),
            np.float64,
        )[:, 0]
        for s in (plain, solver)
    )
    weights = np.exp(2 * base) / np.exp(2 * base).sum()
    mean = weights @ base
    error = x.reshape(-1, 64).mean(axis=1).std() / np.sqrt(300)
    assert abs(x.mean() - mean) < 5 * error + 0.02
    assert abs(TILTED[2.0][0] - mean) > 0.01


@pytest.mark.longer
def test_a_classifiers_reward_draws_the_class():
    reward = rewards.classifier(jax.tree_util.Partial(mixture_posterior), 1)
    noise, levels = jax.random.normal(jax.random.key(0), (400, 2)), samplers.karras(12, 0.02, 10.0)
    ends = [
        samplers.sample(
            mixture_denoiser(), guidance.unguided(), solver, levels, noise,
            jnp.full(400, 2), keys(400),
        )
        for solver in (samplers.ancestral(), samplers.twisted(reward, None, 1.0, 8))
    ]  # fmt: skip
    shares = [float(np.exp(reward(x, None, None)).mean()) for x in ends]
    assert 0.4 < shares[0] < 0.6 and shares[1] > 0.9


@pytest.mark.longer
@pytest.mark.parametrize("make", [samplers.twisted, samplers.das])
def test_without_reward_it_is_the_kernel_and_rules_go_inside(make):
    def ends(solver):
        noise, labels = jax.random.normal(jax.random.key(3), (8, 2)), jnp.arange(8) // 4
        return np.asarray(
            samplers.sample(
                Labelled(), guidance.apg(2.0), solver, np.array([5.0, 2.0, 1.0, 0.5, 0.0]), noise,
                labels, keys(8),
            )
        )  # fmt: skip

    plain = ends(samplers.ancestral())
    np.testing.assert_allclose(ends(make(SUM, scale=0.0, particles=4)), plain, atol=1e-6)
    moved = ends(make(SUM, scale=3.0, particles=4))
    assert np.isfinite(moved).all() and moved.sum() > plain.sum() + 1


@pytree
class Predicted(Kernel):
    """A kernel whose mean is the prediction, with unit noise."""

    order = 1
    random = True

    def transition(self, x, guided, interval):
        return guided.denoised, jnp.where(interval.end > 0, 1.0, 0.0).astype(x.dtype)


@pytree
class Bowl:
    """The reward ``-(x0 - 2)^2 / 2``."""

    differentiable = True

    def __call__(self, x0, condition, key):
        return -0.5 * jnp.sum((x0 - 2) ** 2, axis=1)


@pytest.mark.longer
def test_a_resampled_particle_takes_its_own_gradient_along():
    # D = x, so that the proposal is x + sigma^2 (2 - x) of one particle, and of no mixture of two.
    solver = samplers.twisted(Bowl(), None, 1.0, 16, Predicted(), resample_below=1.0)
    levels, every = np.array([1.5, 1.0, 0.0]), keys(16)
    noise = jax.random.normal(jax.random.key(0), (16, 1))
    _, kept = samplers.sample(
        jax.tree_util.Partial(lambda x, s, c: x), guidance.unguided(), solver, levels, noise, None,
        every, save=("x", "info"),
    )  # fmt: skip
    before, after = (np.asarray(x)[:, 0] for x in kept["x"])
    drawn = unit_noise(fold_each(fold_each(every, 0), SOLVER_STREAM), (1,))[:, 0]
    aims = np.asarray(after - drawn)
    near = np.abs(aims[:, None] - (before + 1.5**2 * (2 - before)))
    assert near.min(axis=1).max() < 1e-4
    assert len(np.unique(near.argmin(axis=1))) < 14


def test_tempering_is_complete_in_time():
    def power(steps, **options):
        table = samplers.das(SUM, **options).tables(np.append(np.geomspace(10, 0.1, steps), 0.0))
        np.testing.assert_array_equal(table.following[:-1], table.power[1:])
        return table.power

    # The paper's rate at its 100 steps.
    published = power(100, rate=0.008)
    assert published[0] == 0 and np.flatnonzero(published == 1)[0] == 87
    np.testing.assert_allclose(published[[1, 50]], [0.008, 1.008**50 - 1])
    assert [np.flatnonzero(power(steps) > 1 - 1e-12)[0] for steps in (40, 100)] == [35, 87]
    assert (samplers.twisted(SUM).tables(GAUSSIAN_LEVELS).power == 1).all()


def test_no_solver_seems_to_have_a_scale_for_networks():
    made = [make(SUM) for make in (samplers.das, samplers.twisted, samplers.steer, samplers.svdd)]
    assert not any(hasattr(solver, "scale") for solver in made)


def test_the_plan_counts_backward_passes():
    def plan(solver):
        return samplers.plan(solver, GAUSSIAN_LEVELS, guidance.cfg(2.0)).totals

    both = {"main": 32, "main+grad": 30, "reward": 16, "reward+grad": 15}
    assert plan(samplers.das(SUM)) == plan(samplers.twisted(SUM)) == both
    measured = samplers.twisted(ONE, [1.0], noise=0.1)
    found = samplers.plan(measured, GAUSSIAN_LEVELS, guidance.cfg(2.0), (1,)).totals
    assert found == {"main": 32, "main+grad": 30}


@pytree
class Stepwise:
    """A reward without gradient."""

    differentiable = False

    def __call__(self, x0, condition, key):
        return jnp.sign(x0[:, 0])


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.twisted(Stepwise()), "has no gradient"),
        (lambda: samplers.das(Stepwise()), "has no gradient"),
        (lambda: samplers.twisted(ONE, [1.0]), "give both"),
        (lambda: samplers.twisted(ONE, [1.0], noise=0.0), "noise must be above 0"),
        (lambda: samplers.twisted(ONE, [1.0], noise=1.0, variance=-1.0), "variance must be 0 or"),
        (lambda: samplers.twisted(SUM, noise=1.0), "belong to an operator"),
        (lambda: samplers.das(SUM, tempering="linear"), "geometric or adaptive"),
        (lambda: samplers.das(SUM, tempering="adaptive", rate=0.1), "rate is above 0"),
        (lambda: samplers.das(SUM, kernel=samplers.ancestral(0.0)), "adds no noise"),
        (
            lambda: posterior(3, 1, GAUSSIAN_LEVELS[:-1]),
            "samplers.twisted: rewards are of clean samples",
        ),
    ],
)
def test_what_cannot_be_twisted_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
