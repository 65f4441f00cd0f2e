"""Feynman-Kac corrected guidance: the exact target, and how particles are weighed and drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import Labelled, keys

from guidestar import guidance, samplers
from guidestar.core.pytrees import pytree
from guidestar.guidance.references.fkc import fkc
from guidestar.samplers.particles.weights import effective

SIGMAS = samplers.karras(9, 0.02, 10.0)


@jax.tree_util.Partial
def tilted(x, sigma, condition):
    """Denoise N(0, 1) without a condition and N(1, 1/4) with one."""
    mean, variance = (0.0, 1.0) if condition is None else (1.0, 0.25)
    return mean + (x - mean) * variance / (variance + sigma**2)


class Tilted(Labelled):
    """Classes N(-1, 1/4) and N(1, 1/4), without a condition N(0, 1)."""

    def __init__(self):
        super().__init__(self.of_label)

    @staticmethod
    def of_label(x, sigma, label):
        mean = jnp.array([-1.0, 1.0, 0.0])[label][:, None]
        variance = jnp.array([0.25, 0.25, 1.0])[label][:, None]
        return mean + (x - mean) * variance / (variance + sigma**2)


def run(rule, solver, *, count=64, sigmas=SIGMAS, denoise=tilted, seed=0, dtype=None, **options):
    noise = jax.random.normal(jax.random.key(100 + seed), (count, 2), dtype)
    condition = jnp.zeros(count, jnp.int32)
    return samplers.sample(
        denoise, rule, solver, sigmas, noise, condition, keys(count, seed), **options
    )


@pytest.mark.longer
def test_corrected_guidance_samples_the_tilted_gaussian_and_cfg_does_not():
    # p_given^1.5 p_null^-0.5 has precision 1.5/0.25 - 0.5 and mean 6/5.5.
    mean, variance, count = 6 / 5.5, 1 / 5.5, 10_000
    sigmas = samplers.karras(600, 0.02, 20.0, rho=3.0)

    def ends(rule, particles):
        noise = jax.random.normal(jax.random.key(1), (2 * count, 1))
        condition, solver = jnp.zeros(2 * count, jnp.int32), samplers.feynman_kac(particles)
        return samplers.sample(tilted, rule, solver, sigmas, noise, condition, jax.random.key(2))

    # Standard errors of 20 000 draws of which the weights leave 80 %; the variance is moreover
    # too high by about 0.002 at this many steps.
    error = np.sqrt(variance / (0.8 * 2 * count))
    spread = variance * np.sqrt(2 / (0.8 * 2 * count))
    corrected = np.asarray(ends(fkc(1.5), count))
    assert abs(corrected.mean() - mean) < 4 * error
    assert abs(corrected.var() - variance) < 4 * spread + 0.002
    # One particle a group has nothing to be weighed against: the SDE of plain guidance, whose
    # moments are known to be 1.167 and 0.157.
    plain = np.asarray(ends(fkc(1.5), 1))
    assert abs(plain.mean() - 1.167) < 4 * error
    assert abs(plain.var() - 0.157) < 4 * spread
    assert plain.mean() - mean > 12 * error
    assert variance - plain.var() > 8 * spread


@pytest.mark.longer
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_scales_that_need_no_weights_get_none(scale):
    end, kept = run(fkc(scale), samplers.feynman_kac(), save="info")
    np.testing.assert_array_equal(kept["info"]["log_weight"], 0)
    np.testing.assert_array_equal(end, run(fkc(scale), samplers.feynman_kac(particles=1)))


def test_the_rate_of_the_weights_is_the_squared_difference_of_scores():
    given, null = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 3.0]])
    guided = guidance.combine(fkc(3.0), {"given": given, "null": null}, sigma=0.5)[0]
    # 3 (3 - 1)/2 |.|^2 / 0.5^4
    np.testing.assert_allclose(guided.info["log_weight_rate"], [3 * 5 * 16, 3 * 9 * 16], rtol=1e-6)
    np.testing.assert_allclose(guided.denoised, null + 3 * (given - null), rtol=1e-6)
    assert guided.renoise_from is None


@pytest.mark.longer
def test_a_step_is_the_reverse_sdes_and_adds_to_the_weights():
    # Two steps without resampling in between; constant predictions 1 and 0, sigma 2 to 1 to 0.5.
    def denoise(x, sigma, condition):
        return jnp.full_like(x, 0.0 if condition is None else 1.0)

    solver = samplers.feynman_kac(resample_below=0.0)
    sigmas = np.array([2.0, 1.0, 0.5])
    end, kept = run(
        fkc(2.0), solver, count=4096, sigmas=sigmas, denoise=denoise, save=("x", "info")
    )
    # |difference|^2 = 2, so the rate is 2 / sigma^4.
    weights = np.cumsum([(4 - 1) * 2 / 16, (1 - 1 / 4) * 2])
    np.testing.assert_allclose(kept["info"]["log_weight"], np.repeat(weights[:, None], 4096, 1))
    for before, after, start, stop in ((*kept["x"], 2, 1), (kept["x"][1], end, 1, 0.5)):
        fall = start**2 - stop**2
        z = (after - before - fall * (2 - before) / start**2) / np.sqrt(fall)
        assert abs(z.mean()) < 5 / np.sqrt(z.size)
        assert abs(z.var() - 1) < 5 * np.sqrt(2 / z.size)
        assert abs(np.corrcoef(z.ravel(), before.ravel())[0, 1]) < 5 / np.sqrt(z.size)


def test_a_step_to_zero_returns_the_guided_prediction_of_the_drawn():
    x = np.asarray(run(fkc(1.5), samplers.feynman_kac(), sigmas=np.array([2.0, 0.0])))
    noise = jax.random.normal(jax.random.key(100), (64, 2))
    given, null = tilted(2 * noise, 2.0, 0), tilted(2 * noise, 2.0, None)
    np.testing.assert_allclose(x, null + 1.5 * (given - null), atol=1e-6)


@pytest.mark.parametrize("below", [0.0, 0.8, 1.0])
def test_weights_are_kept_until_a_group_is_resampled_and_reset_then(below):
    solver, size = samplers.feynman_kac(64, resample_below=below), 64
    _, kept = run(fkc(4.0), solver, count=2 * size, save="info")
    weights, rates = kept["info"]["log_weight"], kept["info"]["log_weight_rate"]
    # The step to 0 adds nothing.
    fall = np.append(SIGMAS[:-2] ** 2 - SIGMAS[1:-1] ** 2, 0)[:, None]
    before = weights - rates * fall
    count = np.stack([effective(step.reshape(2, size)) for step in weights])
    resampled = (count < below * size).repeat(size, axis=1)
    assert resampled.any() == (below > 0)
    assert resampled[:-1].all() == (below == 1)
    np.testing.assert_allclose(
        before[1:], np.where(resampled, 0, weights)[:-1], rtol=1e-5, atol=1e-5
    )


def test_groups_are_independent_and_particles_of_one_are_not():
    solver = samplers.feynman_kac(particles=32, resample_below=1.0)
    noise = jax.random.normal(jax.random.key(0), (96, 2))
    condition, every = jnp.repeat(jnp.array([0, 1, 0]), 32), keys(96)

    def ends(noise, chosen=slice(None)):
        return samplers.sample(
            Tilted(), fkc(3.0), solver, SIGMAS, noise[chosen], condition[chosen],
            every[chosen],
        )  # fmt: skip

    batch = np.asarray(ends(noise))
    np.testing.assert_allclose(ends(noise, slice(32, 64)), batch[32:64], atol=1e-5)
    moved = np.asarray(ends(noise.at[40].add(2.0)))
    np.testing.assert_array_equal(moved[:32], batch[:32])
    np.testing.assert_array_equal(moved[64:], batch[64:])
    assert (np.abs(moved - batch)[32:64].max(axis=1) > 0.01).sum() > 1


def test_what_comes_out_are_unweighted_draws():
    end = run(fkc(4.0), samplers.feynman_kac(resample_below=0.0), count=256)
    assert len(np.unique(end, axis=0)) < 250


def test_other_solvers_take_the_rule_for_cfg():
    ends = [run(rule(2.0), samplers.heun()) for rule in (fkc, guidance.cfg)]
    np.testing.assert_allclose(*ends, atol=1e-5)


def test_rules_without_weights_are_refused():
    for rule in (guidance.cfg(1.5), guidance.between(fkc(1.5), 0.1, 1.0)):
        with pytest.raises(ValueError, match="no 'log_weight_rate'.*guidance.fkc"):
            run(rule, samplers.feynman_kac())
    with pytest.raises(ValueError, match="not defined for FeynmanKac"):
        rule = guidance.Push(guidance.scale(0.5), guidance.null(), renoise=True)
        run(Weighed(rule), samplers.feynman_kac())


@pytree
class Weighed:
    """A rule with a rate of 0 for its weights."""

    rule: guidance.Rule

    def init(self, x):
        return self.rule.init(x)

    def apply(self, evaluate, x, sigma, state, key):
        guided, state = self.rule.apply(evaluate, x, sigma, state, key)
        rate = jnp.zeros(x.shape[0], x.dtype)
        return guided._replace(info=guided.info | {"log_weight_rate": rate}), state

    def at(self, sigma):
        del sigma
        return self


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.feynman_kac(particles=0), "positive integer"),
        (lambda: samplers.feynman_kac(particles=2.5), "positive integer"),
        (lambda: samplers.feynman_kac(resample_below=1.5), "share of the particles"),
        (lambda: run(fkc(1.5), samplers.feynman_kac(particles=7)), "no whole number of groups"),
        (lambda: fkc(float("inf")), "guidance.fkc: scale must be a finite number"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_particles_of_a_group_with_different_conditions_are_refused():
    def ends(condition, particles):
        solver, noise = samplers.feynman_kac(particles), jnp.ones((4, 2))
        return samplers.sample(Tilted(), fkc(1.5), solver, SIGMAS, noise, condition, keys(4))

    with pytest.raises(ValueError, match="need one condition"):
        ends(jnp.array([0, 1, 0, 1]), 2)
    with pytest.raises(ValueError, match="need one condition"):
        ends(jnp.array([0, 0, 1, 1]), None)
    assert np.isfinite(ends(jnp.array([0, 0, 1, 1]), 2)).all()


def test_the_plan_knows_the_cost():
    plan = samplers.plan(samplers.feynman_kac(particles=8), SIGMAS, fkc(1.5))
    assert plan.totals == {"main": 18}


def test_new_numbers_compile_nothing(compilations):
    run(fkc(1.5), samplers.feynman_kac(16, 0.5))
    with compilations() as compiled:
        run(fkc(2.5), samplers.feynman_kac(16, 0.9))
    assert not compiled


@pytest.mark.longer
def test_float64_is_kept(x64):
    end, kept = run(fkc(1.5), samplers.feynman_kac(), dtype=jnp.float64, save="info")
    assert end.dtype == kept["info"]["log_weight"].dtype == jnp.float64


def test_configs_write_rule_and_solver():
    section = {"name": "fkc", "scale": 1.5}
    assert guidance.to_config(guidance.from_config(section)) == section
    solver, _, _ = samplers.from_config(
        {
            "solver": {"name": "feynman_kac", "particles": 8},
            "schedule": {"name": "karras", "steps": 4},
        }
    )
    assert solver == samplers.feynman_kac(8)
