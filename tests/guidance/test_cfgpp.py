"""CFG++: its limits and identities, under every solver that defines it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import Labelled, gaussian, keys

from guidestar import guidance, samplers
from guidestar.guidance.references.cfgpp import cfgpp, renoised

SOLVERS = {
    "euler": samplers.euler(),
    "ancestral": samplers.ancestral(),
    "dpmpp": samplers.dpmpp(),
    "dpmpp consistent": samplers.dpmpp(difference="consistent"),
    "dpmpp_2s_ancestral": samplers.dpmpp_2s_ancestral(),
    "dpmpp_2s": samplers.dpmpp_2s_ancestral(eta=0),
}
LABELS = jnp.array([0, 1, 0, 1])
NOISE = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)


def tilted(x, sigma, label):
    """Denoise N(0, 1) without a condition, N(-1, 1/4) and N(1, 1/4) with one."""
    mean, variance = (0.0, 1.0) if label is None else (2.0 * label[:, None] - 1, 0.25)
    return mean + (x - mean) * variance / (variance + sigma**2)


def run(rule, solver, sigmas, denoise=tilted, **options):
    return samplers.sample(denoise, rule, solver, sigmas, NOISE, LABELS, keys(4), **options)


def pair(given, null):
    """Return a denoiser made of two: for the condition given, and for none."""
    return lambda x, sigma, condition: (null if condition is None else given)(x, sigma)


def by_hand(scale, sigmas, holds=lambda sigma: True):
    """Follow CFG++ with Euler's method, or the conditional prediction where it does not hold."""
    x = NOISE * np.float32(sigmas[0])
    for start, end in zip(sigmas[:-1], sigmas[1:], strict=True):
        given, null = tilted(x, start, LABELS), tilted(x, start, None)
        if not holds(start):
            x = given + end * (x - given) / start
            continue
        x = null + scale * (given - null) + end * (x - null) / start
    return x


@pytest.mark.parametrize("name", SOLVERS)
def test_scale_zero_is_the_unconditional_sampler(name):
    sigmas = samplers.karras(7, 0.02, 10.0)
    null = run(guidance.unguided(), SOLVERS[name], sigmas, lambda x, s, c: tilted(x, s, None))
    np.testing.assert_allclose(run(cfgpp(0.0), SOLVERS[name], sigmas), null, atol=1e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_step_to_zero_returns_the_guided_prediction(name):
    sigma = 1.5
    end, kept = run(cfgpp(0.7), SOLVERS[name], np.array([3.0, sigma, 0.0]), save="x")
    given, null = (tilted(kept["x"][-1], sigma, c) for c in (LABELS, None))
    np.testing.assert_allclose(end, null + 0.7 * (given - null), atol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_scale_one_renoises_from_the_null_prediction_still(name):
    sigmas = samplers.karras(7, 0.02, 10.0)
    plain = run(guidance.unguided(), SOLVERS[name], sigmas)
    assert np.abs(run(cfgpp(1.0), SOLVERS[name], sigmas) - plain).max() > 0.02


@pytest.mark.parametrize("end", [0.5, 1.0, 1.8])
def test_an_euler_step_is_one_of_cfg_at_the_effective_scale(end):
    start, scale = 2.0, 0.6
    sigmas = np.array([start, end])
    effective = scale * start / (start - end)
    np.testing.assert_allclose(
        run(cfgpp(scale), samplers.euler(), sigmas),
        run(guidance.cfg(effective), samplers.euler(), sigmas),
        atol=1e-5,
    )


def test_guidance_grows_with_the_number_of_steps():
    # Two Gaussians of one width, means 1 and 0: the push is always towards 1.
    denoise = pair(*(lambda x, s, m=m: m + (x - m) / (1 + s**2) for m in (1.0, 0.0)))

    def mean(rule, steps):
        return run(rule, samplers.euler(), samplers.karras(steps, 0.02, 20.0), denoise).mean()

    assert mean(cfgpp(0.3), 80) > 1.7 * mean(cfgpp(0.3), 40) > 3.4
    np.testing.assert_allclose(mean(guidance.cfg(3.0), 80), mean(guidance.cfg(3.0), 40), rtol=0.01)


def test_euler_keeps_the_noise_of_the_reference():
    # Frozen noise fields: every step removes sigma e_guided and adds sigma' e_null.
    given, null = 0.3, -0.2
    denoise = pair(lambda x, s: x - s * given, lambda x, s: x - s * null)
    sigmas = np.array([4.0, 2.5, 1.0, 0.0])
    guided = null + 0.6 * (given - null)
    removed = sigmas[:-1].sum() * guided - sigmas[1:].sum() * null
    np.testing.assert_allclose(
        run(cfgpp(0.6), samplers.euler(), sigmas, denoise), 4 * NOISE - removed, atol=1e-5
    )


def test_the_second_evaluation_of_2s_guides_and_renoises():
    # x = 8 at sigma 4, D_null = x/2, D_guided = 3x/4; h = log 4, so x_s = 8/2 + 4/2 = 6 at 2:
    # x' = 4.5 - 3/4 + 8/4.
    denoise = pair(lambda x, s: x, lambda x, s: x / 2)
    end = samplers.sample(
        denoise,
        cfgpp(0.5),
        SOLVERS["dpmpp_2s"],
        np.array([4.0, 1.0]),
        np.array([[2.0]], np.float32),
        jnp.array([0]),
        keys(1),
    )
    np.testing.assert_allclose(end, [[5.75]], rtol=1e-6)


@pytest.mark.parametrize(("difference", "extra"), [("mixed", 0.6 * 2 / 4), ("consistent", 0.0)])
def test_the_published_2m_difference_holds_a_share_of_the_push(difference, extra):
    # Constant predictions 1 and -1 have no slope; halving sigma has h = log 2 and r = 1, so the
    # weight of the difference is (1 - 1/2)/2 in the one step that is neither first nor last.
    denoise = pair(lambda x, s: jnp.full_like(x, 1.0), lambda x, s: jnp.full_like(x, -1.0))
    solver, sigmas = samplers.dpmpp(difference=difference), np.array([4.0, 2.0, 1.0])
    euler = run(cfgpp(0.6), samplers.euler(), sigmas, denoise)
    np.testing.assert_allclose(run(cfgpp(0.6), solver, sigmas, denoise), euler + extra, atol=1e-6)


def test_first_and_last_steps_of_2m_are_eulers():
    sigmas = np.array([2.0, 1.0, 0.0])
    np.testing.assert_allclose(
        run(cfgpp(0.6), samplers.dpmpp(), sigmas),
        run(cfgpp(0.6), samplers.euler(), sigmas),
        atol=1e-6,
    )


def test_an_interval_renoises_from_the_reference_inside_alone():
    sigmas = samplers.karras(9, 0.02, 10.0)
    rule = guidance.between(cfgpp(0.6), 0.2, 3.0)
    expected = by_hand(0.6, sigmas, lambda sigma: 0.2 < sigma <= 3.0)
    np.testing.assert_allclose(run(rule, samplers.euler(), sigmas), expected, atol=1e-5)


def test_any_push_can_be_renoised_from_its_reference():
    sigmas = samplers.karras(9, 0.02, 10.0)
    expected = by_hand(0.6, sigmas)
    for rule in (cfgpp(0.6), renoised(guidance.cfg(0.6))):
        np.testing.assert_allclose(run(rule, samplers.euler(), sigmas), expected, atol=1e-5)
    rule = renoised(guidance.apg(0.8, norm=0.5))
    assert np.abs(run(rule, samplers.euler(), sigmas) - expected).max() > 0.05
    arrays = {"given": NOISE, "null": NOISE[::-1]}
    np.testing.assert_array_equal(guidance.combine(rule, arrays)[0].renoise_from, NOISE[::-1])


def test_what_is_no_single_push_cannot_be_renoised():
    for rule in (guidance.between(guidance.cfg(2.0), 0.1, 1.0), guidance.unguided()):
        with pytest.raises(
            TypeError, match="renoised: push takes a push .* a wrapper goes around it"
        ):
            renoised(rule)


def test_a_solver_that_does_not_renoise_refuses_the_rule():
    sigmas = samplers.karras(5)
    with pytest.raises(
        ValueError, match="rule takes its noise .*CFG.*not defined for Heun.*ancestral, dpmpp, "
    ):
        run(cfgpp(0.6), samplers.heun(), sigmas)
    with pytest.raises(ValueError, match="not defined for Heun"):
        run(guidance.between(cfgpp(0.6), 0.1, 1.0), samplers.heun(), sigmas)


@pytest.mark.parametrize("name", ["dpmpp", "dpmpp_2s_ancestral"])
def test_a_new_scale_compiles_nothing(name, compilations):
    denoise, sigmas = Labelled(gaussian), samplers.karras(5)
    run(cfgpp(0.4), SOLVERS[name], sigmas, denoise)
    with compilations() as compiled:
        run(cfgpp(0.8), SOLVERS[name], sigmas, denoise)
    assert not compiled


def test_a_row_of_scales_runs_as_one_vmapped_program():
    denoise, sigmas = Labelled(gaussian), samplers.karras(5, 0.02, 10.0)
    scales, solver = jnp.array([0.0, 0.5, 1.0]), samplers.dpmpp_2s_ancestral()
    row = jax.vmap(lambda scale: run(cfgpp(scale), solver, sigmas, denoise))(scales)
    for scale, end in zip(scales, row, strict=True):
        np.testing.assert_allclose(end, run(cfgpp(scale), solver, sigmas, denoise), atol=1e-5)


def test_configs_write_both():
    for section in (
        {"name": "cfgpp", "scale": 0.4},
        {"name": "renoised", "push": {"name": "apg", "scale": 4.0}},
    ):
        assert guidance.to_config(guidance.from_config(section)) == section


def test_a_scale_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="guidance.cfgpp: scale must be a finite number"):
        cfgpp(float("nan"))
