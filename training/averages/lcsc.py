"""LCSC: the linear combination of saved weights that a metric likes best, by evolution.

Liu et al., arXiv 2404.02241. An average (EMA) is a combination whose coefficients are positive
and sum to 1; nothing says that the best one does either.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ... import input_pipeline
from ...commands.sample import job_from_config
from ...core.errors import UserError
from ...core.files import write_pair
from ...data.images import to_uint8
from ...data.source import Source
from ...evaluation.extractors.classifier_features import ClassifierFeatures
from ...evaluation.metrics.frechet import frechet_distance, moments, moments_of_batches
from .ema import exponent_of_std
from .weight_sums import WeightSum

# Relative widths of the averages that a search starts from.
STARTS = (0.05, 0.1, 0.15, 0.2, 0.25)
Coefficients = Float[np.ndarray, " file"]


def ema_coefficients(count: int, std: float) -> Coefficients:
    """Return the coefficients of a power-function average of evenly spaced weights.

    Args:
        count: number of them, in the order of time.
        std: relative width.

    Raises:
        UserError: a width that no profile has.
    """
    return np.diff((np.arange(count + 1) / count) ** (exponent_of_std(std) + 1))


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        coefficients: the best ones.
        score: theirs.
        start: the best score among those it started from.
        evaluations: how many candidates were scored.
    """

    coefficients: Coefficients
    score: float
    start: float
    evaluations: int


def evolve(
    score: Callable[[Coefficients], float],
    starts: Sequence[Coefficients],
    *,
    evaluations: int,
    population: int = 20,
    spread: float = 0.1,
    seed: int = 0,
    record: Path | None = None,
) -> Found:
    """Search for the coefficients of the lowest score.

    A child is made of two parents, better ones more often: each coefficient from one of them, or
    all from the line through both; then noise is added to some. Its sum is that of a parent, or
    near it: it may wander from 1, but not jump. The best ``population`` stay.

    Args:
        score: of coefficients; lower is better. Not finite counts as worst.
        starts: scored first.
        evaluations: candidates in all.
        population: how many are kept.
        spread: largest steps, relative to the root mean square coefficient and to the sum.
        seed: of the search, which repeats itself exactly.
        record: JSON lines of all scores; those already there are not computed again, so that an
            interrupted search goes on.

    Raises:
        UserError: fewer evaluations than starts, no room for two parents, or a record of another
            search.
    """
    if evaluations < len(starts) or population < 2 or not starts:
        raise UserError(
            f"a search of {evaluations} evaluations from {len(starts)} starts with a population of "
            f"{population}: allow one evaluation a start at least, and two parents"
        )
    known = _read(record)
    random, kept, start = np.random.default_rng(seed), [], np.inf
    for number in range(evaluations):
        if number < len(starts):
            candidate = np.asarray(starts[number], np.float64)
        else:
            candidate = _child(kept, random, spread)
        value = _scored(score, candidate, number, known, record)
        if number < len(starts):
            start = min(start, value)
        kept = sorted([*kept, (value, number, candidate)], key=lambda one: one[:2])[:population]
    best, _, coefficients = kept[0]
    return Found(coefficients, best, start, evaluations)


def _child(kept: list, random: np.random.Generator, spread: float) -> Coefficients:
    # The better of two drawn at random, twice.
    first, second = (kept[random.integers(len(kept), size=2).min()][2] for _ in range(2))
    if random.random() < 0.5:
        child = first + random.uniform(-0.5, 1.5) * (second - first)
    else:
        child = np.where(random.random(first.size) < 0.5, first, second)
    touched = random.random(child.size) < random.uniform(1 / child.size, 1)
    noise = touched * random.normal(size=child.size)
    # Steps of all sizes up to `spread`: what is fine enough is not known beforehand.
    child = child + spread * 10 ** random.uniform(-2, 0) * np.sqrt(np.mean(child**2)) * noise
    # The sum scales the network as a whole, to which it is far more sensitive than to the rest.
    wanted = first.sum() if random.random() < 0.5 else second.sum()
    if random.random() < 0.5:
        wanted *= 1 + spread * 10 ** random.uniform(-3, 0) * random.normal()
    return child + (wanted - child.sum()) / child.size


def _read(record: Path | None) -> list[dict]:
    if record is None or not record.exists():
        return []
    known = []
    for line in record.read_text().splitlines():
        try:
            known.append(json.loads(line))
        except json.JSONDecodeError:
            break  # cut short by a kill: it and what would follow are computed again
    record.write_text("".join(json.dumps(one) + "\n" for one in known))
    return known


def _scored(score, candidate: Coefficients, number: int, known: list, record: Path | None) -> float:
    if number < len(known):
        if not np.allclose(known[number]["coefficients"], candidate, rtol=1e-9, atol=1e-12):
            raise UserError(
                f"{record} is of another search (evaluation {number}): remove it, or search with "
                f"the settings it was begun with"
            )
        return known[number]["score"]
    value = float(score(candidate))
    value = value if np.isfinite(value) else float(np.finfo(np.float64).max)
    if record is not None:
        line = json.dumps({"coefficients": candidate.tolist(), "score": value})
        with record.open("a") as file:
            file.write(line + "\n")
    return value


def search(config, workdir: Path) -> Path:
    """Write ``<workdir>/<config.name>-lcsc.safetensors``, the best combination found (a verb).

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
    files = sorted(workdir.glob(section.files))
    if len(files) < 2:
        raise UserError(
            f"{workdir}/{section.files} are {len(files)} files: train with "
            f"--config.ema.snapshot_images=N --config.ema.snapshot_weights=True, or set "
            f"config.lcsc.files"
        )
    weights = WeightSum(files)
    extract = _features(section.features)
    source = input_pipeline.load_source(**config.data)
    stored = next(_read_in_parts(source)).dtype
    if section.features != "pixels" and stored != np.uint8:
        raise UserError(
            f"config.lcsc.features {section.features!r} are of images, and {config.data.name} "
            f"holds {stored} numbers: use pixels, the numbers themselves"
        )
    real = moments_of_batches(map(extract, _read_in_parts(source)))
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

    starts = [np.eye(len(files))[-1], *(ema_coefficients(len(files), std) for std in STARTS)]
    found = evolve(
        score,
        starts,
        evaluations=section.evaluations,
        population=section.population,
        spread=section.spread,
        seed=config.seed,
        record=workdir / "lcsc.jsonl",
    )
    path = workdir / f"{config.name}-lcsc.safetensors"
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


def _read_in_parts(source: Source, size: int = 1000) -> Iterator[np.ndarray]:
    """Yield all examples of a data set; of one whose examples are drawn, their means."""
    for start in range(0, source.num_examples, size):
        examples, _ = source.read(np.arange(start, min(start + size, source.num_examples)))
        if source.draw is not None:
            examples = source.draw(examples, np.zeros((len(examples), *source.shape)))
        yield examples


def _features(name: str) -> Callable[[np.ndarray], Float[np.ndarray, "image feature"]]:
    """Return what maps images, as a data set stores them, to features."""
    if name != "pixels":
        extractor = ClassifierFeatures(name)
        return lambda images: extractor(images)[0]
    return lambda images: (
        images.reshape(len(images), -1) / (127.5 if images.dtype == np.uint8 else 1.0)
    )
