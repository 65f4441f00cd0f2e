"""SiT on ImageNet: DiT's network trained for the velocity of a path from data to noise.

    python main.py --config=configs/recipes/sit.py:size=XL/2 --config.data.name=LATENTS \
        --workdir=out/sit

LATENTS as in configs/recipes/dit.py, and the same optimiser, batch and average. ``path`` is
linear, gvp or vp; ``time`` is uniform as published or logit_normal (arXiv 2403.03206).

Published for XL/2 at 256x256 after 7 M steps, linear path, guidance 1.5, 250 steps of its SDE:
FID-50K 2.06; at 512x512 2.62 (arXiv 2401.08740). Not yet trained here in full. ``runlocal`` is the
recipe on 8x8 digits, 2 minutes on 2 CPU cores.
"""

from ml_collections import ConfigDict

from guidestar.configs import common
from guidestar.configs.recipes.arguments import parse, shrink
from guidestar.configs.recipes.dit import SIZES, STEPS, TINY, train_as_dit


def get_config(arg: str = ""):
    """Return the config of a size and path.

    Raises:
        UserError: an argument that is none.
    """
    chosen = parse(
        "configs/recipes/sit.py",
        arg,
        size=SIZES,
        image=(256, 512),
        path=("linear", "gvp", "vp"),
        time=("uniform", "logit_normal"),
        runlocal=False,
    )
    config = common.base()
    config.name = f"sit_{chosen.size.replace('/', '').lower()}_{chosen.image}_{chosen.path}"
    flow = dict(name="flow", path=chosen.path)
    config.model = ConfigDict(
        dict(name="sit", size=chosen.size, image_size=chosen.image // 8, preconditioner=flow)
        | dict(scan_layers=True, dtype="bfloat16")
    )
    train_as_dit(config, STEPS[chosen.image])
    config.training.loss = common.part("flow_matching")
    uniform = common.part("flow_times", path=chosen.path)
    config.training.noise = uniform if chosen.time == "uniform" else common.part("logit_normal")
    common.latents(config, "dit")
    if chosen.runlocal:
        # Digits take a network that sees small times, in hundreds as a DiT's steps.
        shrink(config, **TINY, name="sit", preconditioner=flow | dict(time_scale=1000.0))
    return config
