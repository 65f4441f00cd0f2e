"""The shipped Fashion-MNIST denoiser, tuned to be guided without a second evaluation.

    python main.py --config=configs/recipes/guidance_free.py:method=gft --config.data.dir=DIR \
        --workdir=out/free
    python main.py --config=configs/recipes/guidance_free.py:method=gft --workdir=out/free \
        --mode=sample

Methods: ``gft`` (any scale up to 5, its inverse an input of the network), ``model_guidance`` (at
scale 2) and ``cca`` (at scale 2, from labels that are right and wrong). None has a guided teacher;
docs/few_steps.md says what each becomes. ``runlocal`` is the recipe on 8x8 digits from the shipped
network of theirs.
"""

from guidestar.configs import common, digits, fashion_mnist_dit_unmirrored
from guidestar.configs.recipes.arguments import parse

METHODS = ("gft", "model_guidance", "cca")


def get_config(arg: str = ""):
    """Return the config of a method.

    Raises:
        UserError: an argument that is none.
    """
    chosen = parse("configs/recipes/guidance_free.py", arg, method=METHODS, runlocal=False)
    base = digits if chosen.runlocal else fashion_mnist_dit_unmirrored
    config = base.get_config()
    weights = config.sampling.weights.main
    config.name = f"guidance_free_{chosen.method}" + "_local" * chosen.runlocal
    config.training.update(steps=400 if chosen.runlocal else 2000, batch_size=32, label_dropout=0.1)
    config.training.init_from.weights = weights
    config.optimizer.update(learning_rate=2e-4, schedule="constant", warmup_steps=50)
    config.ema.images = 5_000
    config.training.loss = common.part(chosen.method)
    if chosen.method == "gft":
        config.model.inputs = dict(beta=(0.2, 1.0))
        config.sampling.inputs = dict(beta=1 / 3)
    elif chosen.method == "model_guidance":
        config.training.loss.update(scale=2.0, target_decay=0.99)
    else:
        config.training.loss.update(beta=1.0)
        config.training.label_dropout = 0.0
        config.roles.teacher = dict(init_from=weights)
    # The network's own guidance in the place of a rule's.
    config.guidance = dict(name="unguided")
    return config
