"""The statistics mode: what evaluations compare with, of a real set in a classifier's features."""

from pathlib import Path

from .. import input_pipeline
from ..core.errors import UserError
from ..core.files import safe_name
from ..evaluation.extractors import make_extractor
from ..evaluation.metrics.frechet import frechet_bias
from ..evaluation.statistics import SUFFIX, RealStatistics
from ..runtime.run_folder import DATA_SET, EVALUATION, SAMPLES, SWEEP, Folder
from .config.sections import section

EXAMPLE = "configs/evidence.py"
# What this mode reads of a config.
READS = (
    "data",
    "-data.flip",
    "evaluation.classifier",
    "evaluation.extractor",
    "evaluation.statistics",
)
# What its work folder becomes, and may hold before.
WORKDIR = Folder(beside=(DATA_SET, SAMPLES, EVALUATION, SWEEP))


def run(config, workdir: Path) -> None:
    """Write the statistics of ``config.data`` to ``<workdir>/<evaluation.statistics>.safetensors``.

    Raises:
        UserError: examples of another shape than the extractor takes, before any is read; or a
            file of that name that is not of the same images in the same features.
    """
    chosen = section(config, "evaluation", fields=("classifier", "statistics"), example=EXAMPLE)
    name = safe_name(chosen.statistics.removesuffix(SUFFIX), "evaluation.statistics")
    path = workdir / f"{name}{SUFFIX}"
    given = chosen.get("extractor")
    extractor = make_extractor(chosen.classifier, given.to_dict() if given else None)
    source = input_pipeline.load_source(**config.data)
    statistics = RealStatistics.compute(extractor, source, config.data.split)
    if path.exists():
        _require_same(path, statistics)
    statistics.save(path)
    said = ", ".join(f"{key} {value}" for key, value in statistics.description.items())
    print(f"wrote {path}: {said}")
    if source.num_examples <= statistics.width:
        print(
            f"note: {source.num_examples} images for {statistics.width} features: Frechet "
            f"distances from these statistics say little, that of as many other images of the set "
            f"would be some {frechet_bias(statistics.moments, source.num_examples):.3g}"
        )


def _require_same(path: Path, statistics: RealStatistics) -> None:
    remedy = "choose another evaluation.statistics, or another --workdir"
    try:
        there = RealStatistics.load(path)
    except UserError as error:
        raise UserError(f"{path} is no statistics that could be replaced: {remedy}") from error
    if not there.same_as(statistics):
        raise UserError(
            f"{path} holds statistics of other images, or in other features "
            f"({there.description.get('data')}, {there.description.get('images')} images): {remedy}"
        )
