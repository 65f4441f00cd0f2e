"""Published weight files: where they come from, how large they are, under which licence.

Nothing here downloads: weights of this kind have licences that their user accepts, and clusters
fetch them once by hand. A file that is not on disk is an error with all that is needed to get it.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ...core.files import cache_folder, home, sha256

EDM2_ROOT = "https://nvlabs-fi-cdn.nvidia.com/edm2/posthoc-reconstructions"
EDM_ROOT = "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained"
DIT_ROOT = "https://dl.fbaipublicfiles.com/DiT/models"
VAE_ROOT = "https://huggingface.co/stabilityai/sd-vae-ft-mse/resolve/main"
FID_ROOT = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights"
FIDELITY_ROOT = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0"
CLIP_ROOT = "https://huggingface.co/openai/clip-vit-base-patch32/resolve/main"
DINOV2_ROOT = "https://dl.fbaipublicfiles.com/dinov2"
NVIDIA = "CC BY-NC-SA 4.0"
APACHE = "Apache-2.0"
META = "CC BY-NC 4.0"
# EDM2 snapshots, arXiv 2312.02696: parameters by size, and thousands of images at their end.
EDM2_PARAMETERS = {
    "xs": 124_713_253,
    "s": 280_212_837,
    "m": 497_807_781,
    "l": 777_498_085,
    "xl": 1_119_283_749,
    "xxl": 1_523_164_773,
}


@dataclasses.dataclass(frozen=True)
class Published:
    """A published weight file.

    Attributes:
        file: its name, by which configs ask for it.
        url: where its publisher keeps it.
        parameters: how many numbers it holds, about.
        width: bytes of each.
        licence: of the weights.
        sha256: of the file, or what it begins with, checked where the publisher gives one; empty
            otherwise.
        model: fields of the ``model`` section that the file itself does not say.
    """

    file: str
    url: str
    parameters: int
    width: int
    licence: str
    sha256: str = ""
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def size(self) -> int:
        """Expected size in bytes, without the container's own few per cent."""
        return self.parameters * self.width


def edm2(file: str) -> Published:
    """Return the entry of an EDM2 snapshot, ``edm2-img512-s-2147483-0.130.pkl``.

    Raises:
        ValueError: not a name of that form.
    """
    parts = file.removesuffix(".pkl").split("-")
    if len(parts) < 5 or parts[0] != "edm2" or parts[2] not in EDM2_PARAMETERS:
        raise ValueError(f"{file!r} is not named like an EDM2 snapshot")
    return Published(file, f"{EDM2_ROOT}/{file}", EDM2_PARAMETERS[parts[2]], 2, NVIDIA)


def _edm(file: str, parameters: int) -> Published:
    return Published(file, f"{EDM_ROOT}/{file}", parameters, 4, NVIDIA)


def _dit(file: str, parameters: int) -> Published:
    heads = {"name": "dit", "heads": 16, "preconditioner": "discrete"}
    return Published(file, f"{DIT_ROOT}/{file}", parameters, 4, META, model=heads)


def _inception(file: str, root: str) -> Published:
    # What stands at the end of the name is what the digest begins with.
    return Published(file, f"{root}/{file}", 23_885_392, 4, APACHE, sha256="6726825d")


def _dinov2(name: str, parameters: int) -> Published:
    folder, file = name.removesuffix("_reg4"), f"{name}_pretrain.pth"
    return Published(file, f"{DINOV2_ROOT}/{folder}/{file}", parameters, 4, APACHE)


OTHERS = {
    one.file: one
    for one in (
        _edm("edm-cifar10-32x32-cond-vp.pkl", 55_735_299),
        _edm("edm-cifar10-32x32-cond-ve.pkl", 56_400_643),
        _edm("edm-cifar10-32x32-uncond-vp.pkl", 55_733_891),
        _edm("edm-cifar10-32x32-uncond-ve.pkl", 56_397_827),
        _edm("edm-ffhq-64x64-uncond-vp.pkl", 61_805_571),
        _edm("edm-ffhq-64x64-uncond-ve.pkl", 62_761_091),
        _edm("edm-afhqv2-64x64-uncond-vp.pkl", 61_805_571),
        _edm("edm-afhqv2-64x64-uncond-ve.pkl", 62_761_091),
        _edm("edm-imagenet-64x64-cond-adm.pkl", 295_899_267),
        Published(
            "sd-vae-ft-mse.safetensors",
            f"{VAE_ROOT}/diffusion_pytorch_model.safetensors",
            83_653_863,
            4,
            "MIT",
            model={"name": "sd_vae"},
        ),
        _dit("DiT-XL-2-256x256.pt", 675_129_632),
        _dit("DiT-XL-2-512x512.pt", 676_014_368),
        _inception("pt_inception-2015-12-05-6726825d.pth", FID_ROOT),
        _inception("weights-inception-2015-12-05-6726825d.pth", FIDELITY_ROOT),
        _dinov2("dinov2_vitb14", 86_580_480),
        _dinov2("dinov2_vitl14", 304_368_640),
        _dinov2("dinov2_vitb14_reg4", 86_583_552),
        _dinov2("dinov2_vitl14_reg4", 304_372_736),
        # With the tower of texts, which is not read.
        Published(
            "clip-vit-base-patch32.bin", f"{CLIP_ROOT}/pytorch_model.bin", 151_277_313, 4, "MIT"
        ),
    )
}


def lookup(file: str) -> Published | None:
    """Return the entry of a published file by its name; None where it is of nobody known here."""
    name = Path(file).name
    if name in OTHERS:
        return OTHERS[name]
    try:
        return edm2(name)
    except ValueError:
        return None


def folder() -> Path:
    """Return where published files are: $GUIDESTAR_WEIGHTS, else weights/ of the cache folder."""
    chosen = os.environ.get("GUIDESTAR_WEIGHTS")
    return home(chosen) if chosen else cache_folder() / "weights"


def find(file: str) -> Path | None:
    """Return a published file on disk, by its name; None where it is of nobody known here.

    Raises:
        UserError: known, and not on disk: with its address, size, licence and where to put it; or
            of another checksum than the publisher's.
    """
    entry = lookup(file)
    if entry is None or Path(file).name != str(file):
        return None
    path = folder() / entry.file
    if not os.path.isfile(path):
        known = f"sha256 {entry.sha256}" if entry.sha256 else "no sha256 is published"
        raise UserError(
            f"{entry.file} is not in {folder()}: download it from {entry.url} (about "
            f"{entry.size / 1e9:.2f} GB, {known}, licence {entry.licence}) and put it there, or "
            f"set GUIDESTAR_WEIGHTS to the folder that holds it"
        )
    if entry.sha256 and not (found := sha256(path)).startswith(entry.sha256):
        raise UserError(
            f"{path} has sha256 {found} and its publisher gives {entry.sha256}: download it again "
            f"from {entry.url}"
        )
    return path
