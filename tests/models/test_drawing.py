"""Fresh parameters are the numbers that one compiled program would draw, in pieces or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.everyday import rows

from guidestar import models
from guidestar.models import drawing

NETWORKS = {
    "layers that are scanned": dict(
        name="dit",
        image_size=8,
        channels=1,
        patch_size=4,
        width=8,
        depth=2,
        heads=2,
        num_classes=3,
        scan_layers=True,
    ),
    "uniform kernels": dict(
        name="song_unet", image_size=8, channels=1, model_channels=8, channel_mult=(1, 1)
    ),
    "normal kernels": dict(
        name="edm2_unet",
        image_size=8,
        channels=1,
        num_classes=3,
        model_channels=8,
        channel_mult=(1,),
        num_blocks=1,
        attn_resolutions=(),
        channels_per_head=8,
    ),
}
KEY = jax.random.key(7)


@pytest.mark.longer
@pytest.mark.parametrize("network", rows(NETWORKS, lambda n: n == "layers that are scanned"))
def test_parameters_are_those_of_one_compiled_program(network):
    spec = models.build(NETWORKS[network])
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    drawn, compiled = spec.initialise(KEY), spec.initialise(KEY, out_shardings=place)
    assert jax.tree.structure(drawn) == jax.tree.structure(compiled)
    for ours, one in zip(jax.tree.leaves(drawn), jax.tree.leaves(compiled), strict=True):
        assert ours.dtype == one.dtype and ours.shape == one.shape
        np.testing.assert_array_equal(ours, one)


@pytest.mark.parametrize("draw", [jax.random.normal, jax.random.uniform])
@pytest.mark.parametrize("count", [1, drawing.PIECE, drawing.PIECE + 3])
def test_a_draw_of_any_length_is_jaxs_to_the_bit(draw, count):
    closed = jax.make_jaxpr(lambda key: draw(key, (count,)))(KEY)
    (found,) = drawing.evaluate(closed, KEY)
    np.testing.assert_array_equal(found, draw(KEY, (count,)))


def test_factors_are_joined_before_they_multiply_as_compilers_do():
    def create(key):
        return 2 * np.pi * jax.random.normal(key, (1000,)), 3.0 + jax.random.normal(key, (5,))

    found = drawing.evaluate(jax.make_jaxpr(create)(KEY), KEY)
    for ours, one in zip(found, jax.jit(create)(KEY), strict=True):
        np.testing.assert_array_equal(ours, one)


def test_draws_of_several_keys_are_each_their_own():
    keys = jax.random.split(KEY, 3)
    rows = jax.vmap(lambda key: jax.random.uniform(key, (2, 2), minval=-1.0))
    (found,) = drawing.evaluate(
        jax.make_jaxpr(lambda key: rows(jax.random.split(key, 3)))(KEY), KEY
    )
    np.testing.assert_array_equal(found, rows(keys))


def test_what_is_no_draw_is_evaluated_as_jax_does():
    def create(key):
        return jnp.cumsum(jax.random.normal(key, (4,), jnp.float16)), key, jnp.arange(3)

    closed = jax.make_jaxpr(create)(KEY)
    sums, key, numbers = drawing.evaluate(closed, KEY)
    np.testing.assert_array_equal(sums, create(KEY)[0])
    assert key == KEY and list(numbers) == [0, 1, 2]


@pytest.mark.parametrize("draw", [jax.random.normal, jax.random.uniform])
def test_the_draws_are_found_by_their_names(draw):
    """Under another name they would be right, and slow again."""
    closed = jax.make_jaxpr(lambda key: draw(key, (3,)))(KEY)
    assert [eqn.params.get("name") in drawing.DRAWS for eqn in closed.jaxpr.eqns] == [True]
