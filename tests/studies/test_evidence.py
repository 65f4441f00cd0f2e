"""The evidence: its page, what papers claim, and the mode that makes it."""

import json

import pytest
from places import ROOT

from guidestar.commands import evaluate
from guidestar.configs import cifar10_evidence, evidence
from guidestar.evaluation.claims import judge
from guidestar.models.checkpoints import SHIPPED
from guidestar.studies import evidence as study
from guidestar.studies.evidence.page import render


def test_the_committed_page_is_made_from_the_committed_figures():
    found = json.loads((SHIPPED / "fashion_mnist_evidence.json").read_text())
    assert (ROOT / "docs" / "evidence.md").read_text() == render(found) + "\n"
    assert list(found["rows"]) == list(evidence.ROWS)
    assert [claim["title"] for claim in found["claims"]] == [
        one["title"] for one in evidence.CLAIMS
    ]


def test_the_mode_adds_to_an_evaluation_what_its_page_needs(tmp_path, monkeypatch):
    config = evidence.get_config("cfg_3")
    rows = json.loads((SHIPPED / "fashion_mnist_evidence.json").read_text())
    monkeypatch.setattr("guidestar.studies.evidence.study.evaluated", lambda *given: given[2](rows))
    study.run(config, tmp_path)
    found = json.loads((tmp_path / evaluate.RECORD).read_text())
    assert found["command"] == "make evidence"
    assert "evidence.py:cfg_3 --workdir=out/cfg_3" in found["rows"]["cfg_3"]["command"]
    assert (tmp_path / evaluate.PAGE).read_text() == render(found) + "\n"


ROWS = {"a": {"x": 1.0}, "b": {"x": 2.0}, "c": {"x": 1.05}, "none": {"x": None}}


@pytest.mark.parametrize(
    ("row", "relation", "than", "holds", "against"),
    [
        ("a", "below", ("b", "c"), True, 1.05),
        ("c", "below", ("a", "b"), False, 1.0),
        ("b", "above", ("a", "c"), True, 1.05),
        ("c", "above", ("a", "b"), False, 2.0),
        ("c", "within", ("a",), True, 1.0),
        ("b", "within", ("a",), False, 1.0),
        ("a", "below", ("missing",), None, None),
        ("a", "below", ("none",), None, None),
        ("none", "below", ("a",), None, None),
    ],
)
def test_claims_are_held_against_every_row_they_name(row, relation, than, holds, against):
    claim = dict(title="t", metric="x", row=row, relation=relation, than=than, tolerance=0.1)
    found = judge(claim, ROWS)
    assert found["holds"] is holds and found.get("against") == against
    with pytest.raises(ValueError, match="'near' is not one of below, above, within"):
        judge(claim | {"relation": "near"}, ROWS)


def test_claims_speak_of_rows_and_metrics_that_there_are():
    config = evidence.get_config()
    for claim in config.claims:
        assert {claim["row"], *claim["than"]} <= set(config.rows)
    assert set(cifar10_evidence.get_config().rows) == {"unguided"}
