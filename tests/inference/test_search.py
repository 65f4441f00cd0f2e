"""Searches for noise: exact laws, budgets, what plain sampling is of them, refusals."""

import numpy as np
import pytest
from oracles.analytic import Labelled, keys
from oracles.searched import SIGMAS, First, bound, gain, noise, unit
from scipy import stats
from tables.everyday import few

from guidestar import guidance, samplers
from guidestar.evaluation import rewards
from guidestar.inference import search
from guidestar.inference.search.proposals import PROPOSALS

STEPS = len(SIGMAS) - 1
PLAIN, DRAWING = bound(samplers.euler()), bound(samplers.ancestral())
SEARCHES = {"best_of_n": search.best_of_n, "zero_order": search.zero_order}
every = pytest.mark.parametrize("name", SEARCHES)


# Expected maxima of standard normal draws, independent of this package.
@pytest.mark.longer
@pytest.mark.parametrize(
    ("count", "expected"),
    few(1, [(4, 1.02940), (2, 0.56419), (8, 1.42367), (16, 1.76611), (64, 2.34397)]),
)
def test_the_best_of_n_normal_draws_is_as_high_as_expected(count, expected):
    groups = 20_000
    found = search.best_of_n(PLAIN, First(), count * STEPS, at_once=count)(
        noise(groups, 1), None, keys(groups)
    )
    assert abs(float(found.reward.mean()) / gain(PLAIN) - expected) < 3 / np.sqrt(groups)
    np.testing.assert_array_equal(found.x[:, 0], found.reward)


def test_the_best_of_n_has_the_law_of_a_maximum():
    found = search.best_of_n(PLAIN, First(), 5 * STEPS)(noise(4_000, 1), None, keys(4_000))
    law = stats.kstest(np.asarray(found.x[:, 0]) / gain(PLAIN), lambda x: stats.norm.cdf(x) ** 5)
    assert law.pvalue > 0.01
    # The law of one fewer is told apart from it.
    other = stats.kstest(np.asarray(found.x[:, 0]) / gain(PLAIN), lambda x: stats.norm.cdf(x) ** 4)
    assert other.pvalue < 1e-4


@every
@pytest.mark.parametrize("sample", [PLAIN, DRAWING], ids=["euler", "ancestral"])
def test_one_run_is_plain_sampling(name, sample):
    start, own = noise(4), keys(4, 1)
    found = SEARCHES[name](sample, First(), STEPS)(start, None, own)
    np.testing.assert_array_equal(found.x, sample(start, None, own))
    np.testing.assert_array_equal(found.noise, start)


@pytest.mark.parametrize("proposal", ["mix", "rotate", "shell"])
@pytest.mark.parametrize("sample", few(1, [DRAWING, PLAIN]))
def test_neighbours_at_no_distance_are_plain_sampling(sample, proposal):
    start, own = noise(4), keys(4, 1)
    find = search.zero_order(sample, First(), 6 * STEPS, radius=0.0, proposal=proposal)
    found = find(start, None, own)
    np.testing.assert_array_equal(found.x, sample(start, None, own))


@every
def test_the_best_never_gets_worse_and_ends_higher(name):
    found = SEARCHES[name](PLAIN, First(), 20 * STEPS)(noise(50), None, keys(50))
    assert (np.diff(found.trace.reward, axis=0) >= 0).all()
    assert (found.trace.reward[-1] > found.trace.reward[0] + 1e-3).mean() > 0.9
    np.testing.assert_array_equal(found.trace.reward[-1], found.reward)
    # What was kept is a sample, from the noise that is kept beside it.
    if name == "zero_order":
        np.testing.assert_array_equal(PLAIN(found.noise, None, keys(50)), found.x)


@pytest.mark.longer
@every
@pytest.mark.parametrize("at_once", few(1, [3, 50]))
def test_candidates_are_the_same_however_many_are_in_a_batch(name, at_once):
    one, other = (
        SEARCHES[name](DRAWING, First(), 11 * STEPS, at_once=n)(noise(6), None, keys(6))
        for n in (1, at_once)
    )
    np.testing.assert_array_equal(one.x, other.x)
    np.testing.assert_array_equal(one.trace.reward[-1], other.trace.reward[-1])


@pytest.mark.longer
@every
def test_a_larger_budget_goes_on_with_the_same_search(name):
    short, long = (
        SEARCHES[name](DRAWING, First(), runs * STEPS)(noise(6), None, keys(6)) for runs in (7, 13)
    )
    np.testing.assert_array_equal(long.trace.reward[:7], short.trace.reward)
    np.testing.assert_array_equal(long.trace.evaluations[:7], short.trace.evaluations)


@every
def test_a_search_that_is_stopped_has_the_best_so_far(name):
    seen = []

    def enough(found):
        seen.append(found)
        return len(seen) == 4

    find = SEARCHES[name](PLAIN, First(), 13 * STEPS)
    found = find(noise(6), None, keys(6), until=enough)
    assert found.trace.evaluations[:, 0].tolist() == [STEPS * n for n in (1, 2, 3, 4)]
    np.testing.assert_array_equal(found.reward, find(noise(6), None, keys(6)).trace.reward[3])


@every
@pytest.mark.parametrize("budget", [STEPS, 2 * STEPS + 1, 10 * STEPS - 1])
def test_the_plan_is_what_happens_and_keeps_to_the_budget(name, budget):
    asked = []
    reward = rewards.host(lambda x0, condition: asked.append(len(x0)) or x0[:, 0])
    find = SEARCHES[name](PLAIN, reward, budget)
    found = find(noise(2), None, keys(2))
    assert find.plan.evaluations == found.trace.evaluations[-1, 0] <= budget
    assert find.plan.evaluations == STEPS * find.plan.runs > budget - STEPS
    assert find.plan.rewards * 2 == sum(asked)
    assert f"{find.plan.runs} run" in str(find.plan) and f"budget of {budget}" in str(find.plan)


def test_guidance_inside_is_counted_and_every_sample_has_its_condition():
    network = Labelled()
    sample = search.bound(network, guidance.cfg(2.0), samplers.heun(), SIGMAS)
    assert sample.evaluations() == 2 * (2 * STEPS - 1)
    labels = np.array([0, 1, 0, 1])
    reward = rewards.host(lambda x0, condition: np.where(condition == 1, 1, -1) * x0[:, 0])
    found = search.best_of_n(sample, reward, 80, at_once=2)(noise(4), labels, keys(4))
    plain = sample(noise(4), labels, keys(4))
    assert (np.where(labels == 1, 1, -1) * np.asarray(found.x - plain)[:, 0] > 0).all()


@pytest.mark.parametrize("radius", [0.1, 0.7, 1.0])
def test_a_rotation_keeps_the_norm_and_a_shell_the_distance(radius):
    start, fresh = noise(5, 4, 4, 1), noise(5, 4, 4, 1, seed=3)

    def norm(x):
        return np.sqrt((np.asarray(x, np.float64) ** 2).sum(axis=(1, 2, 3)))

    turned = PROPOSALS["rotate"](start, fresh, radius)
    np.testing.assert_allclose(norm(turned), norm(start), rtol=1e-6)
    cosines = (np.asarray(turned * start)).sum(axis=(1, 2, 3)) / norm(start) ** 2
    np.testing.assert_allclose(cosines, np.sqrt(1 - radius**2), atol=1e-6)
    np.testing.assert_allclose(
        norm(PROPOSALS["shell"](start, fresh, radius) - start), radius, rtol=1e-5
    )


# Rewards and squared norms over the dimension, of an independent computation: 64 numbers, 4
# candidates, 8 rounds, the first number as reward.
@pytest.mark.longer
@pytest.mark.parametrize(
    ("proposal", "radius", "reward", "square"),
    few(
        1,
        [
            ("mix", 0.312, 2.20, 1.07),
            ("mix", 0.1, 0.82, 1.01),
            ("mix", 0.6, 2.98, 1.13),
            ("shell", 2.0, 2.08, 1.53),
            ("shell", 4.8, 5.00, 4.04),
        ],
    ),
)
def test_proposals_climb_as_far_and_leave_the_prior_as_far_as_they_do(
    proposal, radius, reward, square
):
    count = 600
    find = search.zero_order(PLAIN, First(), 33 * STEPS, radius=radius, proposal=proposal)
    found = find(noise(count, 64), None, keys(count))
    assert abs(float(found.reward.mean()) / gain(PLAIN) - reward) < 0.12
    assert abs(float((found.noise**2).mean()) / square - 1) < 0.02


@pytest.mark.longer
def test_ranks_are_compared_within_a_round_and_choose_as_their_one_reward_does():
    ranked = rewards.rank_mean([First()])
    for name, make in SEARCHES.items():
        one, other = (
            make(PLAIN, reward, 9 * STEPS, at_once=4)(noise(6), None, keys(6))
            for reward in (First(), ranked)
        )
        np.testing.assert_array_equal(one.x, other.x, err_msg=name)
    find = search.best_of_n(PLAIN, ranked, 9 * STEPS, at_once=4)
    assert find.plan.rewards == 9 + 2


def test_rewards_that_are_not_numbers_are_never_chosen():
    reward = rewards.host(lambda x0, condition: np.where(x0[:, 0] < 0.5, x0[:, 0], np.nan))
    found = search.best_of_n(PLAIN, reward, 16 * STEPS, at_once=4)(noise(50), None, keys(50))
    assert (found.x[:, 0] < 0.5).all() and np.isfinite(found.reward).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: search.best_of_n(PLAIN, First(), 2), "best_of_n: one run takes 3 network evalu"),
        (lambda: search.zero_order(PLAIN, First(), 2), "zero_order: one run takes 3 network ev"),
        (lambda: search.zero_order(PLAIN, First(), 9, radius=1.5), "radius of 'mix' is from 0 to"),
        (lambda: search.zero_order(PLAIN, First(), 9, proposal="mis"), "proposal 'mis' is not one"),
        (lambda: search.best_of_n(PLAIN, First(), 9, at_once=0), "at_once must be a positive int"),
        (
            lambda: search.bound(unit, guidance.fkc(2.0), samplers.feynman_kac(4), SIGMAS),
            "search.bound: the solver weighs particles",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_before_it_runs(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.untyped
def test_a_sampler_that_is_not_bound_is_refused():
    with pytest.raises(ValueError, match="best_of_n: sample takes a bound sampler here"):
        search.best_of_n(samplers.sample, First(), 9)
    with pytest.raises(ValueError, match="best_of_n: reward takes a reward here"):
        search.best_of_n(PLAIN, lambda x: x, 9)
