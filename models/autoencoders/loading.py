"""Autoencoders from weight files, as functions of images in [-1, 1]."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array, Float

from ...core.errors import UserError
from ...core.files import home
from ..checkpoints.files import resolve
from ..checkpoints.folders import digest
from ..checkpoints.loading import load
from ..denoiser import Network, Origin
from .scaling import LatentScaling


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """An autoencoder's two halves; parameters are pytree leaves, so it passes through `jax.jit`.

    Attributes:
        params, network: the module, which has ``encode`` and ``decode``.
        origin: of the weights, by which latents know what made them.
    """

    params: Any
    network: Network = dataclasses.field(metadata={"static": True})
    origin: Origin = dataclasses.field(metadata={"static": True}, default=Origin())

    def __repr__(self) -> str:
        return f"Autoencoder({self.network!r}, from {self.file})"

    @property
    def file(self) -> str:
        """Name of the weight file."""
        return self.origin.file

    @property
    def sha256(self) -> str:
        """Digest of the weight file."""
        return self.origin.sha256

    @property
    def _module(self) -> Any:
        return self.network.module(self.params)

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self._module.latent_channels

    @property
    def factor(self) -> int:
        """How many times smaller a latent is than its image, each way."""
        return self._module.factor

    def encode(
        self, images: Float[Array, "batch h w c"], scaling: LatentScaling
    ) -> tuple[
        Float[Array, "batch h/{self.factor} w/{self.factor} z"],
        Float[Array, "batch h/{self.factor} w/{self.factor} z"],
    ]:
        """Return mean and log variance of the latents, not scaled, of images in [-1, 1]."""
        return self._module.encode(scaling.to_encoder(images))

    def decode(
        self, latents: Float[Array, "batch h w z"], scaling: LatentScaling
    ) -> Float[Array, "batch {self.factor}*h {self.factor}*w c"]:
        """Return images, about in [-1, 1], of latents as a network has them."""
        made = self._module.decode(scaling.to_autoencoder(latents))
        return scaling.from_decoder(made)


def load_autoencoder(source: str | Path, where: str) -> Autoencoder:
    """Read an autoencoder's weights.

    Args:
        source: as `models.checkpoints.load` takes it.
        where: what named it, for messages: "encoding.autoencoder".

    Raises:
        UserError: nothing named, or weights that are of no autoencoder.
    """
    if not source:
        raise UserError(f"{where} is empty: name the weights of an autoencoder")
    if os.path.isdir(home(source) / "vae"):  # of a pipeline
        source = home(source) / "vae"
    path = resolve(source)
    loaded = load(path)
    module = loaded.network.module(loaded.params)
    if not (hasattr(module, "encode") and hasattr(module, "decode")):
        raise UserError(
            f"{where}: {source} is no autoencoder but a {loaded.sidecar['model']['name']}"
        )
    return Autoencoder(loaded.params, loaded.network, Origin(path.name, digest(path)))
