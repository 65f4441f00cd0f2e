"""The fractal study, end to end on tiny networks."""

import json

import pytest

from guidestar.configs import fractal2d
from guidestar.studies import fractal2d as study
from guidestar.studies import point_cloud_plot
from guidestar.studies.fractal2d.experiment import network_config


@pytest.mark.longer
def test_it_trains_samples_and_measures(tmp_path, monkeypatch):
    monkeypatch.setattr(point_cloud_plot, "GRID", 40)
    config = fractal2d.get_config()
    config.training.batch_size = 64
    for name, network in config.experiment.networks.items():
        network.update(hidden=8 if name == "main" else 4, steps=3)
    config.experiment.points = 64
    config.experiment.sampler.schedule.steps = 3
    study.run(config, tmp_path)
    rows = json.loads((tmp_path / "fractal2d.json").read_text())["rows"]
    titles = [row.title for row in config.experiment.rows.values()]
    assert list(rows) == ["The density itself", *titles]
    assert (tmp_path / "fractal2d.png").stat().st_size > 10_000


def test_the_networks_have_the_published_settings():
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
