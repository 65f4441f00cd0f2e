"""Few-step students of the shipped Fashion-MNIST denoiser, one method each.

    python main.py --config=configs/recipes/few_step.py:method=guided_distillation \
        --config.data.dir=DIR --workdir=out/student
    python main.py --config=configs/recipes/few_step.py:method=guided_distillation \
        --workdir=out/student --mode=sample

Methods: ``guided_distillation`` (guidance in one evaluation, at any scale from 1 to 5),
``progressive`` (16 steps halved to one), ``consistency_distillation`` (the guided teacher's
trajectories, at any scale), ``consistency_training`` and ``ict`` (data alone), ``ect`` (the
shipped denoiser tuned), ``scm`` (a consistency function in continuous time), ``mean_flow``,
``shortcut`` and ``ctm`` (flow maps, any number of jumps); these four of the guided teacher, at any
scale, and of the network that was trained on images as they are. docs/few_steps.md says what each
becomes. Numbers are the papers' where they do not depend on the size of a run; lengths are a
laptop's. ``runlocal`` is the recipe on 8x8 digits from the shipped network of theirs.
"""

from guidestar.configs import common, digits, fashion_mnist_dit, fashion_mnist_dit_unmirrored
from guidestar.configs.recipes.arguments import parse

METHODS = (
    "guided_distillation",
    "progressive",
    "consistency_distillation",
    "consistency_training",
    "ict",
    "ect",
    "scm",
    "mean_flow",
    "shortcut",
    "ctm",
)
FLOW_MAPS = ("mean_flow", "shortcut", "ctm")
# Those that learn from the shipped denoiser under guidance, with the scale an input.
GUIDED = ("guided_distillation", "consistency_distillation", "scm", *FLOW_MAPS)
# Levels of two jumps, and of four steps that are equal in flow time, as a shortcut takes them.
TWO = (80.0, 0.821, 0.0)
FOUR = (80.0, *(n * 80 / (4 * 81 - n * 80) for n in (3, 2, 1)), 0.0)
SCALES = (1.0, 5.0)
STEPS = 2000


def get_config(arg: str = ""):
    """Return the config of a method.

    Raises:
        UserError: an argument that is none.
    """
    chosen = parse("configs/recipes/few_step.py", arg, method=METHODS, runlocal=False)
    base = fashion_mnist_dit
    if chosen.method in ("scm", *FLOW_MAPS):
        base = fashion_mnist_dit_unmirrored
    if chosen.runlocal:
        base = digits
    config = base.get_config()
    teacher = config.sampling.weights.main
    steps = 400 if chosen.runlocal else STEPS
    config.name = f"few_step_{chosen.method}" + "_local" * chosen.runlocal
    config.training.update(steps=steps, batch_size=32)
    config.training.init_from.weights = teacher
    config.optimizer.update(learning_rate=2e-4, schedule="constant", warmup_steps=50)
    config.ema.images = 5_000
    weighting = common.part("truncated_snr")
    if chosen.method in GUIDED:
        config.model.inputs = dict(scale=SCALES)
        config.roles.teacher = dict(init_from=teacher)
    if chosen.method == "guided_distillation":
        # The student's own input in the place of the rule, which has two evaluations.
        config.guidance = dict(name="unguided")
        config.sampling.inputs = dict(scale=3.0)
        config.training.loss = common.part(chosen.method, rule=dict(name="cfg"))
        config.training.weighting = weighting
        return config
    if chosen.method == "progressive":
        config.training.loss = common.part(
            chosen.method, start=16, updates=steps // 4, grid="karras"
        )
        config.training.weighting = weighting
        # The last stage is what is sampled from: a long average would mix stages.
        config.ema.images = 500
        config.guidance = dict(name="unguided")
        config.sampler.solver = dict(name="euler")
        config.sampler.schedule = dict(name="explicit", sigmas=(80.0, 0.0))
        return config
    config.training.label_dropout = 0.0
    config.guidance = dict(name="unguided")
    rule = dict(name="cfg")
    losses = {
        "consistency_distillation": dict(nodes=18, rule=rule, distance="pseudo_huber"),
        "consistency_training": dict(steps=steps),
        "ict": dict(steps=steps),
        "ect": dict(every=steps // 8),
        "scm": dict(rule=rule, warm_up=steps // 4, normalise="rms"),
        "mean_flow": dict(rule=rule, equal=0.5),
        "shortcut": dict(rule=rule),
        # Published walks have up to 17 steps; a laptop's are shorter.
        "ctm": dict(nodes=18, longest=4, rule=rule, target_decay=0.95),
    }
    levels = {"ect": (-1.1, 2.0), "scm": (-1.0, 1.4), "mean_flow": (-0.4, 1.0)}
    config.training.loss = common.part(chosen.method, **losses[chosen.method])
    mean, std = levels.get(chosen.method, (-1.2, 1.2))
    config.training.noise = common.part("log_normal", mean=mean, std=std)
    solver: dict = dict(name="ctm" if chosen.method in FLOW_MAPS else "consistency")
    made: dict = dict(name="consistency", sigma_min=0.002)
    if chosen.method == "scm":
        made = dict(name="trigflow", network="edm")
    if chosen.method in FLOW_MAPS:
        # Shortcuts tell their shortest steps, 1/128 of the way, apart.
        made = dict(name="flow_map", network="edm")
        made["interval_scale"] = 1000.0 if chosen.method == "shortcut" else 10.0
    config.model.preconditioner = made
    if chosen.method in GUIDED:
        solver["scale"] = 3.0
    config.sampler.solver = solver
    sigmas = FOUR if chosen.method == "shortcut" else TWO
    config.sampler.schedule = dict(name="explicit", sigmas=sigmas)
    return config
