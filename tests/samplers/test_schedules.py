"""Noise schedules against published values and closed forms; coordinates of a noise level."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import places
import pytest

from guidestar import samplers
from guidestar.core.noise_levels import (
    COORDINATES,
    cosine_table,
    flow_sigma,
    log_snr_of,
    log_snr_sigma,
    vp_sigma,
    vp_time,
)
from guidestar.samplers.config import SCHEDULES

GOLDEN = places.GOLDEN / "samplers_gmm.npz"
VP_TOP = 152.16697  # sqrt(exp(10.05) - 1)
TABLE_TOP, TABLE_END = 157.40728, 0.0100005  # sqrt(1/4.03583e-5 - 1), sqrt(1e-4 / 0.9999)
# name -> (arguments after the steps, highest level, lowest level above 0 or None if it depends)
ENDS = {
    "align_your_steps": ({"model": "svd"}, 700.0, None),
    "arctan": ({}, 80.0, 0.002),
    "exponential": ({}, 80.0, 0.002),
    "flow": ({}, 999.0, None),
    "iddpm": ({}, 80.2037, 0.0064254),
    "karras": ({}, 80.0, 0.002),
    "linear": ({}, 80.0, 0.002),
    "log_snr": ({}, 80.0, 0.002),
    "polyexponential": ({"rho": 1.7}, 80.0, 0.002),
    "ve": ({}, 100.0, 0.02),
    "vp": ({}, VP_TOP, 0.01048599),
    "vp/quadratic": ({"rho": 2.0}, VP_TOP, 0.01048599),
    "vp/in a range": ({"sigma_min": 0.002, "sigma_max": 80.0}, 80.0, 0.002),
    "vp_discrete": ({}, TABLE_TOP, None),
    "vp_discrete/leading": ({"spacing": "leading"}, None, TABLE_END),
    "vp_discrete/uniform": ({"spacing": "uniform"}, TABLE_TOP, TABLE_END),
    "vp_discrete/quadratic": ({"spacing": "quadratic"}, TABLE_TOP, TABLE_END),
}


def build(name, steps, **options):
    return SCHEDULES[name.split("/")[0]].build(steps, **ENDS[name][0], **options)


def test_every_schedule_is_looked_at():
    assert {name.split("/")[0] for name in ENDS} == set(SCHEDULES) - {"explicit"}
    assert all(getattr(samplers, name) is SCHEDULES[name].build for name in SCHEDULES)


@pytest.mark.parametrize("steps", [2, 3, 10, 11, 31])
@pytest.mark.parametrize("name", ENDS)
def test_schedules_fall_from_one_end_to_the_other(name, steps):
    _, high, low = ENDS[name]
    sigmas = build(name, steps)
    assert isinstance(sigmas, np.ndarray) and sigmas.dtype == np.float64
    assert sigmas.shape == (steps + 1,) and sigmas[-1] == 0
    assert np.isfinite(sigmas).all() and (np.diff(sigmas) < 0).all()
    if high is not None:
        np.testing.assert_allclose(sigmas[0], high, rtol=1e-5)
    if low is not None:
        np.testing.assert_allclose(sigmas[-2], low, rtol=1e-5)
    above = build(name, steps, final_zero=False)
    assert above.shape == (steps,) and above[-1] > 0
    if name != "align_your_steps":
        np.testing.assert_array_equal(above, sigmas[:-1])


@pytest.mark.parametrize("name", sorted(ENDS.keys() - {"vp_discrete/leading"}))
def test_one_step_starts_at_the_top(name):
    np.testing.assert_allclose(build(name, 1), [ENDS[name][1], 0.0], rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["karras", "linear", "exponential", "polyexponential", "log_snr", "ve", "arctan", "vp"]
)
def test_ends_that_are_asked_for_are_met_to_the_last_bit(name):
    for high in (14.6, 79.99, 81.3):
        sigmas = SCHEDULES[name].build(7, 0.0021, high)
        assert (sigmas[0], sigmas[-2]) == (high, 0.0021)
    assert samplers.flow(7, 1.7, 81.3)[0] == 81.3


@pytest.mark.parametrize("name", ["karras", "exponential", "polyexponential", "vp"])
def test_published_implementations_agree(name):
    expected = np.load(GOLDEN)[f"out/schedule/get_sigmas_{name}"]
    limits = () if name == "vp" else (0.02, 20.0)
    sigmas = SCHEDULES[name].build(len(expected) - 1, *limits)
    np.testing.assert_allclose(sigmas, expected, rtol=0, atol=1e-9)


def euler_on_gaussian_data(sigmas, spread):
    """Return the standard deviation that Euler's method reaches, relative to the exact one."""
    return np.prod([np.cos(a - b) for a, b in pairwise(np.arctan(sigmas / spread))])


@pytest.mark.parametrize(
    ("name", "ratios"),
    [
        ("arctan", (0.884916, 0.940875)),
        ("log_snr", (0.767349, 0.875946)),
        ("karras", (0.752777, 0.867560)),
    ],
)
def test_euler_on_gaussian_data_loses_what_each_schedule_costs(name, ratios):
    for steps, ratio in zip((10, 20), ratios, strict=True):
        sigmas = SCHEDULES[name].build(steps + 1, 0.002, 80.0, final_zero=False)
        np.testing.assert_allclose(euler_on_gaussian_data(sigmas, 0.5), ratio, atol=2e-6)


def test_no_shift_of_a_level_improves_on_arctan():
    best = samplers.arctan(8, sigma_data=0.7, final_zero=False)
    reached = euler_on_gaussian_data(best, 0.7)
    for level in range(1, 7):
        for factor in (0.99, 1.01):
            moved = best.copy()
            moved[level] *= factor
            assert euler_on_gaussian_data(moved, 0.7) < reached


def test_what_each_schedule_spaces_evenly_is_even():
    even = {
        "linear": lambda s: s,
        "exponential": np.log,
        "log_snr": lambda s: -2 * np.log(s),
        "ve": lambda s: np.log(s**2),
        "karras": lambda s: s ** (1 / 7),
        "vp": vp_time,
        "vp/quadratic": lambda s: np.sqrt(vp_time(s)),
        "arctan": lambda s: np.arctan(s / 0.5),
        "flow": lambda s: s / (1 + s),
    }
    for name, coordinate in even.items():
        gaps = np.diff(coordinate(build(name, 9, final_zero=False)))
        np.testing.assert_allclose(gaps, gaps[0], rtol=1e-9, err_msg=name)
    squares = np.log(samplers.polyexponential(9, 0.002, 80.0, 2.0, final_zero=False) / 0.002)
    gaps = np.diff(np.sqrt(squares))
    np.testing.assert_allclose(gaps, gaps[0], rtol=1e-9)


def test_continuous_vp_with_its_own_ends_is_the_standard_process():
    own = samplers.vp(9)
    np.testing.assert_allclose(samplers.vp(9, own[-2], own[0]), own, rtol=1e-9)
    # beta_d 17.54 and beta_min -0.0048, at time 0.5005.
    middle = np.sqrt(np.expm1(17.5377 / 2 * 0.5005**2 - 0.004622 * 0.5005))
    np.testing.assert_allclose(samplers.vp(3, 0.002, 80.0)[1], middle, rtol=1e-4)


def test_a_range_that_no_vp_process_joins_names_the_end_that_would():
    with pytest.raises(ValueError, match=r"ask for an `end` above 0\.0404"):
        samplers.vp(50, 1.0, 80.0)
    assert (np.diff(samplers.vp(50, 1.0, 80.0, end=0.0405)) < 0).all()
    with pytest.raises(ValueError, match="ask for an `end`"):
        samplers.vp(50, 1.0, 80.0, end=0.0403)


def test_the_table_of_ddpm_has_its_published_noise():
    sigmas = samplers.vp_discrete(1000, "uniform", final_zero=False)
    alpha_bar = 1 / (1 + sigmas[::-1] ** 2)
    np.testing.assert_allclose(alpha_bar[[0, 499, 999]], [0.9999, 0.078587, 4.03583e-5], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        (("leading",), [750, 500, 250, 0]),
        (("trailing",), [999, 749, 499, 249]),
        (("uniform",), [999, 666, 333, 0]),
        (("quadratic",), [999, 444, 111, 0]),
        # The evenly spaced roots of 0.8 T, squared: DDIM's own.
        (("quadratic", 1e-4, 0.02, "linear", 1000, 0.8), [800, 355, 88, 0]),
        (("trailing", 1e-4, 0.02, "linear", 1000, 0.5), [499, 374, 249, 124]),
    ],
)
def test_spacings_choose_their_steps_of_the_table(options, chosen):
    every = samplers.vp_discrete(1000, final_zero=False)[::-1]
    np.testing.assert_array_equal(samplers.vp_discrete(4, *options)[:-1], every[chosen])


def test_trailing_and_leading_take_a_count_that_does_not_divide_the_table():
    every = samplers.vp_discrete(1000, final_zero=False)[::-1]
    trailing = samplers.vp_discrete(7, final_zero=False)
    np.testing.assert_array_equal(trailing, every[[999, 856, 713, 570, 428, 285, 142]])
    leading = samplers.vp_discrete(7, "leading", final_zero=False)
    np.testing.assert_array_equal(leading, every[[852, 710, 568, 426, 284, 142, 0]])


def test_scaled_betas_end_where_the_lists_for_latents_end():
    ends = samplers.vp_discrete(2, "uniform", 0.00085, 0.012, "scaled_linear", final_zero=False)
    for model in ("sd15", "sdxl"):
        levels = samplers.align_your_steps(11, model, final_zero=False)
        np.testing.assert_allclose(levels[[0, -1]], ends, rtol=0, atol=1e-10)


def test_iddpm_takes_whole_entries_of_its_table():
    table = cosine_table()
    kept = table[(table >= 0.002) & (table <= 81)]
    assert table.shape == (1001,) and kept.size == 992 and kept[0] == table[8]
    np.testing.assert_allclose(kept[[0, -1]], [80.2037, 0.0064254], rtol=1e-5)
    # 991/5 apart: 0, 198.2, 396.4, 594.6, 792.8, 991, to the nearest.
    np.testing.assert_array_equal(samplers.iddpm(6)[:-1], kept[[0, 198, 396, 595, 793, 991]])
    np.testing.assert_array_equal(samplers.iddpm(992)[:-1], kept)
    # Away from the bound on their ratio, alpha_bar is the cosine's up to one factor.
    alpha_bar = 1 / (1 + table[100:900] ** 2)
    cosine = np.sin(np.pi / 2 * np.arange(100, 900) / 1008) ** 2
    np.testing.assert_allclose(alpha_bar / cosine, alpha_bar[0] / cosine[0], rtol=1e-9)


def test_a_shift_of_flow_times_is_a_factor_in_sigma():
    times = np.linspace(0.999, 0, 11)[:-1]
    shifted = 3 * times / (1 + 2 * times)
    expected = shifted / (1 - shifted)
    np.testing.assert_allclose(samplers.flow(10, 3.0, 3 * 999.0)[:-1], expected, rtol=1e-9)
    # Within one range it moves levels up instead.
    assert (samplers.flow(10, 3.0, 80.0)[1:-1] > samplers.flow(10, 1.0, 80.0)[1:-1]).all()


def test_published_lists_come_out_as_they_are():
    svd = [700, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002]
    levels = samplers.align_your_steps(11, "svd", final_zero=False)
    np.testing.assert_allclose(levels, svd, rtol=1e-12)
    np.testing.assert_allclose(samplers.align_your_steps(10, "svd"), [*svd[:-1], 0], rtol=1e-12)
    for model, sixth in (("sd15", 1.3943805092), ("sdxl", 0.8620721141)):
        assert samplers.align_your_steps(10, model)[5] == pytest.approx(sixth, rel=1e-12)
    # Twice as many: a geometric mean between each pair.
    between = samplers.align_your_steps(20, "svd")[1:-1:2]
    np.testing.assert_allclose(between, np.sqrt(np.multiply(svd[:-1], svd[1:])), rtol=1e-12)


def test_written_levels_stay_as_they_are():
    np.testing.assert_array_equal(samplers.explicit([10, 2.5, 0.1]), [10, 2.5, 0.1, 0])
    np.testing.assert_array_equal(samplers.explicit((10, 2.5, 0.0)), [10, 2.5, 0])
    np.testing.assert_array_equal(samplers.explicit([10, 2.5], final_zero=False), [10, 2.5])
    np.testing.assert_array_equal(samplers.explicit([3.0]), [3, 0])


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_configs_reach_every_schedule(name):
    arguments = {"sigmas": [3.0, 1.0]} if name == "explicit" else {"steps": 5}
    section = {"solver": {"name": "euler"}, "schedule": {"name": name, **arguments}}
    _, sigmas, _ = samplers.from_config(section)
    np.testing.assert_array_equal(sigmas, SCHEDULES[name].build(**arguments))
    section["schedule"]["sharpness"] = 1
    with pytest.raises(ValueError, match=f"sampler.schedule: {name} has no argument .sharpness"):
        samplers.from_config(section)


def test_configs_name_the_schedules_there_are():
    with pytest.raises(ValueError, match="align_your_steps, arctan, .*vp_discrete"):
        samplers.from_config({"solver": {"name": "euler"}, "schedule": {"name": "cosine"}})


@pytest.mark.untyped
@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"explicit"}))
@pytest.mark.parametrize("steps", [0, -3, 2.5, float("nan"), "10", None])
def test_steps_that_cannot_be_counted_are_refused(name, steps):
    with pytest.raises(ValueError, match=f"samplers.{name}: steps must be a positive integer"):
        SCHEDULES[name].build(steps)


@pytest.mark.untyped
@pytest.mark.parametrize(
    "name", ["karras", "linear", "exponential", "polyexponential", "log_snr", "ve", "arctan", "vp",
             "iddpm"]
)  # fmt: skip
def test_ranges_that_make_no_sense_are_refused(name):
    for low, high in ((0.0, 80.0), (90.0, 80.0), (1.0, 1.0), (-1.0, 2.0)):
        with pytest.raises(ValueError, match=f"samplers.{name}: need 0 < sigma_min < sigma_max"):
            SCHEDULES[name].build(5, low, high)
    for low, high in ((0.1, float("inf")), (float("nan"), 80.0), ("0.1", 80.0)):
        with pytest.raises(ValueError, match=f"samplers.{name}: sigma_m.. must be a plain finite"):
            SCHEDULES[name].build(5, low, high)
    with pytest.raises(ValueError, match=f"samplers.{name}: sigma_min must be .* before anything"):
        jax.jit(lambda low: SCHEDULES[name].build(5, low, 80.0))(0.1)


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.karras(4, rho=0.0), "karras: need rho > 0"),
        (lambda: samplers.polyexponential(4, rho=-1.0), "polyexponential: need rho > 0"),
        (lambda: samplers.arctan(4, sigma_data=0.0), "arctan: need sigma_data > 0"),
        (lambda: samplers.linear(4, 1.0, np.nextafter(1, 2)), "linear: .*fewer steps"),
        (lambda: samplers.vp(4, end=0.0), "vp: end must be a time between 0 and 1"),
        (lambda: samplers.vp(4, end=1.0), "vp: end must be a time between 0 and 1"),
        (lambda: samplers.vp(4, rho=0), "vp: need rho > 0"),
        (lambda: samplers.vp_discrete(4, "even"), "vp_discrete: spacing must be one of leading"),
        (lambda: samplers.vp_discrete(4, betas="cosine"), "betas must be one of linear"),
        (lambda: samplers.vp_discrete(4, beta_start=0.0), "need 0 < beta_start"),
        (lambda: samplers.vp_discrete(4, beta_end=1.0), "need 0 < beta_start"),
        (lambda: samplers.vp_discrete(4, reach=1.1), "need 0 < reach <= 1"),
        (lambda: samplers.vp_discrete(4, table=2.5), "table must be a positive integer"),
        (lambda: samplers.vp_discrete(1001), "only 1000 of the table"),
        (lambda: samplers.vp_discrete(401, reach=0.4), "only 400 of the table"),
        (lambda: samplers.vp_discrete(1, "leading"), "use spacing='trailing'"),
        (lambda: samplers.vp_discrete(100, "quadratic"), "32 at most, or use samplers.vp"),
        (lambda: samplers.iddpm(993), "992 noise levels .* fewer steps"),
        (lambda: samplers.flow(4, shift=0.0), "flow: need shift > 0"),
        (lambda: samplers.flow(4, sigma_max=float("inf")), "flow: sigma_max must be a plain"),
        (lambda: samplers.align_your_steps(4, "sd3"), "model must be one of sd15, sdxl, svd"),
        (lambda: samplers.explicit([1.0, 2.0]), "explicit: sigmas must decrease"),
        (lambda: samplers.explicit([]), "explicit: sigmas must be a list"),
        (lambda: jax.jit(samplers.explicit)(jnp.ones(3)), "explicit: .*known on the host"),
        (lambda: samplers.convert(1.0, "edm", "vp"), "convert: coordinates are sigma, log_snr"),
        (lambda: samplers.convert(1.0, "vp", "edm"), "got 'edm'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_most_quadratic_steps_the_table_has_are_taken():
    assert samplers.vp_discrete(32, "quadratic").shape == (33,)
    with pytest.raises(ValueError, match="32 at most"):
        samplers.vp_discrete(33, "quadratic")


LEVELS = np.geomspace(1e-3, 150, 40)


@pytest.mark.parametrize("target", COORDINATES)
@pytest.mark.parametrize("source", COORDINATES)
def test_coordinates_convert_both_ways(source, target, x64):
    values = samplers.convert(LEVELS, "sigma", source)
    back = samplers.convert(samplers.convert(values, source, target), target, source)
    np.testing.assert_allclose(back, values, rtol=1e-12, atol=1e-14)
    traced = jax.jit(lambda v: samplers.convert(v, source, target))(jnp.asarray(values))
    assert traced.dtype == jnp.float64
    on_host = samplers.convert(values, source, target)
    assert isinstance(on_host, np.ndarray)
    np.testing.assert_allclose(traced, on_host, rtol=1e-11, atol=1e-14)


def test_coordinates_have_their_known_values():
    assert samplers.convert(0.5, "flow", "sigma") == 1
    assert samplers.convert(1.0, "sigma", "log_snr") == 0
    np.testing.assert_allclose(samplers.convert(2 * np.log(10), "log_snr", "sigma"), 0.1)
    known = samplers.convert(np.array([1e-5, 1e-3, 1.0]), "vp", "sigma")
    np.testing.assert_allclose(known, [0.0010004976, 0.01048599, 152.167], rtol=5e-6)
    # alpha_bar is the sigmoid of the log-SNR.
    log_snr = samplers.convert(0.7, "vp", "log_snr")
    np.testing.assert_allclose(1 / (1 + np.exp(-log_snr)), np.exp(-19.9 / 2 * 0.49 - 0.07))


def test_no_noise_is_an_infinite_log_snr_and_back():
    assert samplers.convert(0.0, "sigma", "log_snr") == np.inf
    assert samplers.convert(np.inf, "log_snr", "sigma") == 0
    for name in ("vp", "flow"):
        assert samplers.convert(0.0, "sigma", name) == samplers.convert(0.0, name, "sigma") == 0


# coordinate -> (d sigma / d value) at a noise level
SLOPES = {
    "sigma": lambda s: 1.0,
    "log_snr": lambda s: -s / 2,
    "vp": lambda s: 0.5 * (0.1 + 19.9 * vp_time(s)) * (s + 1 / s),
    "flow": lambda s: (1 + s) ** 2,
}


@pytest.mark.parametrize("target", COORDINATES)
@pytest.mark.parametrize("source", COORDINATES)
def test_derivatives_between_coordinates_are_the_closed_ones(source, target, x64):
    values = jnp.asarray(samplers.convert(LEVELS, "sigma", source))
    slope = jax.vmap(jax.grad(lambda v: samplers.convert(v, source, target)))(values)
    expected = [SLOPES[source](s) / SLOPES[target](s) for s in LEVELS]
    np.testing.assert_allclose(slope, expected, rtol=1e-9)


@pytest.mark.longer
def test_derivatives_in_float32_stay_finite_over_the_whole_range():
    sigmas = jnp.geomspace(1e-4, 150, 30, dtype=jnp.float32)
    for target in COORDINATES:
        slope = jax.vmap(jax.grad(lambda s, to=target: samplers.convert(s, "sigma", to)))(sigmas)
        assert slope.dtype == jnp.float32 and np.isfinite(slope).all()
    assert jax.grad(vp_time)(0.0) == 0 and jax.grad(flow_sigma)(0.0) == 1


def test_single_precision_stays_single():
    for value in (np.float32([0.3, 0.4]), jnp.float32([0.3, 0.4])):
        for function in (vp_time, vp_sigma, flow_sigma, log_snr_of, log_snr_sigma):
            assert function(value).dtype == np.float32
