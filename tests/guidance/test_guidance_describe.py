"""Descriptions of rules: the composition, its cost, and whom to cite."""

import doctest
import re

import jax
import jax.numpy as jnp
import pytest
from tables.rule_examples import EXAMPLES, rule

from guidestar import guidance, register
from guidestar.guidance import describe
from guidestar.guidance.citations import PAPERS, bibtex
from guidestar.guidance.config import CONSTRUCTORS
from guidestar.guidance.protocol import Branch
from guidestar.guidance.pushes import At, Push, chain


def tree(made):
    return describe(made).split("\n\n")[0]


def cost(made):
    return describe(made).split("\n\n")[1]


def test_every_constructor_has_an_example():
    assert set(EXAMPLES) == set(CONSTRUCTORS)


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_every_constructor_names_papers_that_can_be_cited(name):
    for number in CONSTRUCTORS[name].sources:
        entry = bibtex(number)
        assert entry.startswith("@misc{") and entry.count("{") == entry.count("}")
        assert f"eprint = {{{number}}}" in entry and "archivePrefix = {arXiv}" in entry


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_constructor_is_described_with_its_source(name):
    made = guidance.from_config(rule(name))
    text = describe(made)
    assert f"{name}(" in text
    for number in CONSTRUCTORS[name].sources:
        assert re.search(rf"{name}\(.*\)  \[arXiv {number}", text)
        assert text.count(f"eprint = {{{number}}}") == 1
    assert "network evaluations of one prediction" in text
    assert text == describe(guidance.from_config(rule(name)))


def test_numbers_of_papers_and_years_agree_and_keys_are_distinct():
    keys = [paper.key for paper in PAPERS.values()]
    assert len(set(keys)) == len(keys)
    for number, paper in PAPERS.items():
        assert number.startswith(f"{paper.year % 100:02d}") and str(paper.year) in paper.key


def test_a_paper_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="no entry for arXiv 0000.00000"):
        bibtex("0000.00000")


def test_a_paper_of_a_rule_from_outside_is_given_by_its_number(monkeypatch):
    monkeypatch.setattr(CONSTRUCTORS, "_constructors", dict(CONSTRUCTORS._constructors))

    @register("rule", "2501.00001", "2207.12598")
    def mine(scale: float):
        return guidance.between(guidance.cfg(scale), 0.1, 1.0)

    *_, unknown, known, inside = describe(mine(2.0)).split("\n\n")
    assert unknown == "arXiv:2501.00001" and "eprint = {2207.12598}" in known
    assert "eprint = {2404.07724}" in inside  # the rule that it is made by


def test_the_documented_example_is_what_is_printed():
    (example,) = doctest.DocTestFinder(recurse=False).find(describe)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(example).attempted == 2 and runner.failures == 0


def test_transforms_are_numbered_in_order_below_their_reference():
    lines = tree(guidance.apg(4.0, eta=0.2)).splitlines()
    assert [line.split("(")[0] for line in lines] == [
        "apg",
        "  reference: null",
        "  1. momentum",
        "  2. clip_norm",
        "  3. project",
        "  4. scale",
    ]
    assert "eta=0.2" in lines[0] and "eta=0.2" in lines[4]


def test_rules_around_and_beside_each_other_nest():
    both = guidance.together(guidance.cfg(2.0), guidance.between(guidance.autoguidance(3.0), 1, 9))
    lines = [line.split("(")[0] for line in tree(both).splitlines()]
    assert lines == [
        "together",
        "  1. cfg",
        "    reference: null",
        "    transform: scale",
        "  2. between",
        "    inside: autoguidance",
        "      reference: weak",
        "      transform: scale",
    ]


def test_parts_without_a_constructor_go_by_their_class():
    text = tree(Push(chain(guidance.scale(2.0)), At(Branch(network="guide"))))
    assert text.startswith("push(renoise=False)")
    assert "branch: branch(network='guide', condition='given'" in text


def test_a_part_that_was_changed_by_its_wrapper_is_still_cited():
    dynamic = guidance.from_config(
        {"name": "cads", "rule": {"name": "cfg", "scale": 2.0}, "dynamic": True}
    )
    assert "eprint = {2207.12598}" in describe(dynamic)


@pytest.mark.parametrize("other", [guidance.apg, "apg"])
def test_what_is_no_part_is_refused(other):
    with pytest.raises(ValueError, match=r"takes a rule .* got ('apg'|the function apg .* call)"):
        describe(other)


def test_every_paper_is_cited_once():
    twice = guidance.together(guidance.cfg(2.0), guidance.cfg(3.0, network="guide"))
    assert describe(twice).count("@misc") == 1


def test_the_cost_follows_the_intervals():
    rule = guidance.together(
        guidance.between(guidance.cfg(2.0), 0.5, 3.0), guidance.between(guidance.apg(2.0), 1.0, 9.0)
    )
    assert cost(rule).splitlines()[1:] == [
        "  sigma <= 0.5: main 1",
        "  0.5 < sigma <= 9: main 2",
        "  9 < sigma: main 1",
    ]
    always = guidance.between(guidance.autoguidance(2.0), 0, float("inf"))
    assert cost(always) == "network evaluations of one prediction: guide 1, main 1"


def test_parts_and_rules_that_cannot_be_counted_have_no_cost():
    for made in (guidance.scale(2.0), guidance.null(), guidance.cfg(jnp.ones(3))):
        assert "network evaluations" not in describe(made)


def test_arrays_and_traced_numbers_are_shown_by_their_shape():
    assert "scale=float32[3]" in tree(guidance.cfg(jnp.ones(3)))
    seen = []
    jax.jit(lambda scale: seen.append(describe(guidance.cfg(scale))) or scale)(2.0)
    assert "scale=float32[]" in seen[0] and "main 2" in seen[0]
