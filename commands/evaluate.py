"""The evaluate mode: every row of a config sampled in full and measured against a real set."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.files import read_json, safe_name, write_json, write_text
from ..evaluation.claims import judge
from ..evaluation.published import NOT_SAID
from ..evaluation.table import claims_table, gains_table, measured_table
from ..inference.shared import grouped
from ..runtime import distributed
from ..runtime.identity import differences, plain
from ..runtime.run_folder import EVALUATION, RUN, SAMPLES, Folder
from ..runtime.store import Store
from .config.overrides import command, override
from .measuring.evaluation import (
    EXAMPLE,
    RESAMPLED,
    Evaluation,
    extractor_name,
)
from .measuring.rows import costs, flat, row_config, said, with_rows

RECORD, PAGE = "evidence.json", "evidence.md"
# What this mode reads of a config.
READS = (
    "seed",
    "rows",
    "claims",
    "guidance",
    "evaluation",
    "sampler",
    "sampling.weights",
    "sampling.batch_size",
    "sampling.classes",
    "sampling.branches",
    "sampling.decoder",
    "sampling.scaling",
    "sampling.any_decoder",
)
# What its work folder becomes, and may hold before.
WORKDIR = Folder(makes=EVALUATION, beside=(RUN, SAMPLES))


def run(config, workdir: Path) -> None:
    """Sample ``config.evaluation.count`` images a row, the same noise in every row, and measure.

    Args:
        config: has ``rows`` (title and guidance each, and fields of ``sampling`` to replace) and
            ``evaluation``.
        workdir: gets a folder of images a row (an interrupted run goes on), ``evidence.json``
            and ``evidence.md``.

    Raises:
        UserError: anything in any row that cannot run, before the first image.
    """

    def keep(record: dict[str, Any]) -> None:
        write_json(workdir / RECORD, record)
        write_text(workdir / PAGE, render(record) + "\n")

    evaluated(config, workdir, keep)
    distributed.say(f"wrote {workdir / RECORD} and {PAGE}")


def evaluated(
    config, workdir: Path, keep: Callable[[dict[str, Any]], Any] = lambda record: None
) -> dict[str, Any]:
    """Measure every row of a config, and return the record of them.

    Rows that the workdir's record has measured the same way are not measured again.

    Args:
        config, workdir: as `run` takes them.
        keep: is given the record of the rows so far whenever one was measured; ``left`` in it names
            the others.

    Returns:
        The record; nothing in processes other than the first.
    """
    how = Evaluation(config, workdir)
    asked, config = config, with_rows(config)
    names = list(config.rows)
    if not names:
        raise UserError(f"rows is empty: give at least one, as {EXAMPLE} does")
    outputs = {}
    for name in names:
        safe_name(name, "the name of a row")
        outputs[name] = how.planned(row_config(config, name), workdir / name, f"rows.{name}")
    for note in how.notes({f"rows.{name}": output for name, output in outputs.items()}):
        distributed.say(f"note: {note}")
    _require_same(workdir / RECORD, {name: output.made_of for name, output in outputs.items()})
    for part in _rewritten(workdir / RECORD, how.outside):
        distributed.say(
            f"note: the file that {part} is written in was changed since {RECORD} was written: all "
            f"rows are measured anew"
        )
    stores = {name: output.claim() for name, output in outputs.items()}
    before = _measured_before(workdir / RECORD, how, stores)
    rows: dict[str, dict[str, Any]] = {}

    def record() -> dict[str, Any]:
        flattened = {name: flat(rows[name]) for name in names if name in rows}
        measured = list(next(iter(rows.values()))["numbers"])
        left = [name for name in names if name not in rows]
        return how.record(config, flattened, measured) | {
            "claims": [judge(claim, flattened) for claim in config.get("claims", ())],
            **({"left": left} if left else {}),
        }

    # First those that are there, so that no record has fewer than the one before.
    order = grouped({name: output.job for name, output in outputs.items()})
    for name in sorted(order, key=lambda name: name not in before):
        title, guidance = config.rows[name].title, config.rows[name].guidance.to_dict()
        failed: Exception | None = None
        try:
            if name in before:
                row = how.described(outputs[name], title, guidance) | before[name]
            else:
                row = how.measured(outputs[name], title, guidance, config.name)
            if distributed.is_primary():
                rows[name] = row | _made_by(asked, config.rows[name], name, how)
                print(said(row) + " (measured before)" * (name in before), flush=True)
                if len(rows) >= len(before):
                    keep(record())
        except Exception as error:  # told to the others, who would wait for ever
            failed = error
        distributed.agree(failed, f"could not measure rows.{name}")
    return record() if distributed.is_primary() else {}


def _measured_before(
    record: Path, how: Evaluation, stores: Mapping[str, Store]
) -> dict[str, dict[str, Any]]:
    """Return the numbers of the rows that need not be measured again; the same in all processes.

    Those are the rows whose images are all there, of a record that was measured the same way.
    """
    found = {}
    if distributed.is_primary() and record.exists():
        there = read_json(record, "move it away")
        same = there.get("measured_by") == how.measured_by
        if same and there.get("outside", {}) == how.outside:
            for name, row in there["rows"].items():
                if not stores[name].missing().size:
                    spreads = {"spread": row["spread"]} if "spread" in row else {}
                    found[name] = {"numbers": {one: row[one] for one in there["metrics"]}} | spreads
    return json.loads(distributed.text_from_primary(json.dumps(found)))


def _rewritten(record: Path, outside: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the parts from outside that have other code than those an evaluation went by."""
    there = read_json(record, "move it away").get("outside", {}) if record.exists() else {}
    return [part for part, code in outside.items() if there.get(part, code) != code]


def _require_same(record: Path, made_of: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to replace what another evaluation wrote."""
    if not record.exists():
        return
    remedy = "choose another --workdir"
    stored = read_json(record, f"move it away, or {remedy}")
    there = stored.get("rows") if isinstance(stored, dict) else None
    if not isinstance(there, dict):
        raise UserError(f"{record} was written by something else than an evaluation: {remedy}")
    if more := [name for name in there if name not in made_of]:
        raise UserError(
            f"{record} holds the row {more[0]!r} ({len(there)} rows), which this evaluation has "
            f"not: evaluate that one, too, or {remedy}"
        )
    for name, row in there.items():
        before = row.get("made_of")
        if before is not None and any(differences(before, plain(made_of[name]))):
            raise UserError(
                f"{record}: the images of row {name!r} were made of other weights, or by other "
                f"settings: {remedy}"
            )


def _made_by(asked, section, name: str, how: Evaluation) -> dict[str, Any]:
    """Return what else a row sets, and a command that evaluates it alone."""
    row = section.to_dict()
    alone = [override("rows", {name: row})] if "rows" in asked else []
    return {
        "sampling": row.get("sampling", {}),
        "command": command(asked, "evaluate", f"out/{name}", *how.overrides, *alone),
    }


def render(found: Mapping[str, Any]) -> str:
    """Return the page of what `evaluated` returned."""
    real, rows, extractor = found["real"], found["rows"], found["extractor"]
    times = f"{found['repeats']} times " if found.get("repeats", 1) > 1 else ""
    split = "" if real["split"] == NOT_SAID else f" {real['split']}"
    whose = " (the statistics do not say whose)" * (real.get("extractor") == NOT_SAID)
    lines = [
        f"# {found['name']}",
        "",
        f"{times}{found['images']} images a row, the same noise in every row, against "
        f"{real['data']}{split} in the features of `{extractor_name(extractor)}`{whose} "
        f"({found['date']}, {found['device']}).",
        "",
        *measured_table(rows, found["metrics"], costs(rows)),
        "",
    ]
    if found.get("left"):
        lines += [f"Not measured yet: {', '.join(found['left'])}. The same command goes on.", ""]
    if {RESAMPLED, "frechet_distance"} <= set(found["metrics"]):
        lines += ["## What gains are made of", "", *gains_table(rows), ""]
    if found["claims"]:
        lines += ["## Claims", "", *claims_table(found["claims"]), ""]
    return "\n".join(lines).rstrip()
