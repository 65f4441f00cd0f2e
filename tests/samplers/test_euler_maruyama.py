"""Euler-Maruyama steps: on each path in its own time, with each diffusion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import SPREAD
from oracles.noisy_runs import (
    MEAN,
    SIGMAS,
    belongs_to_the_sample,
    compiles_nothing,
    counts,
    draw_moments,
    ends_in_the_answer,
    follow_by_hand,
    moments,
    share,
    shifted,
)
from oracles.solver_runs import run
from tables.everyday import few

from guidestar import samplers
from guidestar.samplers.solvers.euler_maruyama import DIFFUSIONS, PATHS, TIMED, euler_maruyama

# Paths as functions of a time that is 0 at pure noise and 1 at the data: signal and noise.
HAND_PATHS = {
    "linear": (lambda t: t, lambda t: 1 - t),
    "gvp": (lambda t: np.sin(np.pi / 2 * t), lambda t: np.cos(np.pi / 2 * t)),
    "vp": (
        lambda t: np.exp(-((1 - t) ** 2) * (20 - 0.1) / 4 - (1 - t) * 0.1 / 2),
        lambda t: np.sqrt(-np.expm1(-((1 - t) ** 2) * (20 - 0.1) / 2 - (1 - t) * 0.1)),
    ),
    # The noise level itself; its time need not begin at 0.
    "sigma": (lambda t: 1 + 0 * t, lambda t: -t),
}


def rate(function, t):
    """Return a derivative, by a complex step."""
    return np.imag(function(t + 1e-30j)) / 1e-30


def hand_time(path, sigma):
    """Return the time of a noise level on a path, by bisection."""
    if path == "sigma":
        return -sigma
    if sigma == 0:
        return 1.0
    signal, noise = HAND_PATHS[path]
    low, high = 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        if noise(middle) > sigma * signal(middle):
            low = middle
        else:
            high = middle
    return (low + high) / 2


def hand_diffusion(name, norm, path, t):
    """Return w at a time."""
    signal, noise = HAND_PATHS[path]
    a, b, da, db = signal(t), noise(t), rate(signal, t), rate(noise, t)
    return {
        "zero": 0,
        "constant": norm,
        "sigma": norm * b,
        "sbdm": norm * 2 * (b**2 * da / a - b * db),
        "linear": norm * (1 - t),
        "decreasing": 0.25 * (norm * np.cos(np.pi * t) + 1) ** 2,
        "increasing-decreasing": norm * np.sin(np.pi * t) ** 2,
    }[name]


def by_hand(diffusion, norm, path, last="tweedie"):
    """Return the steps by hand, on the path's own state and with its velocity and score."""
    signal, noise = HAND_PATHS[path]

    def follow(denoise, sigmas, x, draw):
        for i, (sigma, end) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
            d = denoise(x, sigma)
            if end == 0 and last == "tweedie":
                return d
            t, after = hand_time(path, sigma), hand_time(path, end)
            a, b, da, db = signal(t), noise(t), rate(signal, t), rate(noise, t)
            state = a * x
            velocity = da * d + db * (state - a * d) / b
            score = (a * d - state) / b**2
            w = hand_diffusion(diffusion, norm, path, t)
            if end == 0 and last == "euler":
                w = 0
            state = state + (after - t) * (velocity + w / 2 * score)
            if end > 0:
                state = state + np.sqrt(w * (after - t)) * draw(i)
            x = state / signal(after)
        return x

    return follow


CASES = [
    (diffusion, norm, path, "tweedie")
    for diffusion, norm, path in [
        ("sigma", 1.0, "linear"),
        ("constant", 0.3, "linear"),
        ("sbdm", 1.0, "linear"),
        ("linear", 1.5, "linear"),
        ("decreasing", 0.7, "linear"),
        ("increasing-decreasing", 2.0, "linear"),
        ("zero", 1.0, "gvp"),
        ("sbdm", 0.8, "gvp"),
        ("linear", 1.0, "gvp"),
        ("zero", 1.0, "vp"),
        ("sbdm", 1.0, "vp"),
        ("increasing-decreasing", 1.0, "vp"),
        ("sbdm", 1.0, "sigma"),
        ("constant", 0.2, "sigma"),
        ("sigma", 0.9, "sigma"),
    ]
] + [
    ("sigma", 1.0, "linear", "mean"),
    ("sbdm", 1.0, "gvp", "mean"),
    ("sigma", 1.0, "gvp", "euler"),
]


@pytest.mark.parametrize("case", few(4, zip(CASES)), ids=lambda case: "-".join(map(str, case)))
def test_draws_follow_the_steps_by_hand(case, x64):
    follow_by_hand(euler_maruyama(*case), by_hand(*case), np.append(SIGMAS, 0.0))


@pytest.mark.parametrize(
    "case", few(1, zip([("sigma", 1.0, "linear"), ("sbdm", 1.0, "gvp"), ("sbdm", 1.0, "sigma")]))
)
def test_samples_have_the_exact_moments(case):
    draw_moments(euler_maruyama(*case), by_hand(*case))


def variance(solver, sigmas):
    """Return the variance of samples of Gaussian data, from the solver's own constants."""
    table, now = solver.tables(sigmas), SPREAD**2 + sigmas[0] ** 2
    for a, answer, keep, noise in zip(sigmas[:-1], *table, strict=True):
        now = (answer * share(a) + keep * (1 - share(a)) / a) ** 2 * now + noise**2
    return now


@pytest.mark.parametrize(
    ("diffusion", "golden"),
    [
        ("zero", (0.23561, 0.24270, 0.24632, 0.24815, 0.24908)),
        ("sigma", (0.24199, 0.24601, 0.24801, 0.24901, 0.24950)),
        ("increasing-decreasing", (0.24523, 0.24756, 0.24877, 0.24938, 0.24969)),
    ],
)
def test_variances_on_equal_steps_are_the_known_ones(diffusion, golden):
    for steps, expected in zip((50, 100, 200, 400, 800), golden, strict=True):
        # From time 1 itself, which is no noise level.
        sigmas = samplers.flow(steps, sigma_max=1e9)
        found = variance(euler_maruyama(diffusion, last="mean"), sigmas)
        np.testing.assert_allclose(found, expected, atol=6e-6)


@pytest.mark.parametrize(
    ("diffusion", "path"),
    [(w, path) for w in DIFFUSIONS for path in PATHS if path != "sigma" or w not in TIMED],
)
def test_any_diffusion_leads_to_the_same_variance_with_first_order(diffusion, path):
    norm = 0.3 if diffusion in ("constant", "decreasing") else 1.0
    errors = [
        variance(
            euler_maruyama(diffusion, norm, path),
            samplers.karras(n, 0.05, 5.0, final_zero=False),
        )
        - (SPREAD**2 + 0.05**2)
        for n in (1000, 2000, 4000)
    ]
    assert abs(errors[-1]) < 1e-3
    ratios = np.divide(errors[:-1], errors[1:])
    np.testing.assert_allclose(ratios, 2, atol=0.25)


@pytest.mark.longer
@pytest.mark.parametrize("path", ["linear", "sigma"])
def test_without_noise_on_straight_paths_it_is_euler(path, x64):
    noise = jax.random.normal(jax.random.key(0), (4, 2))
    solvers = [euler_maruyama("zero", path=path), samplers.euler()]
    solvers += [euler_maruyama(norm=0.0, path=path), euler_maruyama("zero", 1.0, path, "euler")]
    ends = [run(solver, shifted, np.append(SIGMAS, 0.0), noise) for solver in solvers]
    for end in ends[1:]:
        np.testing.assert_allclose(end, ends[0], rtol=1e-12, atol=1e-13)


def test_a_straight_flow_takes_one_step_and_other_paths_do_not(x64):
    # Towards a single point, which each denoiser knows.
    noise = jnp.ones((2, 3))
    for path, straight in (("linear", True), ("gvp", False)):
        solver = euler_maruyama("zero", path=path, last="mean")
        end = run(solver, lambda x, s, c: 0 * x + MEAN, np.array([5.0, 0.0]), noise)
        assert (np.abs(end - MEAN).max() < 1e-12) == straight


def test_the_last_step_has_no_noise():
    for last in ("tweedie", "mean", "euler"):
        table = euler_maruyama("constant", 1.0, "linear", last).tables(np.append(SIGMAS, 0.0))
        assert table.noise[-1] == 0 and (table.noise[:-1] > 0).all()
        assert all(np.isfinite(part).all() for part in table)


def test_moments_by_hand_are_those_of_the_constants():
    # Two ways to the same number, of which one starts from no mean.
    hand = by_hand("sbdm", 1.0, "gvp")
    solver, start = euler_maruyama("sbdm", 1.0, "gvp"), SPREAD**2 + SIGMAS[0] ** 2
    without = variance(solver, SIGMAS)
    gain = np.prod(
        [
            answer * share(a) + keep * (1 - share(a)) / a
            for a, answer, keep, _ in zip(SIGMAS[:-1], *solver.tables(SIGMAS), strict=True)
        ]
    )
    expected = without - gain**2 * (start - SIGMAS[0] ** 2)
    np.testing.assert_allclose(moments(hand, SIGMAS)[1], expected, rtol=1e-9)


@pytest.mark.parametrize("path", PATHS)
def test_a_denoiser_that_knows_the_answer_is_followed_to_it(path):
    ends_in_the_answer(euler_maruyama("sbdm", path=path))


def test_the_plan_counts_what_runs():
    assert counts(euler_maruyama(), np.append(SIGMAS, 0.0)) == 6


def test_added_noise_belongs_to_the_sample():
    belongs_to_the_sample(euler_maruyama())


def test_a_new_number_compiles_nothing(compilations):
    compiles_nothing(
        [euler_maruyama(), euler_maruyama(norm=0), euler_maruyama(norm=2)], compilations
    )


def test_a_first_step_that_multiplies_the_noise_is_refused():
    # w of sbdm grows without bound towards pure noise; on equal steps the first is far too long.
    with pytest.raises(ValueError, match="from sigma 999 to .* start at a lower sigma"):
        euler_maruyama("sbdm").tables(samplers.flow(50))
    steps = samplers.flow(50, sigma_max=20.0)
    assert abs(variance(euler_maruyama("sbdm"), steps[:-1]) - SPREAD**2) < 0.05
    euler_maruyama("sbdm").tables(samplers.karras(18))
    euler_maruyama("sigma").tables(samplers.flow(50))
    # One step to 0 returns the prediction, from wherever.
    euler_maruyama("sbdm").tables(np.array([999.0, 0.0]))


def test_a_noise_level_beyond_the_path_is_refused():
    with pytest.raises(ValueError, match="ends at sigma 152.2, .* lower the schedule's sigma_max"):
        euler_maruyama(path="vp").tables(np.array([160.0, 1.0, 0.0]))
    euler_maruyama(path="vp").tables(samplers.vp(10))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(diffusion="noise"), "diffusion must be one of zero, constant"),
        (dict(path="straight"), "path must be one of linear, gvp, vp, sigma"),
        (dict(last="none"), "last must be one of tweedie, mean, euler"),
        (dict(norm=-1.0), "norm >= 0"),
        (dict(norm=float("nan")), "plain finite number"),
        (dict(diffusion="linear", path="sigma"), "time from 0 to 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        euler_maruyama(**arguments)
