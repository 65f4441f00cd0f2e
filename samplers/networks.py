"""What a run asks of its networks, refused before anything runs where they cannot answer."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..core.registry import name_of
from ..guidance.evaluations import evaluations
from ..guidance.protocol import Rule
from ..guidance.wrappers.thresholding import pixels_alone

Networks = Mapping[str, Callable]


class Part(Protocol):
    """Consecutive steps of a schedule with one rule."""

    rule: Rule
    steps: int


def check_networks(
    owner: str,
    rule: Rule,
    parts: Sequence[Part],
    sigmas: np.ndarray,
    networks: Networks,
    x: Float[Array, " batch *shape"],
) -> None:
    """Refuse networks that a run cannot use.

    Args:
        owner: in whose name, a function of `samplers`.
        rule: of the whole run.
        parts: how its steps group.
        sigmas: the schedule.
        networks: by name; their ``sigma_range`` (lowest, highest) and ``latent`` are looked at.
        x: samples, or their shape and type.

    Raises:
        ValueError: one is missing; noise levels above those that one knows, where it is asked; or
            thresholding of latents.
    """
    begin = 0
    for part in parts:
        asked = sorted(_asked(part.rule, x))
        if missing := [name for name in asked if name not in networks]:
            raise ValueError(
                f"samplers.{owner}: the rule {name_of(rule)} needs a network named "
                f"{missing[0]!r}: pass denoise={{'main': ..., {missing[0]!r}: ...}}"
            )
        _require_range(owner, float(sigmas[begin]), {name: networks[name] for name in asked})
        begin += part.steps
    if pixels_alone(rule):
        _require_pixels(owner, networks)


def _asked(rule: Rule, x: Array) -> frozenset[str]:
    leaves, structure = jax.tree.flatten(rule)
    kinds = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    return _networks_of(structure, kinds, x.shape, x.dtype)


@lru_cache(maxsize=1024)
def _networks_of(structure, kinds, shape, dtype) -> frozenset[str]:
    """Return the networks that a kind of rule evaluates; found by tracing, which takes a while."""
    rule = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*kind) for kind in kinds])
    return frozenset(evaluations(rule, jax.ShapeDtypeStruct(shape, dtype)))


def _require_range(owner: str, sigma: float, networks: Networks) -> None:
    for name, network in networks.items():
        _, highest = getattr(network, "sigma_range", (0.0, math.inf))
        # Schedules are computed in float64 and meet their own ends up to rounding.
        if sigma > highest * (1 + 1e-6):
            raise ValueError(
                f"samplers.{owner}: the schedule asks the network {name!r} at sigma {sigma:g}, "
                f"above the highest noise level {highest:g} that it knows: lower the schedule's "
                f"sigma_max to {highest:g}, or have another network answer there "
                f"(guidance.stitched)"
            )


def _require_pixels(owner: str, networks: Networks) -> None:
    for name, network in networks.items():
        if getattr(network, "latent", False):
            raise ValueError(
                f"samplers.{owner}: the rule thresholds predictions to a range of pixels, and the "
                f"network {name!r} denoises latents, which keep to none: leave the threshold out, "
                f"or pass latents=True with a bound that you know"
            )
