"""Weight files of this project: safetensors for the arrays, a JSON sidecar for their origin."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx, traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as serialise

from ...errors import UserError
from ..blueprint import Blueprint
from ..build import blueprint
from ..denoiser import Denoiser, Network, split

SHIPPED = Path(__file__).resolve().parents[2] / "weights"
SEPARATOR = "/"


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What a weight file holds.

    Attributes:
        network, params: the network and its parameters, float32.
        plan: its blueprint.
        sidecar: the provenance stored beside the arrays.
    """

    network: Network
    params: Any
    plan: Blueprint
    sidecar: dict

    @property
    def denoiser(self) -> Denoiser:
        """The network as a denoiser in EDM coordinates."""
        plan = self.plan
        return Denoiser(
            self.params, self.network, plan.preconditioner, plan.sigma_range, plan.latent
        )


def save(path: Path, params: Any, model: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """Write parameters as float16 safetensors, and ``path`` with suffix .json beside it.

    Args:
        path: the .safetensors file; replaced as a whole or not at all.
        params: nested dictionary of arrays.
        model: the config's ``model`` section, from which the network is rebuilt.
        provenance: JSON data: config, commit, steps, data.

    Raises:
        UserError: the parameters do not fit float16, or the file cannot be written.
    """
    flat = _flatten(jax.device_get(params))
    with np.errstate(over="ignore"):  # what overflows is refused below, by name
        arrays = {name: np.asarray(value, np.float16, order="C") for name, value in flat.items()}
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise UserError(f"{name} has values outside float16 (or NaN): nothing was written")
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(serialise(arrays))
        sidecar = json.dumps({"model": dict(model), **provenance}, indent=1) + "\n"
        path.with_suffix(".json").write_text(sidecar)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"writing {path} failed: {error.strerror}") from error


def load(source: str | Path) -> Loaded:
    """Read a weight file.

    Args:
        source: path of a .safetensors file with its .json sidecar beside it, or the name of
            weights shipped with the package (``fashion_mnist_dit``).

    Raises:
        UserError: no such file (naming the shipped ones), or arrays that do not fit the network
            that the sidecar describes, named with both shapes.
    """
    path = resolve(source)
    sidecar_path = path.with_suffix(".json")
    if not sidecar_path.exists():
        raise UserError(f"{path} has no {sidecar_path.name} beside it: copy both files together")
    sidecar = json.loads(sidecar_path.read_text())
    try:
        flat = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error
    plan = blueprint(sidecar["model"])
    abstract = nnx.eval_shape(lambda: plan.build(nnx.Rngs(params=0)))
    network, wanted = split(
        abstract, num_classes=plan.num_classes, shape=plan.shape, condition=plan.condition
    )
    expected = {name: tuple(leaf.shape) for name, leaf in _flatten(wanted).items()}
    _require_same(path, {k: v.shape for k, v in flat.items()}, expected)
    params = traverse_util.unflatten_dict(
        {_keys(name): value.astype(np.float32) for name, value in flat.items()}
    )
    return Loaded(network, jax.device_put(params), plan, sidecar)


def resolve(source: str | Path) -> Path:
    """Return the file that ``source`` names, a path or a shipped name."""
    path = Path(source)
    if path.suffix == ".safetensors" and path.exists():
        return path
    shipped = SHIPPED / f"{source}.safetensors"
    if shipped.exists():
        return shipped
    names = sorted(p.stem for p in SHIPPED.glob("*.safetensors"))
    raise UserError(
        f"no weights at {str(source)!r}: give the path of a .safetensors file, or one of the "
        f"shipped names: {', '.join(names)}"
    )


def _require_same(path: Path, found: dict, expected: dict) -> None:
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise UserError(
                f"{path}: {name} has shape {found.get(name)} in the file and "
                f"{expected.get(name)} in the network its sidecar describes"
            )


def _flatten(params: Any) -> dict[str, Any]:
    flat = traverse_util.flatten_dict(params)
    return {SEPARATOR.join(str(key) for key in keys): value for keys, value in flat.items()}


def _keys(name: str) -> tuple[str | int, ...]:
    # nnx numbers the members of a list with integers.
    return tuple(int(key) if key.isdigit() else key for key in name.split(SEPARATOR))
