"""Latents that the encode verb wrote, as a data set: drawn anew each time an example is visited."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ..core.errors import UserError
from ..core.files import home
from ..models.autoencoders.scaling import LatentScaling
from . import record_folder
from .source import Source


def load(
    folder: Path, split: str = "train", *, most_damaged: float = record_folder.MOST_DAMAGED
) -> Source:
    """Return a folder of latents as a data set of what a network is given.

    An example is ``scale * (mean + std * noise - shift)``, float32, with noise of its position in
    the stream: another one in every epoch, and the same one after a resume.

    Args:
        folder: what ``--mode=encode`` made.
        split: "train" for all of them, or a part, "train[:90%]", of the images: mirrored ones go
            with theirs.
        most_damaged: as in `record_folder.load`.

    Raises:
        UserError: as `record_folder.load` raises, or no latents.
    """
    copies = 2 if facts_of(folder).get("mirrored") else 1
    stored = record_folder.load(folder, split, most_damaged=most_damaged, copies=copies)
    scaling = scaling_of(folder)
    height, width, both = stored.shape

    def draw(
        posterior: Float[np.ndarray, "batch h w both"], noise: Float[np.ndarray, "batch h w z"]
    ) -> Float[np.ndarray, "batch h w z"]:
        mean, std = np.split(posterior.astype(np.float32), 2, axis=-1)
        return scaling.to_network(mean + std * noise.astype(np.float32))

    return Source(
        name=stored.name,
        shape=(height, width, both // 2),
        num_classes=stored.num_classes,
        records=stored.records,
        draw=draw,
        facts=stored.facts,
    )


def are_in(folder: str | Path) -> bool:
    """Say whether a folder is a finished data set of latents."""
    path = home(folder) / record_folder.DESCRIPTION
    return path.is_file() and "latents" in record_folder.describe(path.parent)


def facts_of(folder: str | Path) -> dict[str, Any]:
    """Return what ``dataset.json`` says of latents.

    Raises:
        UserError: not a finished data set, or not of latents.
    """
    facts = record_folder.describe(home(folder)).get("latents")
    if facts is None:
        raise UserError(f"{folder} holds no latents: make some with --mode=encode")
    return facts


def provenance(name: str) -> dict[str, Any]:
    """Return what goes into the sidecar of weights trained on a data set: the scaling of latents.

    Args:
        name: of the data set; nothing is returned for one that is not of latents.

    Raises:
        UserError: as in `scaling_of`.
    """
    return {"latents": scaling_of(name).to_json()} if are_in(name) else {}


def scaling_of(folder: str | Path) -> LatentScaling:
    """Return the scaling of a folder's latents, with the autoencoder that made them.

    Raises:
        UserError: not a finished data set of latents, or one whose description is damaged.
    """
    facts: Mapping = facts_of(folder)
    fields = ("image_range", "shift", "scale", "autoencoder", "file")
    try:
        return LatentScaling(**{name: facts[name] for name in fields})
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{Path(folder) / record_folder.DESCRIPTION} is damaged ({error}): make the latents "
            f"again"
        ) from error
