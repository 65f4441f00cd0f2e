"""What turns a network's latents into images, and what the network's weights say about it."""

from functools import partial

import jax
import numpy as np
from jaxtyping import Float

from ..core.errors import UserError
from ..models.autoencoders.loading import Autoencoder, load_autoencoder
from ..models.autoencoders.scaling import PUBLISHED, LatentScaling, from_json
from ..models.checkpoints.files import resolve, sidecar_of
from ..runtime.batches import Batches


class Decoder:
    """Latents as a network has them to images in [-1, 1], in batches on all devices.

    Args:
        autoencoder: its decoder is used.
        scaling: of the latents.
        batch_size: latents decoded at a time.
    """

    def __init__(self, autoencoder: Autoencoder, scaling: LatentScaling, batch_size: int):
        self.file = autoencoder.file
        self._batches = Batches(_decode, autoencoder, batch_size, scaling=scaling)

    def __call__(
        self, latents: Float[np.ndarray, "batch h w z"]
    ) -> Float[np.ndarray, "batch f*h f*w c"]:
        """Return the images."""
        return self._batches(np.asarray(latents, np.float32))


@partial(jax.jit, static_argnames="scaling")
def _decode(autoencoder: Autoencoder, latents, scaling: LatentScaling):
    return autoencoder.decode(latents, scaling)


def kept_scaling(source: str) -> LatentScaling | None:
    """Return the scaling of the latents that weights were trained on; None where they say nothing.

    Args:
        source: a weight file, as `models.checkpoints.load` takes it.

    Raises:
        UserError: no such file, or a damaged sidecar.
    """
    path = resolve(source)
    sidecar = sidecar_of(path)
    if sidecar is None or "latents" not in sidecar:
        return None
    try:
        return from_json(sidecar["latents"])
    except ValueError as error:
        raise UserError(f"{path.with_suffix('.json')} is damaged: {error}") from error


def scaling_from_config(section, kept: LatentScaling | None) -> LatentScaling | None:
    """Return the scaling that a config's ``sampling`` section names, else the one kept.

    Raises:
        UserError: an unknown name.
    """
    if not section.scaling:
        return kept
    if section.scaling not in PUBLISHED:
        raise UserError(
            f"config.sampling.scaling {section.scaling!r} is not one of {', '.join(PUBLISHED)}; "
            f"empty takes what the weights say"
        )
    return PUBLISHED[section.scaling]


def decoder_from_config(section, scaling: LatentScaling | None, channels: int) -> Decoder:
    """Load the decoder that a config's ``sampling`` section names.

    Args:
        section: ``decoder``, ``any_decoder`` and ``batch_size`` are used.
        scaling: of the latents.
        channels: of the latents.

    Raises:
        UserError: latents of unknown scaling, of other channels than the decoder takes, or made by
            another autoencoder.
    """
    if scaling is None:
        raise UserError(
            f"nothing says how the latents are scaled: set config.sampling.scaling to "
            f"{' or '.join(PUBLISHED)}"
        )
    autoencoder = load_autoencoder(section.decoder, "config.sampling.decoder")
    if not channels == scaling.channels == autoencoder.latent_channels:
        raise UserError(
            f"the latents have {channels} channels, their scaling {scaling.channels}, and "
            f"config.sampling.decoder {autoencoder.file} takes {autoencoder.latent_channels}: name "
            f"the autoencoder that made them"
        )
    known = scaling.autoencoder and autoencoder.sha256
    if known and scaling.autoencoder != autoencoder.sha256 and not section.any_decoder:
        raise UserError(
            f"the latents were made by {scaling.file} (sha256 {scaling.autoencoder[:12]}...), and "
            f"config.sampling.decoder is {autoencoder.file} (sha256 {autoencoder.sha256[:12]}...): "
            f"name that file, or set config.sampling.any_decoder=True for a decoder that was "
            f"trained for the same latents"
        )
    return Decoder(autoencoder, scaling, section.batch_size)
