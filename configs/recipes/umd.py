"""UMD on ImageNet's latents: a masked autoencoder and a diffusion model in one network.

    python main.py --config=configs/recipes/umd.py --config.data.name=LATENTS --workdir=out/umd

LATENTS as in configs/recipes/dit.py. Half of each batch has no noise and 75 % of its tokens hidden,
half has noise and 37.5 % hidden; without classes, as published, or with them (``classes``).

AdamW at 6e-4 (1.5e-4 for each 256 images), betas 0.9 and 0.95, weight decay 0.05, batch 1024,
gradients clipped at 1, warm-up over 5 % and a cosine to 0, 800 epochs (arXiv 2406.17688). Published
for L/2, after 50 more epochs with classes and without a mask: FID 3.96 (DiT 4.31). Not yet trained
here. ``runlocal`` is the recipe on 8x8 digits, 2 minutes on 2 CPU cores.
"""

from ml_collections import ConfigDict

from guidestar.configs import common
from guidestar.configs.recipes.arguments import parse, shrink

BATCH, EPOCHS, IMAGES = 1024, 800, 1_281_167


def get_config(arg: str = ""):
    """Return the config, without or with classes.

    Raises:
        UserError: an argument that is none.
    """
    chosen = parse("configs/recipes/umd.py", arg, classes=False, runlocal=False)
    steps = EPOCHS * IMAGES // BATCH
    config = common.base()
    config.name = "umd_l2" + ("_classes" if chosen.classes else "")
    config.model = ConfigDict(
        dict(name="umd", size="L/2", num_classes=1000 if chosen.classes else 0)
        | dict(scan_layers=True, dtype="bfloat16")
    )
    config.training.update(
        steps=steps, batch_size=BATCH, label_dropout=0.1 if chosen.classes else 0.0
    )
    config.training.loss = common.part("masked", clean_share=0.5, clean_mask=0.75, mask=0.375)
    config.training.noise = common.part("discrete")
    config.optimizer.update(
        learning_rate=1.5e-4 * BATCH / 256,
        schedule="cosine",
        warmup_steps=steps // 20,
        decay_steps=steps,
        b2=0.95,
        weight_decay=0.05,
        clip_norm=1.0,
    )
    # Four times as fast for a batch four times as large.
    config.ema.update(profile="constant", decay=1 - 0.0001 * BATCH / 256)
    config.checkpoint.every_steps = 5000
    config.log.update(every_steps=100, preview_every_steps=0)
    common.latents(config, "dit")
    if chosen.runlocal:
        tiny = dict(patch_size=2, width=64, depth=2, decoder_depth=1, heads=2)
        shrink(config, **tiny, name="umd", num_classes=10 if chosen.classes else 0)
    return config
