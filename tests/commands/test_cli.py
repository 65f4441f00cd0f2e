"""The command line: what a person mistypes is answered in one line, with status 1."""

import subprocess
import sys

import pytest
from absl import flags
from ml_collections import config_flags
from places import ROOT

from guidestar import guidance
from guidestar.configs import apg_on_autoguidance
from guidestar.main import subscripted

TINY = "--config=tests/tiny_configs/command_line.py"


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


@pytest.mark.parametrize(
    ("written", "parsed"),
    [
        ("--config.guidance.push.1.eta=0.2", "--config.guidance.push[1].eta=0.2"),
        ("--config.guidance.rules.0.push.12.eta=1", "--config.guidance.rules[0].push[12].eta=1"),
        ("--config.guidance.scales.1=3", "--config.guidance.scales[1]=3"),
        ("--config.a.1.2.b", "--config.a[1][2].b"),
        ("-config.guidance.push.1.eta", "-config.guidance.push[1].eta"),
        ("--noconfig.parts.0.on", "--noconfig.parts[0].on"),
        ("--config.name=v.1.b", "--config.name=v.1.b"),
        ("--config=configs/v.1.py", "--config=configs/v.1.py"),
        ("--workdir=out.1", "--workdir=out.1"),
        ("--config.guidance.push[1].eta=2", "--config.guidance.push[1].eta=2"),
    ],
)
def test_numbers_in_the_names_of_overrides_are_list_entries(written, parsed):
    assert subscripted(written) == parsed


def test_one_number_of_a_nested_rule_is_overridden():
    config, values = apg_on_autoguidance.get_config(), flags.FlagValues()
    before = config.guidance.to_dict()["rule"]["push"]
    arguments = ["main.py", subscripted("--config.guidance.rule.push.2.eta=0.2")]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
    values(arguments)
    (low, high), after = (0.1, 10.0), config.guidance.to_dict()["rule"]["push"]
    assert after == (*before[:2], {"name": "project", "eta": 0.2}, before[3])
    transforms = [guidance.momentum(-0.5), guidance.clip_norm(5.0), guidance.project(0.2)]
    pushed = guidance.push(guidance.weak(), *transforms, guidance.scale(3.0))
    expected = guidance.between(pushed, low, high)
    assert guidance.from_config(config.guidance.to_dict()) == expected


def test_an_override_beyond_the_end_of_a_list_is_answered_in_one_line(tmp_path):
    override = "--config.guidance.rule.push.7.eta=0.2"
    result = run("--config=configs/apg_on_autoguidance.py", override, f"--workdir={tmp_path}")
    assert result.returncode == 1
    assert "push[7].eta=0.2: the config's list has fewer entries" in result.stderr
    assert "Traceback" not in result.stderr
