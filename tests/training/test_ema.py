"""Weight averages: published tables, half-life arithmetic, and the first step."""

import jax
import jax.numpy as jnp
import numpy as np
import places
import pytest

from guidestar.training.averages import ema

GOLDEN = np.load(places.GOLDEN / "posthoc_ema.npz")


def test_exponents_and_widths_agree_with_the_reference_implementation():
    for std, exponent in zip(GOLDEN["std"], GOLDEN["exp"], strict=True):
        assert ema.exponent_of_std(std) == pytest.approx(exponent, rel=1e-9)
        assert ema.std_of_exponent(exponent) == pytest.approx(std, rel=1e-9)


@pytest.mark.parametrize(("row", "std"), [(0, 0.05), (1, 0.10)])
def test_power_function_decay_agrees_with_the_reference_implementation(row, std):
    beta = ema.power_function(std)
    for step, expected in zip(GOLDEN["beta_t_next"], GOLDEN["beta"][row], strict=True):
        assert float(beta(int(step))) == pytest.approx(expected, rel=2e-6, abs=1e-12)


def test_power_function_average_weighs_steps_by_the_profile():
    """After N steps, step i has weight (i/N)^(g+1) - ((i-1)/N)^(g+1)."""
    std, count = 0.1, 40
    beta, power = ema.power_function(std), ema.exponent_of_std(std) + 1
    average = jnp.zeros(count)
    for step in range(1, count + 1):
        average = ema.update(average, jnp.eye(count)[step - 1], beta(step))
    edges = (np.arange(count + 1) / count) ** power
    np.testing.assert_allclose(average, np.diff(edges), atol=2e-6)


@pytest.mark.parametrize("schedule", [ema.power_function(0.05), ema.half_life(1e4, batch_size=10)])
def test_the_first_step_copies_the_weights_and_later_ones_remember_longer(schedule):
    betas = [float(schedule(step)) for step in (1, 2, 10, 100, 1000)]
    assert betas[0] < 1e-5
    assert betas == sorted(betas)
    assert betas[-1] < 1


@pytest.mark.parametrize("schedule", [ema.power_function(0.05), ema.half_life(1e4, batch_size=10)])
def test_a_traced_step_gives_the_same_decay(schedule):
    steps = jnp.array([1, 7, 5000], jnp.int32)
    traced = jax.jit(jax.vmap(schedule))(steps)
    np.testing.assert_allclose(traced, [schedule(int(s)) for s in steps], rtol=1e-6)


def test_a_change_decays_by_half_every_half_life():
    beta = ema.half_life(1000, batch_size=10, ramp_up=None)
    remembered = 1.0
    for step in range(1, 101):
        remembered *= float(beta(step))
    assert remembered == pytest.approx(0.5, rel=1e-4)


def test_the_ramp_bounds_the_half_life_to_a_share_of_the_images_seen():
    beta = ema.half_life(1000, batch_size=10, ramp_up=0.05)
    # After 200 images the bound is 10 images, one batch; after 20 000 it no longer binds.
    assert float(beta(20)) == pytest.approx(0.5, rel=1e-5)
    assert float(beta(5000)) == pytest.approx(0.5 ** (10 / 1000), rel=1e-6)


def test_several_averages_at_once_equal_each_alone():
    schedules = ema.power_function(0.05), ema.half_life(1e4, batch_size=10), ema.constant(0.9)
    averages = ema.Averages(schedules, (0.05, None, None))
    weights = jax.random.normal(jax.random.key(0), (6, 3))
    together = averages.init({"w": weights[0]})
    alone = [{"w": weights[0]} for _ in schedules]
    for step in range(1, 6):
        together = averages.update(together, {"w": weights[step]}, step)
        alone = [
            ema.update(one, {"w": weights[step]}, schedule(step))
            for one, schedule in zip(alone, schedules, strict=True)
        ]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one["w"], other["w"])
    assert averages.main(together) is together[0]


def test_averages_start_as_copies_that_may_be_donated_with_the_parameters():
    params = {"w": jnp.ones(3)}
    first, second = ema.Averages((ema.constant(0.5),) * 2, (None, None)).init(params)
    pointers = {tree["w"].unsafe_buffer_pointer() for tree in (params, first, second)}
    assert len(pointers) == 3


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_constant_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
        ema.constant(decay)


def test_averages_without_a_schedule_or_with_too_few_widths_are_refused():
    for arguments in (((), ()), ((ema.constant(0.9),), ())):
        with pytest.raises(ValueError, match="give at least one schedule"):
            ema.Averages(*arguments)


def test_update_interpolates_leaf_by_leaf():
    average, params = {"a": jnp.ones(2), "b": jnp.zeros(())}, {"a": jnp.zeros(2), "b": jnp.ones(())}
    moved = ema.update(average, params, 0.75)
    np.testing.assert_allclose(moved["a"], 0.75)
    np.testing.assert_allclose(moved["b"], 0.25)


@pytest.mark.parametrize("std", [0.0, -0.1, 0.3, float("nan")])
def test_a_width_without_an_exponent_is_refused(std):
    with pytest.raises(ValueError, match=r"must lie between 0 and 0\.2887"):
        ema.power_function(std)


@pytest.mark.parametrize("change", [{"images": 0}, {"batch_size": -1}, {"ramp_up": 0.0}])
def test_half_life_refuses_numbers_that_are_not_positive(change):
    with pytest.raises(ValueError, match="give positive numbers"):
        ema.half_life(**{"images": 1000, "batch_size": 10} | change)
