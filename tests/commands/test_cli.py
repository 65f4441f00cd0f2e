"""The command line: what a person mistypes is answered in one line, with status 1."""

import importlib
import re
import shlex
import subprocess
import sys

import pytest
from absl import flags
from ml_collections import ConfigDict
from places import ROOT

from guidestar import guidance, main
from guidestar.commands.config import imports, overrides, reading
from guidestar.configs import apg_on_autoguidance, common, digits, evidence
from guidestar.core.errors import UserError
from guidestar.main import located, modes, module_of

TINY = "--config=tests/tiny_configs/command_line.py"


def run(*arguments):
    """Run the command in a process of its own."""
    command = [sys.executable, "main.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture
def refused(capsys, monkeypatch):
    """Return a function that runs the command in this process and returns what it was refused by.

    What comes before a device is used is refused here; the parsed flags are forgotten after it.
    """
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(main, "begin", lambda config: None)
    monkeypatch.setattr(sys, "argv", ["main.py"])

    def refuse(*arguments):
        flags.FLAGS.unparse_flags()
        with pytest.raises(SystemExit) as left:
            main.main(main.parse(["main.py", *arguments]))
        assert left.value.code == 1
        return capsys.readouterr().err.strip().splitlines()[-1]

    values = {name: flags.FLAGS[name].value for name in ("config", "workdir", "mode")}
    yield refuse
    flags.FLAGS.unparse_flags()
    for name, value in values.items():
        flags.FLAGS[name].value = value


def test_an_argument_says_something_to_a_mode_unless_it_reads_nothing_at_all():
    """The report of an evaluation is asked for by the evaluation's own config."""
    with pytest.raises(UserError, match="rows.cfg_3, which --mode=sample does not read"):
        reading.require_argument_read("sample", ("seed",), ["rows.cfg_3"], lambda _: ["evaluate"])
    reading.require_argument_read("report", (), ["rows.cfg_3"], lambda _: ["evaluate"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([TINY, "--config.optimizer.learning_rat=1"], "did you mean learning_rate"),
        (["--config=configs/nothing.py"], "configs/nothing.py: there is no such file"),
        (["--config=digitz"], "there is no such file, nor a config of the package; did you mean"),
        ([TINY, "--mode=sampel"], "sampel"),
        ([TINY, "--mode=experiment"], "--mode=fractal2d"),
        ([TINY, "--mode=report"], "holds neither sweep.json nor evidence.json"),
        ([], "--config is missing"),
        ([TINY, "leftover"], "unexpected argument 'leftover'"),
        ([TINY, "--config.data.name=nosuchset"], "nosuchset"),
        ([TINY, "--config.training.steps=soon"], "training.steps='soon': give a whole number"),
        ([TINY, "--mode=sample", "--config.optimizer.b1=0.5"], "--mode=sample does not read it"),
        (["--config=configs/evidence.py:unguided", "--mode=sample"], "argument"),
        ([TINY, "--config.imports=no_such_module"], "no such module"),
    ],
)
def test_mistakes_are_answered_in_one_line(tmp_path, refused, arguments, message):
    line = refused(*arguments, f"--workdir={tmp_path / 'work'}")
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "cannot be loaded: SyntaxError: .*own.py, line 1"),
        ("import nothere", "cannot be loaded: ModuleNotFoundError: No module named 'nothere'"),
        ("def get_config():\n    1 / 0", "cannot be loaded: ZeroDivisionError"),
        ("def get_config():\n    raise ValueError('no row x')", "cannot be loaded: no row x$"),
        (
            "def get_config():\n    return 1 + ''",
            "cannot be loaded: TypeError: unsupported operand",
        ),
        ("def get_config(dataset):\n    pass", r"behind a colon, --config=FILE\.py:DATASET$"),
        (
            "def get_config():\n    return 3",
            "its get_config.. returned 3, and no ConfigDict",
        ),
    ],
)
def test_a_config_of_ones_own_that_gives_none_is_refused(tmp_path, refused, text, message):
    (tmp_path / "own.py").write_text(text)
    found = refused(f"--config={tmp_path / 'own.py'}", f"--workdir={tmp_path}")
    assert re.search(message, found)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("training.stepz", "training has no field 'stepz', it has .*; did you mean steps"),
        ("training.init_from.wieghts", "sets config.training.init_from.wieghts, .* weights"),
        ("sampling.cuont", "did you mean count"),
        ("optimizer.lr", "optimizer has no field 'lr', it has .*learning_rate"),
        ("checkpoint.kep", "did you mean keep"),
        ("log.evry", "log has no field 'evry'"),
        ("seeed", "a config has no field 'seeed', it has .*; did you mean seed"),
    ],
)
@pytest.mark.parametrize("mode", ["train", "sample"])
def test_a_field_misspelt_in_a_config_of_ones_own_is_refused(
    tmp_path, refused, field, message, mode
):
    section, _, name = f"config.{field}".rpartition(".")
    (tmp_path / "own.py").write_text(
        "from guidestar.configs import digits\n\n\ndef get_config():\n"
        f"    config = digits.get_config()\n    {section}.{name} = 3\n    return config\n"
    )
    path = tmp_path / "own.py"
    found = refused(f"--config={path}", f"--workdir={tmp_path}", f"--mode={mode}")
    assert re.search(message, found)


def test_a_field_misspelt_in_a_section_that_is_added_is_refused():
    config = {"evaluation": {"classifier": "", "metricz": ("white",)}}
    with pytest.raises(UserError, match="evaluation has no field 'metricz'.* did you mean metrics"):
        reading.require_known(config, common.base().to_dict(), main.able)


def test_fields_of_every_config_are_known():
    known = common.base().to_dict()
    for name in ("atlas", "cifar10_evidence", "demo", "evidence", "fractal2d", "solvers"):
        config = importlib.import_module(f"guidestar.configs.{name}").get_config()
        reading.require_known(config.to_dict(), known, main.able)


@pytest.mark.longer
def test_a_missing_workdir_and_one_that_cannot_be_written_are_told_apart(tmp_path, refused):
    assert "--workdir is missing" in refused(TINY)
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    # In a process of its own: nothing but the one line reaches the person.
    result = run(TINY, f"--workdir={blocked / 'work'}")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "cannot be written" in result.stderr.strip().splitlines()[-1]
    assert blocked.read_text() == "not a folder"


def given(*arguments):
    """Return the overrides in a command line."""
    return overrides.split(arguments)[1]


def overridden(config, *arguments):
    """Return a config with the overrides of a command line, as a dictionary."""
    return overrides.apply(config, given(*arguments)).to_dict()


@pytest.mark.parametrize(
    ("written", "path", "text"),
    [
        ("--config.guidance.push.1.eta=0.2", ("guidance", "push", 1, "eta"), "0.2"),
        ("--config.guidance.push[1].eta=2", ("guidance", "push", 1, "eta"), "2"),
        ("--config.a.1.2.b=x=y", ("a", 1, 2, "b"), "x=y"),
        ("-config.log.tensorboard", ("log", "tensorboard"), "true"),
        ("--noconfig.parts.0.on", ("parts", 0, "on"), "false"),
        ("--config.name=v.1.b", ("name",), "v.1.b"),
    ],
)
def test_an_override_is_a_path_and_a_text(written, path, text):
    others, found = overrides.split(["main.py", written, "--workdir=out.1"])
    assert found == [(path, text)] and others == ["main.py", "--workdir=out.1"]


def test_a_command_gives_the_config_that_it_was_made_of():
    row = {"a b": dict(title="it's 2", guidance=dict(name="cfg", scale=2.0), sampling={})}
    rows = overrides.override("rows", row)
    config = overrides.apply(
        evidence.get_config(), given("--config.seed=3"), f"{ROOT}/configs/evidence.py:cfg_3"
    )
    said = overrides.command(config, "evaluate", "out/a b", rows)
    assert said.startswith("python main.py --config=configs/evidence.py:cfg_3 '--workdir=out/a b'")
    others, again = overrides.split(shlex.split(said))
    assert others[-1] == "--mode=evaluate"
    found = overrides.apply(evidence.get_config("cfg_3"), again)
    assert found.rows.to_dict() == row and found.seed == 3
    plain = overrides.override("rows", {"one": dict(title="two")})
    assert '\'--config.rows={"one": {"title": "two"}}\'' in overrides.command(
        config, "evaluate", "out", plain
    )
    assert "seed" not in overrides.command(config, "evaluate", "out", leave_out="seed")
    assert "--config" not in overrides.command(evidence.get_config(), "evaluate", "out")


def test_the_value_of_an_override_may_stand_behind_it():
    others, found = overrides.split(["--config.seed", "7", "--config=a.py", "--config.log.x", "-v"])
    assert found == [(("seed",), "7"), (("log", "x"), "true")] and others == ["--config=a.py", "-v"]


def test_one_number_of_a_nested_rule_is_overridden():
    config = apg_on_autoguidance.get_config()
    before = config.guidance.to_dict()["rule"]["push"]
    after = overridden(config, "--config.guidance.rule.push.2.eta=0.2")["guidance"]
    assert after["rule"]["push"] == (*before[:2], {"name": "project", "eta": 0.2}, before[3])
    transforms = [guidance.momentum(-0.5), guidance.clip_norm(5.0), guidance.project(0.2)]
    pushed = guidance.push(guidance.weak(), *transforms, guidance.scale(3.0))
    assert guidance.from_config(after) == guidance.between(pushed, 0.1, 10.0)


RULE = {"name": "cfg", "scale": 2.0}
DATA = digits.get_config().data.to_dict()
KARRAS = {"steps": 32, "sigma_min": 0.002, "sigma_max": 80.0}


@pytest.mark.parametrize(
    ("arguments", "section", "expected"),
    [
        (["guidance.name=apg", "guidance.eta=0.5"], "guidance", RULE | dict(name="apg", eta=0.5)),
        (["guidance.eta=0.5", "guidance.name=apg"], "guidance", RULE | dict(name="apg", eta=0.5)),
        (["guidance.name=unguided"], "guidance", {"name": "unguided"}),
        (
            ["guidance.name=between", "guidance.low=0.3", "guidance.high=3"],
            "guidance",
            {"name": "between", "rule": RULE, "low": 0.3, "high": 3},
        ),
        (
            ["guidance.name=between", "guidance.low=1", "guidance.high=3", "guidance.rule.scale=4"],
            "guidance",
            {"name": "between", "rule": RULE | {"scale": 4.0}, "low": 1, "high": 3},
        ),
        (["guidance.network=guide"], "guidance", RULE | {"network": "guide"}),
        (
            ["sampler.solver.name=dpmpp", "sampler.solver.order=3"],
            "sampler.solver",
            {"name": "dpmpp", "order": 3},
        ),
        (["sampler.schedule.name=vp"], "sampler.schedule", KARRAS | {"name": "vp"}),
        (
            ["sampler.schedule.name=flow", "sampler.schedule.shift=3"],
            "sampler.schedule",
            {"name": "flow", "steps": 32, "sigma_max": 80.0, "shift": 3.0},
        ),
        (["sampler.solver={'name': 'euler'}"], "sampler.solver", {"name": "euler"}),
        (
            ["sampling.weights.uncond=a.pt"],
            "sampling.weights",
            {"main": "digits", "guide": "", "classifier": "", "uncond": "a.pt"},
        ),
        (
            ["roles.teacher.init_from=digits", "roles.teacher.frozen=True"],
            "roles",
            {"teacher": {"init_from": "digits", "frozen": True}},
        ),
        (
            ["data.name=out/a set"],
            "data",
            DATA | {"name": "out/a set"},
        ),
        (
            ["data.name=cifar10", "data.memory_limit=9"],
            "data",
            DATA | {"name": "cifar10", "memory_limit": 9},
        ),
    ],
)
def test_another_part_takes_the_arguments_of_its_own(arguments, section, expected):
    found = overridden(digits.get_config(), *(f"--config.{one}" for one in arguments))
    for name in section.split("."):
        found = found[name]
    assert found == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["guidance.name=apgg"], "did you mean apg"),
        (["guidance.etta=1"], "cfg has no argument 'etta'; it takes scale, network"),
        (["guidance.rule.scale=1"], "cfg has no argument 'rule'"),
        (["sampler.solver.name=hein"], "did you mean heun"),
        (["sampling.cuont=1"], "did you mean count"),
        (["seed.x=1"], "seed is 0, which has no fields"),
        (["guidance.scale=big"], "give a number"),
        (["training.steps=1.5"], "give a whole number"),
        (["data.flip=perhaps"], "true or false"),
        (["ema.tracked.3=0.1"], "ema.tracked has the entries"),
        (["data.shuffle=1"], "digits has no argument 'shuffle'"),
        (["guidance=3"], "is a section"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(arguments, message):
    with pytest.raises(UserError, match=message):
        overridden(digits.get_config(), *(f"--config.{one}" for one in arguments))


def test_an_entry_of_a_list_and_a_list_are_overridden():
    config = digits.get_config()
    config.ema.tracked = (0.05, 0.1)
    assert overridden(config, "--config.ema.tracked.1=0.2")["ema"]["tracked"] == (0.05, 0.2)
    assert overridden(config, "--config.ema.tracked=(0.3,)")["ema"]["tracked"] == (0.3,)
    assert overridden(config, "--config.imports=a,b")["imports"] == ("a", "b")
    wide = "--config.guidance.rule.push.7.eta=0.2"
    with pytest.raises(UserError, match="has the entries 0 to 3"):
        overridden(apg_on_autoguidance.get_config(), wide)


def test_the_order_of_rows_is_that_of_the_config():
    config = evidence.get_config("cfg_3,apg_8,cfg_2")
    assert list(overrides.apply(config, given("--config.seed=3")).rows) == [
        "cfg_3",
        "apg_8",
        "cfg_2",
    ]


@pytest.mark.parametrize("mode", sorted(modes()))
def test_every_mode_runs_a_config_and_says_what_it_reads(mode):
    module = module_of(mode)
    assert callable(module.run)
    known = {*digits.get_config(), "rows", "claims", "evaluation", "demo", "fractal", "atlas"}
    known |= {"study", "order", "margins", "experiment", "evidence"}
    assert {one.lstrip("-").partition(".")[0] for one in module.READS} <= known


def test_a_field_is_read_with_its_section_or_a_part_of_it():
    assert reading.reads(("sampling.weights",), "sampling.weights.main")
    assert reading.reads(("sampling.weights",), "sampling")
    assert not reading.reads(("sampling.weights",), "sampling.count")
    assert not reading.reads(("sampling",), "sampling_more")
    assert reading.reads((), "hosts.count")
    assert not reading.reads(("data", "-data.flip"), "data.flip")
    assert reading.reads(("data", "-data.flip"), "data.name") and reading.reads(("data",), "data")


def test_fields_of_two_configs_that_differ_are_named():
    one, other = ConfigDict(dict(a=dict(b=1, c=2))), ConfigDict(dict(a=dict(b=1, c=3), d=4))
    assert list(reading.differences(one.to_dict(), other.to_dict())) == ["a.c", "d"]


def test_configs_of_the_package_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = f"--config={ROOT / 'configs/digits.py'}"
    assert located("--config=configs/digits.py") == expected
    assert located("--config=digits") == expected
    (tmp_path / "digits.py").write_text("")
    assert located("--config=digits.py") == "--config=digits.py"
    assert located("--config=evidence:cfg_3").endswith("configs/evidence.py:cfg_3")
    assert located("--config.seed=1") == "--config.seed=1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such file"),
        ("import no_such_package", "it imports no_such_package, which is not installed"),
        ("1 / 0", "ZeroDivisionError"),
        ("def broken(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit"),
    ],
)
def test_a_module_of_ones_own_that_cannot_be_imported_is_named(tmp_path, text, message):
    path = tmp_path / "my_broken_rules.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        imports.import_modules(str(path))
