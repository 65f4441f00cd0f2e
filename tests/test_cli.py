"""The command line: what a person mistypes is answered in one line, with status 1."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TINY = "--config=tests/configs_for_tests_cli.py"


def run(*arguments):
    return subprocess.run(
        [sys.executable, "main.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([TINY, "--config.optimizer.learning_rat=1"], "learning_rat"),
        (["--config=configs/nothing.py"], "nothing.py"),
        ([TINY, "--mode=sampel"], "sampel"),
        ([], "--config is missing"),
        ([TINY, "leftover"], "unexpected argument 'leftover'"),
        ([TINY, "--config.data.name=nosuchset"], "nosuchset"),
        ([TINY, "--mode=sample"], "weights.main is empty"),
        ([TINY, "--config.training.steps=soon"], "steps"),
    ],
)
def test_mistakes_are_answered_in_one_line(tmp_path, arguments, message):
    result = run(*arguments, f"--workdir={tmp_path / 'work'}")
    assert result.returncode == 1
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ") and message in lines[-1]
    assert "Traceback" not in result.stderr


def test_a_missing_workdir_and_one_that_cannot_be_written_are_told_apart(tmp_path):
    assert "--workdir is missing" in run(TINY).stderr
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    result = run(TINY, f"--workdir={blocked / 'work'}")
    assert result.returncode == 1 and "cannot be written" in result.stderr
    assert blocked.read_text() == "not a folder"
