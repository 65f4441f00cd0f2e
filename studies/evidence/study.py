"""The evidence mode: an evaluation, and the page of it that is kept in docs/."""

from pathlib import Path
from typing import Any

from ...commands.config.sections import section
from ...commands.evaluate import PAGE, RECORD, evaluated
from ...core.files import write_json, write_text
from ...runtime import distributed
from .page import render


def study(config, workdir: Path) -> None:
    """Evaluate every row of a config, and write ``evidence.json`` and ``evidence.md``.

    Args:
        config: what the evaluate mode reads, and ``evidence``: the commands that the page names.
        workdir: gets a folder of images a row; an interrupted run goes on.

    Raises:
        UserError: as the evaluate mode.
    """
    said = section(
        config, "evidence", fields=("command", "row_command"), example="configs/evidence.py"
    )

    def keep(record: dict[str, Any]) -> None:
        record = {"command": said.command, **record}
        for name, row in record["rows"].items():
            row["command"] = said.row_command.format(row=name)
        write_json(workdir / RECORD, record)
        write_text(workdir / PAGE, render(record) + "\n")

    evaluated(config, workdir, keep)
    distributed.say(f"wrote {workdir / RECORD} and {PAGE}")
