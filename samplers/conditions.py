"""Conditions that networks know: labels in range, arrays of the right shapes, and a use for them.

What a network knows it says by attributes. One with ``num_classes`` takes labels from 0 to
``num_classes - 1``, and its ``null_condition``, an integer, for no class; without classes it
takes no condition. One whose ``null_condition`` is None, while it has classes, never learnt to do
without a condition. One with ``condition_like(batch)`` says shapes and types of a batch of
conditions, None for none. Of a callable without these nothing is known, and nothing refused.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..core.constructors import name_of
from ..guidance.protocol import CLASSIFIER, GIVEN, NULL, Rule
from ..guidance.references.icg import IndependentClass
from ..guidance.structure import parts_of
from .networks import Asked, Networks, Part, asked


class Labels(NamedTuple):
    """The labels that a network knows.

    Attributes:
        classes: how many.
        null: what stands for no class; None where nothing does.
    """

    classes: int
    null: int | None

    def __str__(self) -> str:
        range_ = f"whole numbers from 0 to {self.classes - 1}"
        return range_ if self.null is None else f"{range_}, or {self.null} for no class"

    def known(self, labels: Any) -> Any:
        """Return which labels are known, elementwise."""
        known = (labels >= 0) & (labels < self.classes)
        return known if self.null is None else known | (labels == self.null)


def labels_of(network: Callable) -> Labels | None:
    """Return the labels that a network says it knows; None where it says nothing, or none."""
    classes = getattr(network, "num_classes", None)
    if not classes:
        return None
    null = getattr(network, "null_condition", None)
    return Labels(int(classes), int(null) if null is not None and np.ndim(null) == 0 else None)


def takes_none(network: Callable) -> bool:
    """Return whether a network says that it takes no condition."""
    like = getattr(network, "condition_like", None)
    if like is not None:
        return like(1) is None
    return getattr(network, "num_classes", None) == 0


class Checked(NamedTuple):
    """A condition that every network knows.

    Attributes:
        condition: lists of labels as an array, all else as it was given.
        guarded: whether the samples of labels that are not known must be made NaN while running,
            as they could not be looked at before.
    """

    condition: Any
    guarded: bool


def checked_condition(
    owner: str,
    rule: Rule,
    parts: Sequence[Part],
    networks: Networks,
    condition: Any,
    x: Array | jax.ShapeDtypeStruct,
    *,
    batch: int | None = None,
    prior: Any = None,
) -> Checked:
    """Return a condition that every network knows which is asked about it.

    Args:
        owner: in whose name, a function of `samplers`.
        rule: of the whole run.
        parts: how its steps group.
        networks: by name, none missing.
        condition: as `samplers.sample` takes it.
        x: samples, or their shape and type.
        batch: how many conditions; as many as samples if None.
        prior: one with a ``fit`` by class is asked as well.

    Raises:
        ValueError: labels that are no whole numbers, out of range or of another count; arrays of
            other names or shapes; networks that know different numbers of classes; a condition
            that no network takes; a null condition that was not learnt; or guidance that cannot
            do anything, because the condition and its absence are the same.
    """
    batch = x.shape[0] if batch is None else batch
    every = [(part.rule, asked(part.rule, x)) for part in parts]
    passes = frozenset[Asked]().union(*(found for _, found in every))
    given = {one.network: networks[one.network] for one in passes if one.condition == GIVEN}
    if any(one.network == CLASSIFIER for one in passes):
        given[CLASSIFIER] = networks[CLASSIFIER]
    _require_nulls(owner, rule, passes, networks, condition)
    for holds, found in every:
        _require_a_difference(owner, holds, found, networks, condition)
        _check_leaves(owner, holds, found, networks, batch)
        _check_draws(owner, holds, networks)
    if condition is None:
        return Checked(None, False)
    if given and all(takes_none(network) for network in given.values()):
        raise ValueError(
            f"samplers.{owner}: a condition is given, and no network takes one: pass condition=None"
        )
    fit = getattr(prior, "fit", None)
    every_one = {**given, **({"the prior's fit": fit} if fit is not None else {})}
    _require_equal_classes(owner, every_one)
    if isinstance(condition, (list, tuple)) and any(map(labels_of, every_one.values())):
        condition = _listed(owner, condition)
    guarded = False
    for name, network in every_one.items():
        guarded |= _check_one(owner, name, network, condition, batch)
    return Checked(condition, guarded)


def _listed(owner: str, condition: Sequence) -> np.ndarray:
    whole = all(isinstance(one, (int, np.integer)) for one in condition)
    if not whole or any(isinstance(one, bool) for one in condition):
        raise ValueError(
            f"samplers.{owner}: labels in a list must be whole numbers, one a sample, got "
            f"{condition!r:.80}"
        )
    return np.asarray(condition, np.int32)


def _check_one(owner: str, name: str, network: Callable, condition: Any, batch: int) -> bool:
    """Refuse a condition that one network does not know; return whether its labels are hidden."""
    if (labels := labels_of(network)) is not None and not _takes_parts(network):
        return _check_labels(f"samplers.{owner}", name, labels, condition, batch)
    if takes_none(network):
        return False
    like = getattr(network, "condition_like", None)
    if like is None:
        # Labels of a network that does not say how many it knows.
        label = _is_integer(getattr(network, "null_condition", None)) and _is_integer(condition)
        if label and np.shape(condition) != (batch,):
            raise ValueError(_count(f"samplers.{owner}", name, condition, batch))
        return False
    _check_parts(f"samplers.{owner}", name, like(batch), condition)
    return False


def _takes_parts(network: Callable) -> bool:
    like = getattr(network, "condition_like", None)
    return like is not None and isinstance(like(1), Mapping)


def _is_integer(value: Any) -> bool:
    return (hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.integer)) or (
        isinstance(value, int) and not isinstance(value, bool)
    )


def _check_labels(owner: str, name: str, labels: Labels, condition: Any, batch: int) -> bool:
    if not hasattr(condition, "dtype") or not hasattr(condition, "shape"):
        raise ValueError(
            f"{owner}: the network {name!r} takes labels, {labels}, as an array of {batch}, got "
            f"{type(condition).__name__}"
        )
    if condition.shape != (batch,):
        raise ValueError(_count(owner, name, condition, batch))
    if not jnp.issubdtype(condition.dtype, jnp.integer):
        raise ValueError(
            f"{owner}: labels of the network {name!r} are {labels}, got {condition.dtype}: give "
            f"integers, such as labels.astype(int)"
        )
    if isinstance(condition, jax.core.Tracer):
        return True
    if isinstance(condition, jax.Array) and not condition.is_fully_addressable:
        return True
    values = np.asarray(condition)
    if not (known := labels.known(values)).all():
        where = int(np.argmin(known))
        raise ValueError(
            f"{owner}: labels of the network {name!r} are {labels}, got {values[where]} for "
            f"sample {where}"
        )
    return False


def _count(owner: str, name: str, condition: Any, batch: int) -> str:
    rows = np.ndim(condition) == 2
    remedy = ": give the numbers of the classes, rows.argmax(axis=1)" if rows else ""
    return (
        f"{owner}: the network {name!r} takes one label a sample, of shape ({batch},), got labels "
        f"of shape {np.shape(condition)}{remedy}"
    )


def _check_parts(owner: str, name: str, like: Any, condition: Any) -> None:
    def described(tree):
        return {
            jax.tree_util.keystr(path): tuple(np.shape(leaf))
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }

    wanted, found = described(like), described(condition)
    if wanted != found:
        raise ValueError(
            f"{owner}: the network {name!r} takes a condition of shapes {_shapes(wanted)}, got "
            f"{_shapes(found)}"
        )


def _shapes(described: Mapping[str, tuple]) -> str:
    return ", ".join(f"{path.strip('[]') or 'array'}: {shape}" for path, shape in described.items())


def _require_equal_classes(owner: str, networks: Mapping[str, Callable]) -> None:
    known = {name: labels for name, n in networks.items() if (labels := labels_of(n)) is not None}
    counts = {labels.classes for labels in known.values()}
    if len(counts) > 1:
        said = " and ".join(f"{name!r} {labels.classes}" for name, labels in known.items())
        raise ValueError(
            f"samplers.{owner}: the networks know different numbers of classes, {said}, so a "
            f"label does not mean the same to them: take networks of one data set, or a guide "
            f"without classes"
        )


def _require_nulls(
    owner: str, rule: Rule, passes: frozenset[Asked], networks: Networks, condition: Any
) -> None:
    """Refuse to ask for a null condition that a network never learnt."""
    for one in passes:
        network = networks[one.network]
        unlearnt = hasattr(network, "null_condition") and network.null_condition is None
        if not unlearnt or one.network == CLASSIFIER or not _conditional(network):
            continue
        if one.condition == NULL:
            raise ValueError(
                f"samplers.{owner}: the rule {name_of(rule)} asks the network {one.network!r} for "
                f"a prediction without a condition, which it never learnt (it was trained without "
                f"dropped labels): take a rule that needs none, guidance.icg, "
                f"guidance.autoguidance or guidance.unguided"
            )
        if one.condition == GIVEN and condition is None:
            raise ValueError(
                f"samplers.{owner}: no condition is given, and the network {one.network!r} never "
                f"learnt to do without one (it was trained without dropped labels): give labels"
            )


def _conditional(network: Callable) -> bool:
    like = getattr(network, "condition_like", None)
    return labels_of(network) is not None or (like is not None and like(1) is not None)


def _require_a_difference(
    owner: str, rule: Rule, passes: frozenset[Asked], networks: Networks, condition: Any
) -> None:
    """Refuse a push from the null condition's prediction to the very same."""
    views = {(one.network, one.view, one.condition) for one in passes}
    for name, view, wanted in sorted(views, key=str):
        if wanted != GIVEN or (name, view, NULL) not in views:
            continue
        none = takes_none(networks[name])
        if (condition is None or none) and not _off(rule):
            why = f"the network {name!r} takes no condition" if none else "no condition is given"
            remedy = "Take" if none else "Give labels, or take"
            raise ValueError(
                f"samplers.{owner}: the rule {name_of(rule)} guides away from the prediction "
                f"without a condition, and {why}: both are the same, so it can do nothing. "
                f"{remedy} guidance.unguided()"
            )


def _off(rule: Rule) -> bool:
    """Return whether a rule's scales are all 1."""
    leaves = jax.tree_util.tree_leaves_with_path(rule)
    scales = [leaf for path, leaf in leaves if path and getattr(path[-1], "name", "") == "scale"]
    if not scales or any(isinstance(scale, jax.core.Tracer) for scale in scales):
        return False
    return all(np.all(np.asarray(scale) == 1) for scale in scales)


def _check_leaves(
    owner: str, rule: Rule, passes: frozenset[Asked], networks: Networks, batch: int
) -> None:
    """Refuse labels of a rule's own that a network does not know."""
    leaves = jax.tree.leaves(rule)
    for one in passes:
        labels = labels_of(networks[one.network])
        if not isinstance(one.condition, int) or labels is None:
            continue
        own = leaves[one.condition]
        if isinstance(own, jax.core.Tracer) or _takes_parts(networks[one.network]):
            continue
        own = np.asarray(own)
        own = np.broadcast_to(own, (batch,)) if own.ndim == 0 else own
        where = f"samplers.{owner}: a condition of the rule {name_of(rule)}"
        _check_labels(where, one.network, labels, own, batch)


def _check_draws(owner: str, rule: Rule, networks: Networks) -> None:
    """Refuse to draw classes that a network does not know."""
    labels = labels_of(networks["main"]) if "main" in networks else None
    for part in parts_of(rule):
        if labels and isinstance(part, IndependentClass) and part.classes > labels.classes:
            raise ValueError(
                f"samplers.{owner}: the rule {name_of(rule)} draws from {part.classes} classes, "
                f"and the network 'main' knows {labels.classes}: give it classes={labels.classes}"
            )
