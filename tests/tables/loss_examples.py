"""Networks and batches to try losses on, small enough to work out by hand."""

import jax
import jax.numpy as jnp

from guidestar.models.conditions import described, like, null_of
from guidestar.training.losses.loss import MAIN, Role
from guidestar.training.noise.corruption import Corruption
from guidestar.training.noise.levels import log_normal
from guidestar.training.objectives.objective import Mean


class Stub:
    """A network given as ``function(params, x, time, condition, **inputs)``.

    Args:
        function: its output.
        num_classes: 0 for an unconditional one.
        log_variance: what its module learns beside.
    """

    name = "Stub"

    def __init__(self, function, num_classes=0, log_variance=None):
        self.function, self.num_classes, self.log_variance = function, num_classes, log_variance
        self.condition = described(num_classes)
        self.seen = []

    def null_condition(self, params):
        return null_of(self.condition, {})

    def condition_like(self, batch):
        return like(self.condition, batch)

    def __call__(self, params, x, time, condition, modes=(), **inputs):
        self.seen.append(dict(x=x, time=time, condition=condition, modes=modes, **inputs))
        return self.function(params, x, time)

    def module(self, params):
        return self


def fixed(sigma, **parts):
    """Corrupt at one noise level."""
    return Corruption(log_normal(float(jnp.log(sigma)), 0.0), **parts)


def images(count, shape=(4, 4, 2), std=0.5, seed=0):
    """Return a batch of Gaussian images, all of one class."""
    image = std * jax.random.normal(jax.random.key(seed), (count, *shape))
    return {"x": image, "condition": jnp.zeros(count, jnp.int32)}


def keys(count, seed=1):
    """Return one key a sample."""
    return jax.random.split(jax.random.key(seed), count)


def only(network, params):
    """Return the networks of a loss that sees one."""
    return {MAIN: Role(network, params)}


def mean_of(loss):
    """Return ``(network, params, batch, keys) -> (mean loss, mean metrics)``."""

    def call(network, params, batch, keys):
        values, metrics = loss(only(network, params), batch, keys)
        assert values.shape == batch["condition"].shape
        return jnp.mean(values), jax.tree.map(jnp.mean, metrics)

    return call


def gradient_of(loss, network, params, batch, keys):
    """Return the gradient and the metrics of the mean loss."""
    roles = only(network, params)
    gradient, metrics = Mean(loss).gradient(roles, (), {MAIN: params}, batch, keys)
    return gradient[MAIN], metrics
