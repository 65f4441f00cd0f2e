"""Solvers against evaluations: what is measured, how often, and the page made of it."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from places import ROOT

from guidestar import guidance, samplers
from guidestar.configs import solvers
from guidestar.core.errors import UserError
from guidestar.core.registry import registry
from guidestar.studies.solvers.page import render
from guidestar.studies.solvers.problems import Line
from guidestar.studies.solvers.study import most_steps, study

DOCS = ROOT / "docs"


def small(*rows):
    """Return a config of some rows, at sizes that take seconds."""
    config = solvers.get_config(",".join(rows))
    config.sampling.weights.main = "fashion_mnist_dit"
    config.study.mixture.update(count=64, evaluations=(4, 6))
    config.study.mixture.reference.steps = 60
    config.study.mixture.search.update(samples=16, steps=20)
    config.study.images.update(count=3, batch_size=2, evaluations=(2,))
    config.study.images.reference.steps = 2
    config.study.images.search.update(samples=2, steps=4)
    config.margins.evaluations = 4
    return config


@pytest.mark.parametrize(
    ("solver", "budget", "steps"),
    [
        (dict(name="euler"), 7, 7),
        (dict(name="heun"), 7, 4),
        (dict(name="heun"), 8, 4),
        (dict(name="dpm_solver", order=3), 7, 3),
        (dict(name="pndm"), 13, 4),
        (dict(name="pndm"), 12, None),
        (dict(name="unipc", order=3), 2, None),
    ],
)
def test_a_budget_is_spent_as_far_as_a_solver_can(solver, budget, steps):
    config = {"solver": solver, "schedule": dict(name="karras")}
    assert most_steps(config, Line(4), budget) == steps


@pytest.mark.longer
def test_the_exact_flow_takes_the_noises_quantiles_to_the_datas(x64):
    line = Line(512)
    fine = samplers.Sampler(samplers.heun(), samplers.karras(400, 0.002, 80.0), samplers.gaussian())
    found = line.measure(
        line.ends(fine), line.quantiles[np.argsort(np.argsort(line.noise[:, 0]))][:, None]
    )
    # What is left is the prior at sigma 80, which is not quite the data's own noise there.
    assert found["wasserstein"] < 0.01
    assert found["distance"] < 0.02
    moved = line.measure(line.ends(fine) + 0.5, line.ends(fine))
    assert moved["distance"] == pytest.approx(0.5)
    assert moved["wasserstein"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.longer
@pytest.mark.filterwarnings("ignore:Frechet distance")
def test_a_study_measures_and_searches_each_cell_once(tmp_path, monkeypatch):
    config = small("euler", "euler_boss", "dpm_solver_v3", "strategies", "ancestral")
    config.rows.strategies.on = ("mixture",)
    config.rows.strategies.search.update(at=(4,), trials=13, samples=8)
    config.rows.dpm_solver_v3.on = ("mixture",)
    config.study.calibration.update(samples=64, batch=64, intervals=20)
    study(config, tmp_path)
    found = json.loads((tmp_path / "samplers.json").read_text())
    rows = found["mixture"]["rows"]
    assert list(rows) == ["euler", "euler_boss", "dpm_solver_v3", "strategies", "ancestral"]
    # What is searched for at one number of evaluations is not measured at others.
    assert [cell["evaluations"] for cell in rows["strategies"]] == [4]
    assert rows["strategies"][0]["distance"] < rows["euler"][0]["distance"]
    assert [cell["evaluations"] for cell in rows["euler"]] == [4, 6]
    assert list(found["images"]["rows"]) == ["euler", "euler_boss"]
    assert rows["euler"][0]["sigmas"] != rows["euler_boss"][0]["sigmas"]
    assert rows["euler"][1]["distance"] < rows["euler"][0]["distance"]
    assert (tmp_path / "samplers.png").stat().st_size > 10_000
    page = (tmp_path / "samplers.md").read_text()
    assert page == render(found) + "\n"
    # Distances from the flow say nothing of a solver that adds noise.
    assert page.count("| Ancestral (DDPM) |") == 1
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.json")}
    for search in ("teacher", "select", "strategies"):
        monkeypatch.delattr(samplers.tuning, search)
    study(config, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.json")} == kept
    assert json.loads((tmp_path / "samplers.json").read_text())["mixture"] == found["mixture"]


@pytest.mark.longer
def test_a_row_that_cannot_run_is_refused_before_anything_is_measured(tmp_path):
    config = small("euler", "heun")
    config.rows.heun.solver = ConfigDict(dict(name="heun", alpha=2.0))
    with pytest.raises(UserError, match=r"rows.heun: .*0 < alpha <= 1"):
        study(config, tmp_path)
    assert not list(tmp_path.glob("*/*.json"))


def test_unknown_rows_are_refused():
    with pytest.raises(ValueError, match="unknown rows .'eulr'.*euler"):
        solvers.get_config("eulr")


def test_the_committed_page_is_made_from_the_committed_figures():
    found = json.loads((DOCS / "samplers.json").read_text())
    assert (DOCS / "samplers.md").read_text() == render(found) + "\n"
    assert set(found["titles"]) == set(solvers.ROWS)
    assert len(found["images"]["rows"]) >= 12
    assert found["images"]["count"] == 1000


def test_every_solver_has_a_row():
    named = {row["solver"]["name"] for row in solvers.ROWS.values()}
    # Not to be compared with: particles, few-step networks' own, a choice for each step, and what
    # takes another's steps anew.
    assert named == set(registry("solver")) - {
        "feynman_kac",
        "steer",
        "svdd",
        "twisted",
        "das",
        "consistency",
        "ctm",
        "per_step",
        "recur",
        "repaint",
    }


def test_the_mixtures_denoiser_is_asked_for_no_condition(x64):
    line = Line(8)
    assert line.conditions(3) is None
    assert line.other_noise(3).shape == (3, *line.shape)
    assert not np.isin(line.other_noise(8), line.noise).any()
    assert isinstance(line.rule, type(guidance.unguided()))
    assert jax.numpy.isfinite(line.denoise(jax.numpy.ones((2, 1)), 1.0, None)).all()
