"""Metrics by name: what a config chooses from, and what a user adds to it.

A metric is a registered function. Arguments without a default are named after what it wants of
`Measured`; those with one are set where the metric is chosen. It returns a number, or several by
their names.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from ...core.errors import UserError
from ...core.registry import registry
from .frechet import Gaussian, Moments, moments


class Measured(NamedTuple):
    """What metrics may ask for, by the names of their arguments.

    Attributes:
        real_moments: of the real set's features.
        real_features: some of the real set's features; None where its statistics keep none.
        real_ranks: how many real images have each class as their most probable one, second one,
            ..., see `resampling.class_ranks`; None where its statistics do not say.
        moments: of the images' features.
        features: of the images.
        probabilities: of each class for each image; None where no classifier is named.
        images: uint8, one or three channels.
        labels: the classes that the images were asked for; None for an unconditional set.
    """

    real_moments: Moments | Gaussian | None = None
    real_features: Float[np.ndarray, "real feature"] | None = None
    real_ranks: Int[np.ndarray, "rank class"] | None = None
    moments: Moments | None = None
    features: Float[np.ndarray, "image feature"] | None = None
    probabilities: Float[np.ndarray, "image class"] | None = None
    images: UInt8[np.ndarray, "image height width channel"] | None = None
    labels: Int[np.ndarray, " image"] | None = None


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric as it was chosen.

    Attributes:
        name: as it was registered.
        wanted: fields of `Measured`.
        settings: its other arguments, those that were given.
        compute: the function of what it wants.
        fewest, advised: see `feature_sets.images_needed`; None where any number does.
        mean: whether it is a mean over images.
    """

    name: str
    wanted: tuple[str, ...]
    settings: Mapping[str, Any]
    compute: Callable
    fewest: Callable[..., int] | None = None
    advised: Callable[..., int] | None = None
    mean: bool = False

    def __call__(self, measured: Measured) -> dict[str, float | None]:
        """Return its numbers by name; None of an unconditional set where it asks for labels.

        Raises:
            UserError: it refuses what it is given, or returns something else than finite numbers.
        """
        given = [getattr(measured, name) for name in self.wanted]
        if "labels" in self.wanted and measured.labels is None:
            return {self.name: None}
        found = self.compute(*given)
        several = found if isinstance(found, Mapping) else {self.name: found}
        for key, value in several.items():
            if not isinstance(value, Real) or not math.isfinite(value):
                raise UserError(
                    f"metric {self.name}: {key} is {value!r}, and a measurement is a finite number"
                )
        return {key: float(value) for key, value in several.items()}


def choose(
    entries: Sequence[str | Mapping[str, Any]], where: str = "evaluation.metrics"
) -> tuple[Metric, ...]:
    """Return metrics by name.

    Args:
        entries: names, or ``{"name": ..., setting: ...}``.
        where: their place in a config, for messages.

    Raises:
        UserError: none, an unknown name, a setting that it does not take, one metric twice, or a
            metric that asks for something that is not measured.
    """
    table, chosen = registry("metric"), []
    if not entries or isinstance(entries, str):
        raise UserError(f"{where}: give a list of names of {', '.join(table)}")
    for place, entry in enumerate(entries):
        section = {"name": entry} if isinstance(entry, str) else dict(entry)
        at = f"{where}.{place}"
        found = table.find(section.get("name"), at)
        wanted = tuple(
            name for name, one in found.parameters.items() if one.default is inspect.Parameter.empty
        )
        if unknown := [name for name in wanted if name not in Measured._fields]:
            raise UserError(
                f"{at}: {found.name} asks for {unknown[0]!r}, which is not measured: its arguments "
                f"without a default are named {', '.join(Measured._fields)}"
            )
        chosen.append(
            Metric(
                found.name,
                wanted,
                {key: value for key, value in section.items() if key != "name"},
                table.prepared(section, at, len(wanted)),
                getattr(found.build, "fewest", None),
                getattr(found.build, "advised", None),
                getattr(found.build, "mean", False),
            )
        )
    names = [metric.name for metric in chosen]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{where} names {twice[0]} twice: once is enough")
    return tuple(chosen)


def require_possible(
    metrics: Sequence[Metric],
    count: int,
    features: int,
    *,
    real: int | None = None,
    absent: Mapping[str, str] | None = None,
    where: str = "evaluation",
) -> list[str]:
    """Refuse metrics that cannot be computed of what there will be.

    Args:
        metrics: as chosen.
        count: how many images there will be.
        features: numbers in one image's features.
        real: how many features of the real set are kept; None where that decides nothing.
        absent: fields of `Measured` that there will not be, and what gives them.
        where: the section that ``count`` and ``metrics`` are in, for messages.

    Returns:
        A sentence for each metric that says little of so few images.

    Raises:
        UserError: too few images, or too few real ones, or something that is not there.
    """
    notes = []
    for metric in metrics:
        for name in metric.wanted:
            if absent and name in absent:
                raise UserError(f"{where}.metrics: {metric.name} needs {name}: {absent[name]}")
        fewest = metric.fewest(features, **metric.settings) if metric.fewest else 1
        if count < fewest:
            raise UserError(
                f"{where}.count is {count}, and {metric.name} needs {fewest} images or more"
            )
        if real is not None and "real_features" in metric.wanted and real < fewest:
            raise UserError(
                f"{where}.statistics keep the features of {real} images, and {metric.name} needs "
                f"{fewest}: take statistics of more images, or leave it out of {where}.metrics"
            )
        advised = metric.advised(features, **metric.settings) if metric.advised else 1
        if count < advised:
            notes.append(
                f"{metric.name} says little of {count} images: with {features} features it asks "
                f"for {advised} or more ({where}.count)"
            )
    return notes


class Batch(NamedTuple):
    """Some of the images, and what an extractor and a job say of them; see `Measured`."""

    features: Float[np.ndarray, "image feature"]
    probabilities: Float[np.ndarray, "image class"] | None
    images: UInt8[np.ndarray, "image height width channel"]
    labels: Int[np.ndarray, " image"] | None


def measure(
    metrics: Sequence[Metric], batches: Iterable[Batch], real: Measured
) -> dict[str, float | None]:
    """Return the numbers of all metrics by name.

    What no metric wants is not kept, and means over images are taken batch by batch: with moments
    alone, memory does not grow with the number of images.

    Args:
        metrics: as chosen.
        batches: of the images.
        real: what is known of the real set.

    Raises:
        UserError: a metric that refuses what it is given or is not finite, or two that give one
            name to their numbers.
        ValueError: no batch.
    """
    wanted = {name for metric in metrics if not metric.mean for name in metric.wanted}
    kept: dict[str, list] = {name: [] for name in Batch._fields if name in wanted}
    sums: dict[str, list[dict[str, float | None]]] = {one.name: [] for one in metrics if one.mean}
    found, counts = None, []
    for batch in batches:
        counts.append(len(batch.images))
        for name, parts in kept.items():
            parts.append(getattr(batch, name))
        if "moments" in wanted:
            part = moments(batch.features)
            found = part if found is None else found.merge(part)
        for metric in metrics:
            if metric.mean:
                sums[metric.name].append(metric(real._replace(**batch._asdict())))
    if not counts:
        raise ValueError("no batch of images was given: there is nothing to measure")
    whole = real._replace(
        moments=found,
        **{
            name: None if parts[0] is None else np.concatenate(parts)
            for name, parts in kept.items()
        },
    )
    numbers: dict[str, float | None] = {}
    for metric in metrics:
        one = _mean(sums[metric.name], counts) if metric.mean else metric(whole)
        if twice := sorted(one.keys() & numbers.keys()):
            raise UserError(f"metric {metric.name}: {twice[0]} is given by another metric, too")
        numbers |= one
    return numbers


def _mean(
    parts: Sequence[Mapping[str, float | None]], counts: Sequence[int]
) -> dict[str, float | None]:
    """Return the mean over images of what was measured of batches."""
    found: dict[str, float | None] = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        known = [value for value in values if value is not None]
        found[name] = (
            float(np.average(known, weights=counts)) if len(known) == len(values) else None
        )
    return found
