"""The export verb: a run's averaged weights as one small file that `models.load` reads."""

import contextlib
import datetime
import subprocess
from pathlib import Path

import jax

from ..core.errors import UserError
from ..data import latents
from ..models.checkpoints import save
from ..runtime.run_folder import EVALUATION, RUN, SAMPLES, Folder
from ..runtime.sharding import on_one_device
from ..training.losses.loss import MAIN
from ..training.watchers import averaged
from .config.overrides import given
from .config.trained import RECORD, begun, scaling_of
from .config.training import (
    checkpoints_of,
    identity_of,
    networks_of,
    plain,
    require_own,
    restored,
    setup_of,
)

# What this mode reads of a config: all that the command of a run may say, so that the same command
# exports it.
READS = (
    "seed",
    "data",
    "model",
    "training",
    "optimizer",
    "ema",
    "roles",
    "evaluators",
    "sharding",
    "checkpoint",
    "log",
)
# What its work folder becomes, and may hold before.
WORKDIR = Folder(beside=(RUN, SAMPLES, EVALUATION))


def commit() -> str:
    """Return the checkout's commit, marked when files differ from it; empty outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        result = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=False
        )
        return result.stdout.strip() if result.returncode == 0 else ""

    revision = git("rev-parse", "HEAD")
    return revision + ("+changes" if revision and git("status", "--porcelain") else "")


def run(config, workdir: Path) -> Path:
    """Write ``<workdir>/<name>.safetensors`` and its sidecar from the newest checkpoint.

    The run is that which its record says, whatever the config: what the command line says
    besides has to agree with it.

    Raises:
        UserError: no checkpoint below ``workdir``, fields of another run, or several processes.
    """
    if jax.process_count() > 1:
        raise UserError("--mode=export reads what every host has written: run it on one host alone")
    run, stored, known = config, {}, {}
    if (workdir / RECORD).is_file():
        run, stored = begun(config, workdir / RECORD, "train again", given(config).overrides)
        # What code did is in the weights, whatever it says today.
        known = {"roles": None, "outside": None}
    path = workdir / f"{run.name}.safetensors"
    require_own(path, lambda sidecar: sidecar.get("weights") == "averaged", "export")
    networks = networks_of(run)
    setup = setup_of(run, on_one_device(jax.local_devices()[0]), networks)
    with contextlib.closing(checkpoints_of(run, workdir, networks, known=known)) as checkpoints:
        found = restored(checkpoints, setup)
    if found is None:
        raise UserError(f"{workdir} holds no checkpoint: run --mode=train with it first")
    step, state, extra = found
    scaling = latents.provenance(run.data.name).get("latents") or scaling_of(stored)
    provenance = {
        "name": run.name,
        "weights": "averaged",
        "config": identity_of(run, networks)
        | {name: part for name, part in stored.items() if name == "roles"},
        "commit": commit(),
        "steps": step,
        "images": extra["position"]["examples_seen"],
        "data": run.data.name,
        "date": datetime.date.today().isoformat(),
        **({} if scaling is None else {"latents": scaling}),
    }
    save(path, averaged(setup.recipe, state)[MAIN], plain(run.model), provenance)
    print(f"wrote {path} ({path.stat().st_size / 2**20:.2f} MiB), step {step}")
    return path
