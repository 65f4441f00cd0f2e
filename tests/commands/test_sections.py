"""Sections that a mode reads and a config has not: named, with what is in them and an example."""

import importlib

import pytest
from places import ROOT

from guidestar.commands.config.sections import section
from guidestar.configs import digits
from guidestar.core.errors import UserError

MODES = {
    "commands.statistics": "evaluation",
    "commands.evaluate": "evaluation",
    "commands.sweep": "evaluation",
    "studies.evidence": "evidence",
    "studies.demo": "demo",
    "studies.solvers": "study",
    "studies.fractal2d": "experiment",
    "studies.atlas": "atlas",
}


@pytest.mark.parametrize("module", MODES)
def test_a_mode_names_the_section_that_it_misses(module, tmp_path):
    mode = importlib.import_module(f"guidestar.{module}")
    with pytest.raises(UserError, match=rf"no section '{MODES[module]}' \(\w+.*\)") as found:
        mode.run(digits.get_config(), tmp_path)
    example = str(found.value).partition("see ")[2].partition(",")[0]
    assert (ROOT / example).is_file() and MODES[module] in mode_config(example)
    assert not list(tmp_path.iterdir())


def mode_config(example):
    name = example.removeprefix("configs/").removesuffix(".py")
    return importlib.import_module(f"guidestar.configs.{name}").get_config()


def test_a_field_that_a_section_lacks_is_named():
    config = {"a": {"b": {"c": 1}}}
    assert section(config, "a.b", fields=("c",), example="x.py") == {"c": 1}
    with pytest.raises(UserError, match="section 'a.b' of this config lacks 'd'.* c, d, as in x"):
        section(config, "a.b", fields=("c", "d"), example="x.py")
    with pytest.raises(UserError, match="no section 'rows', which"):
        section(config, "rows", fields=(), example="x.py")
    with pytest.raises(UserError, match="no section 'a.c'"):
        section(config, "a.c", fields=("c", "d"), example="x.py")
