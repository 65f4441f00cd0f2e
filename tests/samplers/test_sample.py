"""The sampling loop: its branches, its randomness, what it keeps and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import Labelled, gaussian, keys, weak

from guidestar import guidance, samplers
from guidestar.guidance import identity_attention
from guidestar.samplers import evaluator

SIGMAS = samplers.karras(6, 0.02, 20.0)
NOISE = np.random.default_rng(0).normal(size=(4, 3, 3, 2)).astype(np.float32)
LABEL = jnp.array([0, 1, 0, 1])


def run(denoise, rule, noise=NOISE, condition=LABEL, key=None, solver=None, **options):
    solver = solver or samplers.heun()
    key = keys(len(noise)) if key is None else key
    return samplers.sample(denoise, rule, solver, SIGMAS, noise, condition, key, **options)


def traced_calls(denoise, rule, **options):
    """Return the batch sizes of the calls that one Euler step makes."""
    seen = []

    class Recording(Labelled):
        def __call__(self, x, sigma, condition):
            seen.append((x.shape[0], jnp.ndim(sigma)))
            return self.denoise(x, sigma, condition)

    samplers.sample(
        Recording(denoise), rule, samplers.euler(), [2.0, 1.0], NOISE, LABEL, keys(4), **options
    )
    return seen


def test_fused_branches_share_one_call_and_sequential_ones_do_not():
    assert traced_calls(gaussian, guidance.cfg(2.0)) == [(8, 0)]
    assert traced_calls(gaussian, guidance.cfg(2.0), branches="sequential") == [(4, 0), (4, 0)]


def test_fused_and_sequential_agree():
    networks = {"main": Labelled(gaussian), "guide": weak}
    for rule in (guidance.cfg(3.0), guidance.autoguidance(3.0)):
        fused, sequential = (run(networks, rule, branches=b) for b in ("fused", "sequential"))
        np.testing.assert_allclose(fused, sequential, atol=1e-5)


def test_a_callable_without_a_null_condition_is_asked_for_none():
    asked = []

    def denoise(x, sigma, condition):
        asked.append(condition is None)
        return gaussian(x, sigma, condition)

    result = run(denoise, guidance.cfg(3.0))
    assert any(asked) and not all(asked)
    np.testing.assert_allclose(result, run(Labelled(gaussian), guidance.cfg(3.0)), atol=1e-5)


def test_conditions_may_be_trees_of_arrays():
    def denoise(x, sigma, condition):
        return condition["mean"][:, None, None, None] + 0 * x

    end = run(denoise, guidance.unguided(), condition={"mean": jnp.arange(4.0)})
    np.testing.assert_array_equal(end[:, 0, 0, 0], np.arange(4.0))


def test_parameters_inside_a_pytree_callable_do_not_recompile(compilations):
    def denoise(scale, x, sigma, condition):
        return scale * x / (1 + sigma**2)

    first = run(jax.tree_util.Partial(denoise, jnp.float32(0.5)), guidance.unguided())
    with compilations() as compiled:
        other = run(jax.tree_util.Partial(denoise, jnp.float32(0.9)), guidance.unguided())
    assert not compiled
    assert np.abs(first - other).max() > 0.01


def test_new_noise_levels_do_not_recompile_while_the_same_steps_are_guided(compilations):
    denoise = Labelled(gaussian)
    rule = guidance.between(guidance.cfg(2.0), 0.5, 3.0)

    def end(sigmas):
        return samplers.sample(denoise, rule, samplers.heun(), sigmas, NOISE, LABEL, keys(4))

    end([4.0, 2.0, 1.0, 0.4, 0.0])
    with compilations() as compiled:
        end([5.0, 2.5, 1.5, 0.3, 0.0])
    assert not compiled


def test_trajectories_are_kept_only_when_asked_for():
    networks = Labelled(gaussian)
    rule = guidance.between(guidance.cfg(2.0), 0.5, 3.0)
    plain = run(networks, rule)
    end, kept = run(networks, rule, save=("x", "denoised", "info"))
    np.testing.assert_array_equal(plain, end)
    assert kept["x"].shape == kept["denoised"].shape == (6, *NOISE.shape)
    np.testing.assert_allclose(kept["x"][0], NOISE * SIGMAS[0], rtol=1e-6)
    np.testing.assert_allclose(kept["denoised"][-1], end, atol=1e-5)
    inside = (SIGMAS[:-1] > 0.5) & (SIGMAS[:-1] <= 3.0)
    assert inside.any() and not inside.all()
    np.testing.assert_array_equal(np.isfinite(kept["info"]["push_norm"]).all(axis=1), inside)


def test_one_key_stands_for_one_key_a_sample():
    root = jax.random.key(7)
    each = jax.vmap(jax.random.fold_in, (None, 0))(root, jnp.arange(4))
    for given in (root, jax.random.key_data(root)):
        np.testing.assert_array_equal(
            run(gaussian, guidance.cfg(2.0), key=given), run(gaussian, guidance.cfg(2.0), key=each)
        )


def test_streams_depend_on_the_sample_index_alone():
    root = jax.random.key(3)
    whole = samplers.unit_noise(samplers.sample_keys(root, samplers.NOISE, jnp.arange(9)), (5,))
    part = samplers.unit_noise(samplers.sample_keys(root, samplers.NOISE, jnp.array([6, 2])), (5,))
    np.testing.assert_array_equal(part, whole[jnp.array([6, 2])])
    other = samplers.unit_noise(samplers.sample_keys(root, samplers.STEPS, jnp.arange(9)), (5,))
    assert np.abs(whole - other).min() > 0


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(save="everything"), "save takes"),
        (dict(branches="parallel"), "fused or sequential"),
        (dict(noise=np.zeros((4, 2), np.int32)), "floating point"),
        (dict(key=keys(3)), "one per sample"),
    ],
)
def test_bad_calls_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        run(gaussian, guidance.cfg(2.0), **change)


def test_a_rule_without_its_network_is_refused_by_name():
    with pytest.raises(ValueError, match="network named 'guide'"):
        run(gaussian, guidance.autoguidance(2.0))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"solver": {"name": "hune"}, "schedule": {"name": "karras", "steps": 4}}, "solver.name"),
        ({"solver": {"name": "heun"}, "schedule": {"name": "karas", "steps": 4}}, "schedule.name"),
        ({"solver": {"name": "heun"}, "schedule": {"name": "karras"}}, "steps"),
    ],
)
def test_a_wrong_sampler_section_is_refused(section, message):
    with pytest.raises(ValueError, match=message):
        samplers.from_config(section)


def test_modes_of_one_site_act_in_each_branchs_own_order():
    # The second branch holds both, in the order in which it names them, whichever came first.
    first, second = (identity_attention((0,)).mode for _ in range(2))
    active = evaluator._active([(second,), (first, second)], batch=1)
    assert [one.mode for one in active] == [first, second]
    assert [one.where is None for one in active] == [False, True]
    np.testing.assert_array_equal(active[0].where, [False, True])
