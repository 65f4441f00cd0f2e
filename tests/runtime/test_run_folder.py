"""A work folder is held by one run at a time, and given up however that run ends."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guidestar import main
from guidestar.commands import classify, evaluate
from guidestar.core.errors import UserError
from guidestar.data import record_folder
from guidestar.runtime import distributed, run_folder, store

HOLDER = """
import sys, time
from guidestar.runtime.run_folder import claimed
with claimed(sys.argv[1], "train"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder, once it does."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_folder_is_made_held_and_given_up(tmp_path):
    folder = tmp_path / "a" / "b"
    with run_folder.claimed(folder, "train") as held:
        assert held == folder
        said = json.loads((folder / run_folder.NAME).read_text())
        assert said["pid"] == os.getpid() and said["mode"] == "train"
    assert not any(folder.iterdir())
    with run_folder.claimed(folder, "sample"):
        pass


@pytest.mark.longer
def test_a_mode_that_reads_alone_has_a_folder_that_another_run_holds(tmp_path, holder):
    with run_folder.claimed(tmp_path, "report", use=run_folder.Folder(held=False)) as folder:
        assert folder == tmp_path and json.loads((folder / run_folder.NAME).read_text())
    with run_folder.claimed(tmp_path / "no", "report", use=run_folder.Folder(held=False)):
        assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("kept", "written", "left"),
    [
        ("", "", ""),
        ("a", "", "a"),
        ("a/b/c", "", "a/b/c"),
        ("", "a/b/c/sub/", ""),
        ("", "a/b/c/sub/file", "a/b/c/sub/file"),
        ("", "a/file", "a/file"),
        ("a/b/c/empty", "", "a/b/c/empty"),
    ],
)
@pytest.mark.parametrize("failure", [UserError("refused"), KeyboardInterrupt()])
def test_a_run_that_failed_before_it_wrote_leaves_no_folder_that_it_made(
    tmp_path, kept, written, left, failure
):
    (tmp_path / kept).mkdir(parents=True, exist_ok=True)

    def begin():
        with run_folder.claimed(tmp_path / "a" / "b" / "c", "train"):
            if written.endswith("/"):
                (tmp_path / written).mkdir()
            elif written:
                (tmp_path / written).parent.mkdir(exist_ok=True)
                (tmp_path / written).touch()
            raise failure

    with pytest.raises(type(failure)):
        begin()
    there = {str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*")}
    wanted = [one for one in (Path(left), *Path(left).parents) if str(one) != "."]
    assert there == {str(one) for one in wanted}


def test_a_run_that_ended_well_keeps_its_folder(tmp_path):
    with run_folder.claimed(tmp_path / "a", "train"):
        pass
    assert (tmp_path / "a").is_dir()


# What modes may be started beside, and those that go on with it.
BESIDE = {
    "training": ("sample", "evaluate", "export", "ema", "lcsc", "affinity", "report"),
    "data set": ("statistics",),
    "samples": (
        *("evaluate", "export", "ema", "lcsc", "affinity", "import", "statistics"),
        *("atlas", "demo", "evidence", "fractal2d", "solvers", "report"),
    ),
    "evaluation": (
        *("sample", "export", "ema", "lcsc", "affinity", "import", "statistics"),
        *("atlas", "demo", "fractal2d", "solvers", "report"),
    ),
    "sweep": ("statistics", "report"),
    "classification": (),
}
MAKING = {
    "training": ("train",),
    "data set": ("encode", "prepare"),
    "samples": ("decode", "restore", "sample", "search"),
    "evaluation": ("evaluate", "evidence"),
    "sweep": ("sweep",),
    "classification": ("classify",),
}


@pytest.mark.parametrize("mode", sorted(main.modes()))
@pytest.mark.parametrize(
    ("what", "mark"), [(what, mark) for what, marks in run_folder.MARKS.items() for mark in marks]
)
def test_what_a_mode_makes_goes_into_no_folder_of_something_else(tmp_path, mode, what, mark):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / mark).touch()
    kind = next(one for one in BESIDE if one in what)
    use = main.module_of(mode).WORKDIR

    def begin():
        with run_folder.claimed(tmp_path / "work", mode, use=use):
            pass

    if mode in (*BESIDE[kind], *MAKING[kind]):
        begin()
    else:
        said = rf"holds {what} \({mark}\), and what --mode={mode} writes .* another --workdir"
        with pytest.raises(UserError, match=said):
            begin()
    # What is there stays, and the folder is given up.
    assert [one.name for one in (tmp_path / "work").iterdir()] == [mark]


def test_a_folder_that_an_earlier_release_let_two_modes_share_is_gone_on_with(tmp_path):
    for name in ("run.json", "dataset.json"):
        (tmp_path / name).touch()
    for mode in ("train", "prepare"):
        with run_folder.claimed(tmp_path, mode, use=main.module_of(mode).WORKDIR):
            pass


def test_folders_are_known_by_the_names_that_modes_give_their_files():
    marks = run_folder.MARKS
    assert marks[run_folder.DATA_SET] == (record_folder.DESCRIPTION, record_folder.BEGUN)
    assert marks[run_folder.SAMPLES] == (store.RECORD,)
    assert marks[run_folder.EVALUATION] == (evaluate.RECORD,)
    assert marks[run_folder.CLASSIFICATION] == (classify.RECORD,)


def test_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with run_folder.claimed("~/runs", "train") as held:
        assert held == tmp_path / "runs"
    assert not (tmp_path / "~").exists()


def test_a_run_that_is_at_work_is_named_and_one_that_was_killed_is_followed(tmp_path, holder):
    with (
        pytest.raises(UserError, match=rf"in use .*--mode train, process {holder.pid}, on "),
        run_folder.claimed(tmp_path, "sample"),
    ):
        pass
    holder.kill()
    holder.wait()
    assert (tmp_path / run_folder.NAME).exists()
    with run_folder.claimed(tmp_path, "sample"):
        pass


def test_one_process_holds_a_folder_once_however_it_is_spelled(tmp_path):
    (tmp_path / "other").symlink_to(tmp_path)
    with run_folder.claimed(tmp_path, "train"):
        for again in (tmp_path, tmp_path / "other"):
            with pytest.raises(UserError, match="in use"), run_folder.claimed(again, "train"):
                pass
        # The refusal has not given the folder up.
        assert (tmp_path / run_folder.NAME).exists()


def elsewhere(folder: Path, age: float) -> Path:
    """Leave the lock of a run on another machine, renewed so many seconds ago."""
    path = folder / run_folder.NAME
    path.write_text(json.dumps({"mode": "train", "host": "far", "pid": 1, "machine": "another"}))
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def test_a_run_elsewhere_that_has_ended_is_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "GRACE", 0.3)
    for age, told in ((1000, 0), (0, 1)):
        elsewhere(tmp_path, age)
        said = []
        with run_folder.claimed(tmp_path, "train", say=said.append):
            pass
        assert len(said) == told


def test_a_run_elsewhere_that_renews_its_lock_is_left_alone(tmp_path, monkeypatch):
    path = elsewhere(tmp_path, 10)
    before = path.read_text()

    def renewed(seconds):
        os.utime(path)

    monkeypatch.setattr(run_folder.time, "sleep", renewed)
    with (
        pytest.raises(UserError, match="--mode train, process 1, on far"),
        run_folder.claimed(tmp_path, "train", say=lambda _: None),
    ):
        pass
    assert path.read_text() == before


def test_the_lock_is_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "RENEWED", 0.01)
    with run_folder.claimed(tmp_path, "train"):
        elsewhere(tmp_path, 1000)
        deadline = time.monotonic() + 10
        while time.time() - (tmp_path / run_folder.NAME).stat().st_mtime > 500:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("taken", [True, False])
def test_without_locks_of_the_system_process_numbers_are_looked_at(tmp_path, monkeypatch, taken):
    monkeypatch.setattr(run_folder, "fcntl", None)
    said = run_folder._this_run("train") | ({} if taken else {"pid": 2**22 + 1})
    (tmp_path / run_folder.NAME).write_text(json.dumps(said))
    if taken:
        with pytest.raises(UserError, match="in use"), run_folder.claimed(tmp_path, "train"):
            pass
    else:
        with run_folder.claimed(tmp_path, "train"):
            pass


def test_a_lock_that_is_not_whole_holds_nobody_up(tmp_path):
    (tmp_path / run_folder.NAME).write_text('{"mode"')
    with run_folder.claimed(tmp_path, "train"):
        pass


@pytest.mark.parametrize("wanted", ["", "file", "file/below", "nul\0"])
def test_what_is_no_folder_to_write_in_is_refused(tmp_path, monkeypatch, wanted):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"--workdir.*(choose another folder|name a folder)"),
        run_folder.claimed(wanted, "train"),
    ):
        pass


def test_processes_of_one_job_hold_it_together(tmp_path, monkeypatch, holder):
    # Another process of the holder's job asks for no lock, and stops where the first could not.
    monkeypatch.setattr(distributed, "is_primary", lambda: False)
    with run_folder.claimed(tmp_path, "train") as held:
        assert held == tmp_path
    monkeypatch.setattr(distributed, "from_all", lambda number: [1, number])
    with (
        pytest.raises(UserError, match=r"process 0 could not use .*: its own message says why"),
        run_folder.claimed(tmp_path, "train"),
    ):
        pass
    assert socket.gethostname() in (tmp_path / run_folder.NAME).read_text()


def test_runs_that_share_a_folder_hold_what_they_are_at(tmp_path):
    use = run_folder.Folder(makes=run_folder.SWEEP, shared=True)
    with (
        run_folder.claimed(tmp_path, "sweep", use=use),
        run_folder.claimed(tmp_path, "sweep", use=use) as folder,
    ):
        assert list(folder.iterdir()) == []
        with (
            run_folder.held(folder, "a trial"),
            pytest.raises(UserError, match="in use by another run .*a trial"),
            run_folder.held(folder, "a trial"),
        ):
            pass
