"""The search verb: images that are searched for, each by itself; resumable, with its evidence."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import UserError
from ..core.files import read_json, write_json
from ..core.registry import registry
from ..data.images import grid, save_png, to_uint8
from ..evaluation import rewards
from ..evaluation.opinions import Opinions, of_classifier, of_denoiser
from ..inference import search
from ..inference.job import Job
from ..inference.networks import Weights, read_any
from ..inference.search.jobs import Searched, SearchedJob
from ..models.classifiers.trained import TrainedClassifier
from ..runtime import distributed
from ..runtime.identity import described
from ..runtime.run_folder import SAMPLES, Folder
from ..samplers.config import SCHEDULES
from .sample import Output, job_from_config, require_counts

# What this mode reads of a config.
READS = (
    "seed",
    "guidance",
    "sampler",
    "sampling",
    "search",
    "classification.schedule",
    "classification.batch_size",
)
# What its work folder becomes, and may hold before.
WORKDIR = Folder(makes=SAMPLES)
RECORD, TRACES, BESIDE = "search.json", "traces", "beside.png"
SHOWN = 20


def run(config, workdir: Path) -> None:
    """Search for ``config.sampling.count`` images, those that are not there already.

    Args:
        config: an experiment's config; ``search`` says how is searched, and for what.
        workdir: gets the images, ``traces`` with what each search found on its way, ``beside.png``
            with plain samples above what was found, and ``search.json`` with the means.

    Raises:
        UserError: unusable config, a budget smaller than one run, networks that do not fit, a
            workdir of other images.
    """
    section, sampling = config.search, config.sampling
    require_counts("sampling", count=sampling.count, batch_size=sampling.batch_size)
    require_counts("search", budget=section.budget)
    job, decoders = job_from_config(config), {}
    output = Output(job, sampling, workdir, decoders)
    if output.raw:
        raise UserError(
            "search: sampling.weights.main makes latents, and the verifier looks at pixels: set "
            "sampling.decoder"
        )
    if job.classes is None:
        raise UserError(
            "search: the verifier is asked for each image's class, and sampling.classes says "
            "none: leave it at 'all', or give labels"
        )
    verifier = _read("verifier", section.verifier, output.shape, job)
    if not isinstance(verifier.network, TrainedClassifier):
        raise UserError(
            f"search.verifier {section.verifier} is no classifier: name one; a denoiser may be "
            f"the judge"
        )
    judge = _read("judge", section.judge, output.shape, job) if section.judge else None
    reward = rewards.classifier(verifier.network)
    if output.decoder is not None:
        reward = rewards.decoded(reward, output.decoder.autoencoder, output.decoder.scaling)
    bound = search.bound(
        job.networks,
        job.rule,
        job.sampler.solver,
        job.sampler.sigmas,
        prior=job.sampler.prior,
        branches=job.branches,
        shape=job.main.shape,
    )
    find = registry("search").build(
        section.method.to_dict(), "search.method", bound, reward, section.budget
    )
    opinions = {"verifier": of_classifier(verifier.network, sampling.batch_size)}
    sought = {
        "method": described(section.method.to_dict())
        | registry("search")[section.method.name].written_in,
        "budget": section.budget,
        "verifier": dict(verifier.made_of),
    }
    said = {"search.verifier": verifier.place}
    if judge is not None:
        opinions["judge"], levels = _opinions(config, judge)
        sought["judge"] = dict(judge.made_of) | levels
        said["search.judge"] = judge.place
    keep = functools.partial(_keep, workdir / TRACES, opinions, output.decoder, job)
    searched = SearchedJob.of(job, find=find, sought=sought, keep=keep)
    output = Output(searched, sampling, workdir, decoders)
    output.said |= said
    store = output.fill(config.name)
    if distributed.is_primary() and not store.missing().size:
        _show(job, output, store, sampling.count)
        numbers = _means(workdir / TRACES, sampling.count)
        plan = find.plan
        budget = {"budget": plan.budget, "evaluations": plan.evaluations, "rewards": plan.rewards}
        write_json(workdir / RECORD, {"plan": str(plan), **budget, **numbers})
        print(_summary(numbers))


def _read(place: str, source: str, shape: tuple[int, ...], job: Job) -> Weights:
    """Return a network that looks at the images.

    Raises:
        UserError: none is named, or one of other images or classes.
    """
    if not source:
        raise UserError(f"search.{place} is empty: name the weights of a classifier")
    weights = read_any(source)
    network = weights.network
    if tuple(network.shape) != tuple(shape):
        raise UserError(
            f"search.{place} {source} looks at images of shape {tuple(network.shape)}, and "
            f"{tuple(shape)} are sampled: name one that was trained on such images"
        )
    count, classes = network.network.num_classes, job.main.num_classes
    if count != classes:
        raise UserError(
            f"search.{place} {source} knows {count} classes and sampling.weights.main {classes}: "
            f"they must be the same"
        )
    return weights


def _opinions(config, judge: Weights) -> tuple[Opinions, dict[str, Any]]:
    """Return a judge's opinions, and what of them its weights do not say."""
    if isinstance(judge.network, TrainedClassifier):
        return of_classifier(judge.network, config.sampling.batch_size), {}
    section = config.classification
    levels = np.asarray(SCHEDULES.build(section.schedule.to_dict(), "classification.schedule"))
    levels = levels[levels > 0]
    batch_size = section.batch_size
    require_counts("classification", batch_size=batch_size)
    opinions = of_denoiser(judge.network, levels, batch_size, config.seed)
    return opinions, {"levels": levels.tolist()}


def _keep(
    folder: Path,
    opinions: dict[str, Opinions],
    decoder,
    job: Job,
    indices: np.ndarray,
    searched: Searched,
) -> None:
    """Write what each search has found on its way, one file an image."""

    def said(x: np.ndarray) -> list[dict[str, Any]]:
        images = x if decoder is None else decoder.finite_images(indices, x)
        found = {
            name: asked(images, job.labels(indices), indices) for name, asked in opinions.items()
        }
        rows: list[dict[str, Any]] = [{} for _ in indices]
        for name, opinion in found.items():
            for number, row in enumerate(rows):
                row[f"{name}_agrees"] = int(opinion.agrees[number])
                if opinion.log_probability is not None:
                    row[name] = float(opinion.log_probability[number])
        return rows

    plain, marks = said(searched.plain), [said(mark.x) for mark in searched.marks]
    folder.mkdir(parents=True, exist_ok=True)
    for number, index in enumerate(indices.tolist()):
        best = [
            {"evaluations": int(mark.evaluations[number])} | rows[number]
            for mark, rows in zip(searched.marks, marks, strict=True)
        ]
        trace = {
            "evaluations": searched.trace.evaluations[:, number].tolist(),
            "reward": searched.trace.reward[:, number].astype(float).tolist(),
        }
        write_json(_trace(folder, index), {"plain": plain[number], "best": best, "trace": trace})


def _trace(folder: Path, index: int) -> Path:
    return folder / f"{index:08d}.json"


def _means(folder: Path, count: int) -> dict[str, Any]:
    """Return means over images of what their traces say.

    Raises:
        UserError: a trace is gone or damaged.
    """
    found = [
        read_json(
            _trace(folder, index),
            f"remove image {index}, and run the same command again, which makes both",
        )
        for index in range(count)
    ]
    points = [one["trace"] for one in found]
    trace = {key: _mean([one[key] for one in points]) for key in ("evaluations", "reward")}
    return {
        "images": count,
        "plain": _mean_of([one["plain"] for one in found]),
        "best": [
            _mean_of(list(rows)) for rows in zip(*(one["best"] for one in found), strict=True)
        ],
        "trace": trace,
    }


def _mean(rows: list[list[float]]) -> list[float]:
    return np.mean(rows, axis=0).tolist()


def _mean_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def _show(job: Job, output: Output, store, count: int) -> None:
    """Draw the first images: above as the sampler makes them, below what was found."""
    shown = np.arange(min(SHOWN, count))
    plain = job.finite_images(shown)
    if output.decoder is not None:
        plain = output.decoder.finite_images(shown, plain)
    rows = np.concatenate([to_uint8(plain), store.read(shown)])
    save_png(output.workdir / BESIDE, grid(rows, columns=len(shown)), magnify=2)


def _summary(numbers: dict[str, Any]) -> str:
    """Return in a line what was gained, and whether the judge sees it, too."""
    before, after = numbers["plain"], numbers["best"][-1]
    said = [
        f"log-probability to the {name} {before[name]:.3f} -> {after[name]:.3f}"
        for name in ("verifier", "judge")
        if name in before
    ]
    said += [
        f"the {name} agrees with {before[key]:.1%} -> {after[key]:.1%}"
        for name in ("verifier", "judge")
        if (key := f"{name}_agrees") in before
    ]
    return f"{numbers['images']} images, plain -> found: {'; '.join(said)}"
