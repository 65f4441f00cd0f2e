"""Processes that a launcher starts: their number, their accelerator, their last words."""

import sys

import pytest

from guidestar.runtime.workers import accelerator, run_workers

TELLS = """
import os, signal, sys
number = os.environ["GUIDESTAR_WORKER"]
print("I am", number)
if number == "1":
    print("error: no space left")
    sys.exit(1)
if number == "2":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.longer
def test_each_worker_has_a_number_and_a_log_and_the_launcher_says_who_died(tmp_path, monkeypatch):
    monkeypatch.setattr("guidestar.runtime.workers.POLL", 0.05)
    told, looks = [], []
    words = [sys.executable, "-c", TELLS + "import time; time.sleep(1)"]
    ended = run_workers(words, 3, tmp_path / "logs", lambda: looks.append(1), told.append)
    assert [one.status for one in ended] == [0, 1, -9] and looks
    assert [one.said for one in ended] == ["", "no space left", ""]
    assert sorted(told) == [
        "worker 1 gave up (no space left)",
        "worker 2 was ended by signal 9",
    ]
    logs = [(tmp_path / "logs" / f"worker-{n}.log").read_text() for n in range(3)]
    assert [log.split("\n")[0] for log in logs[:2]] == ["I am 0", "I am 1"]


@pytest.mark.longer
def test_a_launcher_that_is_interrupted_ends_its_workers_input_and_waits(tmp_path):
    """They stop by themselves, and their launcher is there until they have."""

    def interrupt():
        if (tmp_path / "begun").exists():
            raise KeyboardInterrupt

    code = (
        f"import pathlib, sys; pathlib.Path({str(tmp_path / 'begun')!r}).touch(); "
        f"sys.stdin.read(); pathlib.Path({str(tmp_path / 'stopped')!r}).touch()"
    )
    with pytest.raises(KeyboardInterrupt):
        run_workers([sys.executable, "-c", code], 1, tmp_path, interrupt, print)
    assert (tmp_path / "stopped").exists()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"CUDA_VISIBLE_DEVICES": "4,7"}, [("4", "0.450"), ("7", "0.450"), ("4", "0.450")]),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2"}, [("0", "0.900"), ("1", "0.900"), ("2", "0.900")]),
        (
            {"CUDA_VISIBLE_DEVICES": "0", "XLA_PYTHON_CLIENT_MEM_FRACTION": ".2"},
            [("0", ".2")] * 3,
        ),
    ],
)
def test_workers_share_the_gpus_and_their_memory(environment, expected):
    found = [accelerator(index, 3, environment) for index in range(3)]
    names = ("CUDA_VISIBLE_DEVICES", "XLA_PYTHON_CLIENT_MEM_FRACTION")
    assert [tuple(one[name] for name in names) for one in found] == expected


def test_where_no_gpu_is_to_be_seen_none_is_given():
    assert accelerator(0, 2, {"CUDA_VISIBLE_DEVICES": ""}) == {}
