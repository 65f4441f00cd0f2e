"""Networks by noise level: which answers where, what it costs, and what stays as it is."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import Labelled, gaussian, keys, weak
from tables.everyday import few
from tables.solver_table import SOLVERS

from guidestar import guidance, samplers
from guidestar.core.constructors import origin
from guidestar.guidance.wrappers.stitched import stitch_point, stitched
from guidestar.samplers.evaluator import Evaluator

NOISE = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
LABELS = jnp.array([0, 1, 0, 1])
SIGMAS = samplers.karras(8, 0.02, 20.0)


def biased(x, sigma, condition):
    return gaussian(x, sigma, condition) + 0.3


MAIN, SMALL, GUIDE = Labelled(gaussian), Labelled(biased), Labelled(weak)
NETWORKS = {"main": MAIN, "small": SMALL, "guide": GUIDE}
RULES = {
    "unguided": guidance.unguided(),
    "cfg": guidance.cfg(2.0),
    "autoguidance": guidance.autoguidance(2.0),
    "apg": guidance.apg(2.0),
    "higs": guidance.higs(guidance.cfg(2.0)),
    "cfgpp": guidance.cfgpp(0.6),
    "reg": guidance.reg(guidance.cfg(2.0)),
    "skip_aligned": guidance.skip_aligned(guidance.cfg(2.0), 0.9),
    "reuse": guidance.reuse(guidance.cfg(2.0), 3),
    "together": guidance.together(guidance.cfg(2.0), guidance.autoguidance(1.5)),
    "icg": guidance.icg(2.0, 2),
    "interval": guidance.between(guidance.cfg(2.0), 0.3, 3.0),
}


def run(rule, networks=NETWORKS, solver=None, sigmas=SIGMAS, **options):
    solver = solver or samplers.euler()
    return samplers.sample(networks, rule, solver, sigmas, NOISE, LABELS, keys(4), **options)


@pytest.mark.parametrize("name", few(3, sorted(RULES)))
def test_all_steps_or_none_are_the_pure_runs_to_the_bit(name):
    rule = RULES[name]
    small = run(stitched(rule, low=stitch_point(SIGMAS, 1.0)))
    np.testing.assert_array_equal(small, run(rule, {**NETWORKS, "main": SMALL}))
    large = run(stitched(rule, low=stitch_point(SIGMAS, 0.0)))
    np.testing.assert_array_equal(large, run(rule))
    assert np.abs(small - large).max() > 1e-3


@pytest.mark.parametrize("name", few(2, ["dpmpp", "heun", "lms"]))
@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_equal_networks_make_no_difference(name, ratio):
    networks, solver = {**NETWORKS, "small": MAIN}, SOLVERS[name].solver
    rule = guidance.higs(guidance.cfg(2.0))
    whole = run(rule, networks, solver)
    parts = run(stitched(rule, low=stitch_point(SIGMAS, ratio)), networks, solver)
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_each_step_is_the_network_of_its_starting_level():
    end, kept = run(stitched(guidance.unguided(), low=SIGMAS[3]), save=("x", "denoised"))
    for i, sigma in enumerate(SIGMAS[:-1]):
        network = biased if i < 3 else gaussian
        expected = network(kept["x"][i], sigma, LABELS)
        np.testing.assert_allclose(kept["denoised"][i], expected, atol=1e-4)
    assert end.shape == NOISE.shape


def test_the_interval_is_half_open():
    rule = stitched(guidance.cfg(2.0), "small", 0.5, 2.0)
    levels = [0.4, 0.5, 0.50001, 2.0, 2.00001]
    main, small = {"main": 2}, {"small": 2}
    assert guidance.cost(rule, levels) == [main, main, small, small, main]


def test_the_plan_counts_both_networks():
    rule = stitched(guidance.cfg(2.0), low=stitch_point(SIGMAS, 0.4))
    plan = samplers.plan(samplers.heun(), SIGMAS, rule, (3,), macs={"main": 10, "small": 1})
    # floor(0.4 * 8) = 3 steps of two evaluations of two branches; the last is one of Euler's.
    assert plan.totals == {"small": 3 * 4, "main": 4 * 4 + 2}
    assert plan.macs == 12 + 180


def test_what_is_planned_is_what_runs():
    asked = []

    def counting(name, denoise):
        def call(x, sigma, condition):
            jax.debug.callback(lambda: asked.append(name))
            return denoise(x, sigma, condition)

        return Labelled(call)

    networks = {name: counting(name, denoise) for name, denoise in NETWORKS.items()}
    rule = stitched(guidance.autoguidance(2.0), low=stitch_point(SIGMAS, 0.4))
    run(rule, networks).block_until_ready()
    jax.effects_barrier()
    planned = samplers.plan(samplers.euler(), SIGMAS, rule, (3,)).totals
    assert {name: asked.count(name) for name in NETWORKS} == planned
    assert planned == {"small": 3, "main": 5, "guide": 8}


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.29, 0.4, 0.5, 0.73, 1.0])
@pytest.mark.parametrize("steps", [7, 100, 250])
def test_the_share_of_steps_is_rounded_down(ratio, steps):
    # t / T >= 1 - ratio for t = T - 1, ..., 0, in whole hundredths.
    times, hundredths = range(steps - 1, -1, -1), round(100 * ratio)
    count = sum(100 * t >= (100 - hundredths) * steps for t in times)
    for final_zero in (True, False):
        sigmas = samplers.karras(steps + (not final_zero), final_zero=final_zero)
        starts = sigmas[:-1]
        assert (starts > stitch_point(sigmas, ratio)).sum() == count


def test_forty_percent_of_250_steps_of_a_thousand_timesteps():
    # The published rule, on the timesteps that a run of 250 steps visits.
    times = np.round(np.linspace(0, 999, 250))
    assert (times / 1000 >= 1 - 0.4).sum() == 100
    sigmas = samplers.karras(250)
    rule = stitched(guidance.unguided(), low=stitch_point(sigmas, 0.4))
    assert samplers.plan(samplers.euler(), sigmas, rule).totals == {"small": 100, "main": 150}


def test_experts_nest():
    rule = stitched(stitched(guidance.cfg(2.0), "high", low=5.0), "middle", low=0.5, high=5.0)
    assert guidance.cost(rule, [6.0, 5.0, 0.6, 0.5]) == [
        {"high": 2},
        {"middle": 2},
        {"middle": 2},
        {"main": 2},
    ]
    # Where both hold the inner one has answered already.
    rule = stitched(stitched(guidance.cfg(2.0), "high", low=5.0), "wide", low=0.5)
    assert guidance.cost(rule, [6.0, 1.0]) == [{"high": 2}, {"wide": 2}]
    # And what has answered may itself be replaced.
    rule = stitched(stitched(guidance.cfg(2.0), "high"), "higher", low=50.0, replaces="high")
    assert guidance.cost(rule, [60.0, 6.0]) == [{"higher": 2}, {"high": 2}]


def test_another_network_than_the_main_one_may_be_replaced():
    rule = stitched(guidance.autoguidance(2.0), "small", low=1.0, replaces="guide")
    assert guidance.cost(rule, [2.0, 0.5]) == [{"main": 1, "small": 1}, {"main": 1, "guide": 1}]
    inside = run(stitched(guidance.autoguidance(2.0), "small", replaces="guide"))
    expected = run(guidance.autoguidance(2.0), {**NETWORKS, "guide": SMALL})
    np.testing.assert_array_equal(inside, expected)


def test_conditions_modes_levels_and_states_pass_through():
    asked = []

    class Evaluate:
        condition = LABELS

        def __call__(self, branches, x=None, sigma=None):
            asked.append((branches, x, sigma))
            return tuple(jnp.ones((4, 3)) for _ in branches)

    rule = guidance.seg(2.0, (1,))
    plain, replaced = rule.at(1.0), stitched(rule, "small").at(1.0)
    for one in (plain, replaced):
        one.apply(Evaluate(), NOISE, 1.0, one.init(NOISE), keys(4))
    (first, *rest), (second, *same) = asked
    assert rest == same == [None, None]
    for old, new in zip(first, second, strict=True):
        assert (old.network, new.network) == ("main", "small")
        assert (old.condition, old.modes) == (new.condition, new.modes)
    # Rules that look elsewhere are answered there.
    asked.clear()
    at = stitched(guidance.reg(guidance.cfg(2.0)), "small").at(1.0)
    at.apply(Evaluate(), jnp.asarray(NOISE), 1.0, at.init(NOISE), keys(4))
    assert asked[0][1] is not None and asked[0][0][0].network == "small"
    # Rules that look at the condition see the one given.
    asked.clear()
    at = stitched(guidance.gfcg(2.0), "small").at(1.0)

    class Classifying(Evaluate):
        def __call__(self, branches, x=None, sigma=None):
            asked.extend(branches)
            shape = {"classifier": (4, 2)}
            return tuple(jnp.ones(shape.get(one.network, (4, 3))) for one in branches)

    at.apply(Classifying(), jnp.asarray(NOISE), 1.0, at.init(NOISE), keys(4))
    assert {branch.network for branch in asked} == {"small", "classifier"}
    apg = guidance.apg(2.0)
    assert jax.tree.structure(stitched(apg).init(NOISE)) == jax.tree.structure(apg.init(NOISE))


def test_the_networks_own_null_condition_is_asked_for():
    class Asked(Labelled):
        null_condition = 1

    small, seen = Asked(biased), []
    small.denoise = lambda x, s, c: seen.append(c) or biased(x, s, c)
    rule = stitched(guidance.cfg(2.0)).at(1.0)
    evaluate = Evaluator(
        {"main": MAIN, "small": small}, jnp.asarray(NOISE), jnp.float32(1.0), LABELS, "fused"
    )
    rule.apply(evaluate, NOISE, 1.0, rule.init(NOISE), keys(4))
    np.testing.assert_array_equal(seen[0].reshape(4, 2)[:, 1], 1)


def test_noise_of_another_prediction_stays_so():
    low, high = (
        stitched(guidance.cfgpp(0.6), low=1.0).at(0.5),
        stitched(guidance.cfgpp(0.6)).at(1.0),
    )
    arrays = {"given": 2 * NOISE, "null": NOISE, "small": 3 * NOISE, "small_null": 4 * NOISE}
    below, _ = guidance.combine(low, arrays)
    np.testing.assert_array_equal(below.renoise_from, NOISE)
    above, _ = guidance.combine(high, arrays)
    np.testing.assert_array_equal(above.renoise_from, 4 * NOISE)
    np.testing.assert_allclose(above.denoised, (4 - 0.6) * NOISE, rtol=1e-5)
    # A branch with a name of its own keeps it.
    custom = guidance.push(guidance.Branch(condition="null", name="other"), guidance.scale(2.0))
    answer, _ = guidance.combine(stitched(custom), {"small": NOISE, "other": 0 * NOISE}, sigma=1.0)
    np.testing.assert_allclose(answer.denoised, 2 * NOISE, rtol=1e-6)


def test_neighbouring_steps_share_a_scan_and_new_numbers_a_program(compilations):
    rule = stitched(guidance.cfg(2.0), low=SIGMAS[3])
    assert [part.steps for part in samplers.loop.segments(rule, samplers.euler(), SIGMAS)] == [3, 5]
    first = run(rule)
    with compilations() as compiled:
        other = run(stitched(guidance.cfg(3.0), low=SIGMAS[3]), sigmas=SIGMAS)
    assert not compiled
    assert np.abs(first - other).max() > 1e-3


def test_a_network_that_was_not_given_is_asked_for_by_name():
    with pytest.raises(ValueError, match="stitched needs a network named 'tiny'"):
        run(stitched(guidance.cfg(2.0), "tiny", low=5.0))
    # One that is never asked need not be there.
    run(stitched(guidance.cfg(2.0), "tiny", low=50.0))
    run(stitched(guidance.cfg(2.0)), {"small": SMALL})


def test_it_is_described_by_its_constructor():
    rule = stitched(guidance.cfg(2.0), "small", low=4.0)
    known = origin(rule)
    assert known.constructor.name == "stitched" and known.constructor.sources == ("2402.14167",)
    assert guidance.from_config(guidance.to_config(rule)).at(5.0).network == "small"


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda rule: stitched(rule, low=2.0, high=1.0), "need 0 <= low < high"),
        (lambda rule: stitched(rule, low=-1.0), "need 0 <= low < high"),
        (lambda rule: stitched(rule, low=math.nan), "need 0 <= low < high"),
        (lambda rule: stitched(rule, low="four"), "must be plain numbers"),
        (lambda rule: jax.jit(lambda low: stitched(rule, low=low).low)(1.0), "plain numbers"),
        (lambda rule: stitched(rule, "main"), "cannot replace itself"),
        (lambda rule: stitched(rule, ""), "must name denoisers"),
        (lambda rule: stitched(rule, "classifier"), "must name denoisers"),
        (lambda rule: stitched(rule, replaces="classifier"), "must name denoisers"),
        (lambda rule: guidance.combine(stitched(rule), {"given": NOISE}), "pass sigma"),
        (lambda rule: stitch_point(SIGMAS, 1.1), "0 <= ratio <= 1"),
        (lambda rule: stitch_point(SIGMAS, math.nan), "0 <= ratio <= 1"),
        (lambda rule: stitch_point([1.0, 2.0], 0.5), "decreasing"),
        (lambda rule: stitch_point([1.0], 0.5), "decreasing"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(guidance.cfg(2.0))


def test_which_network_holds_must_be_decided_first():
    rule = stitched(guidance.cfg(2.0))
    with pytest.raises(TypeError, match="call rule.at"):
        rule.apply(None, NOISE, 1.0, rule.init(NOISE), None)
