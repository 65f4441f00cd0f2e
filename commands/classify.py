"""The classify mode: how well a denoiser names the classes of a data set; resumable."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file
from tqdm import tqdm

from .. import input_pipeline
from ..core.checks import count, require_ranges
from ..core.errors import UserError
from ..core.files import read_json, require_pair, sidecar_path, write_pair
from ..core.random import root_key
from ..data.images import from_uint8
from ..data.source import Source
from ..evaluation.denoising_errors import Classified, diffusion_classifier, require_stages
from ..guidance import MAIN
from ..inference.networks import read_weights
from ..runtime import distributed
from ..runtime.identity import plain, require_same, write_record
from ..runtime.run_folder import CLASSIFICATION, Folder
from ..samplers.config import SCHEDULES
from .config.sections import section

EXAMPLE = "configs/fashion_mnist_classes.py"
# What this mode reads of a config.
READS = (
    "seed",
    "data",
    "-data.flip",
    "sampling.weights.main",
    "classification",
)
# What its work folder becomes, and may hold before.
WORKDIR = Folder(makes=CLASSIFICATION)
RECORD, BLOCKS = "classification.json", "blocks"
# Images whose errors are written at a time.
BLOCK = 100
RANGES = {"count": count(0, "0 is all"), "batch_size": count(1)}


def run(config, workdir: Path) -> None:
    """Name the class of images of ``config.data`` by their lowest denoising error.

    Args:
        config: an experiment's config; the denoiser is ``sampling.weights.main``.
        workdir: gets the errors by class of ``BLOCK`` images a file below ``blocks``, and
            ``classification.json`` with the accuracy. A run that was stopped goes on with the
            blocks that are missing, and so does one that is asked for more images.

    Raises:
        UserError: a denoiser or a data set without classes, or of different ones; stages that do
            not lead to one class; a workdir of another classification.
    """
    chosen = section(config, "classification", fields=("schedule", "stages"), example=EXAMPLE)
    require_ranges("classification", {name: chosen[name] for name in RANGES}, RANGES)
    levels = SCHEDULES.build(chosen.schedule.to_dict(), "classification.schedule")
    levels = np.asarray(levels)[np.asarray(levels) > 0]
    if not config.sampling.weights.main:
        raise UserError("sampling.weights.main is empty: name the denoiser that is to classify")
    weights = read_weights(MAIN, config.sampling.weights.main)
    stages = require_stages(
        plain(chosen.stages), len(levels), _classes(weights.network), "classification.stages"
    )
    source = input_pipeline.load_source(**config.data)
    _require_fit(source, weights.network, levels)
    wanted = chosen.count or source.num_examples
    if wanted > source.num_examples:
        raise UserError(
            f"classification.count is {wanted}, and {source.name} has {source.num_examples} "
            f"examples: lower it, or 0 for all"
        )
    made_of = {
        "weights": weights.made_of,
        "data": source.identity(),
        "seed": config.seed,
        "levels": levels.tolist(),
        "stages": [list(one) for one in stages],
    }
    said = {"weights": weights.place, "data": source.name}
    record = workdir / RECORD
    if record.exists():
        require_same(record, made_of, said, what="errors of images")
    elif distributed.is_primary():
        write_record(record, made_of, said)
    starts = range(0, wanted, BLOCK)
    ranges = [np.arange(start, min(start + BLOCK, wanted)) for start in starts]
    options = dict(
        sigmas=levels,
        key=root_key(config.seed),
        stages=stages,
        batch_size=chosen.batch_size,
    )
    failed, found = None, {}
    try:
        mine = ranges[jax.process_index() :: jax.process_count()]
        found = _filled(workdir, mine, source, weights.network, options)
    except UserError as error:
        failed = error
    distributed.agree(failed, "could not classify its share of the images")
    if distributed.is_primary():
        # Of other processes' blocks those that were written.
        blocks = [found.get(one[0]) or _kept(workdir, one) for one in ranges]
        numbers = _measured(blocks, weights.network.macs)
        write_record(record, made_of, said, **numbers)
        print(
            f"accuracy {numbers['accuracy']:.2%} of {numbers['images']} images, "
            f"{numbers['evaluations']:.1f} evaluations an image "
            f"({numbers['multiply_adds'] / 1e9:.4g} G multiply-adds): {record}"
        )


def _classes(network: Any) -> int:
    if network.num_classes < 2:
        raise UserError(
            "sampling.weights.main knows no classes to choose from: name a denoiser that was "
            "trained with labels"
        )
    return network.num_classes


def _require_fit(source: Source, network: Any, levels: np.ndarray) -> None:
    if tuple(source.shape) != tuple(network.shape):
        raise UserError(
            f"data.name {source.name}: examples are of shape {tuple(source.shape)}, and "
            f"sampling.weights.main denoises {tuple(network.shape)}: choose data that it knows"
        )
    if source.num_classes != network.num_classes:
        raise UserError(
            f"data.name {source.name} has {source.num_classes} classes, and sampling.weights.main "
            f"knows {network.num_classes}: labels would mean something else to it"
        )
    low, high = network.sigma_range
    if levels.min() < low * (1 - 1e-6) or levels.max() > high * (1 + 1e-6):
        raise UserError(
            f"classification.schedule asks for noise levels from {levels.min():g} to "
            f"{levels.max():g}, and sampling.weights.main was trained from {low:g} to {high:g}: "
            f"set its sigma_min and sigma_max within"
        )


def _filled(
    workdir: Path, blocks: list[np.ndarray], source: Source, network: Any, options: dict[str, Any]
) -> dict[int, dict[str, np.ndarray]]:
    """Return what is known of blocks of images by their first; those that were not there are made.

    Raises:
        UserError: a block cannot be read or written, or errors that are not finite.
    """
    kept = {int(one[0]): _kept(workdir, one) for one in blocks}
    missing = [one for one in blocks if kept[one[0]] is None]
    total = sum(map(len, missing))
    with tqdm(total=total, unit="image", mininterval=2, disable=jax.process_index() > 0) as bar:
        for indices in missing:
            images, labels = _read(source, indices)
            found = diffusion_classifier(
                network, images, indices=indices, progress=bar.update, **options
            )
            arrays = {**found._asdict(), "labels": labels, "indices": indices}
            _path(workdir, indices).parent.mkdir(exist_ok=True)
            write_pair(_path(workdir, indices), arrays, {"images": len(indices)})
            kept[int(indices[0])] = arrays
    return kept


def _read(source: Source, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return examples as the denoiser knows them, latents at their means, and their labels."""
    x, labels = source.read(indices)
    if source.draw is not None:
        x = source.draw(x, np.zeros((len(x), *source.shape), np.float32))
    return from_uint8(x) if x.dtype == np.uint8 else x, np.asarray(labels, np.int64)


def _path(workdir: Path, indices: np.ndarray) -> Path:
    return workdir / BLOCKS / f"{indices[0]:08d}-{len(indices)}.safetensors"


def _kept(workdir: Path, indices: np.ndarray) -> dict[str, np.ndarray] | None:
    """Return what is known of a block of images; None where it is to be made."""
    path = _path(workdir, indices)
    if not (path.exists() and sidecar_path(path).exists()):
        return None
    require_pair(path, read_json(sidecar_path(path), f"remove {path.name} and its .json"))
    return load_file(path)


def _measured(blocks: list[Any], macs: int) -> dict[str, Any]:
    """Return accuracy, confusion ``[asked, found]`` and cost of what was found."""
    found = Classified(
        *(np.concatenate([one[name] for one in blocks]) for name in Classified._fields)
    )
    labels = np.concatenate([one["labels"] for one in blocks])
    confusion = np.zeros((found.errors.shape[1],) * 2, int)
    np.add.at(confusion, (labels, found.classes), 1)
    evaluations = float(found.draws.sum(axis=1).mean())
    return {
        "accuracy": float((found.classes == labels).mean()),
        "images": len(labels),
        "evaluations": evaluations,
        "multiply_adds": evaluations * macs,
        "confusion": confusion.tolist(),
    }
