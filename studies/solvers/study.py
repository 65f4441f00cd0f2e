"""The solvers verb: every solver of a config against its number of network evaluations."""

import bisect
import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ... import samplers
from ...commands.config.sections import section as section_of
from ...commands.sample import job_from_config
from ...core.errors import UserError
from ...core.files import digest_of, read_json, replacing, write_json, write_text
from ...core.random import root_key
from ...evaluation.extractors import features_of, make_extractor, require_images
from ...evaluation.statistics import RealStatistics, find_statistics
from ...models.checkpoints import SHIPPED
from ...samplers.solvers.solver import TooFewSteps
from .page import draw, render
from .problems import Images, Line

Problem = Line | Images
EXAMPLE = "configs/solvers.py"
FIELDS = ("command", "classifier", "statistics", "mixture", "images", "calibration")
# What is further off than this, or not a number, is nowhere.
DIVERGED = 1e6


def study(config, workdir: Path) -> None:
    """Measure every row of a config on the problems that it names.

    Args:
        config: has ``rows`` (solver, problems, what to prepare), their ``order``, and ``study``.
        workdir: gets one file a measurement (an interrupted run goes on), ``samplers.json``,
            ``samplers.md`` and ``samplers.png``.

    Raises:
        UserError: anything in any row that cannot run, before the first measurement.
    """
    section = section_of(config, "study", fields=FIELDS, example=EXAMPLE)
    section_of(config, "margins", fields=("evaluations", "rows"), example=EXAMPLE)
    rows = {name: config.rows[name].to_dict() for name in config.order}
    problems: dict[str, Problem] = {
        "mixture": Line(section.mixture.count),
        "images": Images(
            job_from_config(config),
            section.images.count,
            section.images.batch_size,
            make_extractor(section.classifier),
            RealStatistics.load(find_statistics(section.statistics, (workdir, SHIPPED))),
        ),
    }
    _require_fitting(problems["images"])
    runners = {
        name: _Runner(config, problem, section[name], workdir / name)
        for name, problem in problems.items()
    }
    for name, runner in runners.items():
        for row in rows:
            if name in rows[row]["on"]:
                runner.refuse(row, rows[row])
    measured = {}
    for name, problem in problems.items():
        runner = runners[name]
        chosen = [row for row in rows if name in rows[row]["on"]]
        measured[name] = {
            "count": section[name].count,
            "reference": section[name].reference.to_dict(),
            "metrics": problem.metrics,
            "rows": {row: runner.row(row, rows[row]) for row in chosen},
        }
    result = {
        "command": section.command,
        "date": datetime.date.today().isoformat(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "schedule": config.sampler.schedule.to_dict(),
        "guidance": config.guidance.to_dict(),
        "titles": {row: rows[row]["title"] for row in rows},
        "random": sorted(row for row in rows if rows[row]["random"]),
        "real": dict(problems["images"].real.description),
        "margins": config.margins.to_dict(),
        **measured,
    }
    write_json(workdir / "samplers.json", result)
    write_text(workdir / "samplers.md", render(result) + "\n")
    draw(result, workdir / "samplers.png")
    print(f"wrote samplers.json, samplers.md and samplers.png to {workdir}")


def _require_fitting(images: Images) -> None:
    """Refuse images that the extractor does not take, or statistics in other features."""
    require_images(images.extractor, images.shape, "sampling.weights.main")
    width = features_of(images.extractor, images.shape)
    images.real.require_fit(images.extractor, width, "study.statistics")


def most_steps(sampler_config: Mapping[str, Any], problem: Problem, evaluations: int) -> int | None:
    """Return the most steps that cost no more than a number of evaluations of the main network.

    None where the solver takes more for its fewest steps.
    """

    def cost(steps: int) -> int:
        made = _made(sampler_config, steps)
        try:
            plan = samplers.plan(made.solver, made.sigmas, problem.rule, problem.shape)
        except TooFewSteps:
            return 0
        return plan.totals["main"]

    # More steps never cost less.
    steps = bisect.bisect_right(range(1, evaluations + 1), evaluations, key=cost)
    return steps if steps and cost(steps) else None


def _made(sampler_config: Mapping[str, Any], steps: int) -> samplers.Sampler:
    schedule = dict(sampler_config["schedule"]) | {"steps": steps}
    return samplers.from_config(dict(sampler_config) | {"schedule": schedule})


def _digest(*identity: Any) -> str:
    """Return a name for what a stored result depends on."""
    return digest_of(identity)[:16]


class _Runner:
    """Measurements of one problem, each kept in a file of its own."""

    def __init__(self, config, problem: Problem, section, folder: Path):
        self.problem, self.section, self.folder = problem, section, folder
        self.schedule = config.sampler.schedule.to_dict()
        self.calibration = config.study.calibration.to_dict()
        self.search = section.search.to_dict()
        self.made_of = problem.made_of
        self._kept: dict[str, Any] = {}

    def refuse(self, name: str, row: Mapping[str, Any]) -> None:
        """Refuse a row that cannot be built, before anything is measured."""
        if row.get("calibrate"):
            return
        try:
            samplers.from_config({"solver": row["solver"], "schedule": self.schedule})
        except ValueError as error:
            raise UserError(f"rows.{name}: {error}") from error

    def row(self, name: str, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the measurements of a row, one a number of evaluations that it can keep to."""
        with jax.enable_x64(self.problem.x64):
            solver = dict(row["solver"])
            if row.get("calibrate"):
                solver["statistics"] = str(self._statistics())
            section = {"solver": solver, "schedule": self.schedule}
            search = row.get("search", {})
            budgets = [
                evaluations
                for evaluations in self.section.evaluations
                if evaluations in search.get("at", (evaluations,))
            ]
            # Two budgets may allow a solver of two evaluations a step the same steps.
            steps = dict.fromkeys(most_steps(section, self.problem, budget) for budget in budgets)
            return [self._cell(name, row, section, count) for count in steps if count is not None]

    def _cell(self, name, row, section: Mapping[str, Any], steps: int) -> dict[str, Any]:
        digest = _digest(row, self.schedule, self.section.to_dict(), self.calibration, self.made_of)
        path = self.folder / f"{name}_{steps}_{digest}.json"
        if path.exists():
            return read_json(path, "remove it and run the same command again, it measures it again")
        made = _made(section, steps)
        if row.get("search"):
            made = self._searched(made, row["search"])
        plan = samplers.plan(made.solver, made.sigmas, self.problem.rule, self.problem.shape)
        measured = self.problem.measure(self.problem.ends(made), self._truth())
        values = {key: value if value < DIVERGED else None for key, value in measured.items()}
        sigmas = [float(sigma) for sigma in made.sigmas]
        cell = {"evaluations": plan.totals["main"], "sigmas": sigmas, **values}
        write_json(path, cell)
        shown = ", ".join(f"{key} {value:.3g}" for key, value in measured.items())
        print(f"{self.problem.name}, {row['title']}, {plan.totals['main']}: {shown}", flush=True)
        return cell

    def _truth(self) -> np.ndarray:
        """Return the ends of the flow, followed finely once."""
        path = self.folder / "truth.npz"
        identity = _digest(self.schedule, self.section.to_dict(), self.made_of)
        if path.exists():
            with np.load(path) as stored:
                if str(stored["identity"]) == identity:
                    return stored["ends"]
        section = {"solver": self.section.reference.solver.to_dict(), "schedule": self.schedule}
        ends = self.problem.ends(_made(section, self.section.reference.steps))
        with replacing(path) as file:
            np.savez(file, ends=ends, identity=identity)
        return ends

    def _statistics(self) -> Path:
        """Return a file of statistics for DPM-Solver-v3, estimated once."""
        digest = _digest(self.calibration, self.schedule, self.made_of)
        path = self.folder / f"v3_{digest}.safetensors"
        if not path.exists():
            print(f"{self.problem.name}: estimating the statistics of DPM-Solver-v3", flush=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            samplers.calibrate(
                self.problem.denoise,
                self.problem.rule,
                None,
                self.problem.conditions(self.calibration["samples"]),
                root_key(1),
                shape=self.problem.shape,
                sigma_min=self.schedule["sigma_min"],
                sigma_max=self.schedule["sigma_max"],
                **self.calibration,
            ).save(path)
        return path

    def _searched(self, made: samplers.Sampler, search: Mapping[str, Any]) -> samplers.Sampler:
        """Return a sampler that a search found, starting from one or for its number of steps."""
        steps, fine = len(made.sigmas) - 1, self._teacher(self.search["samples"])
        if search["by"] == "select":
            found = samplers.tuning.select(
                fine, steps, cost=search["cost"], gamma=search.get("gamma", 1.0)
            )
            return made._replace(sigmas=found)
        count = search["samples"]
        objective = samplers.tuning.endpoint_error(
            self.problem.denoise,
            self.problem.rule,
            self.problem.other_noise(count),
            self.problem.conditions(count),
            root_key(1),
            fine.x[-1, :count],
        )
        if search["by"] == "timesteps":
            result = samplers.tuning.timesteps(
                objective,
                steps,
                candidates=fine.sigmas,
                solver=made.solver,
                initial=made.sigmas,
                trials=search["trials"],
            )
        else:
            result = samplers.tuning.strategies(objective, made.sigmas, trials=search["trials"])
        return made._replace(solver=result.solver, sigmas=result.sigmas)

    def _teacher(self, count: int) -> samplers.tuning.Trajectories:
        """Return fine trajectories of other noise than the samples', made once."""
        if "teacher" not in self._kept:
            section = {"solver": self.search["solver"], "schedule": self.schedule}
            fine = _made(section, self.search["steps"])
            self._kept["teacher"] = samplers.tuning.teacher(
                self.problem.denoise,
                self.problem.rule,
                self.problem.other_noise(count),
                self.problem.conditions(count),
                root_key(1),
                fine=fine.sigmas,
                solver=fine.solver,
            )
        return self._kept["teacher"]
