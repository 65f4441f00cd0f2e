"""Thresholding of the guided prediction (Saharia et al., arXiv 2205.11487): pixels in a range."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from ...core.pytrees import pytree, static
from ...core.registry import register
from ..protocol import Rule, per_sample, require_finite, single
from ..structure import parts_of
from .wrapper import Wrapper


@pytree
class StaticThreshold(Wrapper):
    """Clip the guided prediction."""

    rule: Rule
    bound: float | Array
    latents: bool = static(default=False)

    def init(self, x):
        return self.rule.init(x)

    def apply(self, evaluate, x, sigma, state, key):
        guided, state = self.rule.apply(evaluate, x, sigma, state, key)
        bound = per_sample("bound", self.bound, guided.denoised)
        return guided._replace(denoised=jnp.clip(guided.denoised, -bound, bound)), state


@register("rule", "2205.11487")
def static_threshold(
    rule: Rule, bound: float | Array = 1.0, *, latents: bool = False
) -> StaticThreshold:
    r"""Return ``clip(D, -bound, bound)`` of what a rule predicts; for pixel models.

    Equation:
        D = \mathrm{clip}(G, -b, b)

    When to use: For networks of pixels at any scale above 1: predictions outside the data's
    range drive the next step astray. Not for latents.

    Args:
        rule: any rule; its ``renoise_from`` stays as it is.
        bound: end of the data's range ``[-bound, bound]``.
        latents: allow a network of latents, whose values keep to no range of their own; the
            bound is then yours to know.

    Raises:
        ValueError: bound not positive and finite; when sampling, a network of latents.

    Source: Saharia et al., arXiv 2205.11487, section 2.3.
    """
    _require_bound("static_threshold", bound)
    return StaticThreshold(rule, bound, bool(latents))


@pytree
class DynamicThreshold(Wrapper):
    """Clip the guided prediction at a percentile of its own, and scale it back into range."""

    rule: Rule
    percentile: float | Array
    bound: float | Array
    latents: bool = static(default=False)

    def init(self, x):
        return self.rule.init(x)

    def apply(self, evaluate, x, sigma, state, key):
        guided, state = self.rule.apply(evaluate, x, sigma, state, key)
        denoised = guided.denoised
        bound = per_sample("bound", self.bound, denoised)
        percentile = single("percentile", self.percentile, denoised.dtype)
        axes = tuple(range(1, denoised.ndim))
        end = jnp.quantile(jnp.abs(denoised), percentile, axis=axes, keepdims=True)
        end = jnp.maximum(end, bound)
        return guided._replace(denoised=jnp.clip(denoised, -end, end) * (bound / end)), state


@register("rule", "2205.11487")
def dynamic_threshold(
    rule: Rule,
    percentile: float | Array = 0.995,
    bound: float | Array = 1.0,
    *,
    latents: bool = False,
) -> DynamicThreshold:
    r"""Return ``clip(D, -q, q) * bound / q`` with ``q = max(quantile(|D|), bound)``.

    The quantile is each sample's own, over everything in it, interpolated linearly. A prediction
    within the range stays as it is, and no result leaves it; for pixel models.

    Equation:
        D = \mathrm{clip}(G, -q, q) \frac{b}{q}, \quad q = \max(\mathrm{quantile}_p |G|, b)

    When to use: For networks of pixels at high scales, where plain clipping saturates. Where
    most pixels of the data are at the ends of the range, lower the percentile.

    Args:
        rule: any rule; its ``renoise_from`` stays as it is.
        percentile: which quantile, in (0, 1].
        bound: end of the data's range ``[-bound, bound]``, 1 in the paper. It is both the least
            ``q`` and what ``q`` is scaled to, so that the range is kept whatever it is.
        latents: allow a network of latents, whose values keep to no range of their own; the
            bound is then yours to know.

    Raises:
        ValueError: percentile outside (0, 1], bound not positive and finite; when sampling, a
            network of latents.

    Source: Saharia et al., arXiv 2205.11487, section 2.3.
    """
    if isinstance(percentile, (int, float)) and not 0 < percentile <= 1:
        raise ValueError(
            f"guidance.dynamic_threshold: percentile must be in (0, 1], such as 0.995, got "
            f"{percentile}"
        )
    _require_bound("dynamic_threshold", bound)
    return DynamicThreshold(rule, percentile, bound, bool(latents))


def _require_bound(owner: str, bound) -> None:
    require_finite(owner, bound=bound)
    if isinstance(bound, (int, float)) and not bound > 0:
        raise ValueError(
            f"guidance.{owner}: bound must be positive, the end of the data's range, got {bound}"
        )


def pixels_alone(rule: Any) -> bool:
    """Return whether a rule, or a part of it, thresholds and was not allowed to on latents."""
    kinds = (StaticThreshold, DynamicThreshold)
    return any(isinstance(part, kinds) and not part.latents for part in parts_of(rule))
