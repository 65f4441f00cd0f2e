"""Searches within trajectories: over paths, and by rolling a budget over from step to step."""

import jax
import numpy as np
import pytest
from oracles.analytic import Labelled, keys
from oracles.searched import SIGMAS, Counted, First, bound, gain, noise
from tables.everyday import few

from guidestar import guidance, samplers
from guidestar.evaluation import rewards
from guidestar.inference import search

STEPS = len(SIGMAS) - 1
FOUR = samplers.karras(4)
PLAIN, DRAWING = bound(samplers.euler()), bound(samplers.ancestral())
CONSTANT = rewards.host(lambda x0, condition: np.zeros(len(x0)))


def rising():
    """Return a reward that is higher whenever it is asked."""
    asked = []
    return rewards.host(lambda x0, condition: asked.append(1) or np.full(len(x0), len(asked)))


def test_legs_lie_where_the_paper_has_them():
    times = np.append(np.arange(99, 0, -1) / 100, 0)
    sample = bound(samplers.euler(), times / (1 - times))
    legs = search.paths(sample, First(), 10_000).legs()
    found = [tuple(round(float(times[level]), 2) for level in leg) for leg in legs]
    assert found == [(0.11, 0.89, 0.08), (0.08, 0.86, 0.05), (0.05, 0.83, 0.02), (0.02, 0.8, 0)]


@pytest.mark.longer
@pytest.mark.parametrize("factor", few(1, [-1.0, 1.0]))
def test_a_path_without_new_noise_is_the_sampler(factor):
    sample = bound(samplers.euler(), samplers.karras(8))
    options = dict(paths=1, renoisings=1, forward=0.0, backward=0.02)
    least = refused_at(lambda budget: search.paths(sample, First(factor), budget, **options))
    find = search.paths(sample, First(factor), least, **options)
    assert len(find.legs()) > 1 and all(leg.at == leg.up for leg in find.legs())
    found = find(noise(5), None, keys(5))
    # Either sign would have found a path that is not.
    np.testing.assert_allclose(found.x, sample(noise(5), None, keys(5)), rtol=1e-5)


def refused_at(make, budget=1):
    """Return the least budget, as it is told of one that is too small."""
    with pytest.raises(ValueError, match=r"takes (\d+) network evaluations, and the budg") as told:
        make(budget)
    return int(str(told.value).split(" takes ")[1].split()[0])


@pytest.mark.longer
def test_paths_that_are_noised_again_have_the_variance_of_their_leg():
    count, options = 20_000, dict(paths=1, renoisings=1, backward=1.0)
    sample = bound(samplers.euler(), samplers.karras(8))
    plain = np.asarray(sample(noise(count, 1), None, keys(count)))
    ends = []
    for factor in (1.0, -1.0):
        least = refused_at(lambda budget: search.paths(sample, First(), budget, **options))
        find = search.paths(sample, First(factor), least, **options)
        ends.append(np.asarray(find(noise(count, 1), None, keys(count)).x))
    # Of the plain sample and the path's, the searches up and down kept one each.
    path = ends[0] + ends[1] - plain
    (leg,) = find.legs()
    sigmas, last = sample.sigmas, len(sample.sigmas) - 1
    before = gain(sample.piece(0, leg.at))
    after = gain(sample.piece(leg.up, last)) / sigmas[leg.up]
    expected = after**2 * (before**2 + sigmas[leg.up] ** 2 - sigmas[leg.at] ** 2)
    assert abs(path.var() / expected - 1) < 5 * np.sqrt(2 / count)
    shared = np.cov(path[:, 0], plain[:, 0])[0, 1]
    through = after * before * gain(sample)
    assert abs(shared - through) < 5 * expected / np.sqrt(count)


@pytest.mark.longer
def test_paths_find_more_with_every_pass_and_a_larger_budget_goes_on():
    sample = bound(samplers.ancestral(), samplers.karras(5))
    each = refused_at(lambda budget: search.paths(sample, First(), budget))
    one, two = (search.paths(sample, First(), n * each + 3) for n in (1, 2))
    short, long = (find(noise(40), None, keys(40)) for find in (one, two))
    points = len(short.trace.reward)
    np.testing.assert_array_equal(long.trace.reward[:points], short.trace.reward)
    assert (np.diff(long.trace.reward, axis=0) >= 0).all()
    assert (long.reward > short.reward).any() and (short.reward > short.trace.reward[0]).any()
    assert long.trace.evaluations[-1, 0] == two.plan.evaluations == 2 * each


@pytest.mark.longer
@pytest.mark.parametrize("name", few(1, ["rollover", "paths", "zero_order", "best_of_n"]))
def test_networks_are_asked_as_often_as_is_said(name):
    network = Counted()
    rule = guidance.between(guidance.cfg(2.0), 0.1, 20.0)
    sample = bound(samplers.ancestral(), FOUR, rule, network)
    least = refused_at(lambda budget: getattr(search, name)(sample, First(), budget))
    find = getattr(search, name)(sample, First(), 3 * least + 5)
    found = find(noise(1), np.array([0], np.int32), keys(1))
    jax.effects_barrier()
    assert network.rows == found.trace.evaluations[-1, 0] <= find.plan.evaluations <= find.budget
    if name != "rollover":
        assert network.rows == find.plan.evaluations


RULES = {
    "unguided": guidance.unguided(),
    "apg": guidance.apg(3.0, momentum=-0.5),
    "icg": guidance.icg(3.0, classes=2),
}


def one_try_a_step(solver, rule):
    """Return what a search without a choice finds, and what its sampler samples."""
    sample = bound(getattr(samplers, solver)(), SIGMAS, RULES[rule], Labelled())
    find, labels = (
        search.rollover(sample, First(), sample.evaluations()),
        np.array([0, 1], np.int32),
    )
    found = find(noise(2), labels, keys(2))
    assert (found.trace.evaluations[-1] == sample.evaluations()).all()
    return found.x, sample(noise(2), labels, keys(2))


@pytest.mark.longer
def test_one_try_a_step_is_plain_sampling():
    """Compilers round the operations of two programs differently."""
    np.testing.assert_allclose(*one_try_a_step("ancestral", "apg"), rtol=1e-5)


@pytest.mark.longer
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("solver", ["ancestral", "euler", "euler_maruyama"])
def test_one_try_a_step_is_plain_sampling_operation_by_operation(solver, rule):
    with jax.disable_jit():
        np.testing.assert_array_equal(*one_try_a_step(solver, rule))


@pytest.mark.longer
def test_trying_steps_without_noise_changes_nothing():
    for budget in (STEPS, 7 * STEPS):
        find = search.rollover(PLAIN, First(), budget, initial=1)
        found = find(noise(6), None, keys(6))
        np.testing.assert_allclose(found.x, PLAIN(noise(6), None, keys(6)), rtol=1e-5)


@pytest.mark.longer
@pytest.mark.parametrize("budget", [25 + 3 * 7 + 2, 4])
def test_a_constant_reward_takes_the_whole_quota_of_each_step(budget):
    sample = bound(samplers.ancestral(), FOUR)
    find = search.rollover(sample, CONSTANT, budget)
    spent = np.diff(find(noise(3), None, keys(3)).trace.evaluations[:, 0], prepend=0)
    first = min(25, budget - 3)
    quota = (budget - first) // 3
    assert spent.tolist() == [first, quota, quota, budget - first - 2 * quota, 0]
    assert find.plan.evaluations == budget


def test_a_reward_that_always_rises_takes_one_evaluation_a_step():
    sample = bound(samplers.ancestral(), FOUR)
    found = search.rollover(sample, rising(), 100, initial=5)(noise(3), None, keys(3))
    assert found.trace.evaluations.tolist() == [[n] * 3 for n in (5, 6, 7, 8, 8)]


def told(values, otherwise=-1.0):
    """Return a reward that says one value after the other, whatever it is asked."""
    asked = []

    def said(x0, condition):
        asked.append(1)
        return np.full(len(x0), dict(enumerate(values, 1)).get(len(asked), otherwise))

    return rewards.host(said)


@pytest.mark.parametrize(
    ("values", "tries", "spent"),
    [
        # A step that is taken at once leaves three tries, and the next has seven.
        ([0.0, 1.0], 4, [1, 7, 4, 4, 0]),
        # Where no try is better, what is to be exceeded stays: 4 is no more than 5.
        ([5.0, 3.0, 3.0, 4.0, 4.0], 2, [2, 2, 2, 2, 0]),
    ],
)
def test_tries_roll_over_and_the_best_so_far_is_what_they_exceed(values, tries, spent):
    sample = bound(samplers.ancestral(), samplers.karras(5))
    find = search.rollover(sample, told(values), 1 + 4 * tries, initial=1)
    found = np.diff(find(noise(1), None, keys(1)).trace.evaluations[:, 0])
    assert found.tolist() == spent


def test_the_best_of_all_paths_go_on():
    find = search.paths(PLAIN, First(), 99, paths=2)
    values = np.array([[3.0, 0.0], [1.0, 5.0], [2.0, 4.0], [0.0, 6.0]])
    tries = [
        search.Best(*(jax.numpy.asarray(one) for one in (row[:, None], row, row[:, None])))
        for row in values
    ]
    kept = np.stack([np.asarray(one.reward) for one in find._survivors(tries)])
    np.testing.assert_array_equal(np.sort(kept, axis=0), [[2.0, 5.0], [3.0, 6.0]])
    assert all((np.asarray(one.x)[:, 0] == one.reward).all() for one in find._survivors(tries))


@pytest.mark.longer
def test_tries_raise_the_reward_and_samples_of_a_batch_are_those_alone():
    sample = bound(samplers.ancestral(), samplers.karras(5))
    find = search.rollover(sample, First(), 60, initial=4)
    start, own = noise(30), keys(30)
    found = find(start, None, own)
    assert (found.reward - sample(start, None, own)[:, 0]).mean() > 0.3
    assert (found.trace.evaluations[-1] <= 60).all()
    alone = find(start[7:8], None, own[7:8])
    np.testing.assert_allclose(alone.x, found.x[7:8], rtol=1e-5)
    np.testing.assert_array_equal(alone.trace.evaluations[:, 0], found.trace.evaluations[:, 7])


def test_a_search_that_is_stopped_within_its_run_has_the_prediction():
    sample = bound(samplers.ancestral(), samplers.karras(5))
    found = search.rollover(sample, First(), 60)(noise(3), None, keys(3), until=lambda found: True)
    assert found.trace.evaluations.tolist() == [[25] * 3]
    np.testing.assert_allclose(found.x[:, 0], found.reward)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: search.rollover(DRAWING, First(), 2), "rollover: one run takes 3 network eval"),
        (lambda: search.rollover(bound(samplers.heun()), First(), 99), "more than one prediction"),
        (
            lambda: search.rollover(bound(samplers.dpmpp(2)), First(), 99),
            "or remembers earlier ones",
        ),
        (
            lambda: search.rollover(DRAWING, rewards.rank_mean([First()]), 99),
            "rollover: rank_mean ranks the candidates of a group",
        ),
        (lambda: search.paths(PLAIN, First(), 5), "paths: one pass takes"),
        (lambda: search.paths(PLAIN, First(), 99, start=1.0), "start and forward are times"),
        (lambda: search.paths(PLAIN, rewards.rank_mean([First()]), 99), "paths: rank_mean ranks"),
        (
            lambda: search.paths(bound(samplers.consistency()), First(), 99),
            "asks its network for a consistency",
        ),
        (
            lambda: search.paths(bound(samplers.euler(), [2.0, 0.0]), First(), 99),
            "a schedule of one step",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_before_it_runs(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_network_that_is_missing_is_refused_before_a_step_is_compiled(compilations):
    sample = bound(samplers.ancestral(), SIGMAS, guidance.autoguidance(2.0), Labelled())
    find = search.rollover(sample, First(), 99)
    start, own = noise(2), keys(2)
    with compilations() as compiled, pytest.raises(ValueError, match="needs a network named 'gui"):
        find(start, np.array([0, 1], np.int32), own)
    assert not compiled
