"""The run that lies in a work folder, as weights to sample from."""

import contextlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ...core.errors import UserError
from ...core.files import digest_of, digest_of_parts, read_json
from ...data.latents import provenance
from ...inference.networks import Weights, code_of, read_weights
from ...models.autoencoders.discriminator import ROLE, taken_out
from ...models.autoencoders.scaling import LatentScaling
from ...models.checkpoints.files import flatten
from ...models.denoiser import Origin
from ...runtime import distributed
from ...runtime.checkpointer import Checkpoints
from ...runtime.sharding import on_one_device
from ...training.losses.loss import MAIN
from ...training.watchers import averaged
from . import overrides
from .overrides import Override
from .training import FORM, networks_of, plain, restored, setup_of

RECORD = "run.json"
# Sections of a config that the record of every run keeps.
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
    record = workdir / RECORD
    checkpoints = record.is_file() and (workdir / "checkpoints").is_dir()
    if checkpoints and jax.process_count() == 1:
        weights = _of_checkpoint(config, workdir, record)
        if weights is not None:
            return weights
    for name in (config.name, _name(record)):
        if (exported := workdir / f"{name}.safetensors").is_file():
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
    run, stored = begun(config, record, f"name sampling.weights.{MAIN}")
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
    latents = scaling_of(stored)
    denoiser = spec.denoiser(
        params, origin=Origin(f"step {step}"), latent=spec.latent or latents is not None
    )
    model = plain(run.model)
    made_of = {"sha256": _digest(params), "model": digest_of(model)}
    made_of |= code_of(model)
    return Weights(denoiser, made_of, f"step {step} of {workdir}", latents, f"step_{step}")


def begun(
    config, record: Path, otherwise: str, given: Sequence[Override] = ()
) -> tuple[ConfigDict, dict[str, Any]]:
    """Return the config that a run was begun with, and its identity.

    Its networks begin from nothing there: parameters come from the checkpoint.

    Args:
        config: names what the record of an earlier release does not keep.
        record: the run's ``run.json``.
        otherwise: what to do where it cannot be read, for messages.
        given: fields that hold in the place of the run's.

    Raises:
        UserError: a record that says nothing of the run, a field that the run has not, or parts
            of modules that are not imported.
    """
    way_out = f"restore it from a copy, or {otherwise}"
    try:
        stored = read_json(record, way_out)
        identity, kept = stored["identity"], stored.get("begun", {})
        own = config.to_dict()
        tree = _tuples(kept["config"]) if "config" in kept else _of_identity(own, identity)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{record} does not say which run this is ({error}): {way_out}") from error
    if missing := sorted({*_names(tree.get("imports"))} - {*_names(own.get("imports"))}):
        raise UserError(
            f"the run of {record} was begun with --config.imports={','.join(missing)}: give it "
            f"again, as no code is run because a file names it"
        )
    tree["model"], inside = taken_out(tree["model"])
    if inside is not None:
        judge = {"model": inside, "frozen": False}
        tree["roles"] = {ROLE: judge, **tree.get("roles", {})}
    run = overrides.apply(ConfigDict(tree), given).to_dict()
    for role, section in run.get("roles", {}).items():
        if known := kept.get("models", {}).get(role):
            section |= {"model": _tuples(known), "init_from": ""}
    run["training"]["init_from"] = ""
    return ConfigDict(run), identity


def _name(record: Path) -> str:
    """Return what a run's config is called; empty where nobody knows."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(record.read_text())["begun"]["config"]["name"])
    return ""


def _names(given: Any) -> list[str]:
    return [one for one in (given.split(",") if isinstance(given, str) else given or ()) if one]


def _tuples(data: Any) -> Any:
    """Return JSON data with the lists of a config, which are tuples."""
    if isinstance(data, Mapping):
        return {key: _tuples(value) for key, value in data.items()}
    return tuple(map(_tuples, data)) if isinstance(data, list) else data


def _of_identity(own: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with the sections that an earlier release's record keeps."""
    tree = own | {"seed": identity["seed"], "model": identity["model"]}
    for name in KEPT:
        tree[name] = _restored(own[name], identity[name])
    return tree


def _restored(own: Any, stored: Any) -> Any:
    """Return a section as it was stored; a file of which its digest was kept is one's own."""
    if not isinstance(stored, Mapping):
        return _tuples(stored)
    if stored.keys() == {"sha256"}:
        return own
    inside = own if isinstance(own, Mapping) else {}
    return {**inside, **{key: _restored(inside.get(key), one) for key, one in stored.items()}}


def scaling_of(stored: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the scaling of the latents that a run is trained on; None of one on images."""
    data = stored.get("data") or {}
    facts = (data.get("content") or {}).get("latents") or {}
    if all(name in facts for name in SCALING):
        return LatentScaling(**{name: facts[name] for name in SCALING}).to_json()
    # An earlier release knew data by their name.
    return provenance(data["name"]).get("latents") if data.get("name") else None


def _digest(params: Any) -> str:
    leaves = sorted(flatten(jax.device_get(params)).items())
    arrays = ((name, np.asarray(value)) for name, value in leaves)
    parts = ((f"{name} {array.dtype} {array.shape}", array) for name, array in arrays)
    return digest_of_parts(itertools.chain.from_iterable(parts))
