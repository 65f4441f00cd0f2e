"""The evaluate mode: every row in full, what goes on, what is refused before the first image."""

import json

import numpy as np
import pytest
from tiny_configs.evaluations import evaluation

from guidestar import evaluation as metrics
from guidestar import input_pipeline
from guidestar.commands import evaluate, statistics
from guidestar.configs import digits, evidence
from guidestar.core.errors import UserError
from guidestar.evaluation.extractors import make_extractor
from guidestar.evaluation.statistics import RealStatistics

ROWS = "unguided,cfg_3,unconditional"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Three rows on tiny networks, and statistics of the digits for them."""
    folder = tmp_path_factory.mktemp("weights")
    config = evaluation(lambda: evidence.get_config(ROWS), folder)
    statistics.run(config, folder)
    config.evaluation.statistics = str(folder / "real")
    return config


@pytest.fixture(scope="module")
def measured(config, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    evaluate.run(config, work)
    return work


def changed(config, **fields):
    other = config.copy_and_resolve_references()
    other.evaluation.update(fields)
    return other


def evidence_in(work):
    return json.loads((work / "evidence.json").read_text())


def test_every_row_is_measured_with_its_cost(measured):
    found = evidence_in(measured)
    assert found["images"] == 12 and found["real"]["images"] == 1442
    assert list(found["rows"]) == ROWS.split(",")
    for name, row in found["rows"].items():
        assert row["frechet_distance"] > 0 and row["multiply_adds"] > 0
        assert all(0 <= row[name] <= 1 for name in ("precision", "recall", "white"))
        assert (row["agreement"] is None) == (name == "unconditional")
        assert row["title"] in (measured / "evidence.md").read_text()
    assert found["rows"]["cfg_3"]["evaluations"] == {"main": 6}


def test_run_again_it_gives_the_same_and_makes_no_image_again(config, measured):
    first = evidence_in(measured)
    kept = {path: path.stat().st_mtime_ns for path in measured.glob("*/images/*")}
    evaluate.run(config, measured)
    assert {path: path.stat().st_mtime_ns for path in measured.glob("*/images/*")} == kept
    for name, row in evidence_in(measured)["rows"].items():
        assert row["frechet_distance"] == first["rows"][name]["frechet_distance"]


def test_the_real_set_is_closest_to_itself(config):
    real = RealStatistics.load(evaluate.find_statistics(config.evaluation.statistics, ()))
    extractor = make_extractor(config.evaluation.classifier)
    source = input_pipeline.load_source("digits")
    chosen = metrics.choose(evaluate.METRICS)
    same = evaluate.numbers(chosen, extractor, real, source.x, source.condition)
    noise = np.random.default_rng(0).integers(0, 256, source.x.shape, np.uint8)
    other = evaluate.numbers(chosen, extractor, real, noise, source.condition)
    assert same["frechet_distance"] < 1e-3 * other["frechet_distance"]
    assert same["recall"] == same["precision"] == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(statistics="nowhere"), "evaluation.statistics 'nowhere'.*--mode=statistics"),
        (dict(statistics="fashion_mnist_statistics"), "evaluation.statistics are in the features"),
        (dict(classifier="fashion_mnist_classifier"), "8x8x1, and classifier takes 28x28x1"),
        (dict(count=3), "count is 3, and manifold_scores needs 6"),
        (dict(metrics=("contrsat",)), "did you mean contrast"),
        (dict(extractor=dict(name="inception")), "evaluation.extractor.name 'inception'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_measured_is_refused_before_the_first_image(
    config, tmp_path, fields, message
):
    with pytest.raises(UserError, match=message):
        evaluate.run(changed(config, **fields), tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_metrics_are_chosen_by_name(config, measured):
    evaluate.run(changed(config, metrics=("contrast", "vendi_score")), measured)
    row = evidence_in(measured)["rows"]["cfg_3"]
    assert row["vendi_score"] >= 1 and "frechet_distance" not in row


@pytest.mark.parametrize("get_config", [digits.get_config], ids=["digits"])
def test_a_config_without_the_section_is_told_what_is_in_it(tmp_path, get_config):
    with pytest.raises(UserError, match=r"no section 'evaluation' \(classifier, .*evidence.py"):
        evaluate.run(get_config(), tmp_path)
