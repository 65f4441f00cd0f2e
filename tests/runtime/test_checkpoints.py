"""Checkpoints: whole or named as damaged, on any devices, for the run they belong to."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from places import PROCESSES
from tiny_configs.configs import tiny

from guidestar.commands.config.training import checkpoints_of, networks_of
from guidestar.core.errors import UserError
from guidestar.runtime import checkpointer as module
from guidestar.runtime import manifest
from guidestar.runtime.checkpointer import Checkpoints

IDENTITY = {"seed": 0, "model": {"name": "dit", "width": 16}}
SCRIPT = PROCESSES / "resharded_checkpoints.py"


def state(step):
    return {"params": {"w": jnp.arange(4096.0) + step, "b": jnp.ones(3)}, "step": jnp.int32(step)}


def abstract(like=None):
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like or state(0)
    )


def extra(step):
    return {"position": {"examples_seen": 8 * step}}


def written(folder, *steps, **options):
    """Save at some steps and return where."""
    checkpoints = Checkpoints(folder / "checkpoints", IDENTITY, **options)
    checkpoints.restore(abstract())
    checkpoints.claim()
    for step in steps:
        checkpoints.save(step, state(step), extra(step))
    checkpoints.close()
    return folder / "checkpoints"


def reopened(directory, identity=IDENTITY, **options):
    return Checkpoints(directory, identity, **options)


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Checkpoints at steps 4 and 8, to be copied."""
    return written(tmp_path_factory.mktemp("two"), 4, 8)


@pytest.fixture
def directory(two, tmp_path):
    shutil.copytree(two.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "checkpoints"


def test_what_was_saved_comes_back_bit_for_bit(directory):
    step, found, more = reopened(directory).restore(abstract())
    assert step == 8 and more == extra(8)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state(8)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_saved_is_no_error(tmp_path):
    checkpoints = reopened(tmp_path / "checkpoints")
    assert checkpoints.restore(abstract()) is None and checkpoints.latest_step is None
    assert not (tmp_path / "checkpoints").exists(), "looking changed something"


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (dict(keep=1), [5]),
        (dict(keep=2), [4, 5]),
        (dict(keep=1, keep_every_steps=2), [2, 4, 5]),
        (dict(keep=9), [1, 2, 3, 4, 5]),
    ],
)
def test_the_newest_stay_and_every_so_many(tmp_path, options, left):
    directory = written(tmp_path, 1, 2, 3, 4, 5, **options)
    assert reopened(directory).steps == left
    assert {path.name for path in directory.iterdir()} == set(map(str, left))


def cut_short(file):
    os.truncate(file, file.stat().st_size // 2)


def emptied(file):
    os.truncate(file, 0)


def altered(file):
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    file.write_bytes(contents)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (cut_short, "has .* bytes and should have"),
        (emptied, "has 0 bytes"),
        (altered, "has other contents than were written"),
        (Path.unlink, "is missing"),
    ],
)
def test_a_damaged_newest_is_named_put_aside_and_the_one_before_used(
    directory, capsys, damage, what
):
    file = largest(directory / "8")
    damage(file)
    checkpoints = reopened(directory)
    step, found, _ = checkpoints.restore(abstract())
    assert step == 4 and float(found["params"]["w"][0]) == 4
    said = capsys.readouterr().err
    assert f"checkpoint 8 is damaged: {file.relative_to(directory / '8')} " in said
    assert re.search(what, said) and "going on from step 4" in said
    assert checkpoints.steps == [4, 8], "looking changed something"
    checkpoints.claim()
    assert checkpoints.steps == [4] and (directory / "damaged-8").is_dir()
    checkpoints.save(8, state(8), extra(8), wait=True)
    assert reopened(directory).restore(abstract())[0] == 8


@pytest.mark.longer
def test_every_file_of_a_checkpoint_is_watched(directory):
    for file in sorted(p for p in (directory / "8").rglob("*") if p.is_file()):
        kept = file.read_bytes()
        file.unlink()
        assert reopened(directory).restore(abstract())[0] == 4, f"{file.name} was not missed"
        file.write_bytes(kept)
    assert reopened(directory).restore(abstract())[0] == 8


def test_sizes_alone_are_compared_on_request(directory):
    (directory / "8" / "extra").write_text("not in the manifest")
    file = directory / "8" / "commit_success.txt"
    altered(file)
    assert reopened(directory, verify="sizes").restore(abstract())[0] == 8
    assert reopened(directory).restore(abstract())[0] == 4


@pytest.mark.parametrize("gone", ["a file of each", "every folder", "the whole folder"])
def test_a_run_whose_checkpoints_are_lost_stops_and_says_what_is_lost(directory, gone):
    if gone == "a file of each":
        for step in (4, 8):
            largest(directory / str(step)).unlink()
    elif gone == "every folder":
        for step in (4, 8):
            shutil.rmtree(directory / str(step))
    else:
        shutil.rmtree(directory)
    before = sorted(directory.rglob("*"))
    with pytest.raises(UserError, match=r"should hold step 8.*is lost unless.*another --workdir"):
        reopened(directory).restore(abstract())
    assert sorted(directory.rglob("*")) == before


def test_a_newest_that_is_gone_altogether_is_missed(directory, capsys):
    shutil.rmtree(directory / "8")
    assert reopened(directory).restore(abstract())[0] == 4
    assert "checkpoint 8 was saved and is gone" in capsys.readouterr().err


def test_what_a_kill_left_half_done_is_no_checkpoint_and_is_removed(directory):
    shutil.copytree(directory / "8", directory / "unfinished-12")
    shutil.copytree(directory / "8", directory / "unfinished-16.orbax-checkpoint-tmp")
    shutil.copytree(directory / "4", directory / "discarded-2")
    checkpoints = reopened(directory)
    assert checkpoints.restore(abstract())[0] == 8
    checkpoints.claim()
    assert {path.name for path in directory.iterdir()} == {"4", "8"}


def test_the_clock_does_not_matter(directory):
    for path in (directory / "8").rglob("*"):
        os.utime(path, (time.time() - 1e8,) * 2)
    for path in (directory / "4").rglob("*"):
        os.utime(path, (time.time() + 1e8,) * 2)
    assert reopened(directory).restore(abstract())[0] == 8


def test_another_runs_checkpoints_are_refused_by_field_unless_forced(directory, capsys):
    other = {"seed": 0, "model": {"name": "dit", "width": 32, "depth": 2}}
    with pytest.raises(
        UserError, match=r"model.depth was not set there and is 2 here \(1 more differ\).*force"
    ):
        reopened(directory, other)
    checkpoints = reopened(directory, other, force=True)
    assert "forced: model.width was 16 and is 32" in capsys.readouterr().err
    assert checkpoints.restore(abstract())[0] == 8
    checkpoints.claim()
    with pytest.raises(UserError, match="model.depth was 2 there and is not set here"):
        reopened(directory)


def test_a_record_that_cannot_be_read_is_refused(directory):
    (directory.parent / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json cannot be read.*Restore it from a copy"):
        reopened(directory)


def test_a_state_of_another_structure_is_refused(directory):
    other = state(0) | {"params": {"w": jnp.ones(7), "b": jnp.ones(3)}}
    with pytest.raises(UserError, match="cannot be loaded for this config.*another --workdir"):
        reopened(directory).restore(abstract(other))


@pytest.mark.parametrize("moment", ["begin", "write", "describe"])
def test_a_write_that_fails_is_told_and_leaves_the_last_good_one(directory, monkeypatch, moment):
    full = OSError(errno.ENOSPC, "No space left on device")

    class Broken:
        def result(self):
            raise RuntimeError("RESOURCE_EXHAUSTED: No space left on device")

    def refuse(*_):
        raise full

    if moment == "describe":
        monkeypatch.setattr(module.manifest, "write", refuse)
    else:
        broken = refuse if moment == "begin" else lambda *_: Broken()
        monkeypatch.setattr(module.ocp, "save_async", broken)
    checkpoints = reopened(directory)
    checkpoints.restore(abstract())
    checkpoints.claim()
    with pytest.raises(
        UserError,
        match=r"checkpoint 12 .*No space left on device.*same command again; it continues from "
        r"step 8",
    ):
        checkpoints.save(12, state(12), extra(12), wait=True)
    assert reopened(directory).steps == [4, 8]
    assert not list(directory.glob("unfinished-*"))
    checkpoints.close()


def test_a_write_that_fails_later_is_told_at_the_next_step(directory, monkeypatch):
    class Broken:
        def result(self):
            raise RuntimeError("quota exceeded")

    checkpoints = reopened(directory)
    checkpoints.claim()
    monkeypatch.setattr(module.ocp, "save_async", lambda *_: Broken())
    checkpoints.save(12, state(12), extra(12))
    with pytest.raises(UserError, match=r"writing checkpoint 12 .*\(quota exceeded\)"):
        for _ in range(1000):
            checkpoints.raise_if_failed()
            time.sleep(0.01)


def test_a_step_that_is_there_is_not_written_again(directory, monkeypatch):
    checkpoints = reopened(directory)
    checkpoints.claim()
    monkeypatch.setattr(module.ocp, "save_async", None)
    checkpoints.save(8, state(0), extra(0), wait=True)
    assert json.loads((directory / "8" / manifest.NAME).read_text())["extra"] == extra(8)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("keep", 0, r"checkpoint\.keep is 0: give a whole number from 1 \(2, so that"),
        ("keep_every_steps", -1, r"keep_every_steps is -1: .* from 0 \(0 is none\)"),
        ("verify", "nothing", "verify 'nothing' is not one of contents, sizes"),
        ("every_steps", 0, "every_steps is 0"),
    ],
)
def test_a_section_that_cannot_be_is_refused(tmp_path, field, value, message):
    config = tiny()
    config.checkpoint[field] = value
    with pytest.raises(UserError, match=message):
        checkpoints_of(config, tmp_path, networks_of(config))


@pytest.mark.longer
def test_a_checkpoint_of_eight_devices_is_read_by_any_number(tmp_path):
    """Cut over eight, read whole by four, by one (here), cut in another way by eight again."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    subprocess.run(
        [sys.executable, SCRIPT, tmp_path],
        check=True,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )
    like = {"w": jnp.zeros((64, 24)), "b": jnp.zeros(64)}
    _, found, _ = reopened(tmp_path / "checkpoints", {}).restore(abstract(like))
    np.testing.assert_array_equal(found["w"], np.arange(64 * 24.0).reshape(64, 24))
    np.testing.assert_array_equal(found["b"], np.arange(64.0))
