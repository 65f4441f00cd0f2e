"""The demo, end to end on tiny networks, and its page."""

import json
import re

import pytest
from tiny_configs.configs import write_untrained
from tiny_configs.evaluations import evaluation

from guidestar.configs import demo as configs
from guidestar.studies import demo, point_cloud_plot
from guidestar.studies.demo.page import render


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    config = evaluation(configs.get_config, folder)
    config.demo.update(seeds=1, batch_size=5)
    mlp = str(write_untrained(folder / "mlp.safetensors", dict(name="score_mlp", hidden=4)))
    for name in ("main", "guide", "uncond"):
        config.fractal.weights[name] = mlp
    config.fractal.points = 64
    config.fractal.sampler.schedule.steps = 2
    return config


@pytest.fixture(scope="module")
def written(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(point_cloud_plot, "GRID", 40)
        demo.run(config, folder)
    return folder


@pytest.mark.longer
def test_it_writes_one_page_with_everything_inside(config, written):
    html = (written / "index.html").read_text()
    rows = len(config.rows)
    # One picture a row and the fractal's, all inside the file; nothing is fetched.
    assert len(re.findall(r'<img [^>]*src="data:image/png;base64,', html)) == rows + 1
    assert not re.search(r'(src|href)="(?!data:)', html)
    metrics = json.loads((written / "metrics.json").read_text())
    assert list(metrics["rows"]) == list(config.rows) and metrics["images"] == 10
    evaluations = {name: row["evaluations"] for name, row in metrics["rows"].items()}
    assert evaluations["unguided"] == {"main": 3} and evaluations["cfg_2"] == {"main": 6}
    assert evaluations["autoguidance"] == {"main": 3, "guide": 3}
    for row in metrics["rows"].values():
        assert row["title"] in html and 0 <= row["agreement"] <= 1
        assert row["seconds_per_image"] > 0 and (written / row["grid"]).exists()
        assert row["multiply_adds"] > 0
    assert {"mean_log_density", "outside", "coverage"} <= metrics["fractal2d"]["Unguided"].keys()


@pytest.mark.longer
def test_the_page_escapes_what_it_is_given(written):
    metrics = json.loads((written / "metrics.json").read_text())
    metrics["rows"]["unguided"]["title"] = "<b>bold</b>"
    assert "<b>bold</b>" not in render(metrics, None, written)
