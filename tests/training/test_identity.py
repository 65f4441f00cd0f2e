"""A run is known by what it is made of: not by where its data lie or what is kept of it."""

import pytest
from tiny_configs.own_parts import registered

from guidestar.core.errors import UserError
from guidestar.runtime.checkpointer import Checkpoints
from guidestar.training.identity import identity, identity_of_data, upgraded

CONTENT = {"content": "abc", "examples": 3}
DATA = identity_of_data(CONTENT, split="train", flip=False)
OLD = {"seed": 0, "data": {"name": "out/set", "split": "train", "flip": False, "most_damaged": 0.1}}


def of(**fields):
    parts = dict(seed=0, model={}, training={}, optimizer={}, ema={}, roles={}, data=DATA)
    return identity(**parts | fields)


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        ("training", dict(steps=3, accumulate=2, remat="full", init_from={"weights": "x"})),
        ("ema", dict(snapshot_images=3, snapshot_weights=True, reconstruct=0.1, at_images=3)),
    ],
)
def test_how_and_how_long_are_no_part_of_it(section, fields):
    assert of(**{section: fields}) == of()


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        ("seed", 1),
        ("training", dict(batch_size=3)),
        ("ema", dict(std=0.1)),
        ("roles", dict(main=dict(start=dict(sha256="1")))),
        ("data", identity_of_data(CONTENT | {"content": "abd"}, split="train", flip=False)),
        ("data", identity_of_data(CONTENT, split="train", flip=True)),
    ],
)
def test_what_changes_a_number_is(section, fields):
    assert of(**{section: fields}) != of()


OWN = """
from guidestar import register

@register("{kind}")
def own_part():
    return {factor}
"""
PLACES = {
    "loss": lambda part: dict(training=dict(loss=part)),
    "noise": lambda part: dict(training=dict(noise=part)),
    "task_weights": lambda part: dict(training=dict(objective=dict(name="mean", weights=part))),
    "network": lambda part: dict(model=part),
    "role": lambda part: dict(roles=dict(teacher=dict(model=part))),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_run_by_other_code_of_a_part_from_outside_is_refused(tmp_path, monkeypatch, place):
    kind = "network" if place == "role" else place
    (tmp_path / "moved").mkdir()

    def run(factor, folder=tmp_path):
        text = OWN.format(kind=kind, factor=factor)
        registered(monkeypatch, folder, kind, "own_part", text)
        return of(**PLACES[place]({"name": "own_part"}))

    Checkpoints(tmp_path / "run" / "checkpoints", run(1)).claim()
    Checkpoints(tmp_path / "run" / "checkpoints", run(1, tmp_path / "moved"))
    with pytest.raises(UserError, match="the file that own_part is written in was changed since"):
        Checkpoints(tmp_path / "run" / "checkpoints", run(2))
    # One that was begun before code was looked at goes on.
    stored = {name: part for name, part in run(1).items() if name != "outside"}
    Checkpoints(tmp_path / "old" / "checkpoints", stored).claim()
    Checkpoints(tmp_path / "old" / "checkpoints", run(2))


def test_a_run_that_knew_data_by_name_goes_on_with_those_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("out/set", "out/set/", str(tmp_path / "out" / "set")):
        found, (line,) = upgraded(OLD, name, DATA)
        assert found["data"] == DATA and found["roles"] == {} and name in line


def test_its_split_and_mirror_are_still_compared():
    other = identity_of_data(CONTENT, split="test", flip=False)
    assert upgraded(OLD, "out/set", other)[0]["data"] != other


def test_data_of_another_name_are_refused_with_the_way_out():
    with pytest.raises(UserError, match="give data.name=out/set once"):
        upgraded(OLD, "out/other", DATA)


def test_a_run_of_today_is_compared_as_it_is():
    assert upgraded(of(), "anything", DATA) == (of(), ())


def test_a_file_that_a_section_names_is_known_by_its_content(tmp_path):
    def named(name, content):
        path = tmp_path / name
        path.write_text(content)
        return {"loss": {"name": "autoencoding", "features": str(path)}}

    one, moved = named("a.safetensors", "same"), named("b.safetensors", "same")
    assert of(training=one) == of(training=moved)
    before = {**OLD, "training": one}
    found, _ = upgraded(before, "out/set", DATA, one)
    assert found["training"] == of(training=one)["training"] != one
    other = named("a.safetensors", "other")
    assert of(training=other) != of(training=moved)
    # A word is no file.
    assert of(training={"loss": {"name": "denoising"}})["training"]["loss"]["name"] == "denoising"
