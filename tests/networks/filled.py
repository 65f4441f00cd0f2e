"""Networks with every parameter filled, none zero as it starts, without compiling their start."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from guidestar.models.denoiser import split
from guidestar.models.spec import Spec


def filled(build, *, num_classes, shape, seed=0):
    """Return a network and parameters: kernels that keep variances, and other arrays around 0.

    Args:
        build: from `nnx.Rngs` to the module.
        num_classes, shape: as in `split`.
        seed: of the numbers.
    """
    module = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    network, abstract = split(module, num_classes=num_classes, shape=shape)
    return network, fill(abstract, seed)


def fill(shapes, seed=0):
    """Return parameters of these shapes; see `filled`."""
    draw = np.random.default_rng(seed)

    def one(path, array):
        fan_in = math.prod(array.shape[:-1]) if path[-1].key == "kernel" else 4
        return jnp.asarray(draw.normal(size=array.shape) / math.sqrt(fan_in), array.dtype)

    return jax.tree_util.tree_map_with_path(one, shapes)


def initialise(build, key, *, num_classes, shape):
    """Return a network and fresh parameters; arguments as of `filled`, and a key."""
    spec = Spec(build, num_classes, shape, None)
    return spec.network, spec.initialise(key)


def parameters(build):
    """Return how many parameters a network has, without making them."""
    module = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    return sum(math.prod(one.shape) for one in jax.tree.leaves(nnx.state(module, nnx.Param)))


@functools.partial(jax.jit, static_argnums=0)
def _plain(network, *given, **inputs):
    return network(*given, **inputs)


def run(network, params, x, time, label, modes=(), **inputs):
    """Call a network as one program, which is kept from test to test where no mode steps in.

    Operation by operation, or as a program of its own at each call, most of a test's time is
    compilation.
    """
    if modes:
        return jax.jit(lambda *given: network(*given, modes, **inputs))(params, x, time, label)
    return _plain(network, params, x, time, label, **inputs)


class Doubled:
    """A mode that doubles what it finds at its site, and keeps it."""

    name = "doubled"

    def __init__(self, site, layers=None):
        self.site, self.layers, self.seen = site, layers, []

    def _kept(self, value, *context):
        self.seen.append((value, *context))
        return 2 * value

    time_embedding = condition_embedding = h_space = skip = _kept

    def attention(self, attend, query, key, value, grid):
        self.seen.append((query, grid))
        return 2 * attend(query, key, value)

    def block(self, run, features):
        self.seen.append((features,))
        return run(2 * features)


def one_mode_a_sample(modes):
    """Return modes as a network takes them: the n-th holds for the n-th sample alone."""
    where = np.eye(len(modes), dtype=bool)
    return tuple((mode, jnp.asarray(row)) for mode, row in zip(modes, where, strict=True))
