"""Rows of a config: the guidance of each, what one costs, and how it is told."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from ...core.errors import UserError
from ...guidance import to_config
from ...guidance.evaluations import counts_text
from ...inference.job import Job
from ...inference.shared import SharedNetworks
from ...runtime.identity import plain
from ..config.overrides import given
from ..sample import Output, job_from_config

# The one row of a config that has none, measured by its own guidance.
ROW = "guided"


def with_rows(config) -> Any:
    """Return a config that has rows: its own, or else the one that its ``guidance`` makes.

    Raises:
        UserError: both are given, the guidance on the command line, where it would say nothing.
    """
    if "rows" not in config:
        one = ConfigDict(config.to_dict())
        guidance = config.guidance.to_dict()
        one.rows = ConfigDict({ROW: dict(title=str(guidance.get("name")), guidance=guidance)})
        return one
    for name in (one.name for one in given(config).overrides):
        if name.partition(".")[0] == "guidance":
            raise UserError(
                f"config.{name} was set, and the rows of this config have their own guidance: set "
                f"rows.{next(iter(config.rows), 'NAME')}.{name}, or leave it out"
            )
    return config


def row_config(config, name: str) -> ConfigDict:
    """Return the config with the guidance of one of its rows, and what else the row sets."""
    one = ConfigDict(config.to_dict())
    row = config.rows[name].to_dict()
    one.guidance = ConfigDict(row["guidance"])
    one.sampling.update(row.get("sampling", {}))
    one.name = f"{config.name}/{name}"
    return one


def planned_job(config, name: str, networks: SharedNetworks) -> Job:
    """Return the job of a row, its networks as shapes alone.

    Raises:
        UserError: it cannot run, in the row's name.
    """
    one = row_config(config, name)
    with named(f"rows.{name}"):
        return job_from_config(one, networks.outlines(one.sampling.weights.to_dict()))


@contextlib.contextmanager
def named(place: str) -> Iterator[None]:
    """Put the name of a row before what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from error


def described_row(
    title: str, guidance: Mapping[str, Any], output: Output, seconds: float | None
) -> dict[str, Any]:
    """Return what is known of a row without its images: rule, cost, and what it is made of."""
    plan = output.job.plan()
    return {
        "title": title,
        "guidance": dict(guidance),
        "rule": str(to_config(output.job.rule)),
        "made_of": plain(output.made_of),
        "evaluations": plan.totals,
        "multiply_adds": plan.macs,
        # None where images were made without the time being kept.
        "seconds": seconds,
    }


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with what was measured beside what it was measured of."""
    return {key: value for key, value in row.items() if key != "numbers"} | row["numbers"]


def costs(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return what an image of each row costs: network evaluations, and their multiply-adds."""
    return {
        name: f"{counts_text(row['evaluations'])} ({row['multiply_adds'] / 1e9:.3g} G)"
        for name, row in rows.items()
    }


def said(row: Mapping[str, Any]) -> str:
    """Return what is said of a row that was measured."""
    found = ", ".join(
        f"{name} {value:.4g}" for name, value in row["numbers"].items() if value is not None
    )
    spent = "" if row["seconds"] is None else f", {row['seconds']:.1f} s in all"
    return (
        f"{row['title']}: {found}; {counts_text(row['evaluations'])} evaluations an image "
        f"({row['multiply_adds'] / 1e9:.4g} G multiply-adds){spent}"
    )
