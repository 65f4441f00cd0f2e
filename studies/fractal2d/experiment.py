"""The autoguidance paper's toy in full: train, sample, measure against the exact density.

Source: Karras et al., arXiv 2406.02507, section 3 and appendix C.
"""

import datetime
import warnings
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ... import guidance, samplers
from ...commands.config.sections import section as section_of
from ...commands.export import commit
from ...commands.export import run as export
from ...commands.train import run as train
from ...core.errors import UserError
from ...core.files import write_json
from ...core.random import root_key
from ...data.sources import fractal2d
from ...evaluation.metrics import point_clouds
from ...inference.networks import load_networks
from .. import point_cloud_plot

EXAMPLE = "configs/fractal2d.py"


def clouds(
    section, weights: Mapping[str, str]
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]]]:
    """Sample one point cloud a row, all from the same starting points.

    Trajectories start at exact draws of class A smoothed to the highest noise level, as in the
    paper, not at pure noise.

    Args:
        section: a config's ``experiment``: sampler, rows, points, seed.
        weights: of the networks, by the names that the rules use.

    Returns:
        Points by title, and what `point_clouds.evaluate` says of them, with points of the
        density itself as the first row of the latter.

    Raises:
        UserError: networks or rules that cannot be, before anything is sampled; or points that are
            not finite.
    """
    networks = load_networks(weights)
    rules = {
        row.title: guidance.from_config(row.guidance.to_dict()) for row in section.rows.values()
    }
    solver, sigmas, _ = samplers.from_config(section.sampler.to_dict())
    root = root_key(section.seed)
    indices = jnp.arange(section.points)
    clean, _ = fractal2d.sample(root, section.points, ("A",))
    noise = samplers.unit_noise(samplers.sample_keys(root, samplers.NOISE, indices), (2,))
    keys = samplers.sample_keys(root, samplers.STEPS, indices)
    panels: dict[str, np.ndarray] = {}
    measured = {"The density itself": point_clouds.evaluate(clean)}
    for title, rule in rules.items():
        asked = samplers.plan(solver, sigmas, rule, (2,)).networks
        with warnings.catch_warnings():
            # That the schedule starts below the networks' highest level: so does what is given.
            warnings.filterwarnings(
                "ignore", "samplers.sample: the schedule starts at", UserWarning
            )
            points = samplers.sample(
                {name: networks[name] for name in asked},
                rule,
                solver,
                sigmas,
                clean / np.float32(sigmas[0]) + noise,
                None,
                keys,
            )
        panels[title] = np.asarray(points)
        try:
            measured[title] = point_clouds.evaluate(points)
        except ValueError as error:
            raise UserError(f"{title}: {error}") from error
    return panels, measured


def network_config(config, name: str) -> ConfigDict:
    """Return the training config of one of the experiment's networks."""
    one = ConfigDict(config.to_dict())
    network = config.experiment.networks[name]
    one.name = f"fractal2d_{name}"
    one.model.hidden = network.hidden
    one.training.steps = network.steps
    one.data.split = network.split
    one.seed = network.seed
    return one


def experiment(config, workdir: Path) -> None:
    """Train every network, sample every row, write ``fractal2d.json`` and ``fractal2d.png``.

    Run again after an interruption it goes on.

    Raises:
        UserError: as training and export; no ``experiment`` in the config.
    """
    fields = ("networks", "rows", "points", "seed", "sampler")
    section, weights = section_of(config, "experiment", fields=fields, example=EXAMPLE), {}
    for name in section.networks:
        one = network_config(config, name)
        train(one, workdir / name)
        weights[name] = str(export(one, workdir / name))
    panels, measured = clouds(section, weights)
    point_cloud_plot.save(panels, workdir / "fractal2d.png")
    record = {
        "command": "make fractal2d",
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "points": section.points,
        "rows": measured,
    }
    write_json(workdir / "fractal2d.json", record)
    for title, row in measured.items():
        print(title + ": " + ", ".join(f"{name} {value:.4f}" for name, value in row.items()))
