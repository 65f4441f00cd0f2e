"""What a run asks of its networks, refused before anything runs where they cannot answer.

Networks are callables, and say what they know by attributes, all of them optional:

* ``sigma_range``: the lowest and the highest noise level; above it none is asked;
* ``num_classes``, ``null_condition``, ``condition_like(batch)``: see `conditions`;
* ``shape``: one sample's; ``latent``: whether that is an autoencoder's;
* ``sites``: where `guidance.modes` may step in;
* ``estimate``: what a call returns, ``x0`` or that which another kind of solver asks for;
* ``inputs``: numbers that it takes by name, each with ``require(name, value, owner)``.
"""

import difflib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..core.constructors import name_of
from ..core.random import GENERATOR
from ..guidance.evaluations import Counting
from ..guidance.needs import idle_parts
from ..guidance.protocol import CLASSIFIER, MAIN, Branch, Rule
from ..guidance.wrappers.thresholding import pixels_alone

Networks = Mapping[str, Callable]
# A schedule that starts under this share of what a network knows, from unit noise, is said.
LOW_START = 0.1


@runtime_checkable
class Part(Protocol):
    """Consecutive steps of a schedule with one rule."""

    @property
    def rule(self) -> Rule:
        """What holds there."""

    @property
    def steps(self) -> int:
        """How many they are."""


class Asked(NamedTuple):
    """A forward pass that a rule asks for.

    Attributes:
        network: its name.
        condition: ``given`` or ``null``; the number of the rule's leaf that takes the condition's
            place; None for any other, such as one that is drawn.
        view: equal for passes at the same point and with the same modes.
    """

    network: str
    condition: str | int | None
    view: int


def by_name(owner: str, denoise: Callable | Networks) -> dict[str, Callable]:
    """Return networks by name, ``main`` for one alone.

    Raises:
        ValueError: something that cannot be called, in the name of ``owner``.
    """
    networks = dict(denoise) if isinstance(denoise, Mapping) else {MAIN: denoise}
    for name, network in networks.items():
        if not callable(network):
            raise ValueError(
                f"samplers.{owner}: the network {name!r} must be a callable (x, sigma, condition) "
                f"-> x0 estimate, got {type(network).__name__}"
            )
    return networks


def check_networks(
    owner: str,
    rule: Rule,
    parts: Sequence[Part],
    sigmas: np.ndarray,
    networks: Networks,
    x: Float[Array, " batch *shape"] | jax.ShapeDtypeStruct,
) -> None:
    """Refuse networks that a run cannot use.

    Args:
        owner: in whose name, a function of `samplers`.
        rule: of the whole run.
        parts: how its steps group.
        sigmas: the schedule.
        networks: by name.
        x: samples, or their shape and type.

    Raises:
        ValueError: one is missing; noise levels above those that one knows, where it is asked;
            samples of other channels than a network's; or thresholding of latents.

    Warns:
        UserWarning: one is never asked, or a part of the rule holds at no step.
    """
    begin, used = 0, set[str]()
    for part in parts:
        names = sorted({one.network for one in asked(part.rule, x)})
        if missing := [name for name in names if name not in networks]:
            wanted = dict.fromkeys((MAIN, missing[0]))
            raise ValueError(
                f"samplers.{owner}: the rule {name_of(rule)} needs a network named "
                f"{missing[0]!r}: pass denoise={{{', '.join(f'{n!r}: ...' for n in wanted)}}}"
                f"{_near(missing[0], networks)}"
            )
        _require_range(owner, float(sigmas[begin]), {name: networks[name] for name in names})
        begin += part.steps
        used.update(names)
    idle = idle_parts(rule, sigmas)
    for written in idle:
        warnings.warn(
            f"samplers.{owner}: {written} holds at none of the schedule's steps, which start at "
            f"sigma {sigmas[0]:.4g} down to {sigmas[-2]:.4g}: it has no effect",
            stacklevel=4,
        )
    unused = sorted(networks.keys() - used - {MAIN})
    if unused and not idle:
        warnings.warn(
            f"samplers.{owner}: the rule {name_of(rule)} never asks the network {unused[0]!r} "
            f"on this schedule; it asks {', '.join(sorted(used))}",
            stacklevel=4,
        )
    _require_channels(owner, networks, x.shape)
    if pixels_alone(rule):
        _require_pixels(owner, networks)


def check_estimates(
    owner: str,
    parts: Sequence[Part],
    solver: Any,
    networks: Networks,
    x: Float[Array, " batch *shape"] | jax.ShapeDtypeStruct,
) -> None:
    """Refuse networks that estimate other than a solver asks for, or not at its scale.

    Args:
        owner: in whose name, a function of `samplers`.
        parts: how its steps group.
        solver: whose ``estimate`` says what it asks for, and whose ``scale``, where it has one that
            is not None, the network's own input of that name.
        networks: by name.
        x: samples, or their shape and type.

    Raises:
        ValueError: a consistency function or a flow map where a denoiser is asked for, or the
            reverse; a scale that a network does not take, or was not trained at.
    """
    wanted, scale = getattr(solver, "estimate", "x0"), getattr(solver, "scale", None)
    names = sorted({one.network for part in parts for one in asked(part.rule, x)} - {CLASSIFIER})
    for name in names:
        network = networks[name]
        found = getattr(network, "estimate", wanted)
        if found != wanted:
            raise ValueError(
                f"samplers.{owner}: the solver {name_of(solver)} asks for {ASKED[wanted]}, and the "
                f"network {name!r} is {ASKED[found]}: {REMEDY[found]}"
            )
        inputs = getattr(network, "inputs", None)
        if scale is None or inputs is None:
            continue
        if "scale" not in inputs:
            raise ValueError(
                f"samplers.{owner}: {name_of(solver)} is given scale={scale:g}, and the network "
                f"{name!r} takes none: leave the solver's scale out, and guide by a rule "
                f"(guidance.cfg)"
            )
        inputs["scale"].require("scale", scale, f"samplers.{owner}: {name_of(solver)}")


# What a solver asks for, and which ones to take for a network that estimates it.
ASKED = {
    "x0": "a denoiser",
    "consistency": "a consistency function",
    "flow_map": "a flow map",
}
REMEDY = {
    "x0": "take a solver for denoisers, such as samplers.heun(), or distil it first",
    "consistency": "take samplers.consistency()",
    "flow_map": "take samplers.ctm()",
}


def limits(
    parts: Sequence[Part], networks: Networks, x: Array | jax.ShapeDtypeStruct
) -> Float[np.ndarray, " steps"]:
    """Return the highest noise level at which every network of a step may be asked."""
    highest = []
    for part in parts:
        names = {one.network for one in asked(part.rule, x)}
        top = min((_range(networks[name])[1] for name in names), default=math.inf)
        highest += [top] * part.steps
    return np.array(highest)


def warn_of_a_low_start(
    owner: str, part: Part, sigma: float, networks: Networks, x: Array | jax.ShapeDtypeStruct
) -> None:
    """Say that a schedule begins where unit noise is not what networks were trained on."""
    for name in sorted({one.network for one in asked(part.rule, x)}):
        _, highest = _range(networks[name])
        if math.isfinite(highest) and sigma < LOW_START * highest:
            warnings.warn(
                f"samplers.{owner}: the schedule starts at sigma {sigma:g}, and the network "
                f"{name!r} was trained up to {highest:g}: pure noise is no noised data there "
                f"unless the data is far smaller. Raise sigma_max, or start from noised data "
                f"(noise = x / sigmas[0])",
                stacklevel=3,
            )


def asked(rule: Rule, x: Array | jax.ShapeDtypeStruct) -> frozenset[Asked]:
    """Return the forward passes of one guided prediction.

    Args:
        rule: as it holds at one noise level.
        x: samples, or their shape and type.
    """
    leaves, structure = jax.tree.flatten(rule)
    kinds = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    return _asked(structure, kinds, tuple(x.shape), jnp.dtype(x.dtype))


@lru_cache(maxsize=1024)
def _asked(structure, kinds, shape, dtype) -> frozenset[Asked]:
    """Return what a kind of rule asks for; found by tracing, which takes a while."""
    rule = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*kind) for kind in kinds])
    found: set[Asked] = set()

    def trace(rule, x):
        evaluate = _Recording(x, jax.tree.leaves(rule), found)
        keys = jax.vmap(lambda seed: jax.random.key(seed, impl=GENERATOR))(jnp.arange(x.shape[0]))
        return rule.apply(evaluate, x, jnp.ones((), x.dtype), rule.init(x), keys)

    jax.eval_shape(trace, rule, jax.ShapeDtypeStruct(shape, dtype))
    return frozenset(found)


class _Recording(Counting):
    """An ``evaluate`` that notes what it is asked for."""

    def __init__(self, x: Array, leaves: Sequence[Any], found: set[Asked]):
        super().__init__(x)
        self.leaves, self.found = leaves, found
        self.views: dict[tuple, int] = {}

    def __call__(
        self, branches: Sequence[Branch], x: Array | None = None, sigma: Array | None = None
    ) -> tuple[Array, ...]:
        # A point of its own is unlike every other.
        here = None if x is None and sigma is None else object()
        for branch in branches:
            identity = (branch.network, here, tuple(map(id, branch.modes)))
            view = self.views.setdefault(identity, len(self.views))
            self.found.add(Asked(branch.network, self._condition(branch.condition), view))
        return super().__call__(branches, x, sigma)

    def _condition(self, wanted: Any) -> str | int | None:
        if isinstance(wanted, str):
            return wanted
        return next((n for n, leaf in enumerate(self.leaves) if leaf is wanted), None)


def _near(name: str, networks: Networks) -> str:
    near = difflib.get_close_matches(name, list(networks))
    return f"; you gave {near[0]!r}" if near else ""


def _range(network: Callable) -> tuple[float, float]:
    return getattr(network, "sigma_range", None) or (0.0, math.inf)


def _require_range(owner: str, sigma: float, networks: Networks) -> None:
    for name, network in networks.items():
        _, highest = _range(network)
        # Schedules are computed in float64 and meet their own ends up to rounding.
        if sigma > highest * (1 + 1e-6):
            raise ValueError(
                f"samplers.{owner}: the schedule asks the network {name!r} at sigma {sigma:g}, "
                f"above the highest noise level {highest:g} that it knows: lower the schedule's "
                f"sigma_max to {highest:g}, or have another network answer there "
                f"(guidance.stitched)"
            )


def _require_channels(owner: str, networks: Networks, shape: tuple[int, ...]) -> None:
    for name, network in networks.items():
        known = getattr(network, "shape", None)
        if name == CLASSIFIER or not isinstance(known, tuple):
            continue
        if len(known) != len(shape) - 1 or known[-1:] != shape[-1:]:
            raise ValueError(
                f"samplers.{owner}: the network {name!r} takes samples of shape {known}, got "
                f"{tuple(shape[1:])}: give noise of shape {('batch', *known)}"
            )


def _require_pixels(owner: str, networks: Networks) -> None:
    for name, network in networks.items():
        if getattr(network, "latent", False):
            raise ValueError(
                f"samplers.{owner}: the rule thresholds predictions to a range of pixels, and the "
                f"network {name!r} denoises latents, which keep to none: leave the threshold out, "
                f"or pass latents=True with a bound that you know"
            )
