"""Tiny EDM2 networks of random weights."""

import dataclasses

import jax
import numpy as np
from flax import nnx
from jax.tree_util import keystr

from guidestar.models import builders
from guidestar.models.checkpoints.files import flatten
from guidestar.models.denoiser import Denoiser, split
from guidestar.models.layers.magnitude import is_constant

CLASSES = 3
TINY = dict(
    name="edm2_unet",
    image_size=8,
    channels=2,
    num_classes=CLASSES,
    model_channels=8,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(4,),
    channels_per_head=8,
)
# Its blocks: the encoder's 0 to 2 (1 goes down, 2 widens), the bottleneck's 3 and 4, the decoder's
# 5 to 9 (7 goes up, the others take a skip connection). 2, 3, 5 and 6 attend.
BLOCKS, ATTENTIONS, CONNECTIONS = 10, 4, 4
# One resolution alone: five blocks, all of which attend; the last two take a skip connection.
SMALL = TINY | dict(image_size=4, channel_mult=(1,))
denoise = jax.jit(Denoiser.__call__)


def make(model=TINY, gain=1.0, **changes):
    """Return spec and denoiser of a tiny network; gains are 0 at first, and ``gain`` here."""
    spec = builders.build(model | changes)
    module = spec.build(nnx.Rngs(0))
    network, params = split(module, num_classes=spec.num_classes, shape=spec.shape)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + gain if path[-1].key.endswith("gain") else leaf, params
    )
    return spec, Denoiser(params, network, spec.preconditioner)


def inputs(size=8, count=3):
    """Return images, noise levels and labels."""
    x = np.random.default_rng(5).normal(size=(count, size, size, 2)).astype("f")
    arrays = x, np.linspace(0.1, 2.0, count, dtype="f"), np.arange(count) % CLASSES
    return tuple(map(jax.numpy.asarray, arrays))


def with_params(denoiser, change):
    """Return a denoiser with other parameters, ``change(path, array)`` each."""
    params = jax.tree_util.tree_map_with_path(
        lambda keys, leaf: change(keystr(keys, simple=True, separator="/"), leaf), denoiser.params
    )
    return dataclasses.replace(denoiser, params=params)


def learned(params):
    """Return the parameters by path, without constants."""
    return {path: leaf for path, leaf in flatten(params).items() if not is_constant(path)}


class Recorded:
    """A mode that keeps what its site shows to it and changes nothing."""

    name = "recorded"

    def __init__(self, site, layer=None):
        self.site, self.layers = site, None if layer is None else (layer,)
        self.seen = None

    def keep(self, shown, *context):
        self.seen = (shown, *context) if context else shown
        return shown

    time_embedding = condition_embedding = h_space = skip = keep

    def attention(self, attend, query, key, value, grid):
        self.keep(query, key, value, jax.numpy.asarray(grid))
        return attend(query, key, value)


def recorded(denoiser, places, x, time, label):
    """Return what pairs (site, layer) show in one run of the network."""
    modes = [Recorded(site, layer) for site, layer in places]

    @jax.jit
    def run(params, x, time, label):
        denoiser.network(params, x, time, label, tuple((mode, None) for mode in modes))
        return [mode.seen for mode in modes]

    return run(denoiser.params, x, time, label)
