"""Samplers of few-step networks: consistency functions and flow maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import MEANS, SPREAD, Labelled, keys
from oracles.noisy_runs import (
    MEAN,
    SIGMAS,
    belongs_to_the_sample,
    compiles_nothing,
    draw_moments,
    ends_in_the_answer,
    follow_by_hand,
    have_moments,
    path,
    shifted,
)
from oracles.solver_runs import run
from tables.everyday import few

from guidestar import guidance, samplers
from guidestar.models.scalar_inputs import ScalarInput
from guidestar.samplers.solvers.consistency import consistency
from guidestar.samplers.solvers.ctm import ctm

# Levels of any spacing; the last but one is below 0.002, where no noise is added.
ANY = np.array([80.0, 9.0, 0.821, 0.05, 0.001, 0.0])


def spread(sigma):
    return np.sqrt(SPREAD**2 + sigma**2) if np.isscalar(sigma) else jnp.sqrt(SPREAD**2 + sigma**2)


@jax.tree_util.Partial
def flow_map(x, sigma, condition, to):
    """Return the prediction with which the exact flow from sigma to another level is written."""
    end = MEAN + (x - MEAN) * spread(to) / spread(sigma)
    return jnp.where(to < sigma, (sigma * end - to * x) / (sigma - to), shifted(x, sigma, None))


def consistent(sigma_min):
    """Return the exact consistency function, which jumps to a noise level."""

    def jump(x, sigma, condition):
        return MEAN + (x - MEAN) * spread(sigma_min) / spread(sigma)

    return jump


def ends_from_marginal(solver, network, sigmas):
    """Sample from states of the exact distribution at the first level, not noise alone."""
    noise = jax.random.normal(jax.random.key(0), (200, 1000))
    return run(solver, network, sigmas, (MEAN + spread(sigmas[0]) * noise) / sigmas[0])


@pytest.mark.longer
@pytest.mark.parametrize("sigmas", few(1, [ANY, ANY[:-1], ANY[[0, 5]], ANY[[0, 2, 5]]]), ids=len)
def test_consistency_keeps_the_data_at_any_levels(sigmas):
    ends = ends_from_marginal(consistency(), consistent(0.002), sigmas)
    have_moments(ends, MEAN, SPREAD**2 + 0.002**2)


@pytest.mark.parametrize("sigma_min", [0.0, 0.002, 0.7])
def test_consistency_ends_at_the_level_asked_for(sigma_min):
    # Above sigma_min, what was taken away is given back.
    ends = ends_from_marginal(consistency(sigma_min), consistent(sigma_min), SIGMAS[:-2])
    have_moments(ends, MEAN, SPREAD**2 + SIGMAS[-3] ** 2 if sigma_min < 0.6 else spread(0.7) ** 2)


def renoised(sigma_min):
    def by_hand(denoise, sigmas, x, draw):
        for i, (a, b) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
            x = denoise(x, a) + np.sqrt(max(b**2 - sigma_min**2, 0)) * draw(i)
        return x

    return by_hand


def test_consistency_follows_the_algorithm_by_hand(x64):
    follow_by_hand(consistency(), renoised(0.002), ANY)
    follow_by_hand(consistency(0.1), renoised(0.1))


def test_consistency_of_a_denoiser_has_the_exact_moments_too():
    draw_moments(consistency(0.1), renoised(0.1))


def test_one_level_is_one_jump(x64):
    noise = jax.random.normal(jax.random.key(0), (4, 2))
    end = run(consistency(), consistent(0.002), np.array([80.0, 0.0]), noise)
    jump = consistent(0.002)(80 * noise, jnp.float64(80.0), None)
    np.testing.assert_allclose(end, jump, rtol=1e-13)


def test_no_noise_is_added_at_and_below_the_lowest_level():
    table = consistency(0.002).tables(np.array([80.0, 0.1, 0.002, 0.0019999999, 1e-5, 0.0]))
    np.testing.assert_array_equal(table[1:], 0)
    np.testing.assert_allclose(table[0], np.sqrt(0.1**2 - 0.002**2), rtol=1e-12)
    # In the precision of the state, a schedule's last level need not be the very number.
    assert np.isfinite(consistency(np.float32(0.002)).tables(samplers.karras(5))).all()


@pytest.mark.parametrize("as_published", few(4, [False, True]))
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("sigmas", [ANY, ANY[:-2], ANY[:3]], ids=len)
def test_ctm_keeps_the_marginals_at_any_gamma_and_levels(gamma, as_published, sigmas):
    ends = ends_from_marginal(ctm(gamma, as_published=as_published), flow_map, sigmas)
    have_moments(ends, MEAN, SPREAD**2 + sigmas[-1] ** 2)


def jumped(gamma, least=0.0):
    """Return gamma-sampling by hand, with the exact flow written out."""

    def by_hand(denoise, sigmas, x, draw):
        del denoise
        for i, (a, b) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
            to = b if b <= least else np.sqrt(1 - gamma**2) * (b - least) + least
            x = MEAN + (x - MEAN) * spread(float(to)) / spread(float(a))
            x = x + np.sqrt(max(b**2 - to**2, 0)) * draw(i)
        return x

    return by_hand


@pytest.mark.parametrize("gamma", [0.0, 0.45, 1.0])
@pytest.mark.parametrize(("as_published", "least"), [(False, 0.0), (True, 0.002)])
def test_ctm_follows_gamma_sampling_by_hand(gamma, as_published, least, x64):
    noise, every = jax.random.normal(jax.random.key(1), (3, 2)), keys(3)
    solver = ctm(gamma, as_published=as_published)
    end = samplers.sample(flow_map, guidance.unguided(), solver, ANY, noise, None, every)
    hand = path(jumped(gamma, least), ANY, noise, every)
    np.testing.assert_allclose(end, hand, rtol=1e-9, atol=1e-10)


def test_ctm_without_noise_composes(x64):
    noise = jax.random.normal(jax.random.key(0), (4, 2))
    ends = [run(ctm(), flow_map, sigmas, noise) for sigmas in (ANY, ANY[[0, 2, 5]], ANY[[0, 5]])]
    exact = MEAN + (80 * noise - MEAN) * SPREAD / spread(80.0)
    for end in ends:
        np.testing.assert_allclose(end, exact, rtol=1e-10, atol=1e-12)


def test_ctm_without_noise_draws_none_whatever_the_key():
    noise = jax.random.normal(jax.random.key(0), (4, 2))
    for as_published in (False, True):
        table = ctm(0.0, as_published=as_published).tables(ANY)
        np.testing.assert_array_equal(table.to, ANY[1:])
        assert not table.noise.any()
        ends = [
            samplers.sample(
                flow_map,
                guidance.unguided(),
                ctm(0.0, as_published=as_published),
                ANY,
                noise,
                None,
                jax.random.key(seed),
            )
            for seed in range(2)
        ]
        np.testing.assert_array_equal(*ends)


def test_ctm_with_all_noise_is_consistency_sampling(x64):
    noise = jax.random.normal(jax.random.key(0), (4, 2))
    np.testing.assert_array_equal(ctm(1.0).tables(ANY).to, 0)
    ends = [
        run(ctm(1.0), flow_map, ANY, noise),
        run(consistency(0.0), consistent(0.0), ANY, noise),
    ]
    np.testing.assert_allclose(*ends, rtol=1e-11, atol=1e-12)


def test_ctm_of_a_denoiser_without_noise_is_euler(x64):
    noise = jax.random.normal(jax.random.key(0), (4, 2))
    end = run(ctm(), lambda x, s, c, to: shifted(x, s, c), ANY, noise)
    np.testing.assert_allclose(end, run(samplers.euler(), shifted, ANY, noise), rtol=1e-12)


def test_the_published_levels_of_ctm_are_counted_from_the_lowest():
    gamma, sigmas = 0.6, np.array([80.0, 5.0, 0.002, 0.001, 0.0])
    table = ctm(gamma, as_published=True).tables(sigmas)
    to = np.array([0.8 * 4.998 + 0.002, 0.002, 0.001, 0.0])
    np.testing.assert_allclose(table.to, to, rtol=1e-12)
    np.testing.assert_allclose(table.noise, [np.sqrt(25 - to[0] ** 2), 0, 0, 0], rtol=1e-12)
    table = ctm(gamma).tables(sigmas)
    np.testing.assert_allclose(table.to, 0.8 * sigmas[1:], rtol=1e-12)
    np.testing.assert_allclose(table.noise, 0.6 * sigmas[1:], rtol=1e-12)


class LabelledMap(Labelled):
    """A flow map for each label, whose branches can be stacked."""

    def __call__(self, x, sigma, condition, to):
        mean = jnp.asarray((*MEANS, 0.0))[condition][:, None]
        return mean + flow_map(x - mean + MEAN, sigma, None, to) - MEAN


@pytest.mark.longer
@pytest.mark.parametrize("branches", few(1, ["fused", "sequential"]))
def test_guidance_steers_flow_maps(branches):
    noise = jax.random.normal(jax.random.key(0), (2, 3))

    def end(scale):
        return samplers.sample(
            LabelledMap(),
            guidance.cfg(scale),
            ctm(0.3),
            ANY,
            noise,
            jnp.array([0, 1]),
            jax.random.key(0),
            branches=branches,
        )

    ends = [end(scale) for scale in (0.0, 1.0, 2.0)]
    # An affine map of the condition's mean: so is the end in the scale.
    assert np.abs(ends[1] - ends[0]).min() > 0.1
    np.testing.assert_allclose(ends[2] - ends[1], ends[1] - ends[0], atol=1e-3)


def test_a_network_that_cannot_jump_is_refused():
    with pytest.raises(ValueError, match="no argument `to`"):
        run(ctm(), shifted, ANY, jnp.ones((2, 3)))


def with_jumps(denoise):
    return lambda x, sigma, condition, to: denoise(x, sigma, condition)


@pytest.mark.longer
def test_networks_that_know_the_answer_are_followed_to_it():
    ends_in_the_answer(consistency())
    answer = jnp.arange(6.0).reshape(2, 3)
    for gamma in (0.0, 0.5, 1.0):
        end = run(ctm(gamma), lambda x, s, c, to: answer, ANY, jnp.ones((2, 3)))
        np.testing.assert_array_equal(end, answer)


@pytest.mark.parametrize("solver", [consistency(), ctm(0.5)], ids=["consistency", "ctm"])
def test_the_plan_counts_one_evaluation_a_level(solver):
    calls = []

    def counted(x, sigma, condition, to=None):
        jax.debug.callback(lambda: calls.append(1))
        return x / 2

    jax.block_until_ready(run(solver, counted, ANY, jnp.ones((2, 3))))
    jax.effects_barrier()
    assert samplers.plan(solver, ANY, guidance.cfg(2.0)).totals == {"main": 2 * len(calls)}
    assert len(calls) == 5


@pytest.mark.longer
def test_added_noise_belongs_to_the_sample():
    belongs_to_the_sample(consistency(), consistent(0.002))
    belongs_to_the_sample(ctm(0.5), flow_map)


def test_a_new_number_compiles_nothing(compilations):
    compiles_nothing([consistency(), consistency(0.3)], compilations, consistent(0.002))
    solvers = [ctm(0.5), ctm(0.0), ctm(1.0)]
    compiles_nothing(solvers, compilations, flow_map)


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: consistency(-0.1), "sigma_min >= 0"),
        (lambda: consistency(float("nan")), "plain finite number"),
        (lambda: ctm(1.5), "0 <= gamma <= 1"),
        (lambda: ctm(-0.1), "0 <= gamma <= 1"),
        (lambda: ctm("all"), "plain finite number"),
        (lambda: ctm(as_published=1), "True or False"),
    ],
)
def test_solvers_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Guided:
    """A network that says what it estimates, and takes a scale: the end moves by it."""

    null_condition = num_classes = len(MEANS)

    def __init__(self, estimate, low=1.0, high=5.0):
        self.estimate = estimate
        self.inputs = {"scale": ScalarInput(low, high)} if high else {}

    def __call__(self, x, sigma, condition, to=None, scale=0.0):
        return consistent(0.002)(x, sigma, condition) + scale


SOLVERS = {
    "x0": samplers.heun(),
    "consistency": consistency(scale=2.0),
    "flow_map": ctm(scale=2.0),
}


@pytest.mark.parametrize(("network", "solver"), [(a, b) for a in SOLVERS for b in SOLVERS])
def test_a_solver_takes_the_networks_that_it_asks_for_alone(network, solver):
    def go():
        return run(SOLVERS[solver], Guided(network), SIGMAS, jnp.ones((2, 3)))

    if network == solver:
        assert np.isfinite(go()).all()
        return
    with pytest.raises(ValueError, match=rf"asks for a .*'main' is a .*take .*{REMEDY[network]}"):
        go()


REMEDY = {"x0": "heun", "consistency": "consistency", "flow_map": "ctm"}


def test_a_scale_is_the_networks_own_input():
    ends = [
        run(consistency(scale=scale), Guided("consistency"), [80.0, 0.0], jnp.ones((2, 3)))
        for scale in (1.0, 3.5)
    ]
    np.testing.assert_allclose(ends[1] - ends[0], 2.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Guided("consistency"), "consistency: scale is 7.0, .* trained with scale from 1 to 5"),
        (Guided("consistency", high=0.0), "is given scale=7, .* takes none"),
    ],
)
def test_a_scale_that_was_not_trained_is_refused(network, message):
    with pytest.raises(ValueError, match=message):
        run(consistency(scale=7.0), network, SIGMAS, jnp.ones((2, 3)))


def test_another_scale_compiles_no_program(compilations):
    network = jax.tree_util.Partial(Guided("consistency"))
    x = jnp.ones((2, 3))
    run(consistency(scale=2.0), network, SIGMAS, x)
    with compilations() as compiled:
        run(consistency(scale=3.0), network, SIGMAS, x)
    assert not compiled
