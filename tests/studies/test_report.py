"""The demo, its evidence and the fractal experiment, end to end on tiny networks."""

import json
import re

import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny_configs.configs import tiny, write_untrained

from guidestar.commands import evaluate
from guidestar.configs import demo, fractal2d
from guidestar.core.errors import UserError
from guidestar.data.images import grid, to_uint8
from guidestar.evaluation.extractors import classifier
from guidestar.evaluation.extractors.classifier import FeatureExtractor, RealStatistics
from guidestar.studies.demo import demo as demo_verb
from guidestar.studies.fractal2d.experiment import experiment, network_config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The demo's config on tiny untrained networks of the digits' size."""
    folder = tmp_path_factory.mktemp("weights")
    config = demo.get_config()
    config.data.name = "digits"
    weights = config.sampling.weights
    model = tiny().model.to_dict()
    weights.main = str(write_untrained(folder / "main.safetensors", model))
    weights.guide = str(write_untrained(folder / "guide.safetensors", model | {"width": 8}))
    classifier = dict(name="classifier", image_size=8, channels=1, num_classes=10)
    classifier |= dict(widths=[8], depths=[1], feature_width=6)
    path = write_untrained(folder / "classifier.safetensors", classifier)
    config.evaluation.update(classifier=str(path), statistics="statistics", count=30)
    config.sampler.schedule.steps = 3
    config.demo.update(seeds=2, batch_size=10)
    for name, hidden in (("main", 8), ("guide", 4), ("uncond", 4)):
        mlp = write_untrained(
            folder / f"mlp_{name}.safetensors", dict(name="score_mlp", hidden=hidden)
        )
        config.fractal.weights[name] = str(mlp)
    config.fractal.points = 64
    config.fractal.sampler.schedule.steps = 3
    return config


@pytest.fixture
def statistics(config, tmp_path, monkeypatch):
    """Statistics of the digits, where the evaluation looks for shipped ones."""
    monkeypatch.setattr(evaluate, "SHIPPED", tmp_path)
    classifier.write_statistics(config, tmp_path)
    return tmp_path / "statistics.safetensors"


def test_the_demo_writes_one_page_with_everything_inside(config, tmp_path):
    demo_verb.report(config, tmp_path)
    html = (tmp_path / "index.html").read_text()
    rows = len(config.rows)
    # One picture a row and the fractal's, all inside the file; nothing is fetched.
    assert len(re.findall(r'<img [^>]*src="data:image/png;base64,', html)) == rows + 1
    assert not re.search(r'(src|href)="(?!data:)', html)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert list(metrics["rows"]) == list(config.rows) and metrics["images"] == 20
    evaluations = {name: row["evaluations"] for name, row in metrics["rows"].items()}
    assert evaluations["unguided"] == {"main": 5} and evaluations["cfg_3"] == {"main": 10}
    assert evaluations["autoguidance"] == {"main": 5, "guide": 5}
    for row in metrics["rows"].values():
        assert row["title"] in html and 0 <= row["agreement"] <= 1
        assert row["seconds_per_image"] > 0 and (tmp_path / row["grid"]).exists()
    assert {"mean_log_density", "outside", "coverage"} <= metrics["fractal2d"]["Unguided"].keys()


def test_evidence_measures_every_row_and_goes_on_where_it_stopped(config, statistics, tmp_path):
    work = tmp_path / "work"
    evaluate.evaluate(config, work)
    first = json.loads((work / "evidence.json").read_text())
    assert first["images"] == 30 and first["real"]["images"] == 1442
    for row in first["rows"].values():
        assert row["frechet_distance"] > 0
        assert all(0 <= row[name] <= 1 for name in ("precision", "recall", "agreement"))
    evaluate.evaluate(config, work)
    again = json.loads((work / "evidence.json").read_text())
    for name, row in first["rows"].items():
        assert row["frechet_distance"] == again["rows"][name]["frechet_distance"]


def test_the_real_set_is_closest_to_itself(config, statistics):
    from guidestar import input_pipeline

    real = RealStatistics.load(statistics)
    extractor = FeatureExtractor(config.evaluation.classifier)
    source = input_pipeline.load_source("digits")
    same = evaluate.measure(extractor, real, source.x, source.condition)
    noise = np.random.default_rng(0).integers(0, 256, source.x.shape, np.uint8)
    other = evaluate.measure(extractor, real, noise, source.condition)
    assert same["frechet_distance"] < 1e-3 * other["frechet_distance"]
    assert same["recall"] == same["precision"] == 1


def test_missing_statistics_name_the_command_that_writes_them(config, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "SHIPPED", tmp_path)
    with pytest.raises(UserError, match="--mode=statistics"):
        evaluate.evaluate(config, tmp_path)


def test_a_denoiser_is_no_classifier(config):
    with pytest.raises(UserError, match="is a denoiser"):
        FeatureExtractor(config.sampling.weights.main)


def test_the_fractal_experiment_trains_samples_and_measures(tmp_path):
    config = fractal2d.get_config()
    config.training.batch_size = 64
    for name, network in config.experiment.networks.items():
        network.update(hidden=8 if name == "main" else 4, steps=3)
    config.experiment.points = 64
    config.experiment.sampler.schedule.steps = 3
    experiment(config, tmp_path)
    rows = json.loads((tmp_path / "fractal2d.json").read_text())["rows"]
    titles = [row.title for row in config.experiment.rows.values()]
    assert list(rows) == ["The density itself", *titles]
    assert (tmp_path / "fractal2d.png").stat().st_size > 10_000


def test_the_fractal_networks_have_the_published_settings():
    config = fractal2d.get_config()
    settings = {
        name: (one.model.hidden, one.training.steps, one.data.split)
        for name in config.experiment.networks
        for one in [network_config(config, name)]
    }
    assert settings == {
        "main": (64, 4096, "A"),
        "guide": (32, 512, "A"),
        "uncond": (32, 512, "train"),
    }


def test_grids_lay_images_out_row_by_row():
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    canvas = grid(images, columns=3, gap=1)[..., 0]
    assert canvas.tolist() == [[0, 255, 1, 255, 2], [255] * 5, [3, 255, 4, 255, 5]]


def test_pixels_round_to_nearest_and_clip():
    values = np.array([-2.0, -1.0, 0.0, 1.0, 3.0])
    assert to_uint8(values).tolist() == [0, 0, 128, 255, 255]


def test_the_page_escapes_what_it_is_given(config, tmp_path):
    one = ConfigDict(config.to_dict())
    one.rows.unguided.title = "<b>bold</b>"
    demo_verb.report(one, tmp_path)
    assert "<b>bold</b>" not in (tmp_path / "index.html").read_text()
