"""EDM2 on ImageNet: every published row of its guidance tables.

    python main.py --config=configs/published/edm2.py:img512-s-cfg-fid --workdir=out/edm2 \
        --mode=sample

makes the 50 000 images of a row (arXiv 2312.02696, tables 2 and 4; autoguidance: arXiv 2406.02507,
table 1; intervals: arXiv 2404.07724, table 1): 32 Heun steps, 63 evaluations of each network.
`python main.py --config=configs/published/edm2.py --workdir=out --mode=sample` without a row names
them all. Labels run through the classes in turn, where the paper drew them at random; the figure
is the Frechet distance in Inception-v3's or DINOv2's features to the whole training set.

Weights: https://nvlabs-fi-cdn.nvidia.com/edm2/posthoc-reconstructions, CC BY-NC-SA 4.0. They are
looked for in $GUIDESTAR_WEIGHTS (default ~/.cache/guidestar/weights); a missing one is named with
its address and size. Latents of ImageNet-512 are decoded by the Stable Diffusion autoencoder.
"""

from ml_collections import ConfigDict

from guidestar import guidance
from guidestar.configs import common
from guidestar.core.errors import UserError

DECODER = "sd-vae-ft-mse.safetensors"
XS_UNCOND = "edm2-img512-xs-uncond-2147483-{}.pkl"
S, XXL = "edm2-img512-s-2147483-{}.pkl", "edm2-img512-xxl-0939524-{}.pkl"
M, L = "edm2-img512-m-2147483-{}.pkl", "edm2-img512-l-1879048-{}.pkl"
XS, XL = "edm2-img512-xs-2147483-{}.pkl", "edm2-img512-xl-1342177-{}.pkl"
XS_EARLY, M_EARLY = "edm2-img512-xs-0134217-{}.pkl", "edm2-img512-m-0268435-{}.pkl"
S_UNCOND = "edm2-img512-s-uncond-2147483-{}.pkl"
XS_UNCOND_EARLY = "edm2-img512-xs-uncond-0134217-{}.pkl"
S_64, XS_64_EARLY = "edm2-img64-s-1073741-{}.pkl", "edm2-img64-xs-0134217-{}.pkl"
M_64, L_64 = "edm2-img64-m-2147483-{}.pkl", "edm2-img64-l-1073741-{}.pkl"
XL_64 = "edm2-img64-xl-0671088-{}.pkl"

# row -> main network, its average's width, published figure.
UNGUIDED = {
    "img512-xs-fid": (XS, "0.135", 3.53),
    "img512-s-fid": (S, "0.130", 2.56),
    "img512-m-fid": (M, "0.100", 2.25),
    "img512-l-fid": (L, "0.085", 2.06),
    "img512-xl-fid": (XL, "0.085", 1.96),
    "img512-xxl-fid": (XXL, "0.070", 1.91),
    "img512-xs-dino": (XS, "0.200", 103.39),
    "img512-s-dino": (S, "0.190", 68.64),
    "img512-m-dino": (M, "0.155", 58.44),
    "img512-l-dino": (L, "0.155", 52.25),
    "img512-xl-dino": (XL, "0.155", 45.96),
    "img512-xxl-dino": (XXL, "0.150", 42.84),
    "img64-s-fid": (S_64, "0.075", 1.58),
    "img64-m-fid": (M_64, "0.060", 1.43),
    "img64-l-fid": (L_64, "0.040", 1.33),
    "img64-xl-fid": (XL_64, "0.040", 1.33),
}
# row (with "edm2-" before it, a preset of `guidance.presets`) -> main network, guide.
GUIDED = {
    "img512-xs-cfg-fid": (XS, "0.045", XS_UNCOND, "0.045"),
    "img512-s-cfg-fid": (S, "0.025", XS_UNCOND, "0.025"),
    "img512-m-cfg-fid": (M, "0.030", XS_UNCOND, "0.030"),
    "img512-l-cfg-fid": (L, "0.015", XS_UNCOND, "0.015"),
    "img512-xl-cfg-fid": (XL, "0.020", XS_UNCOND, "0.020"),
    "img512-xxl-cfg-fid": (XXL, "0.015", XS_UNCOND, "0.015"),
    "img512-xs-cfg-dino": (XS, "0.150", XS_UNCOND, "0.150"),
    "img512-s-cfg-dino": (S, "0.085", XS_UNCOND, "0.085"),
    "img512-m-cfg-dino": (M, "0.015", XS_UNCOND, "0.015"),
    "img512-l-cfg-dino": (L, "0.035", XS_UNCOND, "0.035"),
    "img512-xl-cfg-dino": (XL, "0.030", XS_UNCOND, "0.030"),
    "img512-xxl-cfg-dino": (XXL, "0.015", XS_UNCOND, "0.015"),
    "img512-s-autog-fid": (S, "0.070", XS_EARLY, "0.125"),
    "img512-s-autog-dino": (S, "0.120", XS_EARLY, "0.165"),
    "img512-xxl-autog-fid": (XXL, "0.075", M_EARLY, "0.155"),
    "img512-xxl-autog-dino": (XXL, "0.130", M_EARLY, "0.205"),
    "img512-s-uncond-autog-fid": (S_UNCOND, "0.070", XS_UNCOND_EARLY, "0.110"),
    "img512-s-uncond-autog-dino": (S_UNCOND, "0.090", XS_UNCOND_EARLY, "0.125"),
    "img64-s-autog-fid": (S_64, "0.045", XS_64_EARLY, "0.110"),
    "img64-s-autog-dino": (S_64, "0.105", XS_64_EARLY, "0.175"),
    # The interval's paper does not give its averages: those of plain CFG.
    "img512-s-interval-fid": (S, "0.025", XS_UNCOND, "0.025"),
    "img512-s-interval-dino": (S, "0.085", XS_UNCOND, "0.085"),
    "img512-xxl-interval-fid": (XXL, "0.015", XS_UNCOND, "0.015"),
    "img512-xxl-interval-dino": (XXL, "0.015", XS_UNCOND, "0.015"),
}


def get_config(row: str = ""):
    """Return the config of a row.

    Raises:
        UserError: no such row; names them all.
    """
    config = common.base()
    config.name = f"edm2-{row}"
    if row in UNGUIDED:
        main, width, figure = UNGUIDED[row]
        config.guidance = ConfigDict(dict(name="unguided"))
    elif row in GUIDED:
        main, width, guide, guide_width = GUIDED[row]
        preset = guidance.presets.get(f"edm2-{row}")
        config.guidance = ConfigDict(guidance.to_config(preset.rule))
        config.sampling.weights.guide = guide.format(guide_width)
        figure = preset.value
    else:
        raise UserError(
            f"configs/published/edm2.py has no row {row!r}: write one after a colon, of "
            f"{', '.join([*UNGUIDED, *GUIDED])}"
        )
    config.sampling.weights.main = main.format(width)
    config.sampling.count = 50_000
    metric = "FID" if row.endswith("fid") else "FD_DINOv2"
    config.published = ConfigDict(dict(figure=figure, metric=metric))
    if "img512" in row:
        config.sampling.update(decoder=DECODER, scaling="edm2")
    return config
