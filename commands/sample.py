"""The sampling verb: any number of images from weights, a rule and a solver; resumable."""

import json
import time
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from ..core.errors import UserError
from ..data.images import grid, save_png, to_uint8
from ..inference.decoder import Decoder, decoder_from_config, kept_scaling, scaling_from_config
from ..inference.job import job_from_config
from ..models.autoencoders.scaling import LatentScaling
from ..runtime.store import ImageStore

# What this mode reads of a config.
READS = (
    "seed",
    "guidance",
    "sampler",
    "sampling",
)


GRID_IMAGES = 100


def run(config, workdir: Path) -> None:
    """Sample ``config.sampling.count`` images into ``workdir``, skipping those already there.

    Args:
        config: an experiment's config.
        workdir: gets one PNG an image (or .npz shards), ``grid.png`` and ``sampling.json``.

    Raises:
        UserError: unusable config, a workdir of another sampling run, no space.
    """
    job = job_from_config(config)
    section = config.sampling
    if section.count < 1 or section.batch_size < 1:
        raise UserError("config.sampling.count and batch_size must be at least 1")
    plan = job.plan()
    main = job.networks["main"]
    scaling = scaling_from_config(section, kept_scaling(section.weights.main))
    decoder = _decoder(section, main, scaling)
    raw = decoder is None and (main.latent or scaling is not None)
    identity = _identity(config) | ({"latents": scaling.to_json()} if scaling else {})
    store = ImageStore(workdir, section.format, section.count, identity=identity)
    todo = store.missing()[jax.process_index() :: jax.process_count()]
    evaluations = ", ".join(f"{n} {c}" for n, c in sorted(plan.totals.items()))
    print(
        f"{config.name}: {section.count} images to {workdir}, {len(todo)} still to make; network "
        f"evaluations an image: {evaluations} ({plan.macs / 1e9:.3f} G multiply-adds) on "
        f"{len(jax.local_devices())} {jax.devices()[0].platform} device(s)",
        flush=True,
    )
    started = time.monotonic()
    with tqdm(total=len(todo), unit="image", dynamic_ncols=True) as bar:
        for begin in range(0, len(todo), section.batch_size):
            indices = todo[begin : begin + section.batch_size]
            # A last, shorter batch is filled up: one shape, one compilation.
            full = np.resize(indices, min(section.batch_size, len(todo)))
            images = job.images(full)[: len(indices)]
            if decoder is not None:
                images = decoder(images)
            store.write(indices, images if raw else to_uint8(images), job.labels(indices))
            bar.update(len(indices))
    if jax.process_index() == 0 and not raw and not store.missing().size:
        shown = store.read(np.arange(min(GRID_IMAGES, section.count)))
        columns = len(job.classes) if job.classes and len(job.classes) <= 20 else None
        save_png(workdir / "grid.png", grid(shown, columns=columns), magnify=2)
    seconds = time.monotonic() - started
    if todo.size:
        print(f"{seconds / len(todo):.4f} s an image, compilation included; results in {workdir}")


def _decoder(section, main, scaling: LatentScaling | None) -> Decoder | None:
    """Return what decodes the samples; None where they are pixels, or latents to be kept."""
    if section.decoder:
        return decoder_from_config(section, scaling, main.shape[-1])
    if section.format != "npz" and (main.latent or scaling is not None):
        raise UserError(
            "config.sampling.weights.main makes latents: set config.sampling.decoder to the "
            "weights of their autoencoder, or config.sampling.format=npz to keep latents, which "
            "--mode=decode decodes later"
        )
    return None


def _identity(config) -> dict:
    """What must agree for images in a folder to belong to one set."""
    sampling = config.sampling.to_dict()
    for machine in ("batch_size", "branches", "count", "any_decoder"):
        sampling.pop(machine)
    return json.loads(
        json.dumps(
            {
                "seed": config.seed,
                "guidance": config.guidance.to_dict(),
                "sampler": config.sampler.to_dict(),
                "sampling": sampling,
            }
        )
    )
