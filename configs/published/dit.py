"""DiT-XL/2 on ImageNet: the published rows of its guidance table.

    python main.py --config=configs/published/dit.py:img256-cfg-fid --workdir=out/dit --mode=sample

makes the 50 000 images of a row (arXiv 2212.09748, tables 2 and 3): 250 ancestral steps of the
discrete process, whose variance is the network's own in the paper and the lower bound ("small")
here. Rows: img256-fid (published 9.62), img256-cfg-fid (2.27), img512-cfg-fid (3.04); the official
code guides three of the four channels, and so do these. Labels run through the classes in turn.

Weights: https://dl.fbaipublicfiles.com/DiT/models, CC BY-NC 4.0, looked for in $GUIDESTAR_WEIGHTS
(default ~/.cache/guidestar/weights). Latents are decoded by the Stable Diffusion autoencoder.
"""

from ml_collections import ConfigDict

from guidestar import guidance
from guidestar.configs import common
from guidestar.core.errors import UserError

# row -> weights, preset of `guidance.presets` or None, published FID.
ROWS = {
    "img256-fid": ("DiT-XL-2-256x256.pt", None, 9.62),
    "img256-cfg-fid": ("DiT-XL-2-256x256.pt", "dit-xl2-img256-cfg-fid", 2.27),
    "img256-cfg-all-channels-fid": (
        "DiT-XL-2-256x256.pt",
        "dit-xl2-img256-cfg-all-channels-fid",
        2.23,
    ),
    "img512-cfg-fid": ("DiT-XL-2-512x512.pt", "dit-xl2-img512-cfg-fid", 3.04),
    "img512-interval-fid": ("DiT-XL-2-512x512.pt", "dit-xl2-img512-interval-fid", 2.40),
}


def get_config(row: str = ""):
    """Return the config of a row.

    Raises:
        UserError: no such row; names them all.
    """
    if row not in ROWS:
        raise UserError(
            f"configs/published/dit.py has no row {row!r}: write one after a colon, of "
            f"{', '.join(ROWS)}"
        )
    weights, preset, figure = ROWS[row]
    config = common.base()
    config.name = f"dit-xl2-{row}"
    rule = guidance.presets.get(preset).rule if preset else guidance.unguided()
    config.guidance = ConfigDict(guidance.to_config(rule))
    config.sampler = ConfigDict(
        dict(
            solver=dict(name="ancestral"),
            schedule=dict(name="vp_discrete", steps=250, spacing="uniform"),
        )
    )
    config.sampling.weights.main = weights
    config.sampling.count = 50_000
    config.published = ConfigDict(dict(figure=figure, metric="FID"))
    config.sampling.update(decoder="sd-vae-ft-mse.safetensors", scaling="dit")
    return config
