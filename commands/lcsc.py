"""The best linear combination of the weights that a run stored, by the samples it gives."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ..core.checks import require_ranges
from ..core.errors import UserError
from ..core.files import sha256, write_pair
from ..core.random import checked_seed
from ..data.images import to_uint8
from ..data.source import Source
from ..evaluation.extractors.classifier_features import ClassifierFeatures
from ..evaluation.metrics.frechet import frechet_distance, moments, moments_of_batches
from ..runtime.run_folder import EVALUATION, RUN, SAMPLES, Folder
from ..training.averages.lcsc import RANGES, STARTS, Coefficients, ema_coefficients, evolve
from ..training.averages.weight_sums import WeightSum
from .config.training import data_of, plain, require_own, source_of
from .sample import job_from_config

# What this mode reads of a config.
READS = (
    "seed",
    "data",
    "-data.flip",
    "lcsc",
    "guidance",
    "sampler",
    "sampling.weights",
    "sampling.classes",
    "sampling.branches",
)
# What its work folder becomes, and may hold before.
WORKDIR = Folder(beside=(RUN, SAMPLES, EVALUATION))


def run(config, workdir: Path) -> Path:
    """Write ``<workdir>/<config.name>-lcsc.safetensors``, the best combination found.

    Candidates are scored by the Frechet distance between a small number of samples, of the same
    noise for all, and the data, in pixels or in the features of a classifier.

    Args:
        config: an experiment's config; ``lcsc`` says what is combined and how long is searched,
            ``guidance``, ``sampler`` and ``sampling.classes`` how candidates are sampled.
        workdir: of a run that stored weights.

    Raises:
        UserError: fewer than two files, or anything that cannot be sampled or searched.
    """
    section = config.lcsc
    require_ranges("lcsc", plain(section), RANGES)
    seed = checked_seed(config.seed)
    path = workdir / f"{config.name}-lcsc.safetensors"
    require_own(path, lambda sidecar: sidecar.get("weights") == "LCSC", "lcsc")
    files = sorted(workdir.glob(section.files))
    if len(files) < 2:
        raise UserError(
            f"{workdir}/{section.files} are {len(files)} files: train with ema.snapshot_images=N "
            f"and ema.snapshot_weights=True, or set lcsc.files"
        )
    weights = WeightSum(files)
    extract = features_of(section.features)
    source = source_of(config)
    stored = next(read_in_parts(source)).dtype
    if section.features != "pixels" and stored != np.uint8:
        raise UserError(
            f"lcsc.features {section.features!r} are of images, and {config.data.name} "
            f"holds {stored} numbers: use pixels, the numbers themselves"
        )
    real = moments_of_batches(map(extract, read_in_parts(source)))
    config = config.copy_and_resolve_references()
    config.sampling.weights.main = str(files[-1])
    job = job_from_config(config)
    main, indices = job.networks["main"], np.arange(section.images)
    as_stored = to_uint8 if stored == np.uint8 else np.asarray

    def score(coefficients: Coefficients) -> float:
        denoiser = dataclasses.replace(main, params=weights.params(coefficients))
        networks = job.networks | {"main": denoiser}
        images = dataclasses.replace(job, networks=networks).images(indices)
        if not np.isfinite(images).all():
            return np.inf
        return frechet_distance(real, moments(extract(as_stored(images))))

    begun = {
        "files": {file.name: sha256(file) for file in files},
        "data": data_of(config, source),
        "lcsc": {k: v for k, v in plain(section).items() if k not in ("files", "evaluations")},
        "samples": job.made_of(),
        "seed": seed,
    }
    found = evolve(
        score,
        [np.eye(len(files))[-1], *(ema_coefficients(len(files), std) for std in STARTS)],
        evaluations=section.evaluations,
        population=section.population,
        spread=section.spread,
        seed=seed,
        record=workdir / "lcsc.jsonl",
        about=begun,
    )
    about = {
        "files": [file.name for file in files],
        "coefficients": found.coefficients.tolist(),
        "frechet_distance": found.score,
        "best_start": found.start,
        "images": section.images,
        "features": section.features,
        "evaluations": found.evaluations,
    }
    sidecar = weights.sidecar | {"name": path.stem, "weights": "LCSC", "lcsc": about}
    write_pair(path, weights.arrays(found.coefficients, np.float16), sidecar)
    total, negative = found.coefficients.sum(), (found.coefficients < 0).sum()
    print(
        f"wrote {path}: Frechet distance {found.score:.4g} in {section.features}, of the last "
        f"weights and averages at best {found.start:.4g}; coefficients sum to {total:.4f}, "
        f"{negative} of {len(files)} are negative"
    )
    return path


def read_in_parts(source: Source, size: int = 1000) -> Iterator[np.ndarray]:
    """Yield all examples of a data set; of one whose examples are drawn, their means."""
    for start in range(0, source.num_examples, size):
        examples, _ = source.read(np.arange(start, min(start + size, source.num_examples)))
        if source.draw is not None:
            examples = source.draw(examples, np.zeros((len(examples), *source.shape)))
        yield examples


def features_of(name: str) -> Callable[[np.ndarray], Float[np.ndarray, "image feature"]]:
    """Return what maps images, as a data set stores them, to features."""
    if name != "pixels":
        extractor = ClassifierFeatures(name)
        return lambda images: extractor(images)[0]
    return lambda images: (
        images.reshape(len(images), -1) / (127.5 if images.dtype == np.uint8 else 1.0)
    )
