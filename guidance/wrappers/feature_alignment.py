"""Guidance by a network's own features, drawn towards a target (REPA-G, 2602.03753)."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.pytrees import ByContent, pytree, static
from ...core.registry import register
from ...core.sites import BLOCK
from ..gradients import note_gradient
from ..measurements import finite_array
from ..modes import checked_layers
from ..protocol import GIVEN, PLAIN, Branch, Guided, Rule, per_sample, require_finite
from ..pushes import ratio
from .known import Known
from .wrapper import Wrapper


class Seen:
    """What a `Reader` has seen, within one trace."""

    def __init__(self):
        self.tokens: Array | None = None


@pytree
class Reader:
    """Keeps the tokens that leave a block, which stay as they are."""

    name: ClassVar[str] = "features"
    site: ClassVar[str] = BLOCK
    seen: Seen = static()
    layers: tuple[int, ...] = static()

    def block(self, run, tokens):
        self.seen.tokens = run(tokens)
        return self.seen.tokens


@pytree
class Features(ByContent, Wrapper):
    """A rule's prediction moved to where a block's tokens are more like a target.

    Attributes:
        rule: whose prediction is moved.
        target: ``[token, feature]``, or one a sample; axes of 1 are the same along them.
        scale: of the mean cosine, lambda.
        head: from the block's tokens to what is compared, a pytree callable; None for themselves.
        layers: the block, alone.
    """

    rule: Rule
    target: Float[Array | np.ndarray, "..."]
    scale: float | Array
    head: Callable | None = None
    layers: tuple[int, ...] = static(default=(0,))

    def init(self, x):
        return self.rule.init(x)

    def apply(self, evaluate, x, sigma, state, key):
        def likeness(at):
            seen = Seen()
            # Looks, and changes nothing: the prediction is the plain one, by the same name.
            branch = Branch(modes=(Reader(seen, self.layers),), name=GIVEN)
            note_gradient(evaluate, branch)
            (plain,) = evaluate((branch,), x=at)
            cosine = self._cosine(seen.tokens, at)
            return jnp.sum(cosine), (plain, cosine)

        gradient, (plain, cosine) = jax.grad(likeness, has_aux=True)(x)
        known = Known(evaluate, plain)
        guided, state = self.rule.apply(known, x, sigma, state, key)
        shift = per_sample("scale", self.scale, x) * sigma**2 * gradient
        info = guided.info | {"likeness": cosine}
        return Guided(guided.denoised + shift, None, info), state

    def _cosine(self, shown: Array | None, x: Array) -> Float[Array, " batch"]:
        """Return the mean over tokens of the cosine between features and target."""
        if shown is None:  # who counts evaluations runs no network
            return jnp.zeros(x.shape[0], x.dtype)
        try:
            # Of a UNet they are a grid, of an MLP one token.
            tokens = shown.reshape(len(shown), -1, shown.shape[-1])
        except jax.errors.UnexpectedTracerError as error:
            raise ValueError(
                "guidance.feature: this network predicts by a gradient of its own (as score_mlp "
                "does), inside which its features cannot be read: choose another network"
            ) from error
        features = (tokens if self.head is None else self.head(tokens)).astype(x.dtype)
        target = jnp.asarray(self.target, x.dtype)
        target = target if target.ndim == features.ndim else target[None]
        fits = target.ndim == features.ndim and all(
            a in (1, b) for a, b in zip(target.shape, features.shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"guidance.feature: target has shape {jnp.shape(self.target)}, and block "
                f"{self.layers[0]} gives features of shape {features.shape}: give [token, feature]"
            )
        target = jnp.broadcast_to(target, features.shape)

        def length(a):
            square = jnp.sum(a**2, axis=-1)
            return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)

        cosine = ratio(jnp.sum(features * target, axis=-1), length(features) * length(target))
        return jnp.mean(cosine, axis=tuple(range(1, cosine.ndim)))


@register("rule")
def feature(
    target: Any,
    layer: int,
    scale: float | Array = 1.0,
    *,
    head: Callable | None = None,
    rule: Rule = PLAIN,
) -> Features:
    r"""Return guidance by features: ``D + lambda sigma^2 grad_x mean_k cos(h(f_k(x)), target_k)``.

    ``f_k(x)`` are the tokens that leave one block of the network while it denoises x (of a UNet the
    places of its grid, row by row), so that only the blocks before it are differentiated. The
    samples are those of the data's density times ``e^(lambda cos)`` where features of noisy samples
    say what those of clean ones do. (The published code's push is ``1/(1 + sigma)`` times this, and
    moves the unconditional half of its batch as well.)

    Equation:
        D = G + \lambda \sigma^2 \nabla_x \frac1K \sum_k \cos\left(h(f_k(x)), t_k\right)

    When to use: To ask for what another image shows, by its features: with a network trained to
    align its blocks with an encoder's (REPA) and the head of that training.

    Args:
        target: ``[token, feature]``, or one a sample; axes of 1 are the same along them.
        layer: the block whose output is compared.
        scale: lambda, 0 is off.
        head: from tokens to the target's features, a pytree callable; None to compare as they are.
        rule: the guidance inside; it shares the plain prediction, and is not differentiated.

    Raises:
        ValueError: numbers that are not finite, a layer that is no block number; when sampling, a
            network without blocks, one that predicts by a gradient of its own, or features of
            another shape.

    Source: arXiv 2602.03753, with the weight that makes the tilt exact.
    """
    require_finite("feature", scale=scale)
    if isinstance(layer, (list, tuple)):
        raise ValueError(f"guidance.feature: layer is one block number, got {layer!r}")
    if head is not None and not callable(head):
        raise ValueError(f"guidance.feature: head must be callable or None, got {head!r}")
    layers = checked_layers("feature", (layer,))
    return Features(rule, finite_array("feature", "target", target), scale, head, layers)
