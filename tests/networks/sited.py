"""A small denoiser that offers the sites of its embeddings, and every answer to check by hand."""

import jax.numpy as jnp
import numpy as np

from guidestar.core.sites import CONDITION_EMBEDDING, TIME_EMBEDDING
from guidestar.samplers.evaluator import Evaluator

WIDTH = 8
_RANDOM = np.random.default_rng(0)
TABLE = (0.3 + _RANDOM.normal(size=(3, WIDTH))).astype(np.float32)
FREQUENCIES = _RANDOM.normal(size=WIDTH).astype(np.float32)
READ_TIME, READ_CONDITION = _RANDOM.normal(size=(2, WIDTH)).astype(np.float32)


class Sited:
    """``D = (x + sigma^2 (a . time + b . condition)) / (1 + sigma^2)``, linear in both embeddings.

    The condition is a label of `TABLE`, 2 being the null one, or the embedding itself.
    """

    null_condition = 2
    sites = (TIME_EMBEDDING, CONDITION_EMBEDDING)

    def __call__(self, x, sigma, condition, modes=()):
        time = jnp.sin(FREQUENCIES * (1 + jnp.log1p(sigma)))
        time = stepped(modes, TIME_EMBEDDING, jnp.broadcast_to(time, (x.shape[0], WIDTH)))
        if jnp.issubdtype(condition.dtype, jnp.floating):
            embedding = condition
        else:
            table = jnp.asarray(TABLE)
            embedding = stepped(modes, CONDITION_EMBEDDING, table[condition], table)
        mean = time @ READ_TIME + embedding @ READ_CONDITION
        mean = mean.reshape((-1,) + (1,) * (x.ndim - 1))
        return (x + sigma**2 * mean) / (1 + sigma**2)


def stepped(modes, site, embedding, *others):
    """Return an embedding after the modes of its site, each in the samples it holds for."""
    for mode, where in modes:
        if mode.site == site:
            changed = getattr(mode, site)(embedding, *others)
            where = True if where is None else where[:, None]
            embedding = jnp.where(where, changed, embedding)
    return embedding


def applied(rule, x, sigma, condition, key, network=None, branches="fused"):
    """Return a rule's prediction at one noise level, made by a network."""
    level = jnp.asarray(sigma, x.dtype)
    networks = {"main": Sited() if network is None else network}
    evaluate = Evaluator(networks, x, level, condition, branches)
    return rule.at(float(sigma)).apply(evaluate, x, level, rule.init(x), key)[0].denoised
