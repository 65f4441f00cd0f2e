"""The run that lies in a work folder, as weights to sample from."""

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ...core.errors import UserError
from ...core.files import digest_of, read_json
from ...data.latents import provenance
from ...inference.networks import Weights, code_of, read_weights
from ...models.autoencoders.scaling import LatentScaling
from ...models.checkpoints.files import flatten
from ...models.denoiser import Origin
from ...runtime import distributed
from ...runtime.checkpointer import Checkpoints
from ...runtime.sharding import on_one_device
from ...training.losses.loss import MAIN
from ...training.watchers import averaged
from .training import FORM, networks_of, plain, restored, setup_of

# Sections of a config that a run's record keeps.
KEPT = ("training", "optimizer", "ema")
SCALING = ("image_range", "shift", "scale", "autoencoder")


def newest_average(config, workdir: Path) -> Weights:
    """Return the newest average of the run in ``workdir``, whatever model the config names.

    Of its checkpoints, or of the file that --mode=export wrote where none is left.

    Args:
        config: names what the run's record does not keep: the run, and networks beside the main.
        workdir: of the run.

    Raises:
        UserError: the run has saved nothing, or what it saved cannot be read.
    """
    exported = workdir / f"{config.name}.safetensors"
    record = workdir / "run.json"
    checkpoints = record.is_file() and (workdir / "checkpoints").is_dir()
    if checkpoints and jax.process_count() == 1:
        weights = _of_checkpoint(config, workdir, record)
        if weights is not None:
            return weights
    if exported.is_file():
        return read_weights(MAIN, str(exported))
    if checkpoints and jax.process_count() > 1:
        raise UserError(
            f"{workdir} holds a run, and several processes sample from files alone: run "
            f"--mode=export with it first"
        )
    raise UserError(
        f"{workdir} holds a run that has saved nothing to sample from: run --mode=train with it, "
        f"or name sampling.weights.{MAIN}"
    )


def _of_checkpoint(config, workdir: Path, record: Path) -> Weights | None:
    way_out = f"restore it from a copy, or name sampling.weights.{MAIN}"
    try:
        stored = read_json(record, way_out)["identity"]
        run = _configured(config, stored)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{record} does not say which run this is ({error}): {way_out}") from error
    networks = networks_of(run)
    setup = setup_of(run, on_one_device(jax.local_devices()[0]), networks)
    read = Checkpoints(workdir / "checkpoints", stored, form=FORM, say=distributed.say)
    with contextlib.closing(read):
        found = restored(read, setup)
    if found is None:
        return None
    step, state, _ = found
    spec, params = networks.specs[MAIN], averaged(setup.recipe, state)[MAIN]
    if not run.training.label_dropout:
        spec = spec.without_null()
    if spec.preconditioner is None:
        raise UserError(f"{workdir} holds a run of a {run.model.name}, which makes no images")
    latents = _scaling(stored)
    denoiser = spec.denoiser(
        params, origin=Origin(f"step {step}"), latent=spec.latent or latents is not None
    )
    model = plain(run.model)
    made_of = {"sha256": _digest(params), "model": digest_of(model)}
    made_of |= code_of(model)
    return Weights(denoiser, made_of, f"step {step} of {workdir}", latents, f"step_{step}")


def _configured(config, stored: Mapping[str, Any]) -> ConfigDict:
    """Return a config with the sections that a run was begun with."""
    tree = config.to_dict() | {"seed": stored["seed"], "model": stored["model"]}
    for name in KEPT:
        tree[name] = tree[name] | stored[name]
    # Parameters come from the checkpoint, whatever they began from.
    tree["training"]["init_from"] = ""
    return ConfigDict(tree)


def _scaling(stored: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the scaling of the latents that a run is trained on; None of one on images."""
    data = stored.get("data") or {}
    facts = (data.get("content") or {}).get("latents") or {}
    if all(name in facts for name in SCALING):
        return LatentScaling(**{name: facts[name] for name in SCALING}).to_json()
    # An earlier release knew data by their name.
    return provenance(data["name"]).get("latents") if data.get("name") else None


def _digest(params: Any) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(flatten(jax.device_get(params)).items()):
        array = np.asarray(value, order="C")
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
