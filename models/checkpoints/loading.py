"""Weights to networks: files of this project and published ones, by one call."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...core.errors import UserError
from ...core.files import Array, home
from ..autoencoders.discriminator import ROLE, taken_out
from ..builders import build
from ..denoiser import Denoiser, Network, Origin
from ..spec import Spec
from .conversion import convert, read_section
from .files import flatten, foreign, resolve, sidecar_of, unflatten
from .folders import open_file
from .keys.said import NULL
from .published import lookup
from .readers import WeightSource, require_finite
from .stacking import Place, places

ALONE = "; a file of this project has a .json beside it: copy both files together"


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What a weight file holds.

    Attributes:
        network, params: the network and its parameters, float32.
        spec: what it is built by.
        sidecar: where the weights come from; ``model`` in it is the section that the network is
            built from, ``latents`` the scaling of the latents that it was trained on.
        file: the weight file's name.
    """

    network: Network
    params: Any
    spec: Spec
    sidecar: dict
    file: str = ""

    @property
    def denoiser(self) -> Denoiser:
        """The network as a denoiser in EDM coordinates."""
        facts = {key: value for key, value in self.sidecar.items() if key != "model"}
        origin = Origin(self.file, facts=facts)
        latent = self.spec.latent or "latents" in self.sidecar
        return self.spec.denoiser(self.params, origin=origin, latent=latent)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A network and where each of its arrays lies in a file.

    Attributes:
        path: the file.
        network, spec: the network without parameters, and what it is built by.
        shapes: of its arrays, by path.
        places: where they lie among ``arrays``.
        arrays: the file's, by path in this project's naming.
        sidecar: as in `Loaded`.
    """

    path: Path
    network: Network
    spec: Spec
    shapes: dict[str, tuple[int, ...]]
    places: dict[str, Place]
    arrays: Mapping[str, Array]
    sidecar: dict

    def read(self, path: str) -> np.ndarray:
        """Return one of the network's arrays, as the file has it.

        Raises:
            UserError: NaN or infinity in it.
        """
        return require_finite(path, self.places[path].read(lambda name: self.arrays[name].read()))


def load(source: str | Path, *, entry: str | None = None, **overrides: Any) -> Loaded:
    """Read weights and build their network.

    Args:
        source: a file of this project (.safetensors with its .json beside it), the name of
            weights shipped with the package (``fashion_mnist_dit``), or a published file: torch's
            .pt and .pth, EDM's and EDM2's .pkl, .safetensors, .npz; or a folder of diffusers or
            accelerate, whole or in shards. Nothing in it is executed.
        entry: of a training checkpoint with several state dicts, which; the averaged one if None.
            Of a pipeline's folder, which network (``"vae"``).
        overrides: fields of the ``model`` section that replace the file's own, such as
            ``scan_layers=True`` or ``dtype="bfloat16"``; ``name`` chooses the network where a
            published file could be several.

    Raises:
        UserError: no such file (naming the shipped ones); a file that is damaged, unsafe or of an
            unknown network; arrays that do not fit the network, named with both shapes.
    """
    fitted = fit(source, entry=entry, **overrides)
    params = unflatten(
        (path, jnp.asarray(fitted.read(path).astype(np.float32, copy=False)))
        for path in fitted.shapes
    )
    return Loaded(fitted.network, params, fitted.spec, fitted.sidecar, fitted.path.name)


def outline(source: str | Path, *, entry: str | None = None, **overrides: Any) -> Loaded:
    """Return what `load` would, with shapes and types in the place of parameters: nothing is read.

    Arguments and errors as in `load`.
    """
    fitted = fit(source, entry=entry, **overrides)
    params = unflatten(
        (path, jax.ShapeDtypeStruct(shape, jnp.float32)) for path, shape in fitted.shapes.items()
    )
    return Loaded(fitted.network, params, fitted.spec, fitted.sidecar, fitted.path.name)


def load_denoiser(source: str | Path, *, entry: str | None = None, **overrides: Any) -> Denoiser:
    """Read weights as a denoiser, ``(x, sigma, condition) -> x0 estimate``; arguments as in `load`.

    Raises:
        UserError: as in `load`; or the weights are of a classifier or an autoencoder.
    """
    place, entry = _within(source, entry)
    loaded = load(resolve(place, "denoiser"), entry=entry, **overrides)
    if loaded.spec.preconditioner is None:
        raise UserError(
            f"{source} is no denoiser but a {loaded.sidecar['model']['name']}: load it with "
            f"guidestar.models.checkpoints.load"
        )
    return loaded.denoiser


def fit(source: str | Path, *, entry: str | None = None, **overrides: Any) -> Fitted:
    """Find a network's arrays in a file without reading them; arguments as in `load`."""
    place, entry = _within(source, entry)
    path = resolve(place)
    sidecar = sidecar_of(path)
    try:
        weights = open_file(path, entry)
    except UserError as error:
        if path.suffix != ".safetensors":
            raise
        raise UserError(
            f"{path} is not a readable safetensors file: {error}" + ALONE * (sidecar is None)
        ) from error
    if sidecar is None:
        arrays, sidecar = _published(path, weights, overrides)
    else:
        model, inside = taken_out({**sidecar["model"], **overrides})
        sidecar = sidecar | {"model": model}
        arrays = {
            name: Array(tensor.shape, tensor.dtype, tensor.read)
            for name, tensor in weights.tensors.items()
            if inside is None or not name.startswith(f"{ROLE}/")
        }
    spec = build(sidecar["model"])
    if sidecar.get(NULL) is False or _never_dropped(sidecar):
        spec = spec.without_null()
    shapes = {name: tuple(leaf.shape) for name, leaf in flatten(spec.shapes).items()}
    found = _fitted(path, shapes, {name: array.shape for name, array in arrays.items()})
    return Fitted(path, spec.network, spec, shapes, found, arrays, sidecar)


def _within(source: str | Path, entry: str | None) -> tuple[str | Path, str | None]:
    """Return a pipeline's folder of one network, where ``entry`` names one; or what was given."""
    folder = home(source)
    if entry and os.path.isdir(folder / entry):  # unlike Path's, false where a path cannot be
        return folder / entry, None
    return source, entry


def _never_dropped(sidecar: Mapping[str, Any]) -> bool:
    """Say whether the weights were trained with a condition for every sample, by their own word."""
    config = sidecar.get("config")
    training = config.get("training") if isinstance(config, Mapping) else None
    return isinstance(training, Mapping) and training.get("label_dropout") == 0


def _published(
    path: Path, weights: WeightSource, overrides: Mapping[str, Any]
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays of a published file by their paths here, and a sidecar for them."""
    known = lookup(path.name)
    try:
        given = {**(known.model if known else {}), **overrides}
        weights, section = read_section(weights, given)
    except UserError as error:
        if path.suffix != ".safetensors":
            raise
        raise UserError(f"{error}{foreign(path) or ALONE}") from error
    arrays = convert(weights, section)
    sidecar: dict[str, Any] = {"source": path.name, "format": str(weights.description)}
    if known:
        sidecar |= {"preset": path.stem, "licence": known.licence}
    if NULL in section:
        sidecar[NULL] = section.pop(NULL)
    return arrays, {"model": section} | sidecar


def _fitted(
    path: Path,
    expected: Mapping[str, tuple[int, ...]],
    stored: Mapping[str, tuple[int, ...]],
) -> dict[str, Place]:
    """Return where each array of a network is in a file, once every one of both has its place.

    Args:
        path: of the file.
        expected, stored: shapes of the network's arrays and of the file's, by path.

    Raises:
        UserError: an array that either has alone, or that has another shape, with both.
    """
    found: dict[str, Place] = {}
    layout = places(expected, stored)
    for name, shape in sorted(expected.items()):
        place = layout[name]
        there = place and place.shape(stored)
        if place is None or there != shape:
            raise UserError(
                f"{path}: {name} has shape {there} in the file and {shape} in the network it "
                f"describes"
            )
        found[name] = place
    used = {name for place in found.values() for name in place.names}
    for name in sorted(stored.keys() - used):
        raise UserError(
            f"{path}: {name} has shape {stored[name]} in the file and there is None of that name "
            f"in the network it describes"
        )
    # A layer beyond a network's depth is left over in a stack that is only partly taken.
    for place in found.values():
        (name, *_), layer = place.names, place.layer
        if layer is not None and not _taken(name, stored[name][0], found):
            raise UserError(
                f"{path}: {name} has {stored[name][0]} layers in the file, more than the network "
                f"it describes"
            )
    return found


def _taken(stack: str, depth: int, found: dict[str, Place]) -> bool:
    layers = {place.layer for place in found.values() if place.names == (stack,)}
    return layers == set(range(depth))
