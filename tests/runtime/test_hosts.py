"""Several processes train as one does, pass a run on to one and take it back, and stop together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from places import ROOT
from tiny_configs.configs import last_checkpoint, tiny

from guidestar.core.errors import UserError
from guidestar.runtime import distributed

STEPS = 12


def section(**fields):
    return ConfigDict(dict(coordinator="", count=0, index=-1) | fields)


@pytest.fixture
def joined(monkeypatch):
    """What `jax.distributed.initialize` was called with."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: calls.append(given))
    return calls


@pytest.mark.parametrize(
    ("fields", "environment", "expected"),
    [
        ({}, {}, []),
        ({}, {"SLURM_NTASKS": "4"}, []),
        ({}, {"SLURM_STEP_NUM_TASKS": "1", "TPU_WORKER_HOSTNAMES": "localhost"}, []),
        (dict(coordinator="a:1", count=1, index=0), {}, []),
        ({}, {"SLURM_STEP_NUM_TASKS": "4"}, [{}]),
        ({}, {"TPU_WORKER_HOSTNAMES": "a,b"}, [{}]),
        ({}, {"OMPI_COMM_WORLD_SIZE": "2"}, [{}]),
        (dict(coordinator="auto"), {}, [{}]),
        (
            dict(coordinator="a:1", count=4, index=3),
            {},
            [dict(coordinator_address="a:1", num_processes=4, process_id=3)],
        ),
    ],
)
def test_hosts_are_joined_where_there_are_several(joined, fields, environment, expected):
    distributed.initialise(section(**fields), environment)
    assert joined == expected


@pytest.mark.parametrize(
    "fields",
    [
        dict(coordinator="a:1"),
        dict(coordinator="a:1", count=2),
        dict(coordinator="a:1", count=2, index=2),
        dict(coordinator="a", count=2, index=0),
    ],
)
def test_a_section_that_cannot_be_is_refused(joined, fields):
    with pytest.raises(UserError, match="give the first host as host:port, how many processes"):
        distributed.initialise(section(**fields), {})
    assert not joined


def test_hosts_that_cannot_be_joined_are_told(monkeypatch):
    def refuse(**_):
        raise RuntimeError("DEADLINE_EXCEEDED")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    with pytest.raises(UserError, match=r"could not join the others \(DEADLINE_EXCEEDED\)"):
        distributed.initialise(section(coordinator="a:1", count=2, index=0), {})


def test_sigterm_is_a_request_inside_and_what_it_was_outside():
    before = signal.getsignal(signal.SIGTERM)
    with distributed.Termination() as termination:
        assert not termination.requested(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert termination.requested(2)
    assert signal.getsignal(signal.SIGTERM) == before


def test_with_one_process_what_is_agreed_is_what_it_says(capsys):
    assert (
        distributed.from_primary(7) == 7
        and distributed.from_all(7) == [7]
        and distributed.is_primary()
    )
    distributed.meet("nowhere")
    distributed.say("once")
    distributed.say("twice", error=True)
    assert capsys.readouterr() == ("once\n", "twice\n")


def start(workdir, processes, devices, *options):
    """Start a run of so many processes with so many devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = f" --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + flags,
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "main.py", "--config=tests/tiny_configs/command_line.py", *options]
    command += [f"--workdir={workdir}", "--config.log.every_steps=1"]
    command += [f"--config.hosts.coordinator=localhost:{port}", f"--config.hosts.count={processes}"]
    started = []
    for index in range(processes):
        log = workdir.with_suffix(f".{index}.log")
        with log.open("w") as output:
            process = subprocess.Popen(
                [*command, f"--config.hosts.index={index}"],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        started.append((process, log))
    return started


def finish(started):
    """Wait for processes; return what each printed."""
    try:
        for process, log in started:
            assert process.wait(timeout=600) == 0, log.read_text()[-2000:]
    finally:
        for process, _ in started:
            process.kill()
    return [log.read_text() for _, log in started]


def steps(count, preset="fsdp"):
    """Return options of a run to a step."""
    return f"--config.training.steps={count}", f"--config.sharding.preset={preset}"


def result(workdir):
    """Return the losses, the parameters and the position of a run that ended."""
    config = tiny(steps=STEPS)
    step, state, extra = last_checkpoint(config, workdir)
    assert step == STEPS
    records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    losses = {record["step"]: record["loss"] for record in records}
    assert list(losses) == list(range(1, STEPS + 1))
    params = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state.main.params)])
    return np.array(list(losses.values())), params, extra["position"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """An undisturbed run of one process with one device."""
    workdir = tmp_path_factory.mktemp("hosts") / "alone"
    finish(start(workdir, 1, 1, *steps(STEPS, "replicated")))
    return result(workdir)


def check_same(found, expected):
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-5)
    assert found[2] == expected[2]


@pytest.mark.longer
def test_two_processes_one_and_two_again_train_like_one(alone, tmp_path):
    workdir = tmp_path / "passed_on"
    first = finish(start(workdir, 2, 2, *steps(4)))
    assert "steps 0 to 4 on 4 cpu device(s) (fsdp 4)" in first[0]
    assert "steps" not in first[1], "both processes speak"
    assert (workdir / "checkpoints" / "4" / "state" / "ocdbt.process_1").is_dir()
    assert "steps 4 to 8 on 2 cpu" in finish(start(workdir, 1, 2, *steps(8)))[0]
    assert "steps 8 to 12 on 4 cpu" in finish(start(workdir, 2, 2, *steps(STEPS)))[0]
    check_same(result(workdir), alone)


@pytest.mark.longer
def test_pmap_over_two_processes_trains_like_one_device(alone, tmp_path):
    workdir = tmp_path / "pmap"
    more = "--config.training.accumulate=2", "--config.log.preview_every_steps=6"
    finish(start(workdir, 2, 2, *steps(6, "pmap"), *more))
    finish(start(workdir, 2, 2, *steps(STEPS, "pmap"), *more))
    check_same(result(workdir), alone)
    assert len(list((workdir / "previews").glob("*.png"))) == 2


@pytest.mark.longer
def test_sigterm_to_one_of_two_stops_both_at_the_same_saved_step(alone, tmp_path):
    workdir = tmp_path / "stopped"
    started = start(workdir, 2, 1, *steps(2000))
    record, deadline = workdir / "metrics.jsonl", time.monotonic() + 300
    while not record.exists() or record.read_text().count("\n") < 3:
        assert time.monotonic() < deadline, [log.read_text()[-2000:] for _, log in started]
        time.sleep(0.05)
    started[1][0].send_signal(signal.SIGTERM)
    printed = finish(started)
    saved = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    assert f"stopped by SIGTERM: step {saved} is saved" in printed[0]
    assert saved < 2000
    if saved < STEPS:
        finish(start(workdir, 2, 1, *steps(STEPS)))
        check_same(result(workdir), alone)
