"""The engine behind a rule's ``evaluate``: branches of one network in one batched call, or in turn.

``fused`` stacks the branches of one network into one call, each sample's branches side by side
so that a batch sharded over devices stays where it is; ``sequential`` runs them one after
another in the memory of one.
"""

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from graphlib import TopologicalSorter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..guidance.modes import Active, Mode
from ..guidance.protocol import CLASSIFIER, GIVEN, NULL, Branch
from .conditions import labels_of, takes_none
from .networks import Networks

MODES = ("fused", "sequential")


class Evaluator:
    """``evaluate(branches)`` at one noisy batch.

    Args:
        networks: denoisers ``(x, sigma, condition)`` by name; ``classifier`` is a callable
            ``(x, sigma) -> logits``.
        x: noisy samples, EDM coordinates.
        sigma: their noise level, a scalar.
        condition: what ``given`` means; an array, a pytree of arrays, or None.
        mode: ``fused`` or ``sequential``.
        to: the noise level that a flow map is to jump to (see `samplers.ctm`), which its network
            takes as the argument ``to``; None for denoisers.
        scale: a guidance scale that the network itself takes, as the argument ``scale``; None for
            networks that take none, or that are bound to one.
        end: the noise level at which the solver's step ends, for rules that ask; None where there
            is no step.
        guarded: whether ``condition`` holds labels that nobody has looked at: predictions for
            labels that a network does not know are NaN then, as they always are for labels that
            a rule draws or holds.
    """

    def __init__(
        self,
        networks: Networks,
        x: Float[Array, " batch *shape"],
        sigma: Array,
        condition: Any,
        mode: str,
        to: Array | None = None,
        *,
        scale: Array | float | None = None,
        end: Array | None = None,
        guarded: bool = False,
    ):
        self.networks, self.x, self.sigma, self.end = networks, x, sigma, end
        self.condition, self.mode, self.to = condition, mode, to
        self.scale, self.guarded = scale, guarded

    def __call__(
        self, branches: Sequence[Branch], x: Array | None = None, sigma: Array | None = None
    ) -> tuple[Array, ...]:
        x = self.x if x is None else x
        sigma = self.sigma if sigma is None else sigma
        batch = x.shape[0]
        resolved = [self._resolve(branch, batch) for branch in branches]
        results: dict[int, Array] = {}
        for group in _groups(branches, resolved, self.mode):
            network, count = branches[group[0]].network, len(group)
            if network == CLASSIFIER:
                for i in group:
                    results[i] = _require_logits(self.networks[CLASSIFIER](x, sigma), batch)
                continue
            modes = _active([branches[i].modes for i in group], batch)
            _require_support(network, self.networks[network], modes)
            options: dict[str, Any] = {"modes": modes} if modes else {}
            if self.to is not None:
                _require_jumps(network, self.networks[network])
                options["to"] = self.to
            if self.scale is not None:
                options["scale"] = self.scale
            if count == 1:
                (i,) = group
                out = self.networks[network](x, sigma, resolved[i], **options)
                _require_like(network, out, x.shape, x.dtype)
                results[i] = self._guarded(branches[i], resolved[i], out)
                continue
            stacked = jax.tree.map(
                lambda *parts: jnp.stack(parts, axis=1).reshape((-1, *parts[0].shape[1:])),
                *(resolved[i] for i in group),
            )
            out = self.networks[network](jnp.repeat(x, count, axis=0), sigma, stacked, **options)
            _require_like(network, out, (count * batch, *x.shape[1:]), x.dtype)
            out = out.reshape((batch, count, *out.shape[1:]))
            for position, i in enumerate(group):
                results[i] = self._guarded(branches[i], resolved[i], out[:, position])
        return tuple(results[i] for i in range(len(branches)))

    def _resolve(self, branch: Branch, batch: int) -> Any:
        if branch.network == CLASSIFIER:
            return None
        network = self.networks[branch.network]
        if takes_none(network):
            return None
        null = getattr(network, "null_condition", None)
        return _resolved(branch, branch.condition, self.condition, null, batch)

    def _guarded(self, branch: Branch, labels: Any, out: Array) -> Array:
        """Return NaN for the samples whose labels a network does not know, where that may be."""
        wanted = branch.condition
        looked_at = isinstance(wanted, str) and (wanted == NULL or not self.guarded)
        known = labels_of(self.networks[branch.network])
        if looked_at or known is None or not _are_labels(labels, out.shape[0]):
            return out
        where = known.known(labels).reshape((-1,) + (1,) * (out.ndim - 1))
        return jnp.where(where, out, jnp.nan)


def _resolved(branch: Branch, wanted: Any, given: Any, null: Any, batch: int) -> Any:
    """Return what a branch's condition stands for, in every sample."""
    if isinstance(wanted, Mapping):
        if not isinstance(given, Mapping) or wanted.keys() - given.keys():
            parts = sorted(given) if isinstance(given, Mapping) else "no parts"
            raise ValueError(
                f"branch {branch.name!r} replaces the parts {sorted(wanted)} of the condition, "
                f"which has {parts}: pass a dictionary of arrays as condition"
            )
        nulls = null if isinstance(null, Mapping) else dict.fromkeys(wanted, null)
        replaced = {
            part: _resolved(branch, one, given[part], nulls.get(part, given[part]), batch)
            for part, one in wanted.items()
        }
        return {**given, **replaced}
    if not isinstance(wanted, str):
        wanted = jnp.asarray(wanted)
        like = jax.tree.leaves(given)
        # A rule's numbers are floats (see `arguments.floats`), and labels are none.
        labels = jnp.int32 if isinstance(null, int) and wanted.ndim <= 1 else wanted.dtype
        dtype = like[0].dtype if like else labels
        if jnp.ndim(wanted) == 0:
            return jnp.full((batch,), wanted, dtype)
        return wanted.astype(dtype)
    if wanted == GIVEN:
        return given
    if wanted != NULL:
        raise ValueError(
            f"branch {branch.name!r} asks for the condition {wanted!r}; samplers.sample knows "
            f"{GIVEN!r} and {NULL!r}, anything else must be a label or an array"
        )
    if null is None or given is None:
        return None
    if isinstance(null, Mapping) and isinstance(given, Mapping):
        # What the null condition lacks (an image's size) is as given.
        null = {**given, **null}
    structures: list[Any] = [jax.tree.structure(tree) for tree in (null, given)]
    same = structures[0] == structures[1]
    return jax.tree.map(
        lambda one, empty: jnp.broadcast_to(jnp.asarray(empty, one.dtype), one.shape),
        given,
        null if same else jax.tree.map(lambda _: null, given),
    )


def _groups(branches: Sequence[Branch], resolved: Sequence[Any], mode: str) -> list[list[int]]:
    """Group the branches that can share a call: same network, stackable conditions."""
    if mode == "sequential":
        return [[i] for i in range(len(branches))]
    groups: dict[Any, list[int]] = {}
    for i, (branch, value) in enumerate(zip(branches, resolved, strict=True)):
        # None has no array to stack: a callable that knows no null condition gets None itself.
        kind = (
            jax.tree.structure(value),
            tuple((jnp.shape(v), jnp.result_type(v)) for v in jax.tree.leaves(value)),
        )
        groups.setdefault((branch.network, kind), []).append(i)
    return list(groups.values())


def _active(modes_by_branch: Sequence[tuple[Mode, ...]], batch: int) -> tuple[Active, ...]:
    """Return each mode with the samples it holds for, in a batch of branches side by side."""
    count = len(modes_by_branch)
    # By identity: two branches share a mode when a rule gave both the same object.
    modes = {id(mode): mode for modes in modes_by_branch for mode in modes}
    # In an order that is every branch's own: two modes at one site need not commute.
    order = TopologicalSorter({identity: () for identity in modes})
    for branch in modes_by_branch:
        for before, after in itertools.pairwise(branch):
            order.add(id(after), id(before))

    def spread(leaf):
        return jnp.repeat(leaf, count, axis=0) if jnp.ndim(leaf) else leaf

    result = []
    for identity in order.static_order():
        mode = modes[identity]
        holds = np.array([identity in map(id, modes) for modes in modes_by_branch])
        everywhere = None if holds.all() else jnp.asarray(np.tile(holds, batch))
        result.append(Active(jax.tree.map(spread, mode), everywhere))
    return tuple(result)


def _require_support(name: str, network: Callable, modes: tuple[Active, ...]) -> None:
    """Refuse modes that a network has no sites for, before it is called."""
    if not modes:
        return
    sites = getattr(network, "sites", None)
    if sites is None:
        sites = {one.mode.site for one in modes} if _takes(network, "modes") else ()
    for mode, _ in modes:
        if mode.site not in sites:
            raise ValueError(
                f"samplers.sample: the rule asks for {mode.name!r}, which works on the "
                f"{mode.site!r} of a network, and the network {name!r} has none to offer: choose a "
                f"rule with another reference, or give the denoiser a `modes` argument"
            )


def _are_labels(value: Any, batch: int) -> bool:
    shape = getattr(value, "shape", None)
    return shape == (batch,) and bool(jnp.issubdtype(value.dtype, jnp.integer))


def _require_like(name: str, out: Any, shape: tuple[int, ...], dtype: Any) -> None:
    """Refuse a prediction that is no x0 estimate of its samples, while tracing."""
    found = getattr(out, "shape", None), getattr(out, "dtype", None)
    if found != (shape, dtype):
        said = type(out).__name__ if None in found else f"{found[1]} of shape {found[0]}"
        raise ValueError(
            f"samplers.sample: the network {name!r} must return the x0 estimates of its samples, "
            f"{dtype} of shape {shape}, and returns {said}: return them alone, and as "
            f".astype(x.dtype)"
        )


def _require_logits(out: Any, batch: int) -> Array:
    """Return logits, refusing what is none, while tracing."""
    if getattr(out, "ndim", None) != 2 or out.shape[0] != batch:
        raise ValueError(
            f"samplers.sample: the network {CLASSIFIER!r} must return logits of shape ({batch}, "
            f"classes), one row a sample, and returns {getattr(out, 'shape', type(out).__name__)}"
        )
    return out


def _require_jumps(name: str, network: Callable) -> None:
    """Refuse a network that knows no second noise level, before it is called."""
    if not _takes(network, "to"):
        raise ValueError(
            f"samplers.sample: the solver jumps between noise levels in one evaluation, and the "
            f"network {name!r} has no argument `to`, the level to jump to: give a consistency "
            f"trajectory model, or take a solver for denoisers such as samplers.heun()"
        )


def _takes(network: Callable, argument: str) -> bool:
    parameters = inspect.signature(network).parameters.values()
    return any(p.name == argument or p.kind == p.VAR_KEYWORD for p in parameters)
