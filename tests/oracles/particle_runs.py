"""Particles on the exact line mixture, whose tilts have closed forms, and an exact kernel."""

import jax
import jax.numpy as jnp
import numpy as np
from oracles.analytic import keys
from oracles.solver_runs import line_mixture

from guidestar import guidance, samplers
from guidestar.core.pytrees import pytree
from guidestar.core.random import fold_each, unit_noise
from guidestar.models.exact import GaussianMixture, soft_value
from guidestar.samplers.solvers.solver import Kernel

# The levels on which the tables of figures were made: 12 steps, the last to 0.
LEVELS = np.append(np.geomspace(10.0, 0.05, 12), 0.0)
# Mean, variance, log-normaliser of the line mixture tilted by exp(scale x), by scale.
TILTED = {
    0.0: (0.260000, 0.811150, 0.0),
    0.5: (0.608502, 0.573902, 0.222151),
    1.0: (0.840065, 0.367030, 0.588618),
    2.0: (1.100961, 0.196691, 1.572914),
    4.0: (1.439679, 0.160689, 4.123472),
}
LINE = line_mixture()


@pytree
class Exact(Kernel):
    """The exact reverse kernel of a mixture: x0 from its posterior, then the bridge to it."""

    mixture: GaussianMixture
    order = 1
    random = True

    def move(self, x, guided, interval, key):
        mixture, sigma, end = self.mixture, interval.start, interval.end
        values = mixture.eigenvalues[:, 0]
        shrink = values / (values + sigma**2)
        offset = x - mixture.means[:, 0]
        joint = (
            mixture.log_weights - (offset**2 / (values + sigma**2) + jnp.log(values + sigma**2)) / 2
        )
        choice = jax.vmap(jax.random.categorical)(fold_each(key, 10), joint)
        drawn, bridge = (unit_noise(fold_each(key, n), (1,), x.dtype) for n in (11, 12))
        near = mixture.means[choice] + (shrink * offset)[jnp.arange(len(x)), choice][:, None]
        clean = near + jnp.sqrt(sigma**2 * shrink[choice])[:, None] * drawn
        ratio = (end / sigma) ** 2
        return clean + ratio * (x - clean) + end * jnp.sqrt(1 - ratio) * bridge


@pytree
class Linear:
    """The reward ``sum x0``."""

    differentiable = True

    def __call__(self, x0, condition, key):
        return jnp.sum(x0, axis=tuple(range(1, x0.ndim)))


@jax.tree_util.Partial
def on_the_line(x, sigma, condition):
    """Denoise the line mixture."""
    return LINE.denoise(x, sigma)


def exact_value(scale):
    """Return the soft value of `Linear` on the line mixture."""
    return jax.tree_util.Partial(_value, LINE, jnp.float32(scale))


def _value(mixture, scale, x, sigma, condition):
    return soft_value(mixture, x, sigma, jnp.ones(1), scale)


def start(count, sigma=LEVELS[0], seed=0):
    """Return noise from which the sampler's first state has the law of data plus noise."""
    x = LINE.sample(jax.random.key(seed), count, sigma)
    return x / jnp.float32(sigma)


PLAIN = guidance.unguided()


def run(solver, count, *, rule=PLAIN, sigmas=LEVELS, seed=0, noise=None, **options):
    noise = start(count, sigmas[0], seed) if noise is None else noise
    every = keys(count, seed + 1000)
    return samplers.sample(on_the_line, rule, solver, sigmas, noise, None, every, **options)
