"""Inversion: the noise that Euler's method turns into a given sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import SPREAD, Labelled, gaussian, keys, mixture_denoiser, weak
from tables.everyday import few

from guidestar import guidance, samplers
from guidestar.guidance.wrappers.stitched import stitched
from guidestar.samplers.inversion import invert

LABELS = jnp.array([0, 1, 0, 1])


def levels(steps):
    return np.geomspace(80.0, 0.002, steps + 1)


@jax.tree_util.Partial
def plain(x, sigma, condition):
    return x * SPREAD**2 / (SPREAD**2 + sigma**2)


def points(count=4, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, 2)) * 0.7)


def round_trip(denoise, rule, sigmas, x, condition=None, **options):
    key = keys(len(x))
    noise = invert(denoise, rule, sigmas, x, condition, key, **options)
    end = samplers.sample(denoise, rule, samplers.euler(), sigmas, noise, condition, key)
    return noise, end


@pytest.mark.parametrize(
    ("steps", "golden"), [(10, -0.411177), (20, -0.232719), (50, -0.100540), (100, -0.051601)]
)
def test_the_round_trip_on_gaussian_data_is_a_product_of_squared_cosines(steps, golden, x64):
    sigmas, x = levels(steps), points()
    _, end = round_trip(plain, guidance.unguided(), sigmas, x)
    factor = np.prod(np.cos(np.diff(np.arctan(sigmas / SPREAD)))) ** 2
    np.testing.assert_allclose(end / x, np.full(x.shape, factor), rtol=1e-9)
    np.testing.assert_allclose(end / x - 1, np.full(x.shape, golden), atol=1e-6)


def test_the_way_up_is_eulers_own(x64):
    # One step: x_up = x + (sigma - sigma')(x - D)/sigma', divided by sigma.
    x, share = points(), SPREAD**2 / (SPREAD**2 + 0.25)
    noise = invert(plain, guidance.unguided(), [2.0, 0.5], x, None, keys(4))
    np.testing.assert_allclose(noise, (x + 1.5 * x * (1 - share) / 0.5) / 2, rtol=1e-12)


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_refined_it_is_exact_on_gaussian_data(steps, x64):
    # An iteration leaves at most 1 - sigma'/sigma of the error.
    iterations = int(np.log(1e-14) / np.log(1 - (0.002 / 80) ** (1 / steps))) + 1
    x, sigmas = points(), levels(steps)
    noise, end = round_trip(plain, guidance.unguided(), sigmas, x, refinements=iterations)
    np.testing.assert_allclose(end, x, atol=1e-10, rtol=0)
    factor = np.prod(np.cos(np.diff(np.arctan(sigmas / SPREAD))))
    exact = np.sqrt((SPREAD**2 + 80.0**2) / (SPREAD**2 + 0.002**2)) / 80
    np.testing.assert_allclose(noise, x * exact / factor, rtol=1e-9)


def test_each_refinement_brings_the_round_trip_nearer(x64):
    x, errors = points(), []
    for refinements in (0, 1, 2, 4):
        _, end = round_trip(plain, guidance.unguided(), levels(50), x, refinements=refinements)
        errors.append(np.abs(end - x).max())
    assert all(b < a / 3 for a, b in zip(errors[:-1], errors[1:], strict=True)), errors


RULES = {
    "cfg": lambda: guidance.cfg(2.0),
    "cfg in an interval": lambda: guidance.between(guidance.cfg(2.0), 0.2, 3.0),
    "autoguidance": lambda: guidance.autoguidance(2.0),
    # Its push is not divided among the steps: what it moves must contract by itself.
    "cfgpp": lambda: guidance.cfgpp(0.1),
    "stitched": lambda: stitched(guidance.cfg(1.5), "guide", low=0.7),
    "icg": lambda: guidance.icg(1.5, 2),
}


@pytest.mark.longer
@pytest.mark.parametrize("name", few(2, sorted(RULES)))
def test_refined_it_is_exact_under_guidance_on_a_mixture(name, x64):
    main = mixture_denoiser()
    networks = {"main": main, "guide": Labelled(lambda x, s, c: main(x, 1.2 * s, c))}
    rule, x, sigmas = RULES[name](), points(), np.geomspace(20.0, 0.05, 81)
    _, rough = round_trip(networks, rule, sigmas, x, LABELS)
    _, end = round_trip(networks, rule, sigmas, x, LABELS, refinements=60)
    np.testing.assert_allclose(end, x, atol=1e-10, rtol=0)
    assert np.abs(rough - x).max() > 1e-3


def test_renoising_rules_are_followed_by_their_own_step(x64):
    # x' = D + sigma' (x - S)/sigma with S the unconditional prediction, upward.
    x, low, high = points(), 0.5, 2.0
    denoise = Labelled(gaussian)
    noise = invert(denoise, guidance.cfgpp(0.6), [high, low], x, LABELS, keys(4))
    given, null = gaussian(x, low, LABELS), gaussian(x, low, jnp.full(4, 2))
    guided = null + 0.6 * (given - null)
    np.testing.assert_allclose(noise, (guided + high * (x - null) / low) / high, rtol=1e-12)


def test_a_step_holds_the_rule_of_the_step_down():
    # Upward from 1 to 2 the step down, from 2, is guided; from 0.5 to 1 it is not.
    asked = []

    def denoise(x, sigma, condition):
        jax.debug.callback(lambda s: asked.append(float(s)), sigma)
        return gaussian(x, sigma, condition)

    rule = guidance.between(guidance.cfg(2.0), 1.0, 3.0)
    noise = invert(denoise, rule, [4.0, 2.0, 1.0, 0.5], points(), LABELS, keys(4), refinements=1)
    noise.block_until_ready()
    jax.effects_barrier()
    # Guided twice in the middle step, at its lower end and, refining, at its upper.
    assert sorted(asked) == [0.5, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 4.0]


@pytest.mark.longer
def test_states_run_upward_and_stand_still_within_a_step(x64):
    # The average of past predictions is that of the steps below.
    x, denoise = points(), Labelled(gaussian)
    rule, inner = guidance.higs(guidance.cfg(2.0), 1.5, 0.75), guidance.cfg(2.0)
    sigmas = [4.0, 2.0, 1.0]
    state, up = rule.init(x), x
    for low, high in ((1.0, 2.0), (2.0, 4.0)):

        def down(at, sigma, state, low=low):
            given, null = gaussian(at, sigma, LABELS), gaussian(at, sigma, jnp.full(4, 2))
            guided, after = guidance.combine(
                rule, {"given": given, "null": null}, x=at, sigma=sigma, state=state
            )
            return guided.denoised, after

        def step(at, start, end, state):
            denoised, after = down(at, start, state)
            return denoised + end * (at - denoised) / start, after

        trial, _ = step(up, low, high, state)
        trial = trial + (up - step(trial, high, low, state)[0])
        back, state_after = step(trial, high, low, state)
        up, state = trial + (up - back), state_after
    noise = invert(denoise, rule, sigmas, x, LABELS, keys(4), refinements=2)
    np.testing.assert_allclose(noise, up / 4.0, rtol=1e-10)
    without = invert(denoise, inner, sigmas, x, LABELS, keys(4), refinements=2)
    assert np.abs(noise - without).max() > 1e-3


@pytest.mark.parametrize("rule", [guidance.apg(2.0), guidance.higs(guidance.cfg(1.5))])
def test_rules_with_a_state_run(rule):
    noise, end = round_trip(
        Labelled(gaussian), rule, np.geomspace(20.0, 0.02, 41), points(), LABELS, refinements=5
    )
    assert np.isfinite(noise).all() and np.isfinite(end).all()


def test_a_sample_does_not_depend_on_its_batch():
    x, each = points(5), keys(5)
    labels = jnp.array([0, 1, 0, 1, 1])
    rule = guidance.icg(1.5, 2)

    def noise(chosen):
        return invert(
            mixture_denoiser(),
            rule,
            np.geomspace(20.0, 0.05, 31),
            x[chosen],
            labels[chosen],
            each[chosen],
            refinements=3,
        )

    np.testing.assert_allclose(noise(slice(3, 4))[0], noise(slice(None))[3], atol=1e-5)


def test_images_sequential_branches_and_float32_stay_what_they_are():
    x = jax.random.normal(jax.random.key(0), (4, 3, 3, 1))
    networks = {"main": Labelled(gaussian), "guide": weak}
    rule, sigmas = guidance.autoguidance(1.5), np.geomspace(20.0, 0.05, 21)
    ends = [
        round_trip(networks, rule, sigmas, x, LABELS, refinements=10),
        [invert(networks, rule, sigmas, x, LABELS, keys(4), refinements=10, branches="sequential")],
    ]
    np.testing.assert_allclose(ends[0][0], ends[1][0], atol=1e-5)
    assert ends[0][0].dtype == jnp.float32
    np.testing.assert_allclose(ends[0][1], x, atol=1e-3)


def test_new_numbers_compile_nothing(compilations):
    x, denoise = jnp.asarray(points(), jnp.float32), Labelled(gaussian)
    rule = guidance.between(guidance.cfg(2.0), 0.5, 3.0)
    first = invert(denoise, rule, [4.0, 2.0, 1.0, 0.4], x, LABELS, keys(4))
    rule = guidance.between(guidance.cfg(3), 0.5, 3.0)
    with compilations() as compiled:
        other = invert(denoise, rule, [5.0, 2.5, 1.5, 0.3], x, LABELS, keys(4))
    assert not compiled
    assert np.abs(first - other).max() > 0


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(sigmas=[2.0, 1.0, 0.0]), r"samplers.invert: the schedule ends in 0.*sigmas\[:-1\]"),
        (dict(sigmas=[1.0, 2.0]), "samplers.invert: sigmas must decrease"),
        (dict(refinements=-1), "refinements must be 0 or"),
        (dict(refinements=1.5), "refinements must be 0 or"),
        (dict(branches="parallel"), "fused or sequential"),
        (dict(x=jnp.ones((4, 2), int)), "x must be floating point"),
        (dict(key=keys(3)), "one per sample"),
        (dict(rule=guidance.autoguidance(2.0)), "network named 'guide'"),
    ],
)
def test_bad_calls_are_refused(change, message):
    arguments = dict(
        denoise=gaussian,
        rule=guidance.unguided(),
        sigmas=[2.0, 1.0],
        x=points(),
        condition=LABELS,
        key=keys(4),
    )
    with pytest.raises(ValueError, match=message):
        invert(**(arguments | change))


def test_levels_above_a_networks_own_are_refused():
    denoise = Labelled(gaussian)
    denoise.sigma_range = (0.002, 1.5)
    with pytest.raises(ValueError, match="above the highest noise level 1.5"):
        invert(denoise, guidance.unguided(), [2.0, 1.0], points(), LABELS, keys(4))
