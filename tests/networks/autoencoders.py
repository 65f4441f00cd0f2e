"""A tiny LiteVAE with all of its parameters away from their first values, and its weights."""

import functools
import math

import jax
import numpy as np
from tiny_configs.configs import tiny

from guidestar.models import builders
from guidestar.models.autoencoders.discriminator import ROLE
from guidestar.models.autoencoders.scaling import LatentScaling
from guidestar.models.checkpoints import load, save
from guidestar.training.losses.loss import MAIN

TINY = dict(
    image_size=8,
    channels=2,
    latent_channels=3,
    levels=2,
    extractor=(4, (1,)),
    aggregator=(4, (2,)),
    decoder_widths=(4, 4, 8),
    decoder_depth=1,
)

# Of the digits, 8x8x1 to 4x4x3.
DIGITS = dict(channels=1, levels=1, decoder_widths=(4, 8))
UNSCALED = LatentScaling("symmetric", (0.0,) * 3, (1.0,) * 3)
# Building a network takes a second, and most tests of latents build the same ones.
loaded_once = functools.cache(load)


def section(**changes) -> dict:
    """Return the ``model`` section, with fields replaced."""
    return dict(name="lite_vae", **(TINY | changes))


@functools.cache
def make(**changes):
    """Return network and parameters; drawn by numpy, as a program that draws them compiles long."""
    spec = builders.build(section(**changes))
    return spec.network, drawn(spec.shapes)


@functools.cache
def make_judged(widths=(4,)):
    """Return networks and parameters of an autoencoder and its discriminator, by role."""
    built = {MAIN: section(), ROLE: judge(widths)}
    specs = {role: builders.build(model) for role, model in built.items()}
    # In the order in which they were drawn while one lay inside the other.
    params = drawn({**specs[MAIN].shapes, ROLE: specs[ROLE].shapes})
    inside = params.pop(ROLE)
    return {role: spec.network for role, spec in specs.items()}, {MAIN: params, ROLE: inside}


def judge(widths=(4,)):
    """Return the ``model`` section of a discriminator of the same images."""
    return dict(name="unet_discriminator", image_size=8, channels=2, widths=widths)


def drawn(shapes):
    """Return parameters of these shapes."""
    random = np.random.RandomState(0)

    def draw(path, leaf):
        near = 1 if path[-1].key in ("scale", "scales", "gain") else 0
        spread = 1 / math.sqrt(max(1, math.prod(leaf.shape[:-1])))
        return np.float32(near + spread * random.standard_normal(leaf.shape))

    return jax.tree_util.tree_map_with_path(draw, shapes)


def images(count=3, size=8, channels=2):
    """Return images in [-1, 1]."""
    shape = (count, size, size, channels)
    return np.float32(np.random.RandomState(1).uniform(-1, 1, shape))


def write_digits(folder):
    """Write the weights of an autoencoder of the digits and return their path."""
    path = folder / "digits_vae.safetensors"
    save(path, make(**DIGITS)[1], section(**DIGITS), {})
    return path


def configured(weights, **encoding):
    """Return a config that encodes the test digits, into three shards."""
    config = tiny()
    config.data.split = "test"
    config.encoding.update(autoencoder=str(weights), records_per_shard=150, batch_size=64)
    config.encoding.update(**encoding)
    return config
