"""The export verb: a run's averaged weights as one small file that `models.load` reads."""

import contextlib
import datetime
import subprocess
from pathlib import Path

import jax

from ..core.errors import UserError
from ..data import latents
from ..models.builders import build
from ..models.checkpoints import save
from ..runtime.sharding import on_one_device
from ..training.loop import checkpoints_of, identity
from ..training.recipes import recipe_from_config
from ..training.setup import set_up

# What this mode reads of a config.
READS = (
    "seed",
    "data",
    "model",
    "training",
    "optimizer",
    "ema",
    "checkpoint",
)


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
    """Write ``<workdir>/<config.name>.safetensors`` and its sidecar from the newest checkpoint.

    Raises:
        UserError: no checkpoint below ``workdir``, or several processes.
    """
    if jax.process_count() > 1:
        raise UserError("--mode=export reads what every host has written: run it on one host alone")
    spec = build(config.model)
    recipe = recipe_from_config(config, spec)
    layout = on_one_device(jax.local_devices()[0])
    with contextlib.closing(checkpoints_of(config, workdir)) as checkpoints:
        restored = checkpoints.restore(set_up(spec, recipe, layout).abstract)
    if restored is None:
        raise UserError(f"{workdir} holds no checkpoint: run --mode=train with it first")
    step, state, extra = restored
    path = workdir / f"{config.name}.safetensors"
    provenance = {
        "name": config.name,
        "weights": "averaged",
        "config": identity(config),
        "commit": commit(),
        "steps": step,
        "images": extra["position"]["examples_seen"],
        "data": config.data.name,
        "date": datetime.date.today().isoformat(),
        **latents.provenance(config.data.name),
    }
    save(path, recipe.averages.main(state.ema), config.model.to_dict(), provenance)
    print(f"wrote {path} ({path.stat().st_size / 2**20:.2f} MiB), step {step}")
    return path
