"""The transformers in miniature, what they are conditioned on, and golden arrays of them."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
from places import GOLDEN
from safetensors.numpy import save_file

from guidestar.models import builders

CLASSES = 3
TINY = dict(image_size=8, channels=2, patch_size=2, width=24, heads=2, depth=2)
MODELS = {
    "sit": dict(name="sit", num_classes=CLASSES, learn_variance=True, **TINY),
    "lightning_dit": dict(name="lightning_dit", num_classes=CLASSES, qk_norm=True, **TINY),
    "pixart": dict(name="pixart", tokens=5, text_width=6, micro_conditions=True, **TINY),
}


@functools.cache
def make(name, scale=0.3, **changes):
    """Return a denoiser in which no layer is zero: ``N(0, scale^2)``, around 1 in norms."""
    spec = builders.build(MODELS[name] | changes)
    random = np.random.default_rng(0)

    def fill(path, leaf):
        noise = scale * random.normal(size=leaf.shape).astype("f")
        return noise + (path[-1].key == "scale")

    params = jax.tree_util.tree_map_with_path(fill, spec.shapes)
    return spec.denoiser(params)


def fresh(name, **changes):
    """Return a denoiser as it is initialised."""
    spec = builders.build(MODELS[name] | changes)
    return spec.denoiser(spec.initialise(jax.random.key(0)))


def stacked(params, depth=TINY["depth"]):
    """Return the parameters of a network whose layers are scanned."""
    layers = [params["blocks"][layer] for layer in range(depth)]
    return params | {"blocks": jax.tree.map(lambda *each: np.stack(each), *layers)}


def condition_of(name, batch):
    """Return a batch of conditions, no two alike."""
    if name != "pixart":
        return jnp.arange(batch) % CLASSES
    words = jnp.arange(5)
    return {
        "tokens": jax.random.normal(jax.random.key(1), (batch, 5, 6)),
        "mask": (words[None] <= jnp.arange(batch)[:, None] % 5).astype(jnp.float32),
        "size": 64.0 + 8 * jnp.arange(2 * batch).reshape(batch, 2),
        "aspect_ratio": 0.5 + jnp.arange(batch, dtype=jnp.float32)[:, None],
    }


def golden(file):
    """Return a golden file's inputs and outputs, its weights by published name, its fields."""
    arrays = np.load(GOLDEN / file)
    state = {
        name.removeprefix("state/"): arrays[name] for name in arrays if name.startswith("state/")
    }
    rest = {name: arrays[name] for name in arrays if name not in ("config", *state)}
    return rest, state, json.loads(str(arrays["config"])) if "config" in arrays else {}


def published(state, path):
    """Write weights as their authors name them, and return the path."""
    save_file({name: np.ascontiguousarray(array) for name, array in state.items()}, path)
    return path


def last(x):
    """Return an array ``[batch, channel, height, width]`` with its channels last."""
    return jnp.asarray(x).transpose(0, 2, 3, 1)


def require_parity(found, expected):
    """Require agreement to 2e-5 of the output's largest value."""
    expected = np.asarray(last(expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
