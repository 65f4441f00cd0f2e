"""The sampling verb: any number of images from weights, a rule and a solver; resumable."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from .. import guidance, samplers
from ..core.errors import UserError
from ..data.images import grid, save_png, to_uint8
from ..evaluation import rewards  # noqa: F401  (configs name them, in solvers and rules)
from ..guidance import MAIN
from ..inference.decoder import Decoder, contents, kept_scaling, latent_scaling, load_decoder
from ..inference.job import Job, build_job, class_labels
from ..inference.networks import Weights, read_weights
from ..models.autoencoders.scaling import LatentScaling
from ..runtime import distributed
from ..runtime.identity import ELSEWHERE, described
from ..runtime.run_folder import EVALUATION, RUN, SAMPLES, Folder
from ..runtime.store import Store
from .config.overrides import is_given

# What this mode reads of a config.
READS = (
    "seed",
    "guidance",
    "sampler",
    "sampling",
)
# What its work folder becomes, and may hold before.
WORKDIR = Folder(makes=SAMPLES, beside=(RUN, EVALUATION))
GRID_IMAGES = 100
# Channels that a PNG can keep.
CHANNELS = (1, 3, 4)


def run(config, workdir: Path) -> None:
    """Sample ``config.sampling.count`` images into ``workdir``, skipping those already there.

    Args:
        config: an experiment's config.
        workdir: gets one PNG an image (or .npz shards), ``grid.png`` and ``sampling.json``. One
            that holds a training run gets them below ``samples``, by default of the run's newest
            average.

    Raises:
        UserError: unusable config, a workdir of another sampling run, images that are not finite,
            no space.
    """
    section = config.sampling
    require_counts("sampling", count=section.count, batch_size=section.batch_size)
    weights, folder = _weights(config, workdir)
    job = job_from_config(config, weights)
    elsewhere = ELSEWHERE if folder == workdir else f"move {folder} away"
    Output(job, section, folder, elsewhere=elsewhere).fill(config.name)


class Output:
    """What becomes of a job's samples: pixels or latents, in a folder of their own.

    Args:
        job: what is sampled; its networks may be shapes alone until `fill`.
        section: a config's ``sampling``.
        workdir: gets the samples, ``sampling.json`` and, of pixels, ``grid.png``.
        decoders: those that were loaded before, by what they were loaded for; this one is added.
        elsewhere: what to do where the folder holds other samples.

    Attributes:
        raw: whether the samples are kept as latents.
        shape: of one sample as it is kept.

    Raises:
        UserError: samples that are no images, or a decoder that does not fit them.
    """

    def __init__(
        self,
        job: Job,
        section,
        workdir: Path,
        decoders: dict | None = None,
        elsewhere: str = ELSEWHERE,
    ):
        self.job, self.section, self.workdir = job, section, workdir
        self._elsewhere = elsewhere
        main, kept = job.main, job.weights[MAIN]
        if len(main.shape) != 3:
            raise UserError(
                f"sampling.weights.main makes samples of shape {main.shape}, which are no images: "
                f"sample from it by guidestar.samplers.sample"
            )
        scaling = latent_scaling(section.scaling, kept_scaling(kept.latents, kept.place))
        same = (section.decoder, section.batch_size, section.any_decoder, main.shape, scaling)
        known = {} if decoders is None else decoders
        if not section.decoder or same not in known:
            known[same] = _decoder(section, main, scaling)
        self.decoder = known[same]
        self.raw = self.decoder is None and (main.latent or scaling is not None)
        decoded = self.decoder is not None
        self.shape = self.decoder.image_shape(main.shape) if decoded else main.shape
        require_channels(section.format, self.shape[-1])
        self.made_of = job.made_of()
        self.said = {f"weights.{name}": one.place for name, one in job.weights.items()}
        if scaling is not None:
            self.made_of["latents"] = contents(scaling)
        if decoded:
            self.made_of["decoder"], self.said["decoder"] = self.decoder.sha256, section.decoder

    def claim(self) -> Store:
        """Return the folder's store.

        Raises:
            UserError: it holds other samples.
        """
        return Store.claimed(
            self.workdir,
            self.section.format,
            self.section.count,
            made_of=self.made_of,
            said=self.said,
            shape=self.shape,
            older=lambda stored: _older(stored, self.job, self.made_of, self.said),
            elsewhere=self._elsewhere,
        )

    def fill(
        self,
        name: str,
        job: Job | None = None,
        advance: Callable[[int], Any] | None = None,
        *,
        quiet: bool = False,
    ) -> Store:
        """Sample what is missing, and return the store.

        Args:
            name: of what is sampled, for what is said.
            job: the job, where it has its networks now and had none before.
            advance: is told how many samples were made, batch by batch.
            quiet: whether to say nothing, and draw no bar.

        Raises:
            UserError: the folder holds other samples, some are not finite, or no space.
        """
        job, section, store = job or self.job, self.section, self.claim()
        todo = store.share()
        size = min(section.batch_size, max(len(todo), 1))

        def make(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
            # A last, shorter batch is filled up: one shape, one compilation.
            images = job.finite_images(np.resize(indices, size))[: len(indices)]
            if self.decoder is not None:
                images = self.decoder.finite_images(indices, images)
            return images if self.raw else to_uint8(images), job.labels(indices)

        if not store.compared:
            store.adopt(make, self.made_of, self.said)
        if not quiet:
            distributed.say(_announced(name, job, section.count, len(todo), self.workdir))
        started = time.monotonic()
        with tqdm(total=len(todo), unit="image", dynamic_ncols=True, disable=quiet) as bar:

            def advanced(count: int) -> None:
                bar.update(count)
                if advance is not None:
                    advance(count)

            complete = store.fill(todo, make, section.batch_size, advanced)
        if complete and distributed.is_primary() and not self.raw:
            shown = store.read(np.arange(min(GRID_IMAGES, section.count)))
            columns = len(job.classes) if job.classes and len(job.classes) <= 20 else None
            save_png(self.workdir / "grid.png", grid(shown, columns=columns), magnify=2)
        if todo.size and not quiet:
            seconds = (time.monotonic() - started) / len(todo)
            distributed.say(
                f"{seconds:.4f} s an image, compilation included; results in {self.workdir}"
            )
        return store


def _weights(config, workdir: Path) -> tuple[dict[str, Weights], Path]:
    """Return weights that take the place of the config's, and the folder of their samples."""
    if not ((workdir / "run.json").is_file() or (workdir / "checkpoints").is_dir()):
        return {}, workdir
    named = config.sampling.weights.main
    if named and is_given(config, "sampling.weights.main"):
        read = read_weights(MAIN, named)
    else:
        # What reads checkpoints takes seconds to import.
        from .config.trained import newest_average

        read = newest_average(config, workdir)
        distributed.say(
            f"{workdir} holds a training run, which is sampled from: {read.place}. Others are "
            f"named by --config.sampling.weights.main"
        )
    return {MAIN: read}, workdir / "samples" / read.name


def job_from_config(config, weights: Mapping[str, str | Weights] | None = None) -> Job:
    """Build the job that a config's ``guidance``, ``sampler`` and ``sampling`` sections ask for.

    Args:
        config: an experiment's config.
        weights: by network name, in the place of those that the config names.

    Raises:
        UserError: anything in them that cannot run, before any image is made.
    """
    try:
        rule = guidance.from_config(config.guidance.to_dict())
        sampler = samplers.from_config(config.sampler.to_dict())
    except ValueError as error:
        raise UserError(str(error)) from error
    return build_job(
        {**config.sampling.weights.to_dict(), **(weights or {})},
        rule,
        sampler,
        seed=config.seed,
        classes=config.sampling.classes,
        branches=config.sampling.branches,
        inputs=config.sampling.inputs.to_dict(),
    )


def require_counts(section: str, **counts: Any) -> None:
    """Refuse numbers of things that are no whole numbers above 0.

    Raises:
        UserError: naming the field.
    """
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{section}.{name} is {value!r}: give a whole number, at least 1")


def require_channels(format: str, channels: int) -> None:
    """Refuse images that the format does not keep.

    Raises:
        UserError: naming the one that does.
    """
    if format == "png" and channels not in CHANNELS:
        raise UserError(
            f"images of {channels} channels are kept by sampling.format=npz alone, not by png"
        )


def _announced(name: str, job: Job, count: int, left: int, workdir: Path) -> str:
    here = " here" * (jax.process_count() > 1)
    notes = "".join(f"\n{note}" for note in job.notes)
    return (
        f"{name}: {count} images of {job.weights[MAIN].place} to {workdir}, {left} still to "
        f"make{here}; {job.cost()} on {len(jax.local_devices())} {jax.devices()[0].platform} "
        f"device(s){notes}"
    )


def _decoder(section, main, scaling: LatentScaling | None) -> Decoder | None:
    """Return what decodes the samples; None where they are pixels, or latents to be kept."""
    if section.decoder:
        return load_decoder(
            section.decoder,
            scaling,
            main.shape[-1],
            batch_size=section.batch_size,
            any_decoder=section.any_decoder,
        )
    if section.any_decoder:
        raise UserError("sampling.any_decoder says nothing without sampling.decoder: leave it out")
    if section.format != "npz" and (main.latent or scaling is not None):
        raise UserError(
            "sampling.weights.main makes latents: set sampling.decoder to the weights of their "
            "autoencoder, or sampling.format=npz to keep latents, which --mode=decode decodes later"
        )
    return None


def _older(stored: dict, job: Job, made_of: Mapping[str, Any], said: Mapping[str, str]) -> dict:
    """Return what an earlier release's ``sampling.json`` tells of what images are made of."""
    try:
        section = stored["sampling"]
        solver, sigmas, prior = samplers.from_config(stored["sampler"])
        main = job.main
        labels = class_labels(section["classes"], main.num_classes, main.null_condition is not None)
        named = {name: section["weights"].get(name, "") for name in job.weights}
        found = {
            "seed": stored["seed"],
            "rule": described(guidance.from_config(stored["guidance"])),
            "solver": described(solver),
            "sigmas": sigmas.tolist(),
            "prior": described(prior),
            "classes": labels and list(labels),
            # Where it names a file of this name, its contents are what cannot be compared.
            "weights": {
                name: made_of["weights"][name]
                if same_name(place, said[f"weights.{name}"])
                else made_of["weights"][name] | {"sha256": f"that of {place}"}
                for name, place in named.items()
            },
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"an earlier release made the images there, and its sampling.json cannot be compared "
            f"({error}): choose another --workdir"
        ) from error
    decoder = section.get("decoder", "")
    if decoder or "decoder" in made_of:
        same = same_name(decoder, said.get("decoder", ""))
        found["decoder"] = made_of.get("decoder") if same else f"that of {decoder}"
    if "latents" in stored or "latents" in made_of:
        found["latents"] = {k: v for k, v in stored.get("latents", {}).items() if k != "file"}
    return found


def same_name(one: str, other: str) -> bool:
    """Say whether two paths end in the same name, whatever its suffix."""
    return bool(one and other) and Path(one).stem == Path(other).stem
