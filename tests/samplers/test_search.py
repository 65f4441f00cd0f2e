"""Schedules found on fine trajectories: costs, dynamic programming, and what they are good for."""

from functools import partial
from itertools import combinations, pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import SPREAD, keys, mixture_denoiser
from oracles.search_runs import UNGUIDED, contract, denoise_golden, noise_of
from oracles.solver_runs import run

from guidestar import guidance, samplers
from guidestar.samplers import tuning
from guidestar.samplers.tuning.frozen_error import frozen_costs
from guidestar.samplers.tuning.jumps import COSTS, jump_costs
from guidestar.samplers.tuning.nodes import cheapest

TOP = 80.0


def length(costs, nodes, gamma=1.0):
    return sum(gamma**k * costs[i, j] for k, (i, j) in enumerate(pairwise(nodes)))


def random_costs(seed, count=9, low=0.0):
    draws = np.random.default_rng(seed).uniform(low, 1.0, (count, count))
    return np.where(np.triu(np.ones((count, count), bool), 1), draws, np.inf)


# Dynamic programming.


@pytest.mark.parametrize("low", [0.0, -0.5])
@pytest.mark.parametrize("gamma", [1.0, 1.15, 0.8])
def test_the_cheapest_way_is_the_best_of_all_ways(gamma, low):
    for seed in range(5):
        costs = random_costs(seed, low=low)
        for steps in range(1, 9):
            ways = [(0, *inner, 8) for inner in combinations(range(1, 8), steps - 1)]
            best = min(ways, key=lambda way: length(costs, way, gamma))
            np.testing.assert_array_equal(cheapest(costs, steps, gamma), best)


def test_as_many_steps_as_there_are_take_every_level():
    np.testing.assert_array_equal(cheapest(random_costs(0), 8), np.arange(9))
    fine = samplers.flow(12, sigma_max=TOP)
    found = tuning.boss(contract, UNGUIDED, 12, noise_of(4), None, jax.random.key(0), fine=fine)
    np.testing.assert_array_equal(found, fine)


def test_a_larger_gamma_makes_late_jumps_cheaper():
    trajectories = found_on_karras()
    costs = jump_costs(trajectories, "l2")
    ends = [cheapest(costs, 6, gamma) for gamma in (0.7, 1.0, 1.15, 1.5)]
    # The last jump is shorter and shorter.
    lasts = [costs[nodes[-2], nodes[-1]] for nodes in ends]
    assert all(a >= b for a, b in pairwise(lasts)) and lasts[0] > lasts[-1]


# Trajectories.


def found_on_karras(cost_solver=None, count=16):
    solver = samplers.ipndm(4) if cost_solver is None else cost_solver
    return tuning.teacher(
        denoise_golden,
        UNGUIDED,
        noise_of(count),
        None,
        jax.random.key(0),
        fine=samplers.karras(30),
        solver=solver,
    )


def test_a_teacher_keeps_the_states_and_directions_of_its_solver(x64):
    fine, noise = samplers.karras(9), noise_of(4)
    taught = tuning.teacher(
        denoise_golden, UNGUIDED, noise, None, keys(4), fine=fine, solver=samplers.heun()
    )
    end, kept = run(samplers.heun(), denoise_golden, fine, noise, save=("x", "denoised"))
    np.testing.assert_array_equal(taught.x, [*kept["x"], end])
    np.testing.assert_array_equal(taught.denoised, kept["denoised"])
    np.testing.assert_array_equal(taught.sigmas, fine)
    assert taught.directions.shape == kept["x"].shape
    by_hand = (kept["x"][3] - kept["denoised"][3]) / fine[3]
    np.testing.assert_allclose(taught.directions[3], by_hand, rtol=1e-12)


@pytest.mark.longer
def test_teachers_take_guidance_and_conditions():
    rule, labels = guidance.cfg(3.0), jnp.arange(6) % 2
    denoise = mixture_denoiser()
    taught = tuning.teacher(
        denoise, rule, noise_of(6, 2), labels, jax.random.key(0), fine=samplers.karras(8)
    )
    end = samplers.sample(
        denoise, rule, samplers.euler(), samplers.karras(8), noise_of(6, 2), labels,
        jax.random.key(0),
    )  # fmt: skip
    np.testing.assert_array_equal(taught.x[-1], end)


# Costs.


@pytest.mark.parametrize("fine", [samplers.karras(9), samplers.karras(9, final_zero=False)])
def test_costs_are_those_of_eulers_jumps(fine, x64):
    taught = tuning.teacher(
        denoise_golden, UNGUIDED, noise_of(5), None, keys(5), fine=fine, solver=samplers.heun()
    )
    x, slopes = np.asarray(taught.x), np.asarray(taught.directions)

    def deviation(points):
        # The height of a triangle of which the ends of the trajectory are the base.
        base = x[-1] - x[0]
        gap = points - x[0]
        square = np.sum(gap**2, 1) - np.sum(gap * base, 1) ** 2 / np.sum(base**2, 1)
        return np.sqrt(np.maximum(square, 0))

    for name in sorted(COSTS):
        costs = jump_costs(taught, name)
        for i in range(len(fine)):
            assert not np.isfinite(costs[i, : i + 1]).any()
            for j in range(i + 1, len(fine)):
                y = x[i] + (fine[j] - fine[i]) * slopes[i]
                error = np.abs(y - x[j])
                expected = {
                    "l1": error.sum(1).mean(),
                    "l2": np.sqrt((error**2).sum(1)).mean(),
                    "dev": (deviation(y) - deviation(x[j])).mean(),
                    "flow": flow_cost(x, fine, i, j),
                }[name]
                np.testing.assert_allclose(costs[i, j], expected, rtol=1e-7, atol=1e-6)


def flow_cost(x, sigmas, i, j):
    """BOSS' cost in its own coordinates: state (1 - t) x0 + t z, velocity z - x0."""
    times = sigmas / (1 + sigmas)
    states = (1 - times)[:, None, None] * x
    denoised = np.asarray(denoise_golden(jnp.asarray(x[i]), sigmas[i], None))
    velocity = (states[i] - denoised) / times[i]
    jump = states[i] + (times[j] - times[i]) * velocity
    return np.sum((states[j] - jump) ** 2, axis=1).mean()


@pytest.mark.parametrize("name", sorted(COSTS))
def test_a_straight_flow_costs_nothing(name, x64):
    answer = jnp.arange(6.0).reshape(2, 3)
    taught = tuning.teacher(
        lambda x, s, c: answer, UNGUIDED, noise_of(2), None, keys(2), fine=samplers.flow(20)
    )
    costs = jump_costs(taught, name)
    # Lines through points 999 apart: the squares of the deviation leave 1e-12 of them.
    np.testing.assert_allclose(
        costs[np.triu_indices(21, 1)], 0, atol=1e-4 if name == "dev" else 1e-9
    )
    for steps in (1, 3, 7):
        sigmas = tuning.select(taught, steps, cost=name)
        assert len(sigmas) == steps + 1 and (np.diff(sigmas) < 0).all()


def test_boss_is_gits_with_its_cost_and_no_discount():
    fine, arguments = samplers.karras(24), (denoise_golden, UNGUIDED, 6, noise_of(8), None, keys(8))
    boss = tuning.boss(*arguments, fine=fine)
    gits = tuning.gits(*arguments, fine=fine, cost="flow", gamma=1.0, solver=samplers.euler())
    np.testing.assert_array_equal(boss, gits)
    assert (boss != tuning.gits(*arguments, fine=fine)).any()


# Schedules.


@pytest.mark.parametrize("final_zero", [False, True])
@pytest.mark.parametrize("name", ["boss", "gits", "align"])
def test_found_schedules_fall_between_the_ends_of_the_fine_one(name, final_zero):
    fine = samplers.karras(30, final_zero=final_zero)
    find = getattr(tuning, name)
    for steps in (1, 2, 5, 13, len(fine) - 1):
        found = find(denoise_golden, UNGUIDED, steps, noise_of(8), None, keys(8), fine=fine)
        assert isinstance(found, np.ndarray) and found.dtype == np.float64
        assert found.shape == (steps + 1,) and (np.diff(found) < 0).all()
        assert found[0] == fine[0] and found[-1] == fine[-1]
        assert np.isin(found, fine).all()
        # As configs have it.
        section = {
            "solver": {"name": "euler"},
            "schedule": {"name": "explicit", "sigmas": found.tolist(), "final_zero": final_zero},
        }
        np.testing.assert_array_equal(samplers.from_config(section).sigmas, found)


@pytest.mark.longer
def test_default_fine_schedules_are_the_published_ones():
    arguments = (contract, UNGUIDED, 5, noise_of(2), None, keys(2))
    assert np.isin(tuning.boss(*arguments), samplers.flow(100)).all()
    assert np.isin(tuning.gits(*arguments), samplers.karras(61, final_zero=False)).all()
    assert np.isin(tuning.align(*arguments), samplers.exponential(100)).all()


@pytest.fixture(scope="module")
def endpoint():
    noise, key = noise_of(64), jax.random.key(0)
    truth = samplers.sample(
        denoise_golden, UNGUIDED, samplers.heun(), samplers.karras(200), noise, None, key
    )
    return tuning.endpoint_error(denoise_golden, UNGUIDED, noise, None, key, truth)


@pytest.mark.parametrize("steps", [6, 8, 10])
def test_schedules_of_cheap_jumps_end_nearer_than_even_ones(steps, endpoint):
    # On other noise than they were found on.
    arguments = (denoise_golden, UNGUIDED, steps, noise_of(64, seed=1), None, jax.random.key(1))
    flow, karras = samplers.flow(100, sigma_max=TOP), samplers.karras(60)
    even = endpoint(samplers.euler(), samplers.flow(steps, sigma_max=TOP))
    assert endpoint(samplers.euler(), tuning.boss(*arguments, fine=flow)) < 0.98 * even
    even = endpoint(samplers.euler(), samplers.karras(steps))
    for cost in ("l1", "l2", "dev"):
        found = tuning.gits(*arguments, fine=karras, cost=cost)
        assert endpoint(samplers.euler(), found) < 0.8 * even, cost


def test_endpoint_errors_are_root_mean_squares(x64):
    noise, truth = noise_of(4), np.zeros((4, 3))
    sigmas = samplers.karras(6)
    error = tuning.endpoint_error(contract, UNGUIDED, noise, None, keys(4), truth)
    end = run(samplers.euler(), contract, sigmas, noise)
    np.testing.assert_allclose(error(samplers.euler(), sigmas), np.sqrt(np.mean(end**2)))


# Frozen predictions.


def closed_costs(levels, power, spread=SPREAD):
    """The integrals on Gaussian data: E ||D_s - D_i||^2 is the fall of E ||x0 - D||^2."""

    # mmse(sigma_i) - mmse(s), integrated over s^-power; a 2000-fold finer grid for the integral.
    def mmse(s):
        return spread**2 * s**2 / (spread**2 + s**2)

    log, count = np.log(levels), 2000
    costs = np.full((len(levels),) * 2, np.inf)
    total = np.zeros((len(levels), 2))
    for k, (high, low) in enumerate(pairwise(log)):
        s = np.exp(high + (low - high) * (np.arange(count) + 0.5) / count)
        share = s ** (1 - power) * (high - low) / count
        total[k + 1] = total[k] + [share.sum(), (share * mmse(s)).sum()]
    for i in range(len(levels)):
        later = total[i + 1 :] - total[i]
        costs[i, i + 1 :] = mmse(levels[i]) * later[:, 0] - later[:, 1]
    return costs


@pytest.mark.longer
@pytest.mark.parametrize("power", [3.0, 1.0])
def test_frozen_predictions_cost_what_gaussian_data_say(power, x64):
    levels = samplers.exponential(60, 0.05, 2.0, final_zero=False)
    x0 = SPREAD * np.random.default_rng(0).normal(size=(256, 160))
    found = frozen_costs(contract, UNGUIDED, jnp.asarray(x0), None, keys(256), levels, power) / 160
    expected = closed_costs(levels, power)
    # 40 960 draws, standard errors of 0.7 %, and levels 6 % apart: too far for a trapezoid or two.
    forward = np.triu_indices(60, 4)
    np.testing.assert_allclose(found[forward], expected[forward], rtol=0.05)


def euler_ratio(sigmas, spread=SPREAD):
    """Return the standard deviation that Euler's method reaches, relative to the exact one."""
    return np.prod([np.cos(a - b) for a, b in pairwise(np.arctan(sigmas / spread))])


@pytest.fixture(scope="module")
def gaussian_data():
    return SPREAD * noise_of(256, 16, seed=2)


@pytest.mark.longer
@pytest.mark.parametrize(
    ("steps", "arctan", "log_snr", "karras"),
    [(10, 0.884916, 0.767349, 0.752777), (20, 0.940875, 0.875946, 0.867560)],
)
def test_even_weights_on_gaussian_data_tend_to_arctan(
    steps, arctan, log_snr, karras, gaussian_data
):
    fine = samplers.exponential(150, final_zero=False)
    found = tuning.align(
        contract, UNGUIDED, steps, gaussian_data, None, jax.random.key(0), fine=fine, power=1.0
    )
    ratio = euler_ratio(found)
    assert max(log_snr, karras) < ratio < arctan
    # A tenth or less of what separates the published grids from the best one.
    assert arctan - ratio < {10: 0.12, 20: 0.07}[steps] * (arctan - log_snr), ratio
    angles = [np.arctan(s / SPREAD) for s in (found, samplers.arctan(steps + 1, final_zero=False))]
    assert np.abs(angles[0] - angles[1]).max() < {10: 0.2, 20: 0.13}[steps]


@pytest.mark.longer
@pytest.mark.parametrize("power", [3.0, 1.0])
def test_found_costs_are_near_the_least_there_is(power, gaussian_data):
    fine = samplers.exponential(80, final_zero=False)
    exact = closed_costs(fine, power)
    for steps in (5, 10, 24):
        found = tuning.align(
            contract,
            UNGUIDED,
            steps,
            gaussian_data,
            None,
            jax.random.key(0),
            fine=fine,
            power=power,
        )
        nodes = np.searchsorted(-fine, -found)
        assert length(exact, nodes) < 1.02 * length(exact, cheapest(exact, steps))


@pytest.mark.longer
def test_the_bound_on_gaussian_data_has_its_own_even_coordinate():
    # In the limit of many steps: density sqrt(mmse' / s^3) = 1 / (s (c^2 + s^2)).
    fine = samplers.exponential(2000, 0.05, 5.0, final_zero=False)
    levels = fine[cheapest(closed_costs(fine, 3.0), 80)]
    gaps = np.diff(np.log1p((SPREAD / levels) ** 2))
    np.testing.assert_allclose(gaps[5:], gaps[5:].mean(), rtol=0.1)


@pytest.mark.longer
def test_guidance_changes_what_is_found():
    denoise, labels = mixture_denoiser(), jnp.arange(16) % 2
    fine, x0 = samplers.exponential(30, 0.02), 0.7 * noise_of(16, 2)
    find = {
        "boss": partial(tuning.boss, denoise),
        "align": partial(tuning.align, denoise),
    }
    for name, one in sorted(find.items()):
        plain, guided = (
            one(rule, 8, x0, labels, keys(16), fine=fine)
            for rule in (guidance.cfg(1.0), guidance.cfg(6.0))
        )
        assert (plain != guided).any(), name


def test_a_search_again_compiles_nothing(compilations):
    def find(rho, noise):
        fine = samplers.karras(20, rho=rho)
        key = keys(4)
        tuning.gits(contract, UNGUIDED, 6, noise, None, key, fine=fine, cost="l2")
        return tuning.align(contract, UNGUIDED, 6, noise, None, key, fine=fine)

    noise, other = noise_of(4), noise_of(4, seed=1)
    find(7.0, noise)
    with compilations() as compiled:
        find(5.0, other)
    assert not compiled


SHORT = samplers.karras(5)
ARGUMENTS = (noise_of(2), None, jax.random.key(0))


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tuning.boss(contract, UNGUIDED, 6, *ARGUMENTS, fine=SHORT), "boss: 6 steps, but"),
        (lambda: tuning.gits(contract, UNGUIDED, 6, *ARGUMENTS, fine=SHORT), "has only 5: ask for"),
        (lambda: tuning.align(contract, UNGUIDED, 6, *ARGUMENTS, fine=SHORT), "align: 6 steps"),
        (lambda: tuning.boss(contract, UNGUIDED, 0, *ARGUMENTS, fine=SHORT), "positive integer"),
        (lambda: tuning.align(contract, UNGUIDED, 2.5, *ARGUMENTS), "positive integer"),
        (
            lambda: tuning.gits(contract, UNGUIDED, 3, *ARGUMENTS, fine=SHORT, cost="l3"),
            "cost is one of l2, l1, dev, flow",
        ),
        (
            lambda: tuning.gits(contract, UNGUIDED, 3, *ARGUMENTS, fine=SHORT, gamma=0.0),
            "gits: need gamma > 0",
        ),
        (
            lambda: tuning.gits(contract, UNGUIDED, 3, jnp.ones((2, 1)), None, keys(2), fine=SHORT),
            "never away from a line: take cost='l2'",
        ),
        (
            lambda: tuning.align(contract, UNGUIDED, 3, *ARGUMENTS, power="three"),
            "align: power must be a plain finite number",
        ),
        (
            lambda: tuning.boss(contract, UNGUIDED, 3, *ARGUMENTS, fine=SHORT[::-1]),
            "tuning.teacher: sigmas must decrease",
        ),
        (
            lambda: tuning.align(lambda x, s, c: x / 0.0, UNGUIDED, 3, *ARGUMENTS),
            "predictions are not finite",
        ),
        (
            lambda: tuning.boss(lambda x, s, c: x * 1e30, UNGUIDED, 3, *ARGUMENTS, fine=SHORT),
            "fine trajectory is not finite",
        ),
        (
            lambda: tuning.boss(mixture_denoiser(), guidance.cfgpp(0.5), 3, noise_of(2, 2),
                                jnp.zeros(2, jnp.int32), keys(2), fine=SHORT),
            "CFG\\+\\+.*search with guidance.cfg",
        ),
        (
            lambda: tuning.endpoint_error(contract, UNGUIDED, *ARGUMENTS, jnp.zeros((2, 4))),
            "truth must be one end for each sample",
        ),
    ],
)  # fmt: skip
def test_searches_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
