"""A data set's latents, made once for any number of trainings on them."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..core.batches import Batches
from ..core.errors import UserError
from ..core.files import digest_of, home, read_json, write_json
from ..data import record_folder
from ..data.images import from_uint8
from ..data.source import Source
from ..models.autoencoders.loading import Autoencoder
from ..models.autoencoders.scaling import PUBLISHED, LatentScaling, fitted
from ..runtime import distributed

FITTED = "fitted"
# Half the bytes of float32. Of the two types of that size this one has eight times the precision
# (a relative error below 2^-11), and latents lie far inside its range, which is checked.
STORED = "float16"
LAYOUT = "mean, then standard deviation, along the last axis; not scaled"
STD, IMAGE_RANGE = 0.5, "symmetric"


def encode_images(
    source: Source,
    autoencoder: Autoencoder,
    folder: Path,
    *,
    scaling: str = FITTED,
    std: float = STD,
    image_range: str = IMAGE_RANGE,
    mirror: bool = False,
    batch_size: int = 64,
    records_per_shard: int = 5000,
    split: str = "train",
    say: Callable[[str], Any] = distributed.say,
    progress: Callable[[int, int], Any] = lambda done, total: None,
) -> None:
    """Write the latents of a data set into a folder, itself a data set; resumable.

    A record is the mean and the standard deviation of an image's latent, before any scaling: a
    training draws from them anew each time (as EDM2 does). The same call goes on with the shards
    that are missing; call it in all processes, which share them.

    Args:
        source: images.
        autoencoder: makes the latents.
        folder: gets the shards, and ``dataset.json`` when all are there.
        scaling: ``fitted`` to mean 0 and ``std`` in every channel, or one that is published.
        std: of fitted latents.
        image_range: what the autoencoder takes, of fitted ones: ``symmetric`` or ``unit``.
        mirror: mirrored images, too, after the others.
        batch_size: images at a time.
        records_per_shard: latents a file.
        split: what the source is a part of, to be said in ``dataset.json``.
        say: is told what is made.
        progress: is given how many latents are there, and of how many.

    Raises:
        UserError: in every process, an autoencoder that does not take these images; an unknown
            scaling; a folder with other latents, or no space; latents that are not finite.
    """
    if batch_size < 1 or records_per_shard < 1:
        raise UserError("encoding.batch_size and encoding.records_per_shard must be 1 or more")
    chosen = _scaling(scaling, std, image_range, autoencoder)
    height, width, channels = _latent_shape(autoencoder, source, chosen)
    count = source.num_examples * (2 if mirror else 1)
    latents = dict(
        layout=LAYOUT,
        data=digest_of(source.identity()),
        mirrored=mirror,
        autoencoder=autoencoder.sha256,
        image_range=chosen.image_range,
        scaling=scaling,
        std=std,
    )
    description = dict(
        shape=(height, width, 2 * channels),
        dtype=STORED,
        num_classes=source.num_classes,
        records_per_shard=records_per_shard,
        examples=count,
        latents=latents,
    )
    folder = home(folder)
    if record_folder.holds(folder, description):
        say(f"nothing to do: {folder} already holds these {count:,} latents")
        return
    writer = _begun(folder, description)
    shards = -(-count // records_per_shard)
    mine = [n for n in range(shards) if n % jax.process_count() == jax.process_index()]
    todo = {n for n in mine if not (writer.has(n) and _sums_file(folder, n).exists())}
    say(
        f"{count:,} latents {(height, width, channels)} of {source.name} {split} by "
        f"{autoencoder.file}, to {shards} shards in {folder}, {len(todo)} still to make"
    )
    run = Batches(_posterior, autoencoder, batch_size, scaling=chosen)
    started, made, failed = time.monotonic(), 0, None
    try:
        for shard in range(shards):
            begin = shard * records_per_shard
            numbers = np.arange(begin, min(begin + records_per_shard, count))
            if shard in todo:
                _write(writer, shard, *_encoded(run, source, numbers))
                made += len(numbers)
            progress(int(numbers[-1]) + 1, count)
    except (ValueError, OSError) as error:  # told to the others, who would wait for ever
        failed = error
    distributed.agree(failed, f"could not encode {source.name}")
    try:
        if distributed.is_primary():
            sums = [read_json(_sums_file(folder, n), "encode again") for n in range(shards)]
            said = {
                "images": dict(name=source.name, split=split, shape=source.shape),
                "file": autoencoder.file,
            }
            found = _moments(sums)
            whole = latents | said | found | _scaled(found, chosen, scaling, std, folder)
            writer.finish(shards, latents=whole)
            for shard in range(shards):
                _sums_file(folder, shard).unlink(missing_ok=True)
    except (ValueError, OSError) as error:
        failed = error
    distributed.agree(failed, f"could not finish {folder}")
    speed = f" ({made / (time.monotonic() - started):.0f} images a second)" if made else ""
    say(f"wrote {count:,} latents{speed}")


def _begun(folder: Path, description: dict) -> record_folder.Writer:
    """Return the writer of a folder, which one process begins."""
    writer, failed = None, None
    try:
        if distributed.is_primary():
            record_folder.require_space(folder, description["examples"], description)
            writer = record_folder.Writer(folder, description)
    except (ValueError, OSError) as error:
        failed = error
    distributed.agree(failed, f"could not begin {folder}")
    return writer or record_folder.Writer(folder, description)


def _scaling(name: str, std: float, image_range: str, autoencoder: Autoencoder) -> LatentScaling:
    """Return the published scaling that is asked for; before one is fitted, the identity."""
    if name == FITTED:
        if not 0 < std < float("inf"):
            raise UserError(f"encoding.std {std} is a standard deviation: give a positive number")
        channels = autoencoder.latent_channels
        try:
            return LatentScaling(image_range, shift=(0.0,) * channels, scale=(1.0,) * channels)
        except ValueError as error:
            raise UserError(f"encoding.image_range: {error}") from error
    if name not in PUBLISHED:
        raise UserError(
            f"encoding.scaling {name!r} is not one of {', '.join([FITTED, *PUBLISHED])}"
        )
    for field, value, default in (("std", std, STD), ("image_range", image_range, IMAGE_RANGE)):
        if value != default:
            raise UserError(
                f"encoding.{field} {value!r} has no effect where encoding.scaling is {name!r}: "
                f"leave it out, or set encoding.scaling to {FITTED!r}"
            )
    scaling = PUBLISHED[name]
    if scaling.channels != autoencoder.latent_channels:
        raise UserError(
            f"encoding.scaling {name!r} is of {scaling.channels} channels and "
            f"{autoencoder.file} makes {autoencoder.latent_channels}: set it to {FITTED!r}"
        )
    return scaling


def _latent_shape(
    autoencoder: Autoencoder, source: Source, scaling: LatentScaling
) -> tuple[int, int, int]:
    if len(source.shape) != 3 or source.draw is not None:
        raise UserError(f"examples of {source.name} are not images: set data.name to a set of them")
    like = jax.ShapeDtypeStruct((1, *source.shape), jnp.float32)
    try:
        mean, _ = jax.eval_shape(lambda model, x: model.encode(x, scaling), autoencoder, like)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{autoencoder.file} cannot encode the images of {source.name}: {error}"
        ) from error
    _, height, width, channels = mean.shape
    return height, width, channels


@partial(jax.jit, static_argnames="scaling")
def _posterior(
    autoencoder: Autoencoder, images: Array, scaling: LatentScaling
) -> Float[Array, "batch h w both"]:
    """Return mean and standard deviation of the latents of images, side by side."""
    if images.dtype == jnp.uint8:
        images = from_uint8(images)
    mean, log_variance = autoencoder.encode(images, scaling)
    return jnp.concatenate([mean, jnp.exp(0.5 * log_variance)], axis=-1)


def _encoded(
    run: Batches, source: Source, numbers: Int[np.ndarray, " n"]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the latents and labels of some examples; numbers beyond the set are mirrored ones."""
    stored, labels = [], []
    for begin in range(0, len(numbers), run.size):
        part = numbers[begin : begin + run.size]
        images, classes = source.read(part % source.num_examples)
        mirrored = part >= source.num_examples
        found = run(np.where(mirrored[:, None, None, None], images[:, :, ::-1], images))
        with np.errstate(over="ignore"):  # what overflows is refused below
            half = found.astype(record_folder.DTYPES[STORED])
        bad = np.flatnonzero(~np.isfinite(half).all(axis=(1, 2, 3)))
        if bad.size:
            raise UserError(
                f"the latent of image {part[bad[0]]} of {source.name} is not finite in {STORED} "
                f"(largest value {np.abs(found[bad[0]]).max():g}): these weights do not encode it"
            )
        stored.append(half)
        labels.append(_labels(source, classes, len(part)))
    return np.concatenate(stored), np.concatenate(labels)


def _labels(source: Source, condition: Any, count: int) -> np.ndarray:
    if condition is None:
        return np.zeros(count, np.int32)
    if not (isinstance(condition, np.ndarray) and condition.shape == (count,)):
        raise UserError(
            f"the conditions of {source.name} are no labels, and latents are kept with labels alone"
        )
    return condition


def _write(
    writer: record_folder.Writer, shard: int, stored: np.ndarray, labels: np.ndarray
) -> None:
    """Write a shard, and before it the sums that a fitted scaling is made of."""
    mean, std = np.split(stored.astype(np.float64), 2, axis=-1)
    sums = {"first": mean, "second": mean**2 + std**2}
    data: dict[str, Any] = {key: one.sum(axis=(0, 1, 2)).tolist() for key, one in sums.items()}
    data["places"] = int(np.prod(mean.shape[:3]))
    write_json(_sums_file(writer.folder, shard), data)
    writer.write(shard, stored, labels)


def _sums_file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.sums.json"


def _moments(parts: list[dict]) -> dict[str, list[float]]:
    """Return each channel's mean and standard deviation, from the sums of all shards."""
    places = sum(part["places"] for part in parts)
    mean, second = (
        np.sum([part[name] for part in parts], axis=0) / places for name in ("first", "second")
    )
    std = np.sqrt(np.maximum(second - mean**2, 0))
    return {"channel_mean": mean.tolist(), "channel_std": std.tolist()}


def _scaled(
    moments: dict[str, list[float]], scaling: LatentScaling, name: str, std: float, folder: Path
) -> dict[str, list[float]]:
    """Return how the latents are shifted and scaled when they are read."""
    if name == FITTED:
        mean, spread = (np.array(moments[key]) for key in ("channel_mean", "channel_std"))
        try:
            scaling = fitted(mean, spread, to_std=std, image_range=scaling.image_range)
        except ValueError as error:
            raise UserError(f"{folder}: {error}") from error
    return {"shift": list(scaling.shift), "scale": list(scaling.scale)}
