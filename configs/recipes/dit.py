"""DiT on ImageNet: noise prediction on a table of 1000 steps with a learned variance.

    python main.py --config=configs/recipes/dit.py:size=XL/2 --config.data.name=LATENTS \
        --workdir=out/dit

LATENTS is what --mode=encode made of ImageNet at 256x256 (``image=512`` for the larger ones) with
encoding.scaling=dit and encoding.mirror=True, DiT's only augmentation.

AdamW at 1e-4 without warm-up or decay, batch 256, one average with decay 0.9999 from the first
step (arXiv 2212.09748, section 4). Published for XL/2, 250 ancestral steps, FID-50K: 256x256 after
7 M steps 2.27 at guidance 1.5; 512x512 after 3 M steps 3.04; without guidance after 400 k steps
19.5. A PyTorch port makes 0.84 steps/s on an A100. Not yet trained here in full.

Variants of what is minimised: ``weighting=min_snr`` (arXiv 2303.09556) or ``p2`` (2204.00227) on
the noise's error; ``objective=clusters``, ANT's, four clusters of steps weighed by
uncertainty (2306.00354); ``objective=curriculum``, high noise first (2403.10348); ``perturb``,
noise on the condition's embedding (2405.20494; published for XL/2 at guidance 1.75: FID 6.76 to
5.51). ``runlocal`` is the recipe on 8x8 digits, 2 minutes on 2 CPU cores.
"""

from ml_collections import ConfigDict

from guidestar.configs import common
from guidestar.configs.recipes.arguments import parse, shrink

SIZES = tuple(f"{size}/{patch}" for size in ("XL", "L", "B", "S") for patch in (2, 4, 8))
STEPS = {256: 7_000_000, 512: 3_000_000}


def get_config(arg: str = ""):
    """Return the config of a size and variant.

    Raises:
        UserError: an argument that is none.
    """
    chosen = parse(
        "configs/recipes/dit.py",
        arg,
        size=SIZES,
        image=(256, 512),
        weighting=("uniform", "min_snr", "p2"),
        objective=("mean", "clusters", "curriculum"),
        perturb=False,
        runlocal=False,
    )
    config = common.base()
    config.name = f"dit_{chosen.size.replace('/', '').lower()}_{chosen.image}"
    config.model = ConfigDict(
        dict(name="dit", size=chosen.size, image_size=chosen.image // 8, learn_variance=True)
        | dict(preconditioner="discrete", scan_layers=True, dtype="bfloat16")
    )
    train_as_dit(config, STEPS[chosen.image])
    config.training.loss = common.part("hybrid")
    config.training.noise = common.part("discrete")
    if chosen.weighting != "uniform":
        config.training.weighting = common.part(chosen.weighting)
    if chosen.objective == "clusters":
        config.training.objective = common.part("clusters", count=4, cost="timestep")
    if chosen.objective == "curriculum":
        config.training.objective = common.part("curriculum", parts=20, patience=200)
    if chosen.perturb:
        config.training.perturbation = common.part("cep", kind="uniform", gamma=1.0)
    common.latents(config, "dit")
    if chosen.runlocal:
        shrink(
            config,
            **TINY,
            name="dit",
            learn_variance=True,
            preconditioner="discrete",
        )
        config.training.objective.update(
            {"patience": 20} if chosen.objective == "curriculum" else {}
        )
    return config


# A transformer for 8x8 digits.
TINY = dict(patch_size=2, width=64, depth=2, heads=2)


def train_as_dit(config: ConfigDict, steps: int) -> None:
    """Set the optimiser, the batch and the average that DiT and SiT share."""
    config.training.update(steps=steps, batch_size=256, label_dropout=0.1)
    config.optimizer.update(
        learning_rate=1e-4, warmup_steps=0, b1=0.9, b2=0.999, weight_decay=0.0, clip_norm=0.0
    )
    config.ema.update(profile="constant", decay=0.9999)
    config.checkpoint.every_steps = 5000
    config.log.update(every_steps=100, preview_every_steps=0)
