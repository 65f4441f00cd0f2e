"""The workers of a sweep on this machine: what would be started, and starting it."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ...runtime.study import Study
from ...runtime.workers import run_workers
from ..config.overrides import given, override
from .progress import bar_of, move
from .trials import Sweep

# The program that workers run.
MAIN = Path(__file__).resolve().parent.parent.parent / "main.py"


def announced(sweep: Sweep) -> list[str]:
    """Return the lines of a dry run."""
    lines, outputs = [], list(sweep.outputs.items())
    cost: dict[str, int] = {}
    macs = 0.0
    if sweep.trials:
        for (name, output), trial in zip(outputs, sweep.trials, strict=True):
            plan = output.job.plan()
            for network, times in plan.totals.items():
                cost[network] = cost.get(network, 0) + times * sweep.how.count
            macs += plan.macs * sweep.how.count
            lines.append(f"{name}: {shlex.join(_words(trial))}")
    else:
        plans = [output.job.plan() for _, output in outputs]
        dearest = max(plans, key=lambda plan: plan.macs)
        cost = {key: n * sweep.how.count * sweep.places for key, n in dearest.totals.items()}
        macs = float(dearest.macs * sweep.how.count * sweep.places)
        lines += [f"{name}: {_shown(one)}" for name, one in sweep.space.items()]
    images = sweep.places * sweep.how.count
    least = "" if sweep.trials else "at most "
    evaluations = ", ".join(f"{network} {n}" for network, n in sorted(cost.items()))
    lines.append(
        f"{sweep.places} trials of {sweep.how.count} images, {least}{images} images: {least}"
        f"{evaluations} network evaluations, {macs:.4g} multiply-adds"
    )
    workers = sweep.config.sweep.workers
    for number in range(workers):
        lines.append(f"worker {number}: {shlex.join(_worker(sweep, hide=True))}")
    return lines


def launch(sweep: Sweep, study: Study) -> None:
    """Start workers on this machine, and wait for them.

    Raises:
        UserError: all of them are gone, and trials are left.
    """
    number = sweep.config.sweep.workers
    with bar_of(study) as bar:
        statuses = run_workers(
            _worker(sweep),
            number,
            sweep.workdir / "workers",
            lambda: move(bar, study),
            lambda text: bar.write(text, file=sys.stderr),
        )
    left = study.places - len(study.finished())
    if left:
        failed = next((one for one in statuses if one.said), None)
        why = f" ({failed.said})" if failed else ""
        raise UserError(
            f"{left} of {study.places} trials are left, and no worker is{why}: the same "
            f"command goes on with them"
        )


def _worker(sweep: Sweep, hide: bool = False) -> list[str]:
    """Return the words of the command of one worker.

    Args:
        sweep: that it works on.
        hide: whether to leave out what may hold a password.
    """
    left_out = ("sweep.workers", "sweep.dry_run")
    said = [one for one in given(sweep.config).overrides if one.name not in left_out]
    return [
        *(sys.executable, str(MAIN), f"--config={given(sweep.config).file}"),
        *(f"--workdir={sweep.workdir}", "--mode=sweep"),
        *(
            f"--config.{one.name}={'...' if hide and one.name == 'sweep.storage' else one.text}"
            for one in said
        ),
    ]


def _words(trial: Mapping[str, Any]) -> list[str]:
    found = [override(name, value) for name, value in trial.items()]
    return [f"--config.{one.name}={one.text}" for one in found]


def _shown(section: Mapping[str, Any]) -> str:
    if "choices" in section:
        return f"one of {', '.join(map(str, section['choices']))}"
    kind = "whole numbers " * bool(section.get("int")) + "on a log scale " * bool(
        section.get("log")
    )
    return f"{kind}from {section['low']} to {section['high']}"
