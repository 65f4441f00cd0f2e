"""What networks begin from: fresh parameters, or those of a weight file, whole or in part."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import UserError
from ..core.files import sha256
from ..models.checkpoints.files import flatten
from ..models.checkpoints.loading import Fitted, fit
from ..models.spec import Spec

# Of names that a line lists, so many.
SHOWN = 4


@dataclasses.dataclass(frozen=True)
class Start:
    """What of a network's parameters comes from a weight file; nothing of a fresh one.

    Attributes:
        file: the weights; None for none.
        taken: paths of the parameters that are taken.
        identity: JSON data that says which weights and which of them, for a run's record.
        said: lines that tell what was taken and what was not.
    """

    file: Fitted | None = None
    taken: tuple[str, ...] = ()
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    said: tuple[str, ...] = ()

    def read(self) -> dict[str, np.ndarray]:
        """Return the parameters that are taken, by path, float32.

        Raises:
            UserError: one of them is not finite.
        """
        if self.file is None:
            return {}
        return {name: np.asarray(self.file.read(name), np.float32) for name in self.taken}


def start(
    place: str,
    spec: Spec | None = None,
    *,
    weights: str,
    take: Sequence[str] | str = (".*",),
    leave: Sequence[str] | str = (),
) -> tuple[Start, Spec]:
    """Say what a network takes of a weight file.

    Args:
        place: where the config names it, for messages.
        spec: of the network; the file's own if None.
        weights: a weight file, a shipped name or a published file; empty for fresh parameters.
        take: regexes, searched in the paths of parameters: those that are taken.
        leave: likewise, those of them that begin fresh.

    Returns:
        The start and the network's spec.

    Raises:
        UserError: no such file, a regex that cannot be read, or one that no path has; nothing
            that could be taken.
    """
    take, leave = ((one,) if isinstance(one, str) else tuple(one) for one in (take, leave))
    if not weights:
        if spec is None:
            raise UserError(f"{place}: name the weights it starts from, or give a model section")
        if take != (".*",) or leave:
            raise UserError(f"{place}: take and leave choose among weights, and none are named")
        return Start(), spec
    file = fit(weights)
    spec = spec or file.spec
    wanted = _shapes(spec)
    for name, expressions in (("take", take), ("leave", leave)):
        _require_found(f"{place}.{name}", expressions, {*wanted, *file.shapes})
    chosen = [p for p in wanted if _among(take, p) and not _among(leave, p)]
    missing = [path for path in chosen if path not in file.shapes]
    other = [p for p in chosen if p in file.shapes and file.shapes[p] != wanted[p]]
    taken = tuple(p for p in chosen if p in file.shapes and file.shapes[p] == wanted[p])
    if not taken:
        raise UserError(
            f"{place}: {file.path} and the network share no parameter of the same path and shape "
            f"among those chosen; the file has {_listed(sorted(file.shapes))}, the network "
            f"{_listed(sorted(wanted))}"
        )
    fresh = [path for path in wanted if path not in taken]
    unused = [path for path in file.shapes if path not in taken]
    said = [f"{place}: {len(taken)} of {len(wanted)} parameters are those of {file.path}"]
    if other:
        shapes = [f"{p} {file.shapes[p]} in the file, {wanted[p]} here" for p in other]
        said.append(f"{place}: of another shape, so fresh: {_listed(shapes, '; ')}")
    if missing:
        said.append(f"{place}: not in the file, so fresh: {_listed(missing)}")
    left = [path for path in fresh if path not in {*other, *missing}]
    if left:
        said.append(f"{place}: not taken, so fresh: {_listed(left)}")
    beyond = [path for path in unused if path not in wanted]
    if beyond:
        said.append(f"{place}: in the file alone: {_listed(beyond)}")
    identity = {"sha256": sha256(file.path), "take": list(take), "leave": list(leave)}
    return Start(file, taken, identity, tuple(said)), spec


def _shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in flatten(spec.shapes).items()}


def _among(expressions: Sequence[str], path: str) -> bool:
    return any(re.search(one, path) for one in expressions)


def _require_found(place: str, expressions: Sequence[str], paths: set[str]) -> None:
    for one in expressions:
        try:
            found = any(re.search(one, path) for path in paths)
        except (re.error, TypeError) as error:
            raise UserError(f"{place}: {one!r} is no regular expression: {error}") from error
        if not found:
            raise UserError(
                f"{place}: {one!r} is found in no parameter's path; paths are "
                f"{_listed(sorted(paths))}"
            )


def _listed(names: Sequence[str], between: str = ", ") -> str:
    more = f"{between}... ({len(names)} in all)" if len(names) > SHOWN else ""
    return between.join(names[:SHOWN]) + more
