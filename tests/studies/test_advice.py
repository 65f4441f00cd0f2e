"""The page of advice: its figures are the stored ones, and what it says of them is true."""

import json

import pytest
from places import ROOT

from guidestar.configs import digits
from guidestar.core.errors import UserError
from guidestar.models.checkpoints import SHIPPED
from guidestar.studies import advice
from guidestar.studies.advice.advice import render


@pytest.fixture(scope="module")
def stored():
    paths = SHIPPED / "fashion_mnist_evidence.json", ROOT / "docs" / "samplers.json"
    return tuple(json.loads(path.read_text()) for path in paths)


def test_the_committed_page_has_the_stored_figures(stored):
    assert (ROOT / "docs" / "choose.md").read_text() == render(*stored)


def test_the_mode_writes_the_page_beside_the_solvers_figures(stored, tmp_path):
    with pytest.raises(UserError, match="samplers.json.*make solvers"):
        advice.run(digits.get_config(), tmp_path)
    (tmp_path / "samplers.json").write_text(json.dumps(stored[1]))
    advice.run(digits.get_config(), tmp_path)
    assert (tmp_path / "choose.md").read_text() == render(*stored)


def test_what_the_page_says_of_the_rules_is_so(stored):
    rows = stored[0]["rows"]
    distance = {name: row["frechet_distance"] for name, row in rows.items()}
    constant = [name for name in rows if name.startswith("cfg_")]
    assert min(constant, key=distance.get) == "cfg_2"
    assert distance["interval"] < distance["cfg_3"] and distance["cfg_2"] < distance["autoguidance"]
    recall = {name: row["recall"] for name, row in rows.items()}
    assert recall["interval"] > recall["cfg_2"] > recall["cfg_3"]
    assert max(rows, key=lambda name: rows[name]["recall"]) == "autoguidance"
    macs = {name: rows[name]["multiply_adds"] for name in ("autoguidance", "cfg_3")}
    assert 0.5 < macs["autoguidance"] / macs["cfg_3"] < 0.6
    assert distance["apg_8"] < distance["cfg_8"] < distance["apg_8_momentum"]
    assert distance["interval"] < distance["cads"] < distance["cfg_4_5"]
    alone = distance["unconditional"]
    assert distance["unconditional_pag"] < distance["unconditional_tsg"] < alone


@pytest.mark.parametrize(
    ("evaluations", "taken"),
    [
        (5, ("unipc_2", "dpmpp_2m")),
        (10, ("strategies",)),
        (20, ("unipc_3", "dpmpp_3m", "ipndm_4")),
        (35, ("dpm_solver_v3",)),
    ],
)
def test_the_solvers_to_take_are_the_nearest_to_the_flow(stored, evaluations, taken):
    reached = {
        name: [one["distance"] for one in cells if one["evaluations"] <= evaluations]
        for name, cells in stored[1]["images"]["rows"].items()
    }
    order = sorted((name for name in reached if reached[name]), key=lambda name: reached[name][-1])
    assert set(order[: len(taken)]) == {*taken}
