"""Every solver, schedule and prior is reachable by name from a config."""

import numpy as np
import pytest
from oracles.particle_runs import Linear

from guidestar import guidance, samplers
from guidestar.samplers.config import PRIORS, SCHEDULES, SOLVERS
from guidestar.samplers.solvers.statistics import degenerate

SCHEDULE = {"name": "karras", "steps": 4}
# What constructors cannot do without; a path stands for a file made below.
NEEDED = {
    "dpm_solver": {"order": 3},
    "dpm_solver_v3": {"statistics": "statistics.safetensors"},
    "per_step": {"choices": [["data", 1, False]] * 4},
    "recur": {"solver": samplers.ancestral()},
    **{name: {"reward": Linear()} for name in ("steer", "svdd", "das", "twisted")},
    "repaint": {"operator": guidance.operators.average_pool(2), "measurement": np.zeros((2, 2, 1))},
}
PRIOR_NEEDS = {"pfgmpp": {"D": 128.0}, "teleport": {"fit": "fit.safetensors"}}
SCHEDULE_NEEDS = {"explicit": {"sigmas": [2.0, 1.0]}, "align_your_steps": {"model": "sdxl"}}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write the files that the tables name, and go there."""
    monkeypatch.chdir(tmp_path)
    degenerate((3,), 0.002, 80.0).save("statistics.safetensors")
    data = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    samplers.fit_gaussian(data).save("fit.safetensors")


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_every_solver_is_built_by_name(name, files):
    section = {"name": name, **NEEDED.get(name, {})}
    made = samplers.from_config({"solver": section, "schedule": SCHEDULE})
    assert type(made.solver) is type(SOLVERS[name].build(**NEEDED.get(name, {})))
    assert getattr(samplers, name) is SOLVERS[name].build


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_every_schedule_is_built_by_name(name):
    section = {"name": name, **SCHEDULE_NEEDS.get(name, {"steps": 4})}
    if name == "align_your_steps":
        section["steps"] = 4
    made = samplers.from_config({"solver": {"name": "euler"}, "schedule": section})
    assert made.sigmas[-1] == 0 and (np.diff(made.sigmas) < 0).all()
    assert getattr(samplers, name) is SCHEDULES[name].build


@pytest.mark.parametrize("name", sorted(PRIORS))
def test_every_prior_is_built_by_name(name, files):
    section = {"solver": {"name": "euler"}, "schedule": SCHEDULE}
    made = samplers.from_config(section | {"prior": {"name": name, **PRIOR_NEEDS.get(name, {})}})
    assert type(made.prior) is type(PRIORS[name].build(**PRIOR_NEEDS.get(name, {})))
    assert type(samplers.from_config(section).prior) is type(samplers.gaussian())


@pytest.mark.parametrize("kind", ["solver", "schedule", "prior"])
def test_an_unknown_name_is_refused_with_those_there_are(kind):
    section = {"solver": {"name": "euler"}, "schedule": SCHEDULE, kind: {"name": "eulr"}}
    with pytest.raises(ValueError, match=f"sampler.{kind}.name 'eulr' is not one of"):
        samplers.from_config(section)
