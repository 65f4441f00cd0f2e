"""The advice mode: a page of recommendations, each with the figures of the evidence it rests on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.files import read_json, write_text
from ...models.checkpoints import SHIPPED
from ...runtime import distributed

# The page, with the places of its figures in braces.
TEXT = Path(__file__).with_name("page.md")
PAGE, EVIDENCE, SOLVERS = "choose.md", "fashion_mnist_evidence.json", "samplers.json"


def advise(config, workdir: Path) -> None:
    """Write ``choose.md`` from the shipped evidence and the ``samplers.json`` beside it.

    Args:
        config: any.
        workdir: ``docs``, where ``make solvers`` leaves its figures.

    Raises:
        UserError: either is not there.
    """
    del config
    evidence = read_json(SHIPPED / EVIDENCE, "make evidence writes it")
    solvers = read_json(workdir / SOLVERS, "make solvers writes it to docs/: give --workdir=docs")
    if distributed.is_primary():
        write_text(workdir / PAGE, render(evidence, solvers))
        print(f"wrote {workdir / PAGE}")


def render(evidence: Mapping[str, Any], solvers: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        evidence: the contents of an ``evidence.json``.
        solvers: those of a ``samplers.json``.
    """
    rules, images = evidence["rows"], solvers["images"]["rows"]
    frechet = _within(images, "frechet_distance")
    many = [
        cell["frechet_distance"]
        for name, cells in images.items()
        for cell in cells
        if name != "heun" and cell["evaluations"] >= 10
    ]
    return TEXT.read_text().format(
        count=evidence["images"],
        steps=evidence["sampler"]["schedule"]["steps"],
        rules=rules,
        giga={name: row["multiply_adds"] / 1e9 for name, row in rules.items()},
        frechet=frechet,
        flow=_within(images, "distance"),
        wasserstein=_within(solvers["mixture"]["rows"], "wasserstein"),
        lowest=min(many),
        highest=max(many),
        limit=frechet["euler"][35],
    )


def _within(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], metric: str
) -> dict[str, dict[int, float]]:
    """Return by solver and by a number of evaluations what it reaches with as many at most."""
    found: dict[str, dict[int, float]] = {}
    for name, cells in rows.items():
        ordered = sorted(cells, key=lambda cell: cell["evaluations"])
        found[name] = {
            budget: [one[metric] for one in ordered if one["evaluations"] <= budget][-1]
            for budget in (5, 10, 20, 35)
            if ordered[0]["evaluations"] <= budget
        }
    return found
