"""EDM2UNet's sites: what they show, how layers are numbered, which blocks can be left out."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.edm2_unets import (
    ATTENTIONS,
    BLOCKS,
    CLASSES,
    CONNECTIONS,
    Recorded,
    denoise,
    inputs,
    make,
    recorded,
)
from tables.everyday import few

from guidestar.guidance.modes import Active
from guidestar.guidance.references.attention import IdentityAttention
from guidestar.guidance.references.blocks import SkippedBlocks

SOME = np.array([True, False, True])
PLACES = (
    *(("attention", n) for n in range(ATTENTIONS)),
    ("time_embedding", None),
    ("condition_embedding", None),
)


@cache
def network():
    with jax.ensure_compile_time_eval():  # who asks first may be tracing, and it is kept
        return make()[1]


@cache
def shown():
    return dict(zip(PLACES, recorded(network(), PLACES, *inputs()), strict=True))


class Times:
    """A mode that multiplies features."""

    name = "times"

    def __init__(self, site, layer, factor):
        self.site, self.layers = site, None if layer is None else (layer,)
        self.factor = factor

    def skip(self, features):
        return self.factor * features

    h_space = skip


def outputs(modes, where=None):
    """Return the network's outputs with modes in the samples marked, and without."""
    active = tuple(Active(mode, where) for mode in modes)
    run = jax.jit(lambda x, sigma, label: network()(x, sigma, label, active))
    return np.asarray(run(*inputs())), np.asarray(denoise(network(), *inputs()))


@pytest.mark.longer
def test_all_sites_are_offered():
    assert network().sites == (
        "time_embedding",
        "condition_embedding",
        "attention",
        "block",
        "h_space",
        "skip",
    )
    assert make(num_classes=0)[1].sites == tuple(
        site for site in network().sites if site != "condition_embedding"
    )


@pytest.mark.parametrize("layer", range(ATTENTIONS))
def test_attention_compares_queries_and_keys_of_magnitude_one(layer):
    *vectors, grid = shown()["attention", layer]
    assert grid.tolist() == [4, 4]
    for each in vectors:
        assert each.shape == (3, 16, 2, 8)
        np.testing.assert_allclose(jnp.mean(each**2, axis=-1), 1, rtol=2e-3)
    query, key, value = vectors
    assert np.abs(query - key).max() > 0.1 and np.abs(key - value).max() > 0.1


def test_the_table_of_conditions_has_the_embedding_of_each_class():
    embedding, table = shown()["condition_embedding", None]
    assert table.shape == (CLASSES, 16)
    np.testing.assert_allclose(table[inputs()[2]], embedding, rtol=1e-5)


def test_the_embedding_of_the_noise_level_does_not_know_the_class():
    """It is shown before the class is added, and at magnitude one."""
    x, time, label = inputs()
    other = recorded(network(), PLACES[-2:-1], x, time, (label + 1) % CLASSES)[0]
    np.testing.assert_allclose(shown()["time_embedding", None], other, rtol=1e-6)
    assert float(jnp.sqrt(jnp.mean(other**2))) == pytest.approx(1, abs=0.3)


@pytest.mark.longer
def test_layers_of_attention_are_numbered_in_the_order_in_which_they_run():
    """The first is the encoder's, which its skip connection shows; the second the bottleneck's."""
    places = (("skip", 2), ("skip", 3), ("h_space", None))

    @jax.jit
    def run(params, layer_modes):
        modes = [Recorded(*place) for place in places]
        active = tuple((mode, None) for mode in (*layer_modes, *modes))
        network().network(params, *inputs(), active)
        return [mode.seen for mode in modes]

    plain, first, second, third = (
        run(network().params, modes)
        for modes in ((), *((IdentityAttention((n,)),) for n in range(3)))
    )
    differs = [
        [bool(np.abs(a - b).max() > 1e-3) for a, b in zip(plain, other, strict=True)]
        for other in (first, second, third)
    ]
    assert differs == [[False, True, True], [False, False, True], [False, False, False]]


@pytest.mark.longer
@pytest.mark.parametrize("layer", few(1, range(CONNECTIONS)))
def test_skip_connections_can_be_changed_one_by_one(layer):
    changed, plain = outputs((Times("skip", layer, 0.0),), SOME)
    differences = np.abs(changed - plain).max(axis=(1, 2, 3))
    assert differences[SOME].min() > 1e-3
    np.testing.assert_allclose(changed[~SOME], plain[~SOME], atol=1e-6)


@pytest.mark.longer
def test_the_bottleneck_can_be_changed():
    changed, plain = outputs((Times("h_space", None, 0.0),))
    assert np.abs(changed - plain).max() > 1e-3


def test_blocks_that_keep_the_shape_can_be_left_out():
    changed, plain = outputs((SkippedBlocks((0, 3, 4)),), SOME)
    assert np.abs(changed - plain).max(axis=(1, 2, 3))[SOME].min() > 1e-3
    np.testing.assert_allclose(changed[~SOME], plain[~SOME], atol=1e-6)


@pytest.mark.parametrize(
    ("block", "name"), [(1, "4x4_down"), (2, "4x4_block0"), (5, "4x4_block0"), (7, "8x8_up")]
)
def test_blocks_that_change_the_shape_cannot_be_left_out(block, name):
    active = ((SkippedBlocks((block,)), None),)
    with pytest.raises(ValueError, match=rf"block {block} \({name}\), which turns"):
        jax.eval_shape(lambda *given: network()(*given, active), *inputs())


@pytest.mark.parametrize(
    ("mode", "depth"),
    [
        (IdentityAttention((ATTENTIONS,)), ATTENTIONS),
        (SkippedBlocks((BLOCKS,)), BLOCKS),
        (Times("skip", CONNECTIONS, 1.0), CONNECTIONS),
    ],
)
def test_layers_beyond_the_last_are_refused(mode, depth):
    with pytest.raises(ValueError, match=f"choose from 0 to {depth - 1}"):
        network()(*inputs(), ((mode, None),))


@pytest.mark.parametrize(
    "shape", [(8, 8, 3), (7, 8, 2), pytest.param((8, 8), marks=pytest.mark.untyped)]
)
def test_inputs_that_the_network_cannot_take_are_refused(shape):
    with pytest.raises(ValueError, match="this EDM2UNet takes 8x8x2 inputs"):
        network()(np.zeros((1, *shape), "f"), 1.0, np.zeros(1, int))


@pytest.mark.longer
def test_inputs_of_another_size_are_taken():
    x, sigma, label = inputs()
    wide = denoise(network(), np.concatenate([x, 0 * x], axis=2), sigma, label)
    assert wide.shape == (3, 8, 16, 2)
    assert np.isfinite(wide).all()
