"""Configs of published rows: every one can be run once its files are there, and says so if not."""

import importlib

import numpy as np
import pytest
from places import GOLDEN

from guidestar import guidance, samplers
from guidestar.commands.sample import run as sample
from guidestar.core.errors import UserError
from guidestar.models.autoencoders.scaling import PUBLISHED
from guidestar.models.checkpoints.published import lookup

FILES = {name: importlib.import_module(f"guidestar.configs.published.{name}") for name in (
    "edm", "edm2", "dit",
)}  # fmt: skip
ROWS = [("edm2", row) for row in [*FILES["edm2"].UNGUIDED, *FILES["edm2"].GUIDED]]
ROWS += [(name, row) for name in ("edm", "dit") for row in FILES[name].ROWS]


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_a_row_names_known_files_and_a_rule_and_sampler_that_exist(name, row):
    config = FILES[name].get_config(row)
    rule = guidance.from_config(config.guidance.to_dict())
    solver, sigmas, _ = samplers.from_config(config.sampler.to_dict())
    evaluations = samplers.plan(solver, sigmas, rule, (64, 64, 4)).totals
    weights = {k: v for k, v in config.sampling.weights.to_dict().items() if v}
    assert evaluations.keys() == weights.keys()
    assert all(lookup(file) for file in weights.values())
    assert config.sampling.count == 50_000
    if "img512" in row or name == "dit":
        assert lookup(config.sampling.decoder) and config.sampling.scaling in PUBLISHED
    else:
        assert not config.sampling.decoder
    if name == "edm2" and "interval" not in row:
        assert set(evaluations.values()) == {63}


def test_figures_are_those_of_the_presets():
    for row in FILES["edm2"].GUIDED:
        preset = guidance.presets.get(f"edm2-{row}")
        assert FILES["edm2"].get_config(row).published.figure == preset.value


@pytest.mark.parametrize("name", FILES)
def test_a_row_that_is_not_there_names_those_that_are(name):
    with pytest.raises(UserError, match=r"has no row 'img1-fid': write one after a colon, of \w+"):
        FILES[name].get_config("img1-fid")


def test_a_missing_file_is_named_with_its_address(tmp_path, monkeypatch):
    monkeypatch.setenv("GUIDESTAR_WEIGHTS", str(tmp_path / "weights"))
    config = FILES["edm2"].get_config("img512-s-cfg-fid")
    with pytest.raises(UserError, match=r"download it from https://nvlabs.*GB.*GUIDESTAR_WEIGHTS"):
        sample(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.longer
def test_a_row_runs_on_files_under_the_published_names(tmp_path, monkeypatch):
    config = FILES["edm2"].get_config("img64-s-autog-fid")
    monkeypatch.setenv("GUIDESTAR_WEIGHTS", str(tmp_path))
    for file in (config.sampling.weights.main, config.sampling.weights.guide):
        (tmp_path / file).write_bytes((GOLDEN / "edm2_unet_tiny.pkl").read_bytes())
    config.sampling.update(count=2, batch_size=2, format="npz")
    config.sampler.schedule.steps = 2
    out = tmp_path / "out"
    out.mkdir()
    sample(config, out)
    (shard,) = out.rglob("*.npz")
    with np.load(shard) as arrays:
        shapes = {name: arrays[name].shape for name in arrays}
    assert (2, 16, 16, 3) in shapes.values()
