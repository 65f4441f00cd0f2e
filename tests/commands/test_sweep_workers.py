"""Sweeps whose workers and launcher are killed, on every kind of storage: each trial once."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from places import PROCESSES, ROOT

CONFIG = ["--config=tests/tiny_configs/sweep.py"]
TRIALS, PASSWORD = 10, "not a good one"


def run(words, **options):
    """Run a command to its end and return what it printed."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT.parent}"}
    environment |= options.pop("environment", {})
    environment["PYTHONPATH"] += f":{os.environ.get('PYTHONPATH', '')}"
    return subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500, **options
    )


def rows_of(work):
    return json.loads((work / "sweep.json").read_text())["rows"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return the rows of the sweep on one worker that nobody disturbs."""
    work = tmp_path_factory.mktemp("undisturbed")
    done = run([sys.executable, "main.py", *CONFIG, f"--workdir={work}", "--mode=sweep"])
    assert done.returncode == 0, done.stderr
    return rows_of(work)


@contextlib.contextmanager
def postgresql():
    """Run Debian's server on loopback, and yield the URL of an empty database of it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL's server is not installed: apt-get install postgresql")
    pytest.importorskip("psycopg", reason="pip install 'guidestar[sweeps]' brings its driver")
    programs, folder = found[-1].parent, Path(tempfile.mkdtemp())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # The server does not run as root; Debian's package brings a user for it.
    root = os.geteuid() == 0
    user = {"user": "postgres", "group": "postgres", "extra_groups": []} if root else {}
    (folder / "password").write_text(PASSWORD)
    if root:
        for one in (folder, folder / "password"):
            shutil.chown(one, "postgres", "postgres")

    def program(name, *words):
        command = [str(programs / name), "-D", str(folder / "data"), *words]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, **user)

    method = ("-A", "scram-sha-256", f"--pwfile={folder / 'password'}", "-U", "sweeper")
    program("initdb", *method)
    try:
        options = f"-p {port} -h 127.0.0.1 -k {folder}"
        program("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        yield f"postgresql://sweeper:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{port}/postgres"
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            program("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "journal", "postgresql"])
def storage(request, tmp_path):
    """Return a storage's URL; empty for the one in the workdir."""
    if request.param == "postgresql":
        with postgresql() as url:
            yield url
    else:
        journal = f"journal:{tmp_path / 'sweep.journal'}"
        yield journal if request.param == "journal" else ""


@pytest.mark.longer
def test_a_worker_and_the_launcher_are_killed_and_each_trial_is_made_once(
    undisturbed, storage, tmp_path
):
    work = tmp_path / "work"
    script = str(PROCESSES / "disturbed_sweeps.py")
    words = [*CONFIG, f"--workdir={work}", "--config.sweep.storage=$SWEEP_STORAGE"]
    done = run([sys.executable, script, *words], environment={"SWEEP_STORAGE": storage})
    assert done.returncode == 0, done.stderr[-3000:]
    rows = rows_of(work)
    assert [row["trial"] for row in rows.values()] == list(range(TRIALS))
    for name, row in undisturbed.items():
        for field in ("frechet_distance", "contrast", "parameters", "made_of", "rule"):
            assert rows[name][field] == row[field], (name, field)
    from guidestar.runtime.study import Storage

    kept = Storage(storage, work).optuna
    trials = kept.get_all_trials(kept.get_study_id_from_name("tiny_sweep"))
    complete = Counter(one.user_attrs["place"] for one in trials if one.state.name == "COMPLETE")
    assert complete == Counter(range(TRIALS))
    assert {one.state.name for one in trials} <= {"COMPLETE", "FAIL"}
    # The password stays where it was: in the environment.
    for path in work.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".csv", ".log"):
            assert "not%20a" not in path.read_text(errors="replace")


@pytest.mark.longer
def test_two_processes_are_one_worker(undisturbed, tmp_path):
    """As the hosts of a TPU slice are: one claims, both make images."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    work = tmp_path / "work"
    environment = os.environ | {"PYTHONPATH": f"{ROOT.parent}:{os.environ.get('PYTHONPATH', '')}"}
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "main.py", *CONFIG, f"--workdir={work}", "--mode=sweep"),
                *(f"--config.hosts.coordinator=127.0.0.1:{port}", "--config.hosts.count=2"),
                f"--config.hosts.index={index}",
            ],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=1200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    for name, row in rows_of(work).items():
        assert row["contrast"] == pytest.approx(undisturbed[name]["contrast"], abs=1e-3)
    assert len(rows_of(work)) == TRIALS
