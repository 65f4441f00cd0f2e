"""Independent condition guidance: the reference is given a condition that says nothing of x.

Sadat et al., arXiv 2407.02687. For networks that were never trained on a null condition.
"""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from ...core.pytrees import pytree, static
from ...core.random import normal_like, require_keys
from ...core.registry import register
from ...core.sites import CONDITION_EMBEDDING
from ..protocol import Branch, require_finite
from ..pushes import Perturbed, Push, Scale

NAME = "independent"


@pytree
class IndependentClass(Perturbed):
    """A class drawn for every sample and evaluation: uniform, or from ``prior`` when not None."""

    prior: Array | None
    classes: int = static()

    def predictions(self, evaluate, x, sigma, key):
        given = evaluate.condition
        if given is not None and not _are_labels(given):
            raise ValueError(
                "guidance.independent draws class labels, and the condition given is not one "
                "array of labels: use independent(embedding=True) with a network that offers its "
                "condition's embedding"
            )
        return super().predictions(evaluate, x, sigma, key)

    def branch(self, x, sigma, key):
        del x, sigma
        keys = require_keys(NAME, key)
        return Branch(condition=jax.vmap(self._draw)(keys).astype(jnp.int32), name=NAME)

    def _draw(self, key):
        if self.prior is None:
            return jax.random.randint(key, (), 0, self.classes)
        return jax.random.categorical(key, jnp.log(jnp.asarray(self.prior)))


@pytree
class IndependentEmbedding:
    """A Gaussian in place of the condition's embedding, with the table's mean and deviation."""

    keys: Key[Array, " batch"]
    per_feature: bool = static()

    name: ClassVar[str] = "independent_embedding"
    site: ClassVar[str] = CONDITION_EMBEDDING
    layers: ClassVar[None] = None

    def condition_embedding(self, embedding, table):
        wide = jnp.promote_types(embedding.dtype, jnp.float32)
        if table is None and self.per_feature:
            raise ValueError(
                "guidance.independent: per_feature needs a table of embeddings, which this "
                "network has not: leave it False"
            )
        source = embedding if table is None else table
        first = 1 if table is None else 0
        axes = 0 if self.per_feature else tuple(range(first, source.ndim))
        source = source.astype(wide)
        mean, spread = source.mean(axis=axes, keepdims=True), source.std(axis=axes, keepdims=True)
        drawn = mean + spread * normal_like(self.keys, embedding.astype(wide))
        return drawn.astype(embedding.dtype)


@pytree
class GaussianCondition(Perturbed):
    """The network's prediction with a Gaussian in place of its condition's embedding."""

    per_feature: bool = static()

    def branch(self, x, sigma, key):
        del x, sigma
        mode = IndependentEmbedding(require_keys(NAME, key), self.per_feature)
        return Branch(modes=(mode,), name=NAME)


@register("reference", "2407.02687")
def independent(
    classes: int | None = None,
    prior: Sequence[float] | Array | None = None,
    embedding: bool = False,
    *,
    per_feature: bool = False,
) -> IndependentClass | GaussianCondition:
    """Return the reference of ICG: a condition drawn anew for every sample and evaluation.

    Exactly one of the first three arguments says from what. The draw may be the class given. In
    `combine` its prediction goes by the name ``independent``.

    Args:
        classes: number of classes, to draw one of labels 0 to ``classes - 1`` uniformly.
        prior: each class's probability, to draw from the data's own where classes are not
            equally frequent.
        embedding: draw no class but a Gaussian vector at the network's ``condition_embedding``,
            with the mean and the standard deviation of the table of embeddings (all its rows; of
            the sample's own embedding where the network has no table).
        per_feature: with ``embedding``, statistics of each feature instead of all together. The
            paper does not say which.

    Raises:
        ValueError: none or several of the three; fewer than one class; a prior that is empty,
            negative or does not sum to 1.

    Source: Sadat et al., arXiv 2407.02687.
    """
    return _independent("independent", classes, prior, embedding, per_feature)


@register("rule", "2407.02687")
def icg(
    scale: float | Array,
    classes: int | None = None,
    prior: Sequence[float] | Array | None = None,
    embedding: bool = False,
    *,
    per_feature: bool = False,
) -> Push:
    r"""Return independent condition guidance, ``D_ind + scale * (D_given - D_ind)``.

    ``D_ind`` is the prediction for a condition independent of x and of the one given, drawn
    anew at every evaluation; `independent` explains the other arguments.

    Equation:
        D = D_{\tilde y} + w (D_y - D_{\tilde y}), \quad \tilde y \sim p(y)

    When to use: For conditional networks that never saw a null condition. Expect what CFG gives
    at the same scale, a little weaker: now and then the class drawn is the one given.

    Args:
        scale: 1 is off.

    Raises:
        ValueError: scale not finite, and as `independent`.

    Source: Sadat et al., arXiv 2407.02687.
    """
    require_finite("icg", scale=scale)
    return Push(Scale(scale), _independent("icg", classes, prior, embedding, per_feature))


def _independent(owner, classes, prior, embedding, per_feature):
    ways = (classes is not None) + (prior is not None) + bool(embedding)
    if ways != 1:
        raise ValueError(
            f"guidance.{owner}: give exactly one of classes=number, prior=probabilities and "
            f"embedding=True, got {ways} of them"
        )
    if per_feature and not embedding:
        raise ValueError(f"guidance.{owner}: per_feature is for embedding=True alone")
    if embedding:
        return GaussianCondition(bool(per_feature))
    if prior is not None:
        prior = _checked_prior(owner, prior)
        return IndependentClass(prior, prior.shape[0])
    if isinstance(classes, bool) or classes != int(classes) or classes < 1:
        raise ValueError(f"guidance.{owner}: classes must be a number of classes, got {classes!r}")
    return IndependentClass(None, int(classes))


def _checked_prior(owner, prior):
    if not isinstance(prior, jax.Array):
        prior = np.asarray(prior, np.float32)
    if prior.ndim != 1 or not prior.size:
        raise ValueError(
            f"guidance.{owner}: prior must be one probability a class, got shape {prior.shape}"
        )
    if isinstance(prior, jax.core.Tracer):
        return prior
    if not np.all(prior >= 0) or not abs(float(prior.sum()) - 1) <= 1e-3:
        raise ValueError(
            f"guidance.{owner}: prior must not be negative and must sum to 1, got the sum "
            f"{float(prior.sum()):.4g} and the least {float(prior.min()):.4g}: divide frequencies "
            f"by their sum"
        )
    return prior


def _are_labels(condition) -> bool:
    return hasattr(condition, "dtype") and jnp.issubdtype(condition.dtype, jnp.integer)
