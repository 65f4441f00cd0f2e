"""How images are measured: how many, against which real set, in which features, by what."""

import contextlib
import datetime
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, UInt8

from ...core.errors import NoResult, UserError
from ...core.files import digest_of_parts
from ...core.registry import written_in
from ...evaluation.extractors import Extractor, features_of, make_extractor, require_images
from ...evaluation.metrics.frechet import frechet_bias
from ...evaluation.metrics.named import Batch, Metric, choose, measure, require_possible
from ...evaluation.published import NOT_SAID
from ...evaluation.seeds import spread
from ...evaluation.statistics import RealStatistics, find_statistics, sorting, without_place
from ...inference.shared import SharedNetworks
from ...models.checkpoints import SHIPPED
from ...runtime import distributed
from ...runtime.identity import plain
from ...runtime.memory import require_memory
from ..config.overrides import override
from ..config.sections import section
from ..export import commit
from ..sample import Output, job_from_config, require_counts
from .clock import Clock
from .rows import described_row, named

EXAMPLE = "configs/evidence.py"
METRICS = (
    "frechet_distance",
    "precision_recall",
    "density_coverage",
    "agreement",
    "contrast",
    "white",
)
# What `evaluation.resample` adds to them.
RESAMPLED = "resampled_frechet_distance"
# Images that are read and measured at a time.
AT_ONCE = 500
SECONDS = "seconds.json"
# What numbers of given images come from, below the package's folder.
MEASURING = ("core", "data", "models", "evaluation", "commands/measuring")


class Evaluation:
    """How images are measured: how many, against which real set, in which features.

    Args:
        config: of an experiment that has ``evaluation``.
        workdir: where statistics are looked for before those that are shipped.

    Attributes:
        count: images of a row that are measured together.
        repeats: how many times as many are made and measured apart, of other seeds.
        metrics: what is measured.
        extractor: its features.
        real: the real set's statistics.
        outside: what tells the code of those that are from outside, by their names.
        overrides: what a command that measures the same in another work folder has to say besides.

    Raises:
        UserError: no such section, a field that it lacks, or anything in it that there is not.
    """

    def __init__(self, config, workdir: Path):
        chosen = section(
            config, "evaluation", fields=("classifier", "statistics", "count"), example=EXAMPLE
        )
        require_counts("evaluation", count=chosen.count)
        require_counts("sampling", batch_size=config.sampling.batch_size)
        self.count = chosen.count
        self.repeats, resample = chosen.get("repeats", 1), chosen.get("resample", 0)
        require_counts("evaluation", repeats=self.repeats)
        if resample:
            require_counts("evaluation", resample=resample)
        more = ({"name": RESAMPLED, "top": resample},) if resample else ()
        self.metrics = choose((*plain(tuple(chosen.get("metrics", METRICS))), *more))
        given = chosen.get("extractor")
        named = given.to_dict() if given else None
        self.extractor = make_extractor(chosen.classifier, named)
        parts = {"metrics": [{"name": one.name} for one in self.metrics], "extractor": named}
        self.outside = written_in({"evaluation": parts})
        path = find_statistics(chosen.statistics, (workdir, SHIPPED))
        self.real = RealStatistics.load(
            path, key=chosen.get("statistics_key", ""), extractor=self.extractor
        )
        # Another work folder would not find by a name what lies in this one.
        local = path.parent == workdir
        self.overrides = (override("evaluation.statistics", _from_here(path)),) if local else ()
        self._networks, self._decoders = SharedNetworks(), {}
        self._commit = commit()

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """As JSON data, what tells this evaluation of images from others."""
        return plain(
            {
                "images": self.count,
                "repeats": self.repeats,
                "metrics": [{"name": one.name} | dict(one.settings) for one in self.metrics],
                "statistics": self.real.digest,
                "extractor": dict(self.extractor.identity) | {"weights": ""},
                "classes": without_place(sorting(self.extractor)),
            }
        )

    def planned(self, one, folder: Path, place: str, count: int | None = None) -> Output:
        """Return what becomes of a row's images; its networks are shapes alone.

        Args:
            one: a config with the row's own guidance.
            folder: gets the images.
            place: the row, for messages.
            count: how many images are measured together, where not all of them.

        Raises:
            UserError: it cannot run, in the name of ``place``.
        """
        sampling = one.sampling.copy_and_resolve_references()
        sampling.update(count=self.repeats * (count or self.count), format="npz")
        with named(place):
            job = job_from_config(one, self._networks.outlines(one.sampling.weights.to_dict()))
            output = Output(job, sampling, folder, self._decoders)
        if output.raw:
            raise UserError(
                f"{place}: its samples are latents, and what is measured are pictures: set "
                f"sampling.decoder to the weights of their autoencoder"
            )
        require_images(self.extractor, output.shape, place)
        if job.classes is not None:
            self._require_same_classes(job.main.num_classes, place)
        return output

    def _require_same_classes(self, classes: int, place: str) -> None:
        """Refuse to compare labels of one data set with a classifier's of another."""
        known = self.extractor.num_classes
        for metric in self.metrics:
            compares = {"labels", "probabilities"} <= {*metric.wanted}
            if compares and known not in (0, classes):
                raise UserError(
                    f"{place}: {metric.name} compares labels of {classes} classes with those of a "
                    f"classifier of {known}: name one of the same classes in evaluation.classifier"
                )

    def notes(self, outputs: Mapping[str, Output], count: int | None = None) -> list[str]:
        """Refuse metrics that cannot be; return what is to be said of those that can."""
        shapes = {output.shape for output in outputs.values()}
        return _require_measurable(
            self.metrics, self.extractor, self.real, shapes, count or self.count
        )

    def measured(
        self,
        output: Output,
        title: str,
        guidance: Mapping[str, Any],
        name: str,
        *,
        quiet: bool = False,
        advance: Callable[[int], Any] | None = None,
    ) -> dict[str, Any]:
        """Make what is missing of a row's images, and measure them.

        Args:
            output: as `planned` returns it; how many images is its own.
            title: of the row.
            guidance: its rule, as the config names it.
            name: of the experiment, for what is said.
            quiet: whether to say nothing of images, nor draw a bar.
            advance: is told how many images were made, batch by batch.

        Returns:
            The row, with what was measured in ``numbers``; nothing in processes other than the
            first.

        Raises:
            NoResult: images that are not finite, or that a metric refuses.
            UserError: no space, or weights that were replaced meanwhile.
        """
        clock = Clock(output.workdir / SECONDS)

        def made(count: int) -> None:
            clock(count)
            if advance is not None:
                advance(count)

        job = self._networks.ready(output.job)
        store = output.fill(f"{name}/{output.workdir.name}", job, made, quiet=quiet)
        if not distributed.is_primary():
            return {}
        count = output.section.count
        try:
            found = [
                numbers(
                    self.metrics,
                    self.extractor,
                    self.real,
                    in_parts(store.read, output.job.labels, each, first),
                )
                for each in [count // self.repeats]
                for first in range(0, count, each)
            ]
        except UserError as error:
            if isinstance(error.__cause__, OSError):
                raise
            raise NoResult(str(error)) from error
        row = self.described(output, title, guidance)
        if self.repeats == 1:
            return row | {"numbers": found[0]}
        spreads = {
            name: None if one is None else spread([each[name] for each in found])
            for name, one in found[0].items()
        }
        return row | {
            "numbers": {name: one and one.mean for name, one in spreads.items()},
            "spread": {name: one._asdict() for name, one in spreads.items() if one is not None},
        }

    @property
    def measured_by(self) -> dict[str, Any]:
        """`identity`, and the digest of the code that measures."""
        return self.identity | {"code": _code_digest()}

    def described(self, output: Output, title: str, guidance: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is known of a row without its images; see `measured`."""
        seconds = Clock(output.workdir / SECONDS).seconds(output.section.count)
        return described_row(title, guidance, output, seconds)

    def record(
        self, config, rows: Mapping[str, Mapping[str, Any]], names: Sequence[str]
    ) -> dict[str, Any]:
        """Return the record of an evaluation.

        Args:
            config: of the experiment.
            rows: by name, as `flat` returns them.
            names: of what was measured.

        Returns:
            JSON data; ``measured_by`` says of other rows whether they were measured the same way.
        """
        return {
            "name": config.name,
            "date": datetime.date.today().isoformat(),
            "commit": self._commit,
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "images": self.count,
            "repeats": self.repeats,
            "sampler": config.sampler.to_dict(),
            "weights": config.sampling.weights.to_dict(),
            "real": {**self.real.description, "digest": self.real.digest},
            "extractor": dict(self.extractor.identity),
            "metrics": list(names),
            "measured_by": self.measured_by,
            **({"outside": self.outside} if self.outside else {}),
            "rows": dict(rows),
        }


def _from_here(path: Path) -> str:
    """Return a path as it is written in the folder where commands are run, if it lies below it."""
    with contextlib.suppress(ValueError):
        path = path.resolve().relative_to(Path.cwd())
    return str(path)


@functools.cache
def _code_digest() -> str:
    """Return the digest of the files by whose code images are measured."""
    root = Path(__file__).resolve().parents[2]
    files = (file for name in MEASURING for file in sorted((root / name).rglob("*.py")))
    return digest_of_parts(file.read_bytes() for file in files)


def in_parts(
    read: Callable[[Int[np.ndarray, " n"]], UInt8[np.ndarray, "n h w c"]],
    labels: Callable[[Int[np.ndarray, " n"]], Int[np.ndarray, " n"] | None],
    count: int,
    first: int = 0,
) -> Iterator[tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, " n"] | None]]:
    """Yield the images from ``first`` on and their labels, some at a time."""
    for start in range(first, first + count, AT_ONCE):
        indices = np.arange(start, min(start + AT_ONCE, first + count))
        yield read(indices), labels(indices)


def numbers(
    metrics: Sequence[Metric],
    extractor: Extractor,
    real: RealStatistics,
    parts: Iterable[tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, " n"] | None]],
) -> dict[str, float | None]:
    """Return what metrics say of images that come with their labels, some at a time.

    Raises:
        UserError: a metric that refuses them.
    """
    batches = (Batch(*extractor(images), images, labels) for images, labels in parts)
    try:
        return measure(metrics, batches, real.measured)
    except ValueError as error:
        raise UserError(str(error)) from error


def _require_measurable(
    metrics: Sequence[Metric],
    extractor: Extractor,
    real: RealStatistics,
    shapes: set[tuple[int, ...]],
    count: int,
) -> list[str]:
    """Refuse metrics that cannot be; return what is to be said of those that can."""
    for shape in shapes:
        width = features_of(extractor, shape)
        real.require_fit(extractor, width, "evaluation.statistics", shape)
    absent = {}
    if real.features is None:
        absent["real_features"] = "these statistics keep none, those of --mode=statistics do"
    if not extractor.num_classes:
        absent["probabilities"] = "name the weights of a classifier in evaluation.classifier"
    if real.ranks is None:
        absent["real_ranks"] = (
            "these statistics do not say which classes the real images have, those that "
            "--mode=statistics writes with a classifier do"
        )
    elif real.description["classes"] != without_place(sorting(extractor)):
        absent["real_ranks"] = (
            "another classifier sorted the real images than evaluation.classifier: name that one, "
            "or make statistics with this one"
        )
    for metric in metrics:
        top = metric.settings.get("top", 1)
        if metric.name == RESAMPLED and real.ranks is not None and not 1 <= top <= len(real.ranks):
            raise UserError(
                f"evaluation.resample is {top}, and evaluation.statistics count the "
                f"{len(real.ranks)} most probable classes: give as many at most"
            )
    kept = None if real.features is None else len(real.features)
    wanted = {name for metric in metrics if not metric.mean for name in metric.wanted}
    # Numbers of an image: as they are kept, and once more where they are put together; features in
    # float32 and in what metrics make of them.
    each = {
        "images": 2 * max(math.prod(shape) for shape in shapes),
        "features": 20 * real.width,
        "probabilities": 16 * (extractor.num_classes or 0),
    }
    batch = AT_ONCE * (2 * each["images"] + each["features"] + each["probabilities"])
    require_memory(
        count * sum(size for name, size in each.items() if name in wanted) + batch,
        f"evaluation.count is {count}: what metrics want of a row's images",
        "lower it",
    )
    notes = require_possible(metrics, count, real.width, real=kept, absent=absent)
    if count <= real.width and "moments" in wanted:
        notes.append(
            f"{count} images of the real set's own distribution would be at a Frechet distance of "
            f"some {frechet_bias(real.moments, max(count, 2)):.3g}"
        )
    if real.description.get("extractor") == NOT_SAID:
        notes.append(
            f"evaluation.statistics do not say whose features they are in: they are taken to be "
            f"those of {extractor_name(extractor.identity)}"
        )
    return notes


def extractor_name(identity: Mapping[str, Any]) -> str:
    return str(identity.get("weights", identity["name"]))
