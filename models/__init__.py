"""Networks, their preconditioning and their weight files.

Names are imported when they are first asked for: building networks needs flax, and what a
denoiser is does not need every network.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..core.macs import macs
    from .autoencoders.lite_vae import LiteVAE
    from .autoencoders.sd_vae import SDVAE
    from .builders import build, create
    from .checkpoints.loading import load_denoiser as load
    from .classifiers.residual import Classifier
    from .conditions import Label, Values
    from .convnets.dico import DiCo
    from .convnets.dimr import DiMR
    from .denoiser import Denoiser
    from .exact.mixture import GaussianMixture
    from .mlps.score_mlp import ScoreMLP
    from .spec import Spec
    from .transformers.dit import DiT
    from .transformers.lightning_dit import LightningDiT
    from .transformers.pixart import PixArt
    from .transformers.sit import SiT
    from .transformers.umd import UMD
    from .unets.dhariwal import DhariwalUNet
    from .unets.edm2 import EDM2UNet
    from .unets.song import SongUNet
    from .wrapping import wrap

# Where each name lies, and what it is called there if otherwise.
PLACES: dict[str, tuple[str, str]] = {
    "Classifier": (".classifiers.residual", "Classifier"),
    "Denoiser": (".denoiser", "Denoiser"),
    "DhariwalUNet": (".unets.dhariwal", "DhariwalUNet"),
    "DiCo": (".convnets.dico", "DiCo"),
    "DiMR": (".convnets.dimr", "DiMR"),
    "DiT": (".transformers.dit", "DiT"),
    "EDM2UNet": (".unets.edm2", "EDM2UNet"),
    "GaussianMixture": (".exact.mixture", "GaussianMixture"),
    "Label": (".conditions", "Label"),
    "LightningDiT": (".transformers.lightning_dit", "LightningDiT"),
    "LiteVAE": (".autoencoders.lite_vae", "LiteVAE"),
    "PixArt": (".transformers.pixart", "PixArt"),
    "SDVAE": (".autoencoders.sd_vae", "SDVAE"),
    "ScoreMLP": (".mlps.score_mlp", "ScoreMLP"),
    "SiT": (".transformers.sit", "SiT"),
    "SongUNet": (".unets.song", "SongUNet"),
    "Spec": (".spec", "Spec"),
    "UMD": (".transformers.umd", "UMD"),
    "Values": (".conditions", "Values"),
    "build": (".builders", "build"),
    "create": (".builders", "create"),
    "load": (".checkpoints.loading", "load_denoiser"),
    "macs": ("..core.macs", "macs"),
    "wrap": (".wrapping", "wrap"),
}

# Packages and modules that are imported by their own names.
BELOW = ("autoencoders", "checkpoints", "conditions", "exact", "features", "preconditioning")

__all__ = [
    "SDVAE",
    "UMD",
    "Classifier",
    "Denoiser",
    "DhariwalUNet",
    "DiCo",
    "DiMR",
    "DiT",
    "EDM2UNet",
    "GaussianMixture",
    "Label",
    "LightningDiT",
    "LiteVAE",
    "PixArt",
    "ScoreMLP",
    "SiT",
    "SongUNet",
    "Spec",
    "Values",
    "build",
    "create",
    "load",
    "macs",
    "wrap",
]


def __getattr__(name: str):
    if name in BELOW:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, known_as = PLACES[name]
    return getattr(importlib.import_module(module, __name__), known_as)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *BELOW})
