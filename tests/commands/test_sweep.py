"""The sweep mode: its trials are overrides, checked before the first and evaluated like rows."""

import csv
import json
import os
import shlex
import signal

import numpy as np
import pytest
from tiny_configs.evaluations import evaluation

from guidestar.commands import evaluate, statistics, sweep
from guidestar.commands.config import hyper, overrides
from guidestar.commands.measuring.clock import Clock
from guidestar.commands.measuring.rows import ROW
from guidestar.configs import evidence
from guidestar.core.errors import UserError
from guidestar.runtime.store import Store

TRIALS = """
def get_hyper(hyper):
    return hyper.product([
        hyper.sweep("config.guidance.name", ["cfg", "apg"]),
        hyper.sweep("guidance.scale", [1.5, 3.0]),
    ])
"""
SEARCHED = (
    dict(field="guidance.scale", low=1.0, high=8.0, log=True),
    dict(field="guidance.name", choices=("cfg", "apg")),
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """An experiment on tiny networks, and four trials of it."""
    folder = tmp_path_factory.mktemp("weights")
    config = evaluation(evidence.get_config, folder)
    statistics.run(config, folder)
    config.evaluation.statistics = str(folder / "real")
    config.name = "tiny"
    del config.rows
    config.guidance = dict(name="cfg", scale=2.0)
    (folder / "trials.py").write_text(TRIALS)
    config.sweep.definition = str(folder / "trials.py")
    return config


def changed(config, **fields):
    """Return a config as a command line gives it, with fields of ``sweep`` replaced."""
    given = [overrides.override(f"sweep.{name}", value) for name, value in fields.items()]
    return overrides.apply(config, given)


def found_in(work):
    return json.loads((work / "sweep.json").read_text())


@pytest.fixture(scope="module")
def swept(config, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    sweep.run(changed(config), work)
    return work


@pytest.fixture(scope="module")
def searched(config, tmp_path_factory):
    """Return a search's folder, in which bad trials were given up."""
    work = tmp_path_factory.mktemp("search")
    one = changed(config, sampler="random", trials=6)
    one.sweep.update(definition="", space=SEARCHED)
    one.sweep.pruning.update(images=6, startup=1)
    sweep.run(one, work)
    return work


def test_each_trial_is_a_row_with_its_parameters(swept):
    found = found_in(swept)
    assert list(found["rows"]) == [f"trial_{place}" for place in range(4)]
    assert found["sweep"]["states"] == {"complete": 4, "pruned": 0, "failed": 0}
    parameters = [row["parameters"] for row in found["rows"].values()]
    assert parameters == [
        {"guidance.name": name, "guidance.scale": scale}
        for name in ("cfg", "apg")
        for scale in (1.5, 3.0)
    ]
    assert [row["title"] for row in found["rows"].values()][:2] == [
        "cfg, scale 1.5",
        "cfg, scale 3",
    ]
    for row in found["rows"].values():
        assert {*found["metrics"], "evaluations", "multiply_adds", "rule", "made_of"} <= row.keys()
        assert row["images"] == found["images"] == 12 and row["state"] == "complete"
        assert len(Store.open(swept / row["folder"], 12).indices()) == 12


def test_the_table_says_the_same(swept):
    rows = list(csv.DictReader((swept / "sweep.csv").open()))
    found = found_in(swept)["rows"]
    assert [float(row["frechet_distance"]) for row in rows] == [
        row["frechet_distance"] for row in found.values()
    ]
    assert [row["guidance.name"] for row in rows] == ["cfg", "cfg", "apg", "apg"]


@pytest.mark.longer
def test_a_trial_is_what_its_command_evaluates(config, swept, tmp_path):
    """Numbers and images, the noise being the same in all of them."""
    row = found_in(swept)["rows"]["trial_3"]
    words = shlex.split(row["command"])
    assert words[:2] == ["python", "main.py"] and "--mode=evaluate" in words
    others, given = overrides.split(words)
    assert not any("sweep" in one for one in others[3:])
    evaluate.run(overrides.apply(config, given), tmp_path)
    (again,) = json.loads((tmp_path / "evidence.json").read_text())["rows"].values()
    for name in (*found_in(swept)["metrics"], "guidance", "rule", "made_of", "evaluations"):
        assert again[name] == row[name]
    indices = np.arange(12)
    images = [
        Store.open(folder, 12).read(indices) for folder in (swept / "trials" / "3", tmp_path / ROW)
    ]
    np.testing.assert_array_equal(*images)


def test_finished_trials_never_run_again(config, swept):
    kept = {path: path.stat().st_mtime_ns for path in swept.glob("trials/*/images/*")}
    before = found_in(swept)
    sweep.run(changed(config), swept)
    assert {path: path.stat().st_mtime_ns for path in swept.glob("trials/*/images/*")} == kept
    assert found_in(swept) == before


@pytest.mark.longer
def test_a_search_gives_bad_trials_up_on_a_small_sample_and_drops_images(searched):
    found = found_in(searched)
    rows, states = found["rows"].values(), found["sweep"]["states"]
    assert states["pruned"] and states["complete"] and sum(states.values()) == 6
    for row in rows:
        pruned = row["state"] == "pruned"
        assert row["images"] == (6 if pruned else 12) and row["folder"] is None
        assert (row["frechet_distance"] is None) == pruned
        assert not pruned or row["small"]["frechet_distance"] > 0
        assert 1 <= row["parameters"]["guidance.scale"] <= 8
    assert not list(searched.glob("trials/*/images"))
    best = found["rows"][found["sweep"]["best"]]["frechet_distance"]
    assert best == min(row["frechet_distance"] for row in rows if row["frechet_distance"])


@pytest.mark.longer
def test_a_trial_whose_images_are_not_finite_fails_alone(config, tmp_path):
    (tmp_path / "trials.py").write_text(TRIALS.replace("[1.5, 3.0]", "[1e38, 3.0]"))
    work = tmp_path / "work"
    work.mkdir()
    sweep.run(changed(config, definition=str(tmp_path / "trials.py")), work)
    found = found_in(work)
    assert found["sweep"]["states"]["failed"] >= 1 and len(found["rows"]) == 4
    row = found["rows"]["trial_0"]
    assert row["state"] == "failed" and "not finite" in row["error"]
    assert row["frechet_distance"] is None and row["multiply_adds"] > 0


def test_a_dry_run_says_trials_cost_and_commands_and_writes_nothing(config, tmp_path, capsys):
    sweep.run(changed(config, dry_run=True, workers=2), tmp_path)
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert "trial 3: --config.guidance.name=apg --config.guidance.scale=3.0" in lines
    assert "4 trials of 12 images, 48 images: main 288 network evaluations" in said
    assert sum(line.startswith("worker ") and "--mode=sweep" in line for line in lines) == 2
    assert not list(tmp_path.iterdir())


def test_a_dry_run_tells_no_password(config, tmp_path, capsys):
    sweep.run(changed(config, dry_run=True, storage="postgresql://me:secret@host/a"), tmp_path)
    assert "secret" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('hyper.sweep("guidance.scal", [1.0])', "trial 0: .*no argument 'scal'.* mean scale"),
        ('hyper.sweep("guidance.scale", [1.0, "big"])', "trial 1: .*give a number"),
        ('hyper.sweep("guidance.name", ["cfgg"])', "trial 0: .*did you mean cfg"),
        ('hyper.sweep("optimizer.b1", [0.5])', "evaluations do not read it"),
        ('hyper.sweep("evaluation.count", [6, 12])', "the same in all trials"),
        ('hyper.sweep("sweep.seed", [6, 12])', "the same in all trials"),
        ('hyper.sweep("sampling.weights.main", ["digitz"])', "trial 0: .*digitz"),
        ('hyper.sweep("guidance.scale", 2.0)', "give a list of values"),
        ('hyper.sweep("guidance.scale", [2.0, 2.0])', "trials 0 and 1 .* are the same"),
        ('hyper.product([hyper.sweep("seed", [1]), hyper.fixed("config.seed", 2)])', "seed twice"),
        ('hyper.zipit([hyper.sweep("seed", [1, 2]), hyper.fixed("a", 2)])', "length=2"),
        ("None", "returned no list of trials"),
        ("[]", "returned no trial"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_trial_that_cannot_run_is_refused_before_the_first(config, tmp_path, body, message):
    (tmp_path / "trials.py").write_text(f"def get_hyper(hyper):\n    return {body}\n")
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(UserError, match=message):
        sweep.run(changed(config, definition=str(tmp_path / "trials.py")), work)
    assert not list(work.iterdir())


SEARCH = dict(sampler="tpe", trials=2, definition="")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(definition="nowhere.py"), "sweep.definition 'nowhere.py': there is no such file"),
        (dict(definition=__file__), "has no get_hyper"),
        (dict(sampler="annealing"), "sweep.sampler 'annealing' is none of grid, tpe, random"),
        (dict(trials=3), "sweep.trials is for a search"),
        (dict(workers=0), "sweep.workers"),
        (dict(lease=0.0), "sweep.lease"),
        (SEARCH, "sweep.space is empty"),
        (SEARCH | dict(space=(dict(low=1.0, high=2.0),)), "each entry is a section with field"),
        (
            SEARCH | dict(space=(dict(field="guidance.etta", low=0.0, high=1.0),)),
            "sweep.space, .*no argument 'etta'",
        ),
        (
            SEARCH | {"space": SEARCHED, "trials": 0},
            "sweep.trials",
        ),
        (SEARCH | {"space": SEARCHED, "pruning.images": 12}, "give fewer"),
        (SEARCH | {"space": SEARCHED, "pruning.images": 3}, "3"),
        (SEARCH | {"space": SEARCHED, "metric": "fid"}, "sweep.metric 'fid' was not measured"),
    ],
    ids=str,
)
def test_a_section_that_cannot_be_is_refused(config, tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        sweep.run(changed(config, **fields), tmp_path)
    assert not (tmp_path / "sweep.json").exists()


@pytest.mark.longer
def test_another_sweep_is_not_gone_on_with(config, swept, tmp_path):
    before = (swept / "sweep.json").read_bytes()
    (tmp_path / "trials.py").write_text(TRIALS.replace("3.0", "3.5"))
    with pytest.raises(UserError, match=r"of another sweep, .* in trials: .*--workdir"):
        sweep.run(changed(config, definition=str(tmp_path / "trials.py")), swept)
    other = overrides.apply(config, [overrides.override("seed", 1)])
    with pytest.raises(UserError, match="of another sweep, .* in first trial.seed"):
        sweep.run(other, swept)
    (swept / "sweep.json").rename(tmp_path / "sweep.json")
    try:
        with pytest.raises(UserError, match="holds another sweep .* in first trial.seed"):
            sweep.run(other, swept)
    finally:
        (tmp_path / "sweep.json").rename(swept / "sweep.json")
    assert (swept / "sweep.json").read_bytes() == before


def test_a_record_of_another_sweep_is_not_replaced(config, swept, tmp_path):
    """By another name in another storage, it would share the folder of the first alone."""
    before = (swept / "sweep.json").read_bytes()
    (tmp_path / "trials.py").write_text(TRIALS.replace("3.0", "3.5"))
    fields = dict(definition=str(tmp_path / "trials.py"), storage=f"journal:{tmp_path / 'other'}")
    with pytest.raises(UserError, match="sweep.json is of another sweep"):
        sweep.run(changed(config, **fields), swept)
    assert (swept / "sweep.json").read_bytes() == before


@pytest.mark.longer
def test_what_is_proposed_again_is_answered_from_memory(config, tmp_path):
    one = changed(config, sampler="random", trials=5)
    one.sweep.update(definition="", keep_images=True)
    one.sweep.space = (dict(field="guidance.scale", choices=(1.5, 3.0)),)
    sweep.run(one, tmp_path)
    found = found_in(tmp_path)
    rows = list(found["rows"].values())
    again = [row for row in rows if "same_as" in row]
    assert len(rows) == 5 and len(again) == 3 and found["sweep"]["images_made"] == 24
    for row in again:
        first = rows[row["same_as"]]
        assert row["parameters"] == first["parameters"] and row["folder"] == first["folder"]
        assert row["frechet_distance"] == first["frechet_distance"]


@pytest.mark.longer
def test_a_worker_that_gets_sigterm_leaves_its_trial_and_the_next_goes_on(
    config, tmp_path, monkeypatch, capsys
):
    """After the batch that it is making, which is not made again."""
    count = Clock.__call__

    def interrupted(self, images):
        count(self, images)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Clock, "__call__", interrupted)
    sweep.run(changed(config), tmp_path)
    assert "stopped by SIGTERM: trials" in capsys.readouterr().out
    assert not found_in(tmp_path)["rows"]
    (first,) = tmp_path.glob("trials/*/images/*")
    before = first.stat().st_mtime_ns
    monkeypatch.setattr(Clock, "__call__", count)
    sweep.run(changed(config), tmp_path)
    assert len(found_in(tmp_path)["rows"]) == 4 and first.stat().st_mtime_ns == before


def test_a_config_with_rows_is_no_sweep(config, tmp_path):
    one = config.copy_and_resolve_references()
    one.rows = dict(a=dict(title="a", guidance=dict(name="unguided")))
    with pytest.raises(UserError, match="has rows, which --mode=evaluate measures"):
        sweep.run(one, tmp_path)


def test_trials_are_combined_as_their_names_say():
    one, other = hyper.sweep("config.a", [1, 2]), hyper.sweep("b", ["xy", "z"])
    assert hyper.product([one, other]) == [
        {"a": 1, "b": "xy"},
        {"a": 1, "b": "z"},
        {"a": 2, "b": "xy"},
        {"a": 2, "b": "z"},
    ]
    assert hyper.zipit([one, other]) == [{"a": 1, "b": "xy"}, {"a": 2, "b": "z"}]
    assert hyper.chainit([one, other]) == [*one, *other]
    assert repr(hyper.sweep("a", np.linspace(1, 2, 3))) == "[{'a': 1.0}, {'a': 1.5}, {'a': 2.0}]"
    assert hyper.zipit([one, hyper.fixed("c", 0.5, length=2)]) == [
        {"a": 1, "c": 0.5},
        {"a": 2, "c": 0.5},
    ]
