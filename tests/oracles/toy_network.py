"""A denoiser that offers every site a mode can use, small enough to compile in no time."""

import jax
import jax.numpy as jnp
import numpy as np
from oracles.analytic import MEANS, SPREAD, Unchanging

from guidestar.core.sites import ATTENTION, BLOCK, CONDITION_EMBEDDING, TIME_EMBEDDING

WIDTH, HEADS, DEPTH = 4, 2, 2
_RANDOM = np.random.default_rng(0)
TABLE, FREQUENCIES = _RANDOM.normal(size=(3, WIDTH)), _RANDOM.normal(size=WIDTH)
READ_IN, READ_OUT = _RANDOM.normal(size=(2, WIDTH))
PROJECTIONS = _RANDOM.normal(size=(DEPTH, 4, WIDTH, WIDTH))
PROJECTIONS[:, :2] *= 2  # queries and keys: attention far from uniform


class Toy(Unchanging):
    """Gaussian data of two classes, and a transformer of two layers' opinion about it.

    Args:
        spread: standard deviation that the network believes each class to have.
        trust: weight of the transformer's opinion.
    """

    null_condition = num_classes = len(MEANS)
    sites = (TIME_EMBEDDING, CONDITION_EMBEDDING, ATTENTION, BLOCK)

    def __init__(self, spread=SPREAD, trust=0.3):
        self.spread, self.trust = spread, trust

    def __call__(self, x, sigma, condition, modes=(), to=None):
        dtype, column = x.dtype, (-1,) + (1,) * (x.ndim - 1)
        if condition is None:
            condition = jnp.full(x.shape[:1], self.null_condition)
        mean = jnp.asarray((*MEANS, 0.0), dtype)[condition].reshape(column)
        share = self.spread**2 / (self.spread**2 + sigma**2)
        time = jnp.sin(jnp.asarray(FREQUENCIES, dtype) * (1 + jnp.log1p(sigma)))
        time = jnp.broadcast_to(time, (x.shape[0], WIDTH)).astype(dtype)
        time = self._stepped(modes, TIME_EMBEDDING, time)
        table = jnp.asarray(TABLE, dtype)
        embedding = self._stepped(modes, CONDITION_EMBEDDING, table[condition], table)
        grid = x.shape[1:3] if x.ndim == 4 else (1, x.shape[1])
        pixels = x.reshape(x.shape[0], grid[0] * grid[1], -1).sum(-1, keepdims=True) / 2
        tokens = pixels / jnp.sqrt(1 + sigma**2) * jnp.asarray(READ_IN, dtype)
        tokens = tokens + (time + embedding)[:, None]
        for layer in range(DEPTH):
            tokens = self._layer(modes, layer, tokens, grid)
        opinion = jnp.tanh(tokens @ jnp.asarray(READ_OUT, dtype))
        opinion = opinion.reshape((*x.shape[:-1], 1) if x.ndim == 4 else x.shape)
        if to is not None:
            # A flow map's view of a shorter way.
            opinion = opinion * (sigma - to) / sigma
        return mean + (x - mean) * share + self.trust * (1 - share) * opinion

    def _layer(self, modes, layer, tokens, grid):
        q, k, v, o = jnp.asarray(PROJECTIONS[layer], tokens.dtype)
        chosen = [one for one in modes if one.mode.layers and layer in one.mode.layers]

        def attend(query, key, value):
            return jax.nn.dot_product_attention(query, key, value)

        def run(tokens):
            def split(weights):
                return (tokens @ weights).reshape(*tokens.shape[:2], HEADS, WIDTH // HEADS)

            heads = split(q), split(k), split(v)
            out = attend(*heads)
            for mode, where in chosen:
                if mode.site == ATTENTION:
                    out = self._where(where, mode.attention(attend, *heads, grid), out)
            return tokens + jnp.tanh(out.reshape(tokens.shape) @ o)

        out = run(tokens)
        for mode, where in chosen:
            if mode.site == BLOCK:
                out = self._where(where, mode.block(run, tokens), out)
        return out

    def _stepped(self, modes, site, embedding, *others):
        for mode, where in modes:
            if mode.site == site:
                changed = getattr(mode, site)(embedding, *others)
                embedding = self._where(where, changed, embedding)
        return embedding

    @staticmethod
    def _where(where, new, old):
        if where is None:
            return new
        return jnp.where(where.reshape((-1,) + (1,) * (old.ndim - 1)), new, old)


@jax.tree_util.Partial
def toy_classifier(x, sigma):
    """Return logits of the two classes, from a mean that counts later pixels more."""
    flat = x.reshape(x.shape[0], -1)
    mean = (flat * jnp.linspace(0.5, 1.5, flat.shape[1], dtype=x.dtype)).mean(axis=1)
    return jnp.stack([m * mean / (1 + sigma**2) for m in MEANS], axis=-1)


NETWORKS = {"main": Toy(), "guide": Toy(2 * SPREAD, 0.5), "classifier": toy_classifier}
