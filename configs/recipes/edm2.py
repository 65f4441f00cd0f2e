"""EDM2 on ImageNet: magnitude-preserving UNet, learned weights of noise levels, two averages.

    python main.py --config=configs/recipes/edm2.py:size=img512-s --config.data.name=LATENTS \
        --workdir=out/edm2-s
    python main.py --config=configs/recipes/edm2.py:size=img512-s --workdir=out/edm2-s \
        --mode=ema --config.ema.reconstruct=0.13

LATENTS is what --mode=encode made of ImageNet at 512x512 with encoding.scaling=edm2; img64 sizes
take --mode=prepare's folder of 64x64 pixels. ``uncond`` leaves the classes out, for a guide;
``runlocal`` is the recipe on 8x8 digits, 3 minutes on 2 CPU cores.

Batch 2048 in 8 micro-batches; Adam with betas 0.9 and 0.99; learning rate alpha_ref after 10 M
images, inverse square root from t_ref batches on (arXiv 2312.02696, appendix B). Published for
img512 (FID unguided, width of the average, millions of images): XS 3.53 (0.135, 2147), S 2.56
(0.130, 2147), M 2.25 (0.100, 2147), L 2.06 (0.085, 1879), XL 1.96 (0.085, 1342), XXL 1.91 (0.070,
940); the publishers advise 32 or more A100. Compute type is float16, which the paper found better
than bfloat16; on TPUs --config.model.dtype=bfloat16. Not yet trained here in full.
"""

from ml_collections import ConfigDict

from guidestar.configs import common
from guidestar.configs.recipes.arguments import parse, shrink

BATCH, MEBI = 2048, 2**20
# size -> learning rate, millions (2^20) of images.
IMG512 = {
    "xxs": (0.0170, 2048),
    "xs": (0.0120, 2048),
    "s": (0.0100, 2048),
    "m": (0.0090, 2048),
    "l": (0.0080, 1792),
    "xl": (0.0070, 1280),
    "xxl": (0.0065, 896),
}
IMG64 = {
    "xs": (0.0120, 1024),
    "s": (0.0100, 1024),
    "m": (0.0090, 2048),
    "l": (0.0080, 1024),
    "xl": (0.0070, 640),
}
# data -> sizes, mean and std of ln(sigma), t_ref in batches.
DATA = {"img512": (IMG512, -0.4, 1.0, 70_000), "img64": (IMG64, -0.8, 1.6, 35_000)}
SIZES = ("img512-s", *(f"{data}-{size}" for data, (sizes, *_) in DATA.items() for size in sizes))


def get_config(arg: str = ""):
    """Return the config of a size.

    Raises:
        UserError: an argument that is none.
    """
    chosen = parse(
        "configs/recipes/edm2.py", arg, size=tuple(dict.fromkeys(SIZES)), uncond=False,
        runlocal=False,
    )  # fmt: skip
    data, _, size = chosen.size.partition("-")
    sizes, mean, std, decay = DATA[data]
    rate, mebi = sizes[size]
    config = common.base()
    config.name = f"edm2_{chosen.size}" + ("_uncond" if chosen.uncond else "")
    config.model = ConfigDict(
        dict(
            name="edm2_unet",
            size=f"{data}-{size.upper()}",
            num_classes=0 if chosen.uncond else 1000,
            dtype="float16",
        )
    )
    config.training.update(
        steps=mebi * MEBI // BATCH, batch_size=BATCH, accumulate=8, label_dropout=0.0
    )
    config.training.loss = common.part("uncertainty")
    config.training.noise = common.part("log_normal", mean=mean, std=std)
    config.optimizer.update(
        learning_rate=rate,
        schedule="inverse_sqrt",
        warmup_steps=0,
        warmup_images=10_000_000,
        decay_images=decay * BATCH,
        b1=0.9,
        b2=0.99,
        clip_norm=0.0,
        nonfinite="zero",
    )
    config.ema.update(profile="power", std=0.10, tracked=(0.05, 0.10), snapshot_images=8 * MEBI)
    config.checkpoint.every_steps = 2048
    config.log.preview_every_steps = 0 if data == "img512" else 4096
    if data == "img512":
        common.latents(config, "edm2")
    if chosen.runlocal:
        shrink(
            config,
            name="edm2_unet",
            num_classes=0 if chosen.uncond else 10,
            model_channels=16,
            channel_mult=(1, 2),
            num_blocks=1,
            attn_resolutions=(4,),
            channels_per_head=16,
            sigma_data=0.75,
        )
    return config
