"""Parts are known by their names and numbers, and those from outside by their files, too."""

import pytest
from tiny_configs.own_parts import registered

from guidestar.core.errors import UserError
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


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Return a function that writes a part in a file of its own, and makes one."""

    def make(factor, **arguments):
        text = OWN.format(factor=factor)
        own = registered(monkeypatch, tmp_path, "prior", "own_prior", text)
        return own.own_prior(**arguments)

    return make


def test_a_part_from_outside_is_another_one_once_its_file_changed(made):
    first, same, other = (described(made(factor, scale=2.0)) for factor in (1, 1, 3))
    assert first["name"] == "own_prior" and first["scale"] == 2.0
    assert first == same and first["source file"] != other["source file"]
    assert described(euler()) == {"name": "euler"}


def test_a_part_that_no_constructor_made_is_known_by_the_file_of_its_class(made):
    first, other = (made(factor, scale=2.0) for factor in (1, 3))
    first, other = (described(type(one)(2.0)) for one in (first, other))
    assert first["name"] == "Part" and first["scale"] == other["scale"] == 2.0
    assert first["source file"] != other["source file"]
    assert "source file" not in described(type(euler())())


def test_results_by_other_code_of_the_same_name_are_refused(made, tmp_path):
    record = tmp_path / "r.json"
    write_record(record, {"prior": described(made(1))}, {})
    assert require_same(record, {"prior": described(made(1))}, {}, what="images")
    with pytest.raises(UserError, match=r"the file that prior is written in was changed since"):
        require_same(record, {"prior": described(made(2))}, {}, what="images")


def test_results_from_before_files_were_noted_go_on(made):
    assert not list(differences({"prior": {"name": "own_prior"}}, {"prior": described(made(1))}))
