"""One-step generators whose law is that of the shipped Fashion-MNIST denoiser, a method each.

    python main.py --config=configs/recipes/matching.py:method=dmd --config.data.dir=DIR \
        --workdir=out/generator
    python main.py --config=configs/recipes/matching.py:method=dmd --workdir=out/generator \
        --mode=sample

Methods: ``dmd`` (DMD2's: five updates of the fake denoiser for one of the generator),
``diff_instruct``, ``sid`` and ``sim``; ``dmd,adversarial`` has a discriminator too. Teacher,
generator and fake denoiser begin as the shipped network, the teacher under CFG at scale 2;
docs/few_steps.md says which law that is. The data say which labels are asked for, and are seen by
a discriminator alone. Numbers are the papers' where they do not depend on the size of a run;
lengths are a laptop's. ``runlocal`` is the recipe on 8x8 digits from the shipped network of theirs.
"""

from guidestar.configs import common, digits, fashion_mnist_dit_unmirrored
from guidestar.configs.recipes.arguments import parse
from guidestar.core.errors import UserError

# The generator's noise level, and updates of the fake denoiser for one of it.
METHODS = {"dmd": (80.0, 5), "diff_instruct": (2.5, 1), "sid": (2.5, 1), "sim": (2.5, 1)}


def get_config(arg: str = ""):
    """Return the config of a method.

    Raises:
        UserError: an argument that is none, or an adversary where there is no term for one.
    """
    chosen = parse(
        "configs/recipes/matching.py",
        arg,
        method=tuple(METHODS),
        adversarial=False,
        runlocal=False,
    )
    if chosen.adversarial and chosen.method != "dmd":
        raise UserError(
            f"configs/recipes/matching.py: {chosen.method} has no adversarial term, and dmd has: "
            f"write method=dmd,adversarial"
        )
    base = digits if chosen.runlocal else fashion_mnist_dit_unmirrored
    config = base.get_config()
    teacher = config.sampling.weights.main
    sigma, ratio = METHODS[chosen.method]
    config.name = f"matching_{chosen.method}" + "_local" * chosen.runlocal
    config.model.preconditioner = dict(name="consistency", sigma_min=0.0)
    config.training.update(steps=300 if chosen.runlocal else 1000, batch_size=32, label_dropout=0.0)
    config.training.init_from.weights = teacher
    config.roles = dict(
        teacher=dict(init_from=teacher),
        fake=dict(init_from=teacher, frozen=False, optimizer=dict(learning_rate=1e-4)),
    )
    turns = {} if chosen.method == "diff_instruct" else dict(ratio=ratio)
    config.training.loss = common.part(
        chosen.method, rule=dict(name="cfg", scale=2.0), sigma=sigma, **turns
    )
    if chosen.adversarial:
        images = {key: config.model[key] for key in ("image_size", "channels")}
        judge = dict(name="unet_discriminator", widths=(16, 32), **images)
        config.roles.discriminator = dict(
            model=judge, frozen=False, optimizer=dict(learning_rate=2e-4)
        )
        config.training.loss.adversarial = 3e-3
    # What the fake denoiser learns from: DMD2's levels, and EDM's.
    config.training.noise = (
        common.part("karras_times", low=0.0, high=1.0)
        if chosen.method == "dmd"
        else common.part("log_normal", mean=-1.2, std=1.2)
    )
    config.optimizer.update(
        learning_rate=5e-5, schedule="constant", warmup_steps=20, b1=0.0, b2=0.999
    )
    config.ema.images = 5_000
    config.guidance = dict(name="unguided")
    config.sampler.solver = dict(name="consistency")
    config.sampler.schedule = dict(name="explicit", sigmas=(sigma, 0.0))
    return config
