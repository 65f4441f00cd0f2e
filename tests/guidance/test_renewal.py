"""References that are renewed at some steps and reused between: what is evaluated, what is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import MEANS, SPREAD, Labelled, gaussian, keys, mixture_denoiser
from oracles.toy_network import NETWORKS, Toy
from tables.everyday import few
from tables.solver_table import SOLVERS

from guidestar import guidance, samplers
from guidestar.core.pytrees import pytree
from guidestar.guidance import cfg, reuse
from guidestar.guidance.pushes import Push
from guidestar.guidance.wrappers.renewal import KINDS
from guidestar.guidance.wrappers.wrapper import Wrapper
from guidestar.samplers.loop import segments, turns

SIGMAS = samplers.karras(8, 0.02, 20.0)
LABELS = jnp.arange(4) % 2
IMAGES = jax.random.normal(jax.random.key(0), (4, 4, 4, 1))
EXACT = Labelled(gaussian)


def run(rule, networks=EXACT, solver=None, sigmas=SIGMAS, noise=IMAGES, labels=LABELS, **options):
    solver, key = solver or samplers.euler(), keys(len(noise))
    return samplers.sample(networks, rule, solver, sigmas, noise, labels, key, **options)


def planned(rule, solver=None, sigmas=SIGMAS):
    """Return the main network's evaluations at each step."""
    steps = samplers.plan(solver or samplers.euler(), sigmas, rule).evaluations
    return [step["main"] for step in steps]


@pytest.mark.parametrize(
    ("rule", "solver", "of"),
    few(
        3,
        [
            (cfg(2.0), "heun", "noise"),
            (guidance.apg(3.0), "dpmpp", "difference"),
            (guidance.cfgpp(0.6), "euler", "prediction"),
            (guidance.pag(2.0, (0,)), "ancestral", "noise"),
            (guidance.swg(2.0, 3), "unipc", "prediction"),
            (guidance.push(guidance.null(), guidance.project(0.3)), "dpmpp_3s", "difference"),
        ],
    ),
)
def test_renewed_at_every_step_it_is_the_rule_itself_to_the_bit(rule, solver, of):
    options = dict(networks=Toy(), solver=SOLVERS[solver].solver, sigmas=SIGMAS[2:])
    plain = run(rule, **options)
    np.testing.assert_array_equal(run(reuse(rule, 1, of=of), **options), plain)
    assert np.abs(run(reuse(rule, 3, of=of), **options) - plain).max() > 1e-4


@pytest.mark.parametrize(
    ("of", "reference"),
    # The first step is at sigma 4, where the two are 5 apart; the second at 2.
    [("difference", 7.0 - 5.0), ("noise", 7.0 - 5.0 * 2 / 4), ("prediction", 1.0)],
)
def test_what_is_reused_is_said_by_hand(of, reference):
    rule = guidance.along(reuse(cfg(3.0), of=of), [4.0, 2.0])
    first = {"given": jnp.full((2, 3), 6.0), "null": jnp.full((2, 3), 1.0)}
    result, state = guidance.combine(rule, first, sigma=4.0)
    np.testing.assert_array_equal(result.denoised, np.full((2, 3), 1 + 3 * 5.0))
    # No prediction but the plain one is asked for.
    result, _ = guidance.combine(rule, {"given": jnp.full((2, 3), 7.0)}, sigma=2.0, state=state)
    np.testing.assert_allclose(result.denoised, reference + 3 * (7 - reference), rtol=1e-6)
    np.testing.assert_allclose(
        result.info["push_norm"], 2 * (7 - reference) * np.sqrt(3), rtol=1e-6
    )


def test_a_state_inside_moves_at_every_step():
    # Momentum adds up what is reused, as it would what is renewed.
    rule = guidance.push(guidance.null(), guidance.momentum(0.5), guidance.scale(2.0))
    rule = guidance.along(reuse(rule, 3, of="difference"), [3.0, 2.0, 1.0])
    arrays, state = {"given": jnp.full((1, 2), 4.0), "null": jnp.zeros((1, 2))}, None
    for sigma, push in ((3.0, 4.0), (2.0, 4 + 2.0), (1.0, 4 + 3.0)):
        result, state = guidance.combine(rule, arrays, sigma=sigma, state=state)
        np.testing.assert_allclose(result.denoised, np.full((1, 2), 4 + push))
        arrays = {"given": jnp.full((1, 2), 4.0)}


def test_a_main_prediction_that_is_not_the_plain_one_is_kept_beside_it():
    arrays = {"given": jnp.full((1, 2), 4.0), "null": jnp.zeros((1, 2)), "not_0": jnp.ones((1, 2))}
    rule = guidance.along(reuse(guidance.compose_not(2.0, 0), of="difference"), [2.0, 1.0])
    result, state = guidance.combine(rule, arrays, sigma=2.0)
    np.testing.assert_allclose(result.denoised, np.full((1, 2), 2 * (4 - 1.0)))
    # Then D_main = 6 - 1 and D_ref = D_main - (3 - 0).
    result, _ = guidance.combine(rule, {"given": jnp.full((1, 2), 6.0)}, sigma=1.0, state=state)
    np.testing.assert_allclose(result.denoised, np.full((1, 2), 2.0 + 2 * 3))


@pytest.mark.parametrize(
    ("rule", "evaluations"),
    [
        (reuse(cfg(2.0)), [2, 1, 2, 1, 2, 1, 2, 1]),
        (reuse(cfg(2.0), 3), [2, 1, 1, 2, 1, 1, 2, 1]),
        (reuse(cfg(2.0), 100), [2, 1, 1, 1, 1, 1, 1, 1]),
        (reuse(cfg(2.0), 1), [2] * 8),
        # Outside its window every step renews; inside, age counts from the last one that did.
        (reuse(cfg(2.0), 3, high=SIGMAS[3]), [2, 2, 2, 1, 1, 2, 1, 1]),
        (reuse(cfg(2.0), 3, low=SIGMAS[4]), [2, 1, 1, 2, 2, 2, 2, 2]),
        (reuse(cfg(2.0), 3, SIGMAS[5], SIGMAS[1]), [2, 1, 1, 2, 1, 2, 2, 2]),
        # Levels are renewed at once a step starts at or below them, several by one step.
        (reuse(cfg(2.0), (SIGMAS[5], SIGMAS[2])), [2, 1, 2, 1, 1, 2, 1, 1]),
        (reuse(cfg(2.0), [100.0, 1.001 * SIGMAS[4], SIGMAS[4]]), [2, 1, 1, 1, 2, 1, 1, 1]),
        (reuse(cfg(2.0), np.array([0.999 * SIGMAS[1], 1e-3])), [2, 1, 2, 1, 1, 1, 1, 1]),
        (reuse(cfg(2.0), (SIGMAS[6],), low=SIGMAS[7]), [2, 1, 1, 1, 1, 1, 2, 2]),
        # An interval's first step renews, and the steps inside are counted.
        (guidance.between(reuse(cfg(2.0)), SIGMAS[6], SIGMAS[1]), [1, 2, 1, 2, 1, 2, 1, 1]),
        (
            guidance.between(
                guidance.higs(guidance.between(reuse(cfg(2.0), 3), SIGMAS[5], SIGMAS[0])),
                SIGMAS[7],
                SIGMAS[2],
            ),
            [1, 1, 2, 1, 1, 1, 1, 1],
        ),
        # Sums share what their parts ask for, and each part has its own steps.
        (
            guidance.together(reuse(cfg(2.0)), reuse(guidance.slg(2.0, (0,)), 3)),
            [3, 1, 2, 2, 2, 1, 3, 1],
        ),
        (reuse(guidance.swg(2.0, 40), 4), [5, 1, 1, 1, 5, 1, 1, 1]),
        (reuse(guidance.perp_neg(2.0, [0]), 4), [3, 1, 1, 1, 3, 1, 1, 1]),
    ],
)
def test_the_plan_says_which_steps_renew(rule, evaluations):
    assert planned(rule) == evaluations
    assert [one["main"] for one in guidance.cost(rule, SIGMAS[:-1])] == evaluations
    # In a step of two evaluations both renew, or both reuse.
    heun = planned(rule, samplers.heun())
    assert heun == [2 * count for count in evaluations[:-1]] + evaluations[-1:]


def test_other_networks_are_reused_too():
    plan = samplers.plan(samplers.euler(), SIGMAS, reuse(guidance.autoguidance(2.0), 3))
    assert plan.totals == {"main": 8, "guide": 3}


class Counted(Toy):
    """The toy network, counting the rows that it is asked for, and how often it is traced."""

    def __init__(self):
        super().__init__()
        self.rows, self.traces = 0, 0

    def __call__(self, x, sigma, condition, modes=(), to=None):
        self.traces += 1
        jax.debug.callback(self._count, x.shape[0])
        return super().__call__(x, sigma, condition, modes, to)

    def _count(self, rows):
        self.rows += int(rows)


@pytest.mark.longer
def test_what_is_not_evaluated_is_in_no_program_and_turns_share_theirs():
    sigmas = samplers.karras(13, 0.02, 20.0)
    traced = []
    for rule in (cfg(2.0), reuse(cfg(2.0), 3), reuse(guidance.pag(2.0, (1,)), 3)):
        network = Counted()
        jax.block_until_ready(run(rule, network, sigmas=sigmas))
        jax.effects_barrier()
        plan = samplers.plan(samplers.euler(), sigmas, rule)
        assert network.rows == 4 * plan.totals["main"]
        traced.append(network.traces)
    plain, reused, perturbed = traced
    # One copy of the network for a step that renews and one for those that reuse, in four turns;
    # then a step that renews.
    assert reused == perturbed == 3 * plain


def test_segments_that_take_turns_are_found():
    def shown(evaluations):
        each = (cfg(2.0), guidance.autoguidance(2.0), guidance.unguided())
        whole = np.arange(len(evaluations), -1.0, -1.0)

        @pytree
        class Listed(Wrapper):
            rule: guidance.Rule

            def init(self, x):
                return ()

            def apply(self, evaluate, x, sigma, state, key):
                raise AssertionError

            def at(self, sigma):
                return each[evaluations[len(evaluations) - int(sigma)]]

        parts = segments(Listed(cfg(2.0)), samplers.euler(), whole)
        groups = turns(parts)
        steps = sum(sum(part.steps for part in group) * times for group, times in groups)
        assert steps == len(evaluations)
        return [([part.steps for part in group], times) for group, times in groups]

    assert shown([0, 1, 0, 1, 0]) == [([1, 1], 2), ([1], 1)]
    assert shown([2, 0, 1, 1, 0, 1, 1]) == [([1], 1), ([1, 2], 2)]
    assert shown([0, 1, 1, 0, 1]) == [([1], 1), ([2], 1), ([1], 1), ([1], 1)]
    assert shown([0, 1, 2, 0, 1, 2, 0, 1, 2]) == [([1, 1, 1], 3)]
    assert shown([0, 0, 0]) == [([3], 1)]


@pytest.mark.parametrize("save", ["x", ("denoised", "info")])
def test_what_is_saved_of_steps_in_turns_is_in_order(save):
    rule = reuse(guidance.apg(2.0, momentum=0.0), 3)
    sigmas = samplers.karras(11, 0.02, 20.0)
    _, kept = run(rule, sigmas=sigmas, save=save)
    # Each step by itself: the state that it begins from is what the one before it left.
    end, own = run(rule, sigmas=sigmas, save=("x", "denoised", "info"))
    for name in kept:
        jax.tree.map(np.testing.assert_array_equal, kept[name], own[name])
    assert own["info"]["push_norm"].shape == (11, 4)
    x, denoised = own["x"], own["denoised"]
    for i, (start, stop) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        after = x[i + 1] if i + 1 < len(x) else end
        expected = denoised[i] + stop / start * (x[i] - denoised[i])
        np.testing.assert_allclose(after, expected, atol=1e-4)


def test_turns_and_saved_diagnostics_that_some_steps_lack():
    rule = guidance.together(reuse(cfg(2.0)), guidance.between(cfg(1.5), SIGMAS[6], SIGMAS[2]))
    _, kept = run(rule, save="info")
    assert np.isnan(kept["info"]["push_norm_1"]).all(axis=1).tolist() == [1, 1, 0, 0, 0, 0, 1, 1]
    assert np.isfinite(kept["info"]["push_norm_0"]).all()


MIXTURE = mixture_denoiser()


def error(every, steps, of="noise"):
    """Return the RMS distance from what the rule itself gives, on an exact mixture."""
    noise, labels = jax.random.normal(jax.random.key(1), (32, 2)), jnp.arange(32) % 2
    sigmas = samplers.karras(steps, 0.02, 20.0)
    full, reused = (
        run(rule, MIXTURE, None, sigmas, noise, labels)
        for rule in (cfg(1.5), reuse(cfg(1.5), every, of=of))
    )
    return float(np.sqrt(np.mean((full - reused) ** 2)))


@pytest.mark.longer
@pytest.mark.parametrize("of", few(1, KINDS))
def test_the_more_often_it_is_renewed_the_closer(of, x64):
    errors = [error(every, 12, of) for every in (4, 3, 2)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 1.8


@pytest.mark.longer
@pytest.mark.parametrize("of", few(1, KINDS))
def test_the_error_falls_with_the_length_of_steps_to_the_first_order(of, x64):
    steps = np.array([24, 48, 96])
    slope, _ = np.polyfit(np.log(1 / steps), np.log([error(2, n, of) for n in steps]), 1)
    assert 0.8 < slope < 1.3


def test_the_difference_of_noises_is_exact_where_the_push_in_noise_is_constant(x64):
    # Gaussian classes of one spread: D_given - D_null = mean sigma^2 / (sigma^2 + spread^2), so
    # that of noises, times sigma, is mean sigma / (...): by hand for two steps of Euler's method.
    noise, labels, start, end = jnp.ones((2, 1)), jnp.arange(2), 2.0, 1.5
    result = run(reuse(cfg(3.0)), sigmas=[start, end, 0.0], noise=noise, labels=labels)
    for label, got in zip(labels, result, strict=True):
        mean, x = MEANS[label], start
        push = mean * start**2 / (start**2 + SPREAD**2)

        def given(x, sigma, mean=mean):
            return mean + (x - mean) * SPREAD**2 / (SPREAD**2 + sigma**2)

        guided = given(x, start) + 2 * push
        x = guided + end / start * (x - guided)
        np.testing.assert_allclose(got, [given(x, end) + 2 * push * end / start], rtol=1e-12)


@pytest.mark.parametrize("name", few(0, ["heun", "dpmpp", "ancestral", "unipc"]))
def test_a_sample_alone_is_the_same_as_in_a_batch(name):
    solver, rule = SOLVERS[name].solver, reuse(guidance.tpg(2.0, (0,)), 3)
    batch = run(rule, NETWORKS["main"], solver)
    own = slice(2, 3)
    alone = samplers.sample(
        NETWORKS["main"], rule, solver, SIGMAS, IMAGES[own], LABELS[own], keys(4)[own]
    )
    np.testing.assert_allclose(alone[0], batch[2], atol=1e-5)


@pytest.mark.longer
def test_gradients_go_through_what_is_reused(x64):
    noise, way = (
        IMAGES.astype(float),
        jnp.asarray(np.random.default_rng(0).normal(size=(4, 4, 4, 1))),
    )

    def total(noise, scale):
        return jnp.sum(way * run(reuse(guidance.apg(scale), 3), noise=noise))

    by_noise, by_scale = jax.grad(total, argnums=(0, 1))(noise, 2.0)
    step = 1e-5
    moved = (total(noise + step * way, 2.0) - total(noise - step * way, 2.0)) / (2 * step)
    np.testing.assert_allclose(jnp.sum(by_noise * way), moved, rtol=1e-5)
    scaled = (total(noise, 2.0 + step) - total(noise, 2.0 - step)) / (2 * step)
    np.testing.assert_allclose(by_scale, scaled, rtol=1e-5)


@pytest.mark.longer
def test_upward_the_first_step_taken_renews():
    x, sigmas = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2))), np.geomspace(20, 0.02, 9)
    rule, network = reuse(cfg(2.0), 3), Counted()
    noise = samplers.invert(network, rule, sigmas, x, LABELS, keys(4))
    jax.effects_barrier()
    assert np.isfinite(noise).all()
    assert network.rows == 4 * (3 * 2 + 5)


def test_nothing_is_reused_before_it_was_evaluated():
    # A window of somebody else's that does not say at which steps it asks what is inside.
    @pytree
    class Late(Wrapper):
        rule: guidance.Rule

        def init(self, x):
            return self.rule.init(x)

        def apply(self, evaluate, x, sigma, state, key):
            raise AssertionError

        def at(self, sigma):
            return self.rule.at(sigma) if sigma < SIGMAS[0] else guidance.unguided()

    assert np.isnan(run(Late(reuse(cfg(2.0), 100)))).all()

    @pytree
    class Told(Late):
        def along(self, sigmas):
            return Told(guidance.along(self.rule, [s for s in sigmas if s < SIGMAS[0]]))

    assert planned(Told(reuse(cfg(2.0), 100))) == [1, 2, 1, 1, 1, 1, 1, 1]
    assert np.isfinite(run(Told(reuse(cfg(2.0), 100)))).all()


def test_without_a_schedule_it_renews_and_says_so():
    rule = reuse(cfg(2.0), 3)
    arrays = {"given": IMAGES, "null": jnp.zeros_like(IMAGES)}
    for _ in range(2):
        result, state = guidance.combine(rule, arrays, sigma=1.0)
    np.testing.assert_array_equal(result.denoised, 2 * IMAGES)
    with pytest.raises(ValueError, match="pass sigma as a plain number"):
        guidance.combine(rule, arrays, state=state)
    with pytest.raises(TypeError, match="call rule.at"):
        rule.apply(None, IMAGES, 1.0, state, None)


def test_rules_without_steps_are_returned_as_they_are():
    for rule in (cfg(2.0), guidance.between(guidance.apg(3.0), 0.1, 1.0), guidance.unguided()):
        assert guidance.along(rule, SIGMAS[:-1]) is rule


def test_its_description_tells_both_kinds_of_step():
    text = guidance.describe(guidance.between(reuse(cfg(2.0), 3), 0.3, 3.0))
    assert "reuse(every=3, low=0.0, high=inf, of='noise')  [arXiv 2410.19355]" in text
    assert "  0.3 < sigma <= 3: main 2; where reused main 1\n" in text
    assert "  sigma <= 0.3: main 1\n" in text
    windowed = guidance.describe(reuse(guidance.autoguidance(2.0), high=3.0))
    assert "  sigma <= 3: guide 1, main 1; where reused main 1\n" in windowed
    assert "  3 < sigma: guide 1, main 1\n" in windowed


def test_a_window_of_no_step_is_told():
    with pytest.warns(UserWarning, match="holds at none of the schedule's steps"):
        run(reuse(cfg(2.0), high=0.001))


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: reuse(guidance.unguided()), "takes a push .* got a rule .unguided."),
        (lambda: reuse(guidance.between(cfg(2.0), 0.1, 1.0)), "a wrapper goes around it"),
        (lambda: reuse(guidance.fkc(2.0)), "takes a push"),
        (lambda: reuse(reuse(cfg(2.0))), "takes a push"),
        (lambda: reuse(cfg(2.0), 0), "every must be a whole number from 1"),
        (lambda: reuse(cfg(2.0), 2.5), "every (must be|takes) a whole number"),
        (lambda: reuse(cfg(2.0), ()), "list of noise levels above 0"),
        (lambda: reuse(cfg(2.0), ("1.0", 2.0)), "list of noise levels above 0"),
        (lambda: reuse(cfg(2.0), (1.0, -2.0)), "list of noise levels above 0"),
        (lambda: reuse(cfg(2.0), (1.0, float("inf"))), "list of noise levels above 0"),
        (lambda: reuse(cfg(2.0), low=3.0, high=1.0), "need 0 <= low < high"),
        (lambda: reuse(cfg(2.0), of="push"), "of is noise, difference or prediction, got 'push'"),
        (
            lambda: run(reuse(guidance.classifier(2.0)), NETWORKS),
            "guidance.reuse: the reference ClassifierGradient asks for no plain prediction",
        ),
        (
            lambda: samplers.calibrate(EXACT, reuse(cfg(2.0)), IMAGES, LABELS, jax.random.key(0)),
            "remembers earlier steps",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(make, message):
    with pytest.raises((ValueError, TypeError), match=message) as told:
        make()
    assert "\n" not in str(told.value)
    assert isinstance(cfg(2.0), Push)
