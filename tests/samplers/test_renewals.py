"""Steps that renew a reused reference: chosen to lose least, from one run of the rule."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import Labelled, keys, mixture_denoiser

from guidestar import guidance, samplers
from guidestar.samplers.tuning import renewals
from guidestar.samplers.tuning.renewal_costs import costs_of

LABELS = jnp.arange(6) % 2
NOISE = np.random.default_rng(0).normal(size=(6, 2))
SIGMAS = samplers.karras(8, 0.02, 20.0)
MIXTURE = mixture_denoiser()
RULE = guidance.cfg(2.0)


def chosen(solver, count, rule=RULE, network=MIXTURE, sigmas=SIGMAS, **options):
    return renewals(network, rule, solver, sigmas, NOISE, LABELS, keys(6), count=count, **options)


def differences(heun):
    """Return the noise difference at each step's last evaluation, by a loop of its own."""
    x, found = NOISE * SIGMAS[0], []

    def guided(x, sigma):
        main, null = MIXTURE(x, sigma, LABELS), MIXTURE(x, sigma, None)
        return null + 2 * (main - null), (main - null) / sigma

    for start, end in itertools.pairwise(SIGMAS):
        denoised, difference = guided(x, start)
        slope = (x - denoised) / start
        after = x + (end - start) * slope
        if heun and end:
            denoised, difference = guided(after, end)
            after = x + (end - start) * (slope + (after - denoised) / end) / 2
        x = after
        found.append(difference)
    return np.array(found)


@pytest.mark.parametrize("spread", [0.5, 2.0])
@pytest.mark.parametrize("heun", [False, True])
def test_the_levels_are_the_best_of_all_ways_to_choose_them(heun, spread, x64):
    each, solver = differences(heun), samplers.heun() if heun else samplers.euler()
    left = spread / np.sqrt(spread**2 + SIGMAS[1:] ** 2)
    length = (SIGMAS[:-1] - SIGMAS[1:]) ** 2 * left

    def loss(nodes):
        last = [max(n for n in nodes if n <= k) for k in range(8)]
        return sum(length[k] * np.mean((each[k] - each[last[k]]) ** 2) for k in range(8))

    for count in (1, 2, 4, 7):
        ways = [(0, *rest) for rest in itertools.combinations(range(1, 8), count - 1)]
        best = min(ways, key=loss)
        found = chosen(solver, count, sigma_data=spread)
        assert found == tuple(SIGMAS[list(best)])
    rule = guidance.reuse(RULE, found)
    assert samplers.plan(samplers.euler(), SIGMAS, rule).totals == {"main": 8 + 7}


@pytest.mark.longer
def test_they_lose_less_than_as_many_evenly_spread(x64):
    sigmas = samplers.karras(18, 0.02, 20.0)

    def end(rule):
        return samplers.sample(
            MIXTURE, rule, samplers.dpmpp(), sigmas, NOISE[::-1], LABELS, keys(6)
        )

    levels = chosen(samplers.dpmpp(), 6, sigmas=sigmas)
    full = end(RULE)
    errors = [
        float(np.sqrt(np.mean((end(guidance.reuse(RULE, every)) - full) ** 2)))
        for every in (levels, 3)
    ]
    assert errors[0] < 0.8 * errors[1]


def test_costs_add_up_over_the_steps_that_reuse():
    moved = np.arange(9.0).reshape(3, 3)
    expected = [
        [np.inf, 0, 1, 3],
        [np.inf, np.inf, 0, 5],
        [np.inf, np.inf, np.inf, 0],
        [np.inf] * 4,
    ]
    np.testing.assert_array_equal(costs_of(moved), expected)


@pytest.mark.longer
def test_states_inside_and_other_networks_are_no_hindrance():
    rule = guidance.push(guidance.weak(), guidance.momentum(-0.5), guidance.scale(2.0))
    networks = {"main": MIXTURE, "guide": Labelled(lambda x, s, c: MIXTURE(x, 2 * s, c))}
    for branches in ("fused", "sequential"):
        found = chosen(samplers.euler(), 3, rule, networks, branches=branches)
        assert len(found) == 3 and found[0] == SIGMAS[0]


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(count=9), "9 steps, but .* only 8"),
        (dict(count=0), "must be a positive integer"),
        (dict(count=2, sigma_data=0.0), "need sigma_data > 0"),
        (dict(count=2, rule=guidance.unguided()), "takes a push"),
        (dict(count=2, sigmas=[1.0, 2.0]), "sigmas must decrease"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        chosen(samplers.euler(), **options)


@pytest.mark.longer
def test_states_are_saved_as_steps_leave_them(x64):
    # Momentum's state is the last push; what is reused stays as it was.
    push = guidance.push(guidance.null(), guidance.momentum(0.5), guidance.scale(2.0))
    rule, shape = guidance.reuse(push, 3), (8, 6, 2)
    saved = samplers.sample(
        *(MIXTURE, rule, samplers.euler(), SIGMAS, jnp.asarray(NOISE), LABELS, keys(6)),
        save=("x", "state"),
    )[1]
    x, reference = saved["x"], saved["state"].reference
    assert reference.shape == shape
    for step, sigma in enumerate(SIGMAS[:-1]):
        renewed = step - step % 3
        if step == renewed:
            main, null = MIXTURE(x[step], sigma, LABELS), MIXTURE(x[step], sigma, None)
            np.testing.assert_allclose(reference[step], (main - null) / sigma, atol=1e-9)
        np.testing.assert_array_equal(reference[step], reference[renewed])
    assert [leaf.shape for leaf in jax.tree.leaves(saved["state"].inner)] == [shape]
