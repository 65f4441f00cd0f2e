"""Networks, their preconditioning and their weight files."""

from ..core.macs import macs
from .autoencoders.lite_vae import LiteVAE
from .autoencoders.sd_vae import SDVAE
from .checkpoints.loading import load_denoiser as load
from .classifiers.residual import Classifier
from .convnets.dico import DiCo
from .convnets.dimr import DiMR
from .denoiser import Denoiser
from .exact.mixture import GaussianMixture
from .mlps.score_mlp import ScoreMLP
from .transformers.dit import DiT
from .transformers.lightning_dit import LightningDiT
from .transformers.pixart import PixArt
from .transformers.sit import SiT
from .transformers.umd import UMD
from .unets.dhariwal import DhariwalUNet
from .unets.edm2 import EDM2UNet
from .unets.song import SongUNet

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
    "LightningDiT",
    "LiteVAE",
    "PixArt",
    "ScoreMLP",
    "SiT",
    "SongUNet",
    "load",
    "macs",
]
