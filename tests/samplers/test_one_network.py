"""However many kinds of steps a solver takes, its program holds one copy of the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from tables.everyday import few
from tables.solver_table import SHAPE, SOLVERS, STEPS

from guidestar import guidance, samplers
from guidestar.samplers import loop, merging

# Those whose steps were of several kinds, each with a copy of the network of its own.
SEVERAL = {
    **dict.fromkeys(("heun", "midpoint", "dpm_2", "dpm_solver_3", "dpmpp_2s", "dpmpp_3s"), 2),
    **dict.fromkeys(("deis_rhork", "pndm"), 2),
    "dpmpp_budget": 3,
}
# Steps that draw are not cut.
DRAWING = dict.fromkeys(("dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "edm_churn"), 2)
DRAWING["recur"] = 3
NOISE = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
LABELS = np.array([0, 1, 1])


@jax.tree_util.Partial
def network(x, sigma, condition, to=None):
    """Return what is no denoiser, but a function that only a network has: one tangent a call."""
    del to
    shift = condition.reshape(-1, 1, 1, 1).astype(x.dtype)
    return jnp.tan(0.3 * jnp.tanh(x / (1 + sigma**2))) + 0.2 * shift


def run(name, rule, noise, steps=STEPS, **options):
    solver, sigmas, key = SOLVERS[name].solver, samplers.karras(steps), jax.random.key(0)
    return samplers.sample(network, rule, solver, sigmas, noise, LABELS, key, **options)


def copies(jaxpr) -> int:
    """Count the places that ask the network, each of which is a copy of it once compiled."""
    count = 0
    for equation in jaxpr.eqns:
        count += equation.primitive.name == "tan"
        for inner in jaxprs_in_params(equation.params):
            count += copies(inner)
    return count


def program_of(name, rule):
    return jax.make_jaxpr(lambda noise: run(name, rule, noise))(NOISE).jaxpr


def take_apart(monkeypatch):
    """Let every kind of steps have a loop of its own, as a solver that cannot be cut has."""

    def uncut(*_):
        raise merging.Uncut

    monkeypatch.setattr(loop, "merged", uncut)
    jax.clear_caches()


@pytest.fixture
def apart(monkeypatch):
    """Take loops apart for one test; no other finds what was traced in it."""
    take_apart(monkeypatch)
    yield
    jax.clear_caches()


@pytest.mark.parametrize("name", SOLVERS)
def test_the_network_is_in_the_program_once_unless_steps_draw(name):
    assert copies(program_of(name, guidance.unguided())) == DRAWING.get(name, 1)


@pytest.mark.parametrize("name", SEVERAL)
def test_it_would_be_there_once_a_kind_of_step(name, apart):
    assert copies(program_of(name, guidance.unguided())) == SEVERAL[name]


@pytest.mark.parametrize(("name", "times"), [("heun", 1), ("dpmpp_sde", 2)])
def test_the_network_is_traced_once_a_copy(name, times):
    calls = []

    @jax.tree_util.Partial
    def traced(x, sigma, condition):
        calls.append(sigma)
        return 0.5 * x

    solver, sigmas, rule = SOLVERS[name].solver, samplers.karras(4), guidance.unguided()
    samplers.sample(traced, rule, solver, sigmas, NOISE, None, jax.random.key(0))
    assert len(calls) == times


def test_another_rule_has_a_copy_of_its_own():
    rule = guidance.between(guidance.higs(guidance.unguided(), high_pass=None), 0.05, 100.0)
    assert copies(program_of("heun", rule)) == 2


@pytest.mark.parametrize("name", few(4, sorted(SEVERAL)))
def test_the_samples_are_those_of_loops_apart(name, request):
    rule, saved = guidance.higs(guidance.unguided(), high_pass=None), ("x", "denoised")

    def everything(noise):
        end, kept = run(name, rule, noise, save=saved)
        return {"end": end, **kept}

    together = jax.jit(everything)(NOISE)

    request.getfixturevalue("apart")
    for kind, value in jax.jit(lambda noise: everything(noise))(NOISE).items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(together[kind], value, atol=3e-6 * scale, rtol=0, err_msg=kind)


@pytest.mark.parametrize("name", few(1, ["heun", "pndm", "dpmpp_3s"]))
def test_gradients_pass_through_what_is_thrown_away(name, request):
    """A step's arithmetic is repeated where it does not belong: finite there, or NaN here."""

    def end(size):
        return run(name, guidance.unguided(), size * NOISE).sum()

    slope = jax.grad(end)(1.0)
    request.getfixturevalue("apart")
    np.testing.assert_allclose(slope, jax.grad(end)(1.0), rtol=3e-3)


def test_as_many_evaluations_are_made_as_planned():
    calls = []

    @jax.tree_util.Partial
    def counting(x, sigma, condition):
        jax.debug.callback(lambda sigma: calls.append(float(sigma)), sigma)
        return 0.5 * x

    solver, sigmas, rule = samplers.heun(), samplers.karras(4), guidance.unguided()
    jax.block_until_ready(
        samplers.sample(counting, rule, solver, sigmas, NOISE, None, jax.random.key(0))
    )
    jax.effects_barrier()
    assert len(calls) == samplers.plan(solver, sigmas, rule).totals["main"] == 7
    np.testing.assert_allclose(sorted(calls), np.sort([*sigmas[:-1], *sigmas[1:-1]]), rtol=1e-5)
