"""What trainers write around a network's names: prefixes of wrappers, averages beside weights.

DistributedDataParallel writes ``module.blocks.0...``, torch.compile ``_orig_mod.blocks.0...``,
Lightning ``model.blocks.0...`` and perhaps ``ema.blocks.0...``, an averaged model ``n_averaged``
beside ``module.blocks.0...``. A network is looked for under the names as they are, then under
those without what they share, then among the parts that names fall into.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from ...core.errors import UserError
from .readers import WeightSource

# Written into names wherever a module is wrapped, and never a network's own.
ANYWHERE = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# Parts in the order in which they are taken where a file has several.
PREFERRED = (
    *("ema", "ema_model", "model_ema", "ema_net", "net_ema", "ema_denoiser"),
    *("model", "module", "net", "network", "online_model", "denoiser", "diffusion_model"),
    *("transformer", "dit", "unet"),
)
LOSSES = "loss."
DEEPEST = 6
Found = TypeVar("Found")


def search(
    weights: WeightSource, recognise: Callable[[WeightSource], Found | None], depth: int = 0
) -> Found | None:
    """Return what ``recognise`` finds under a file's names, or under them without wrappers.

    Args:
        weights: the file.
        recognise: looks at a file, or a part of it, under given names; None where that is nothing
            known. The part's description says what was taken off and what left out.
        depth: how often something was taken off.

    Raises:
        UserError: several parts are known and none of them is named like an average or a model;
            or as ``recognise``.
    """
    if (found := recognise(weights)) is not None or depth > DEEPEST:
        return found
    if (bare := _without(weights, ANYWHERE)) is not None:
        return search(bare, recognise, depth + 1)
    names = parts(weights.tensors)
    if len(names) == 1 and None not in names:
        (name,) = names
        return search(part(weights, str(name)), recognise, depth + 1)
    if depth and not any(name in PREFERRED for name in names):
        return None
    known: dict[str, Found] = {}
    for name in sorted(filter(None, names), key=_preference):
        found = search(part(weights, name), recognise, depth + 1)
        if found is not None and name in PREFERRED:
            return found
        if found is not None:
            known[name] = found
    if len(known) > 1:
        raise UserError(
            f"{weights.path} holds several networks ({', '.join(known)}): name one of them as the "
            f"entry"
        )
    return next(iter(known.values()), None)


def parts(names: Iterable[str]) -> dict[str | None, int]:
    """Return what stands before the first dot of names, with the number of names; None: no dot."""
    counts: dict[str | None, int] = {}
    for name in names:
        first, dot, _ = name.partition(".")
        key = first if dot else None
        counts[key] = counts.get(key, 0) + 1
    return counts


def part(weights: WeightSource, name: str) -> WeightSource:
    """Return the arrays below a prefix, without it; the others are left out, and that is said."""
    prefix = f"{name}."
    tensors = {
        key.removeprefix(prefix): tensor
        for key, tensor in weights.tensors.items()
        if key.startswith(prefix)
    }
    others = [key for key in weights.tensors if not key.startswith(prefix)]
    left_out = [f"{one}.*" for one in parts(others) if one is not None]
    left_out += [key for key in others if "." not in key]
    return _described(weights, tensors, prefix, left_out)


def without_losses(weights: WeightSource) -> WeightSource:
    """Leave out what a training's loss holds of its own: a discriminator, a network of features."""
    kept = {name: one for name, one in weights.tensors.items() if not name.startswith(LOSSES)}
    if len(kept) == len(weights.tensors):
        return weights
    return _described(weights, kept, "", [f"{LOSSES}*"])


def _preference(name: str | None) -> int:
    return PREFERRED.index(name) if name in PREFERRED else len(PREFERRED)


def _without(weights: WeightSource, words: frozenset[str]) -> WeightSource | None:
    """Return arrays under names without certain words; None where no name has any."""
    renamed = {
        ".".join(one for one in name.split(".") if one not in words): name
        for name in weights.tensors
    }
    found = sorted(words & {one for name in weights.tensors for one in name.split(".")})
    if not found or len(renamed) < len(weights.tensors):
        return None
    tensors = {new: weights.tensors[old] for new, old in renamed.items()}
    return _described(weights, tensors, "".join(f"{one}." for one in found), ())


def _described(
    weights: WeightSource, tensors: Mapping, prefix: str, left_out: Iterable[str]
) -> WeightSource:
    about = weights.description
    description = dataclasses.replace(
        about, prefix=about.prefix + prefix, left_out=(*about.left_out, *left_out)
    )
    return dataclasses.replace(weights, tensors=tensors, description=description)
