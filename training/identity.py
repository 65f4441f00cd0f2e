"""What tells one training run from another: what it is made of, and not where that lies."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..core.errors import UserError
from ..core.files import home
from ..core.registry import written_in
from ..models.autoencoders.discriminator import ROLE, taken_out
from ..runtime.identity import described, plain

# Fields of ``training`` that say how a step is computed, or how long, and not what.
ONLY_HOW = ("steps", "accumulate", "remat", "init_from")
# Fields of ``ema`` that say what is stored of the averages, or made of that.
ONLY_KEPT = (
    *("snapshot_images", "snapshot_weights"),
    *("reconstruct", "at_images", "reconstruct_dtype"),
)


def identity(
    *,
    seed: int,
    model: Mapping[str, Any],
    training: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    ema: Mapping[str, Any],
    roles: Mapping[str, Mapping[str, Any]],
    data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the parts that decide a run's result, as JSON data; machine paths and length are none.

    Args:
        seed, model, training, optimizer, ema: the sections.
        roles: by role, what a network begins from and how it is trained, where that is more than
            fresh parameters and ``optimizer``.
        data: what the data are (`identity_of_data`); left out where they are not at hand.
    """
    outside = written_in({"model": model, "training": training})
    for part in roles.values():
        outside |= written_in(part)
    found = {
        "seed": seed,
        "model": dict(model),
        "training": described(_what(training)),
        "optimizer": dict(optimizer),
        "ema": {key: value for key, value in ema.items() if key not in ONLY_KEPT},
        "roles": {role: dict(part) for role, part in roles.items() if part},
        "outside": outside,
    }
    return found if data is None else found | {"data": dict(data)}


def _what(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of ``training`` that say what a step computes."""
    return {key: value for key, value in training.items() if key not in ONLY_HOW}


def identity_of_data(content: Mapping[str, Any], *, split: str, flip: bool) -> dict[str, Any]:
    """Return what data are: their content, which part of it, and whether it is mirrored."""
    return {"split": split, "flip": flip, "content": dict(content)}


def upgraded(
    stored: Mapping[str, Any],
    name: str,
    data: Mapping[str, Any] | None,
    training: Mapping[str, Any] | None = None,
    roles: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return an identity that was stored, in the parts of today, and lines to say.

    Args:
        stored: perhaps by an earlier version, which knew data and files by their name alone.
        name: of the data at hand.
        data: what they are; None where they are not at hand.
        training: the section at hand.
        roles: what is said of the networks at hand.

    Raises:
        UserError: a run of an earlier version on data of another name.
    """
    found = {"roles": {}} | dict(stored)
    if isinstance(model := found.get("model"), Mapping):
        found["model"], inside = taken_out(model)
        given = roles.get(ROLE) or {}
        if inside is not None and plain(inside).items() <= plain(given.get("model") or {}).items():
            found["roles"] = {**found["roles"], ROLE: plain(given)}
    if training is not None and found.get("training") == plain(_what(training)):
        # Files by the names that they still have.
        found["training"] = plain(described(_what(training)))
    before = found.get("data")
    if data is None or not isinstance(before, Mapping) or "content" in before:
        return found, ()
    if not _same(str(before.get("name", "")), name):
        raise UserError(
            f"this run was begun on data named {before.get('name')!r} by a version that knew data "
            f"by their name: give data.name={before.get('name')} once, and they are known by "
            f"their content from then on"
        )
    found["data"] = dict(data) | {key: before[key] for key in ("split", "flip") if key in before}
    line = f"this run was begun when data were known by name: {name} are taken as those it saw"
    return found, (line,)


def _same(one: str, other: str) -> bool:
    paths = [home(name).absolute() for name in (one, other)]
    return one == other or Path(paths[0]).resolve() == Path(paths[1]).resolve()
