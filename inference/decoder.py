"""What turns a network's latents into images, and what the network's weights say about it."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ..core.batches import Batches
from ..core.errors import NoResult, UserError
from ..models.autoencoders.loading import Autoencoder, load_autoencoder
from ..models.autoencoders.scaling import PUBLISHED, LatentScaling, from_json
from .job import not_finite, numbered

# Where a person names the decoder.
PLACE = "sampling.decoder"


class Decoder:
    """Latents as a network has them to images in [-1, 1], in batches on all devices.

    Args:
        autoencoder: its decoder is used.
        scaling: of the latents.
        batch_size: latents decoded at a time.

    Attributes:
        autoencoder, scaling: as they were given.
        file, sha256: of the autoencoder's weights.
    """

    def __init__(self, autoencoder: Autoencoder, scaling: LatentScaling, batch_size: int):
        self.file, self.sha256 = autoencoder.file, autoencoder.sha256
        self.autoencoder, self.scaling = autoencoder, scaling
        self._batches = Batches(_decode, autoencoder, batch_size, scaling=scaling)

    def __call__(
        self, latents: Float[np.ndarray, "batch h w z"]
    ) -> Float[np.ndarray, "batch height width c"]:
        """Return the images."""
        return self._batches(np.asarray(latents, np.float32))

    def finite_images(
        self, indices: Int[np.ndarray, " batch"], latents: Float[np.ndarray, "batch h w z"]
    ) -> Float[np.ndarray, "batch height width c"]:
        """Return the images, where all of them are numbers.

        Raises:
            NoResult: some are not finite; with their indices and the likely causes.
        """
        if (bad := not_finite(latents)).size:
            raise NoResult(
                f"{numbered(indices, bad)} not finite as latents already, and nothing was "
                f"written: sample or encode them again"
            )
        images = self(latents)
        if (bad := not_finite(images)).size:
            raise NoResult(
                f"{numbered(indices, bad)} not finite once decoded by {self.file}, and nothing was "
                f"written: these latents are not scaled as it takes them (sampling.scaling), or "
                f"its model.dtype is too narrow for its numbers"
            )
        return images

    def image_shape(self, latent: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the image of a latent's shape."""
        like = jax.ShapeDtypeStruct((1, *latent), jnp.float32)
        made = jax.eval_shape(partial(_decode, scaling=self.scaling), self.autoencoder, like)
        return made.shape[1:]


@partial(jax.jit, static_argnames="scaling")
def _decode(autoencoder: Autoencoder, latents, scaling: LatentScaling):
    return autoencoder.decode(latents, scaling)


def kept_scaling(latents: Mapping[str, Any] | None, place: str) -> LatentScaling | None:
    """Return the scaling of latents that weights or samples name; None where they name none.

    Args:
        latents: JSON data, as `LatentScaling.to_json` made it.
        place: where it was found, for messages.

    Raises:
        UserError: it is damaged.
    """
    try:
        return from_json(latents) if latents else None
    except ValueError as error:
        raise UserError(f"what is said of the latents beside {place} is damaged: {error}") from None


def latent_scaling(name: str, kept: LatentScaling | None) -> LatentScaling | None:
    """Return a published scaling by name, else the one kept.

    Raises:
        UserError: an unknown name.
    """
    if not name:
        return kept
    if name not in PUBLISHED:
        raise UserError(
            f"sampling.scaling {name!r} is not one of {', '.join(PUBLISHED)}; empty takes what the "
            f"weights say"
        )
    return PUBLISHED[name]


def contents(scaling: LatentScaling) -> dict[str, Any]:
    """Return as JSON data what a scaling is: everything but the name of a file."""
    return {key: value for key, value in scaling.to_json().items() if key != "file"}


def load_decoder(
    source: str,
    scaling: LatentScaling | None,
    channels: int,
    *,
    batch_size: int,
    any_decoder: bool = False,
) -> Decoder:
    """Load the decoder of latents.

    Args:
        source: weights of an autoencoder, as `models.load` takes them.
        scaling: of the latents.
        channels: of the latents.
        batch_size: latents decoded at a time.
        any_decoder: whether another autoencoder than the one that made them may decode them.

    Raises:
        UserError: latents of unknown scaling, of other channels than the decoder takes, or made by
            another autoencoder.
    """
    if scaling is None:
        raise UserError(
            f"nothing says how the latents are scaled: set sampling.scaling to "
            f"{' or '.join(PUBLISHED)}"
        )
    autoencoder = load_autoencoder(source, PLACE)
    if not channels == scaling.channels == autoencoder.latent_channels:
        raise UserError(
            f"the latents have {channels} channels, their scaling {scaling.channels}, and "
            f"{PLACE} {autoencoder.file} takes {autoencoder.latent_channels}: name the "
            f"autoencoder that made them"
        )
    known = scaling.autoencoder and autoencoder.sha256
    if known and scaling.autoencoder != autoencoder.sha256 and not any_decoder:
        raise UserError(
            f"the latents were made by {scaling.file} (sha256 {scaling.autoencoder[:12]}...), and "
            f"{PLACE} is {autoencoder.file} (sha256 {autoencoder.sha256[:12]}...): name that "
            f"file, or set sampling.any_decoder=True for a decoder that was trained for the same "
            f"latents"
        )
    return Decoder(autoencoder, scaling, batch_size)
