"""The atlas: every rule once, with its equation, a pair of pictures and what it costs.

make atlas    python main.py --config=configs/atlas.py --workdir=docs --mode=atlas

Pictures that were made from the same settings and weights are left as they are.
"""

from ml_collections import ConfigDict

from guidestar.configs import common, fractal2d
from guidestar.configs.atlas_entries import (
    MEASURED,
    REFERENCES,
    TRANSFORMS,
    UNGUIDED,
    entry,
    rule,
)

# What an entry may set beside its title and rules; equations and advice are those of docstrings.
OPTIONS = dict(
    note="",  # on this picture
    subject="images",  # or "fractal", "both classes" of it, "" for no picture
    classes="all",  # or "none"
    solver="",  # of the rule, by name; empty for the config's own
    base_solver="",  # of what it is compared with
    steps=0,  # of both; 0 for the config's own
    source="",  # where there is no paper on arXiv
    also="",  # what it costs that is no evaluation
    why="",  # it has no picture
)
# Renoised predictions act the more strongly the shorter the steps are.
RENOISED = dict(solver="euler", base_solver="euler", steps=24)

AROUND = (
    entry(
        "Guidance in an interval",
        rule("between", rule=rule("cfg", 4.5), low=0.3, high=10.0),
        rule("cfg", 4.5),
    ),
    entry(
        "Condition-annealed sampling",
        rule("cads", rule=rule("cfg", 4.5), tau1=0.3, tau2=0.8, noise=0.25),
        rule("cfg", 4.5),
    ),
    entry(
        "Rectified gradient guidance",
        rule("reg", rule=rule("cfg", 3.0)),
        rule("cfg", 3.0),
    ),
    entry(
        "History-guided sampling", rule("higs", rule=rule("cfg", 2.0), weight=2.0), rule("cfg", 2.0)
    ),
    entry(
        "Adaptive guidance",
        rule("skip_aligned", rule=rule("cfg", 3.0), threshold=0.99),
        rule("cfg", 3.0),
        also="fewer while running: the reference is skipped once every sample has dropped it",
    ),
    entry(
        "A reference renewed at some steps",
        rule("reuse", rule=rule("cfg", 3.0), every=2),
        rule("cfg", 3.0),
    ),
    entry(
        "Trajectory stitching",
        rule("stitched", rule=rule("cfg", 3.0), network="guide", low=4.0),
        rule("cfg", 3.0),
    ),
    entry(
        "Static thresholding",
        rule("static_threshold", rule=rule("cfg", 8.0), bound=1.0),
        rule("cfg", 8.0),
    ),
    entry(
        "Dynamic thresholding",
        rule("dynamic_threshold", rule=rule("cfg", 8.0), percentile=0.8),
        rule("cfg", 8.0),
    ),
    entry(
        "Several rules at once",
        rule("together", rules=(rule("cfg", 2.0), rule("autoguidance", 2.0))),
        rule("cfg", 2.0),
        source="this library",
    ),
    entry("CFG and autoguidance", rule("cfg_and_autoguidance", 3.0, mix=0.5), rule("cfg", 3.0)),
)

CLASSIFIERS = (
    entry(
        "Classifier guidance",
        rule("classifier", 1.0),
        UNGUIDED,
        note="The network knows both classes of the fractal together and the classifier is the "
        "exact posterior: it picks out class A.",
        subject="both classes",
    ),
    entry(
        "Off-the-shelf classifier",
        rule("elucd", 0.8),
        rule("cfg", 0.0),
        note="The small one shipped here moves details and finds few of the classes; at scale 3 "
        "it tears samples apart.",
    ),
    entry("Gradient-free classifier guidance", rule("gfcg", 5.0), UNGUIDED),
)

SAMPLERS = (
    entry("CFG++", rule("cfgpp", 0.8), rule("cfg", 3.0), **RENOISED),
    entry(
        "Renoised push",
        rule("renoised", push=rule("autoguidance", 1.0)),
        rule("autoguidance", 2.5),
        **RENOISED,
    ),
    entry(
        "Feynman-Kac correction",
        rule("fkc", 2.0, network="uncond"),
        rule("cfg", 2.0, network="uncond"),
        subject="fractal",
        solver="feynman_kac",
        steps=128,
    ),
)

GROUPS = {
    "References": REFERENCES,
    "Transforms of the push": TRANSFORMS,
    "Around a rule": AROUND,
    "With a classifier": CLASSIFIERS,
    "Sampler-level": SAMPLERS,
    "By a measurement, a reward or a target": MEASURED,
}


def get_config():
    """Return the config."""
    config = common.base()
    config.name = "atlas"
    config.sampling.weights.main = "fashion_mnist_dit"
    config.sampling.weights.guide = "fashion_mnist_guide"
    config.sampling.weights.classifier = "fashion_mnist_classifier"
    config.sampler.schedule.steps = 12
    entries = {
        one["guidance"]["name"]: {**OPTIONS, **one, "group": group}
        for group, several in GROUPS.items()
        for one in several
    }
    config.atlas = ConfigDict(
        dict(command="make atlas", seeds=2, sigma=1.0, entries=ConfigDict(entries, sort_keys=False))
    )
    config.fractal = fractal2d.get_config().experiment
    config.fractal.points = 1500
    return config
