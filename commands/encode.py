"""The encode verb: a data set's latents, once, for any number of trainings on them."""

import json
import os
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from .. import input_pipeline
from ..core.errors import UserError
from ..data import record_folder
from ..data.source import Source
from ..models.autoencoders.loading import Autoencoder, load_autoencoder
from ..models.autoencoders.scaling import PUBLISHED, LatentScaling, fitted
from ..runtime import distributed
from ..runtime.batches import Batches

# What this mode reads of a config.
READS = (
    "data",
    "encoding",
)


FITTED = "fitted"
# Half the bytes of float32. Of the two types of that size this one has eight times the precision
# (a relative error below 2^-11), and latents lie far inside its range, which is checked.
STORED = "float16"


def run(config, workdir: Path) -> None:
    """Write the latents of ``config.data`` into ``workdir``, a folder that ``data.name`` can name.

    A record is the mean and the standard deviation of an image's latent, before any scaling: a
    training draws from them anew each time (as EDM2 does). The same command goes on with the shards
    that are missing.

    Args:
        config: an experiment's config; its ``data`` and ``encoding`` sections are used.
        workdir: gets the shards, and ``dataset.json`` when all are there.

    Raises:
        UserError: no autoencoder, or one that does not take these images; an unknown scaling;
            a folder with other latents; latents that are not finite.
    """
    section = config.encoding
    if section.batch_size < 1 or section.records_per_shard < 1:
        raise UserError("config.encoding.batch_size and records_per_shard must be at least 1")
    autoencoder = load_autoencoder(section.autoencoder, "config.encoding.autoencoder")
    scaling = _scaling(section, autoencoder)
    source = input_pipeline.load_source(**config.data)
    shape = _latent_shape(autoencoder, source, scaling)
    count = source.num_examples * (2 if section.mirror else 1)
    description = dict(
        shape=(*shape[:2], 2 * shape[2]),
        dtype=STORED,
        num_classes=source.num_classes,
        records_per_shard=section.records_per_shard,
        examples=count,
        latents=dict(
            layout="mean, then standard deviation, along the last axis; not scaled",
            images=dict(name=source.name, split=config.data.split, shape=source.shape),
            mirrored=section.mirror,
            file=autoencoder.file,
            autoencoder=autoencoder.sha256,
            image_range=scaling.image_range,
            scaling=section.scaling,
            std=section.std,
        ),
    )
    if _finished(workdir, description):
        print(f"nothing to do: {workdir} already holds these {count:,} latents")
        return
    writer = record_folder.Writer(workdir, description)
    shards = -(-count // section.records_per_shard)
    mine = [i for i in range(shards) if i % jax.process_count() == jax.process_index()]
    todo = [i for i in mine if not (writer.has(i) and _sums_file(workdir, i).exists())]
    print(
        f"{count:,} latents {shape} of {source.name} {config.data.split} by {autoencoder.file}, to "
        f"{shards} shards in {workdir}, {len(todo)} still to make",
        flush=True,
    )
    run = Batches(_posterior, autoencoder, section.batch_size, scaling=scaling)
    started, made = time.monotonic(), 0
    with tqdm(
        total=count, unit="image", mininterval=2, disable=not distributed.is_primary()
    ) as bar:
        for shard in range(shards):
            begin = shard * section.records_per_shard
            numbers = np.arange(begin, min(begin + section.records_per_shard, count))
            if shard in todo:
                _write(writer, shard, *_encoded(run, source, numbers))
                made += len(numbers)
            bar.update(len(numbers))
    distributed.meet("latents written")
    if distributed.is_primary():
        facts = {"latents": description["latents"] | _whole(workdir, shards, section, scaling)}
        writer.finish(shards, **facts)
        for shard in range(shards):
            _sums_file(workdir, shard).unlink(missing_ok=True)
        seconds = time.monotonic() - started
        speed = f" ({made / seconds:.0f} images a second)" if made else ""
        print(f"wrote {workdir}{speed}: --config.data.name={workdir} trains on it")
    distributed.meet("latents described")


def _scaling(section, autoencoder: Autoencoder) -> LatentScaling:
    """Return the published scaling that is asked for; before one is fitted, the identity."""
    try:
        if section.scaling == FITTED:
            none = dict(shift=(0.0,) * autoencoder.latent_channels)
            none["scale"] = (1.0,) * autoencoder.latent_channels
            return LatentScaling(section.image_range, **none)
        scaling = PUBLISHED[section.scaling]
    except KeyError:
        raise UserError(
            f"config.encoding.scaling {section.scaling!r} is not one of "
            f"{', '.join([FITTED, *PUBLISHED])}"
        ) from None
    except ValueError as error:
        raise UserError(f"config.encoding.image_range: {error}") from error
    if scaling.channels != autoencoder.latent_channels:
        raise UserError(
            f"config.encoding.scaling {section.scaling!r} is of {scaling.channels} channels and "
            f"{autoencoder.file} makes {autoencoder.latent_channels}: set it to {FITTED!r}"
        )
    return scaling


def _latent_shape(autoencoder: Autoencoder, source: Source, scaling) -> tuple[int, ...]:
    if len(source.shape) != 3 or source.draw is not None:
        raise UserError(f"examples of {source.name} are not images: set config.data.name to a set")
    like = jax.ShapeDtypeStruct((1, *source.shape), jnp.float32)
    try:
        mean, _ = jax.eval_shape(lambda model, x: model.encode(x, scaling), autoencoder, like)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{autoencoder.file} cannot encode the images of {source.name}: {error}"
        ) from error
    return mean.shape[1:]


def _finished(workdir: Path, description: dict) -> bool:
    """Say whether these very latents are there; a folder with other ones is refused later on."""
    if not (workdir / record_folder.DESCRIPTION).exists():
        return False
    there = record_folder.describe(workdir)
    wanted = json.loads(json.dumps(description))
    facts = there.get("latents", {})
    same = all(facts.get(key) == value for key, value in wanted.pop("latents").items())
    return same and all(there.get(key) == value for key, value in wanted.items())


@partial(jax.jit, static_argnames="scaling")
def _posterior(autoencoder: Autoencoder, images, scaling: LatentScaling):
    """Return mean and standard deviation of the latents of images, side by side."""
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 127.5 - 1
    mean, log_variance = autoencoder.encode(images, scaling)
    return jnp.concatenate([mean, jnp.exp(0.5 * log_variance)], axis=-1)


def _encoded(run: Batches, source: Source, numbers: np.ndarray):
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
        labels.append(classes)
    return np.concatenate(stored), np.concatenate(labels)


def _write(writer: record_folder.Writer, shard: int, stored: np.ndarray, labels: np.ndarray):
    """Write a shard, and before it the sums that a fitted scaling is made of."""
    mean, std = np.split(stored.astype(np.float64), 2, axis=-1)
    sums = {"first": mean, "second": mean**2 + std**2}
    text = {name: value.sum(axis=(0, 1, 2)).tolist() for name, value in sums.items()}
    text["places"] = int(np.prod(mean.shape[:3]))
    path = _sums_file(writer.folder, shard)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(text))
    os.replace(partial, path)
    writer.write(shard, stored, labels)


def _sums_file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.sums.json"


def _whole(folder: Path, shards: int, section, scaling: LatentScaling) -> dict:
    """Return each channel's mean and standard deviation, and the scaling of the latents."""
    parts = [json.loads(_sums_file(folder, shard).read_text()) for shard in range(shards)]
    places = sum(part["places"] for part in parts)
    mean, second = (
        np.sum([part[name] for part in parts], axis=0) / places for name in ("first", "second")
    )
    std = np.sqrt(np.maximum(second - mean**2, 0))
    facts = {"channel_mean": mean.tolist(), "channel_std": std.tolist()}
    if section.scaling == FITTED:
        try:
            scaling = fitted(mean, std, to_std=section.std, image_range=scaling.image_range)
        except ValueError as error:
            raise UserError(f"{folder}: {error}") from error
    return facts | {"shift": list(scaling.shift), "scale": list(scaling.scale)}
