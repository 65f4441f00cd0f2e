"""LightningDiT on ImageNet: velocity and its direction, logit-normal times, latents of 16x16x32.

    python main.py --config=configs/recipes/lightning_dit.py --config.data.name=LATENTS \
        --workdir=out/lightning

LATENTS is a folder of 16x16x32 latents standardised channel by channel (the published ones are of
VA-VAE, which this project does not have).

AdamW at 2e-4 with betas 0.9 and 0.95, batch 1024, 80 k steps for 64 epochs (``epochs=800`` for the
long run). Published for XL/1, 250 Euler steps with shift 0.3, guided but in the noisiest 11 % of
the way: FID-50K 2.11 after 64 epochs, 1.35 after 800 (arXiv 2501.01423); 5.2 steps/s on 32 GPUs,
loss 0.3045 at 80 k steps. Not yet trained here. ``runlocal`` is the recipe on 8x8 digits.
"""

from ml_collections import ConfigDict

from guidestar.configs import common
from guidestar.configs.recipes.arguments import parse, shrink
from guidestar.configs.recipes.dit import TINY, train_as_dit

STEPS = {64: 80_000, 800: 1_000_000}


def get_config(arg: str = ""):
    """Return the config of a length.

    Raises:
        UserError: an argument that is none.
    """
    chosen = parse("configs/recipes/lightning_dit.py", arg, epochs=tuple(STEPS), runlocal=False)
    config = common.base()
    config.name = f"lightning_dit_xl1_{chosen.epochs}"
    config.model = ConfigDict(
        dict(name="lightning_dit", size="XL/1", scan_layers=True, dtype="bfloat16")
    )
    train_as_dit(config, STEPS[chosen.epochs])
    config.training.batch_size = 1024
    config.training.loss = common.part("flow_matching", cosine=1.0)
    config.training.noise = common.part("logit_normal")
    config.optimizer.update(learning_rate=2e-4, b2=0.95)
    if chosen.runlocal:
        flow = dict(name="flow", time_scale=1000.0)
        shrink(config, **TINY, name="lightning_dit", preconditioner=flow)
    return config
