"""Weights in folders: as diffusers and accelerate write them, whole or in shards.

``config.json`` beside the weights says what they are of; ``transformer/``, ``unet/`` and ``vae/``
are the networks of a pipeline; ``*.index.json`` says which of several files, the shards, has which
array.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ...core.errors import UserError
from ...core.files import Array, digest_of, safe_name, sha256
from .readers import LazyTensor, WeightSource, open_weights
from .wrappers import part, parts

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
INDEX = re.compile(r".+\.index(\.\w+)?\.json")
ENDINGS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
LOOSE = (".safetensors", ".pt", ".pth", ".pkl", ".ckpt", ".bin")
# Networks of a pipeline, in the order in which they are taken.
NETWORKS = ("transformer", "unet", "vae")
SHARD = re.compile(r".+-(\d{5})-of-(\d{5})\.\w+")
CONFIG = "config.json"
SCHEDULE = "scheduler/scheduler_config.json"
CLASS = "_class_name"
LARGEST = 64 << 20


def file_in(folder: Path) -> Path:
    """Return the weight file in a folder, or the index of its shards.

    Of a pipeline it is that of the transformer or the UNet.

    Raises:
        UserError: none, or several that nothing chooses between.
    """
    for stem in STEMS:
        for ending in ENDINGS:
            if (found := folder / f"{stem}{ending}").is_file():
                return found
    try:
        everything = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): check it") from error
    inside = [path for path in everything if path.is_file()]
    indices = [path for path in inside if INDEX.fullmatch(path.name)]
    if len(indices) == 1:
        return indices[0]
    loose = [path for path in inside if path.suffix in LOOSE]
    if len(loose) == 1:
        return loose[0]
    if loose:
        raise UserError(
            f"{folder} holds several weight files ({_listed(path.name for path in loose)}): name "
            f"one of them"
        )
    for name in NETWORKS:
        if (folder / name).is_dir():
            return file_in(folder / name)
    others = _listed(path.name for path in everything)
    raise UserError(f"{folder} holds no weights but {others}: give the path of a weight file")


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    return (", ".join(names[:8]) + ", ..." * (len(names) > 8)) or "nothing"


def require_whole(path: Path) -> None:
    """Refuse a file that is only a part of weights, or says something of them.

    Raises:
        UserError: one of several shards, or JSON that is no index.
    """
    match = SHARD.fullmatch(path.name)
    if match and int(match[2]) > 1:
        raise UserError(
            f"{path} is one of {int(match[2])} shards: give the folder that they are in, or its "
            f".index.json file"
        )
    if path.suffix == ".json" and not INDEX.fullmatch(path.name):
        raise UserError(
            f"{path} is no weights but what is said of some: give its folder, or the .safetensors "
            f"file beside it"
        )


def open_file(path: Path, entry: str | None = None) -> WeightSource:
    """Look into a weight file or an index of shards, with what a config beside it says.

    Args:
        path: as `file_in` returns it.
        entry: as in `open_weights`, or what the names of some arrays begin with.

    Raises:
        UserError: as `open_weights`; or shards that their index does not describe.
    """
    read = _open_shards if INDEX.fullmatch(path.name) else open_weights
    try:
        weights = read(path, entry)
    except UserError:
        if entry is None or entry not in parts((whole := read(path, None)).tensors):
            raise
        weights = part(whole, entry)
    about = config_beside(path)
    if about is None:
        return weights
    return dataclasses.replace(weights, metadata={**weights.metadata, CONFIG: about})


def config_beside(path: Path) -> dict | None:
    """Return what diffusers' config beside a weight file says; None where there is none.

    Of a network in a pipeline, what the pipeline's schedule says of its training is in it too.
    """
    config = _json_of(path.parent / CONFIG)
    if config is None:
        return None
    schedule = _json_of(path.parent.parent / SCHEDULE) or {}
    return {name: value for name, value in schedule.items() if name != CLASS} | config


def _json_of(path: Path) -> dict | None:
    try:
        raw = path.read_bytes()
        found = json.loads(raw) if len(raw) < LARGEST else None
    except (OSError, ValueError, RecursionError):
        return None  # of something else
    return found if isinstance(found, dict) and isinstance(found.get(CLASS), str) else None


def shards_of(index: Path) -> dict[str, str]:
    """Return which shard has which array.

    Raises:
        UserError: an index that is damaged, or names what is no file beside it.
    """
    again = "download the folder again"
    try:
        raw = index.read_bytes()
        places = json.loads(raw)["weight_map"] if len(raw) < LARGEST else None
    except (OSError, ValueError, RecursionError, LookupError, TypeError) as error:
        raise UserError(f"{index} is no index of shards: {again}") from error
    if not isinstance(places, dict) or not all(isinstance(one, str) for one in places.values()):
        raise UserError(f"{index} is no index of shards: {again}")
    for shard in sorted(set(places.values())):
        safe_name(shard, f"a shard in {index}")
        if not (index.parent / shard).is_file():
            raise UserError(f"{index} names the shard {shard}, which is not beside it: {again}")
    return places


def _open_shards(index: Path, entry: str | None) -> WeightSource:
    places = shards_of(index)
    files = {name: open_weights(index.parent / name, entry) for name in set(places.values())}
    tensors: dict[str, LazyTensor | Array] = {}
    for name, shard in places.items():
        if name not in files[shard].tensors:
            raise UserError(
                f"{index} says that {shard} has {name[:200]!r}, and it has not: download the "
                f"folder again"
            )
        tensors[name] = files[shard].tensors[name]
    if not tensors:
        raise UserError(f"{index} names no arrays: download the folder again")
    first = next(iter(files.values()))
    count = "shard" if len(files) == 1 else "shards"
    description = dataclasses.replace(
        first.description, format=f"{first.description.format} in {len(files)} {count}"
    )
    return WeightSource(index, tensors, first.metadata, description)


def digest(path: Path) -> str:
    """Return the SHA-256 of a weight file; of an index, that of what its shards are."""
    if not INDEX.fullmatch(path.name):
        return sha256(path)
    shards: Mapping[str, str] = shards_of(path)
    return digest_of({name: sha256(path.parent / name) for name in sorted(set(shards.values()))})
