"""Parts are known by their names and numbers, and those from outside by their files, too."""

import importlib.util
import itertools

import pytest

from guidestar.core.errors import UserError
from guidestar.core.registry import registry
from guidestar.runtime.identity import described, differences, require_same, write_record
from guidestar.samplers import euler

OWN = """
import dataclasses
from guidestar import register

@dataclasses.dataclass(frozen=True)
class Part:
    scale: float

@register("prior")
def own_prior(scale: float = 1.0):
    return Part({factor} * scale)
"""
NUMBERS = itertools.count()


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Return a function that writes a part in a file of its own, and makes one."""
    table = registry("prior")

    def make(factor, **arguments):
        monkeypatch.setattr(table, "_constructors", dict(table._constructors))
        table._constructors.pop("own_prior", None)
        path = tmp_path / f"own_{next(NUMBERS)}.py"
        path.write_text(OWN.format(factor=factor))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.own_prior(**arguments)

    return make


def test_a_part_from_outside_is_another_one_once_its_file_changed(made):
    first, same, other = (described(made(factor, scale=2.0)) for factor in (1, 1, 3))
    assert first["name"] == "own_prior" and first["scale"] == 2.0
    assert first == same and first["source file"] != other["source file"]
    assert described(euler()) == {"name": "euler"}


def test_results_by_other_code_of_the_same_name_are_refused(made, tmp_path):
    record = tmp_path / "r.json"
    write_record(record, {"prior": described(made(1))}, {})
    assert require_same(record, {"prior": described(made(1))}, {}, what="images")
    with pytest.raises(UserError, match=r"prior\.source file was '.* and is '"):
        require_same(record, {"prior": described(made(2))}, {}, what="images")


def test_results_from_before_files_were_noted_go_on(made):
    assert not list(differences({"prior": {"name": "own_prior"}}, {"prior": described(made(1))}))
