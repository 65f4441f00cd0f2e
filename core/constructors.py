"""What makes a part, and the call that made it: a name, a kind, a function, papers, a file."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .files import sha256

# The digest of the file that a part from outside is written in. No argument has such a name.
WRITTEN_IN = "source file"


class Kind(NamedTuple):
    """A kind of part.

    Attributes:
        word: what messages call one, with its article.
        table: kinds of one table share their names.
        place: where configs name one.
    """

    word: str
    table: str
    place: str


KINDS: dict[str, Kind] = {
    "rule": Kind("a rule", "guidance", "guidance"),
    "transform": Kind("a transform of the push", "guidance", "guidance"),
    "reference": Kind("a reference", "guidance", "guidance"),
    "operator": Kind("an operator", "guidance", "guidance"),
    "reward": Kind("a reward", "reward", "reward"),
    "search": Kind("a search", "search", "search.method"),
    "solver": Kind("a solver", "solver", "sampler.solver"),
    "schedule": Kind("a schedule of noise levels", "schedule", "sampler.schedule"),
    "prior": Kind("a prior", "prior", "sampler.prior"),
    "network": Kind("a network", "network", "model"),
    "loss": Kind("a loss", "loss", "training.loss"),
    "noise": Kind("a distribution of noise levels", "noise", "training.noise"),
    "weighting": Kind("a weighting of noise levels", "weighting", "training.weighting"),
    "kernel": Kind("a kernel of noise", "kernel", "training.kernel"),
    "augmentation": Kind("an augmentation", "augmentation", "training.augmentation"),
    "perturbation": Kind("a perturbation", "perturbation", "training.perturbation"),
    "objective": Kind("an objective", "objective", "training.objective"),
    "task_weights": Kind("weights of tasks", "objective", "training.objective.weights"),
    "source": Kind("a data set", "source", "data"),
    "extractor": Kind("a feature extractor", "extractor", "evaluation.extractor"),
    "metric": Kind("a metric", "metric", "evaluation.metrics"),
}


@dataclasses.dataclass(frozen=True)
class Constructor:
    """A function that makes a part.

    Attributes:
        name: what configs call it.
        kind: a key of `KINDS`.
        build: the function.
        sources: arXiv numbers of the papers it implements.
    """

    name: str
    kind: str
    build: Callable
    sources: tuple[str, ...] = ()

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Its arguments."""
        return inspect.signature(self.build).parameters

    @property
    def file(self) -> Path | None:
        """The file that a part from outside is written in; None of this package's own."""
        return file_of(inspect.unwrap(self.build))

    @property
    def written_in(self) -> dict[str, str]:
        """By `WRITTEN_IN`, the digest of its file: with other code, it is another part."""
        return {} if self.file is None else {WRITTEN_IN: sha256(self.file)}


def file_of(made: Any) -> Path | None:
    """Return the file of a function or class from outside; None of this package's own."""
    module = str(getattr(made, "__module__", ""))
    if module.partition(".")[0] == __name__.partition(".")[0]:
        return None
    try:
        found = inspect.getsourcefile(made)
    except TypeError:
        return None
    return Path(found) if found and Path(found).is_file() else None


@dataclasses.dataclass(frozen=True)
class Origin:
    """The call that made a part: its constructor and the arguments that were given.

    Attributes:
        constructor: the outermost one.
        arguments: those that were given to it.
        within: the call that the constructor made the part by, where that has a name, too.
    """

    constructor: Constructor
    arguments: Mapping[str, Any]
    within: "Origin | None" = None


def origin(made: Any) -> Origin | None:
    """Return the call that made a part; None for one made by hand."""
    return getattr(made, "_origin", None)


def name_of(made: Any) -> str:
    """Return what messages call a part: its constructor's name, or its class's."""
    known = origin(made)
    return known.constructor.name if known else type(made).__name__
