"""What a config's ``get_hyper(hyper)`` says its trials by: lists of fields and their values.

Each function returns a list of trials, and a trial gives fields of the config their values. Names
are those of the command line, with ``config.`` before them or without::

    def get_hyper(hyper):
        return hyper.product([
            hyper.sweep("guidance.name", ["cfg", "apg"]),
            hyper.sweep("guidance.scale", [1.5, 2.0, 3.0]),
        ])
"""

import importlib.util
import sys
from collections.abc import Sequence
from itertools import product as pairings
from pathlib import Path
from typing import Any

from ...core.errors import UserError

Trial = dict[str, Any]
PREFIX = "config."


def sweep(name: str, values: Sequence[Any]) -> list[Trial]:
    """Return a trial for each value of a field."""
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise UserError(f"hyper.sweep({name!r}, {values!r}): give a list of values")
    # Of numpy's, numbers: `numpy.linspace` is a list of values, too.
    plain = [one.item() if hasattr(one, "item") else one for one in values]
    return [{_field(name): value} for value in plain]


def fixed(name: str, value: Any, length: int = 1) -> list[Trial]:
    """Return as many trials as ``length`` says, with the same value in each."""
    return [{_field(name): value}] * length


def product(sweeps: Sequence[list[Trial]]) -> list[Trial]:
    """Return every combination of trials, one from each; the last one changes first."""
    return [_merged(trials) for trials in pairings(*sweeps)]


def zipit(sweeps: Sequence[list[Trial]]) -> list[Trial]:
    """Return the first trials of all in one, the second ones in one, and so on.

    Raises:
        UserError: not all of them have as many.
    """
    lengths = [len(one) for one in sweeps]
    if len(set(lengths)) > 1:
        raise UserError(
            f"hyper.zipit of sweeps of {', '.join(map(str, lengths))} trials: give all of them as "
            f"many; hyper.fixed(name, value, length={max(lengths)}) repeats a value"
        )
    return [_merged(trials) for trials in zip(*sweeps, strict=True)]


def chainit(sweeps: Sequence[list[Trial]]) -> list[Trial]:
    """Return the trials of all, one after another."""
    return [trial for one in sweeps for trial in one]


def _field(name: str) -> str:
    return name.removeprefix(PREFIX)


def _merged(trials: Sequence[Trial]) -> Trial:
    merged: Trial = {}
    for trial in trials:
        if twice := merged.keys() & trial.keys():
            raise UserError(f"a trial of the sweep sets {min(twice)} twice: sweep it once")
        merged |= trial
    return merged


def defined(file: str) -> list[Trial]:
    """Return the trials that a config's file defines.

    Args:
        file: path of a file with ``get_hyper``.

    Raises:
        UserError: it has none, or what that returns is no list of different trials.
    """
    path = Path(file)
    spec = importlib.util.spec_from_file_location(f"{path.stem}_hyper", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"sweep.definition {file!r}: there is no such file of Python's")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_hyper"):
            raise UserError(
                f"{file} has no get_hyper(hyper), which says the trials of a sweep: give it one, "
                f"as configs/sweeps/digits.py does, name its file in sweep.definition, or search "
                f"by sweep.sampler=tpe"
            )
        found = module.get_hyper(sys.modules[__name__])
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"get_hyper of {file} failed: {type(error).__name__}: {error}") from error
    if not isinstance(found, list) or not all(isinstance(one, dict) and one for one in found):
        raise UserError(
            f"get_hyper of {file} returned no list of trials: return hyper.sweep(...), or what "
            f"hyper.product, zipit and chainit make of several"
        )
    seen: dict[str, int] = {}
    for index, trial in enumerate(found):
        first = seen.setdefault(repr(sorted(trial.items(), key=lambda one: one[0])), index)
        if first != index:
            raise UserError(
                f"trials {first} and {index} of get_hyper of {file} are the same: {trial}"
            )
    if not found:
        raise UserError(f"get_hyper of {file} returned no trial")
    return found
