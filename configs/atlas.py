r"""The atlas: every rule once, with its equation, a pair of pictures and what it costs.

make atlas    python main.py --config=configs/atlas.py --workdir=docs --mode=atlas

Pictures that were made from the same settings and weights are left as they are.
"""

from ml_collections import ConfigDict

from guidestar.configs import common, fractal2d
from guidestar.configs.atlas_entries import REFERENCES, TRANSFORMS, UNGUIDED, entry, rule

# What an entry may set beside its texts and rules.
OPTIONS = dict(
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
        r"w(\sigma) = w \text{ for } \sigma_\text{low} < \sigma \le \sigma_\text{high}, "
        r"\quad 1 \text{ elsewhere}",
        "Around nearly any rule: at the highest noise levels guidance costs variety, at the "
        "lowest it does nothing. It also costs less, since the reference is not evaluated "
        "outside.",
    ),
    entry(
        "Condition-annealed sampling",
        rule("cads", rule=rule("cfg", 4.5), tau1=0.3, tau2=0.8, noise=0.25),
        rule("cfg", 4.5),
        r"\hat y = \sqrt{\gamma(t)} y + s \sqrt{1 - \gamma(t)} n",
        "When samples of one condition look too much alike. The condition is drowned in noise "
        "while the layout is decided; more noise or a lower tau1 gives more variety and less "
        "fidelity.",
    ),
    entry(
        "Rectified gradient guidance",
        rule("reg", rule=rule("cfg", 3.0)),
        rule("cfg", 3.0),
        r"D = D_y + (w - 1) J \odot \Delta, \quad J = \nabla_x \textstyle\sum D_y",
        "To bring CFG closer to the guidance that its theory asks for, where memory and time "
        "allow a backward pass at every evaluation.",
        also="a backward pass through the plain prediction",
    ),
    entry(
        "History-guided sampling",
        rule("higs", rule=rule("cfg", 2.0), weight=2.0),
        rule("cfg", 2.0),
        r"D = G + w(t) (G - h), \quad h \leftarrow (1 - \alpha) h + \alpha G",
        "To sharpen what any rule gives at no further evaluation, most of all with few steps. "
        "Solvers that remember earlier steps themselves leave it less to do.",
    ),
    entry(
        "Adaptive guidance",
        rule("skip_aligned", rule=rule("cfg", 3.0), threshold=0.99),
        rule("cfg", 3.0),
        r"\cos(D_y, D_\varnothing) > c \implies D = D_y \text{ from then on}",
        "To save the reference's evaluations once it agrees with the plain prediction, with "
        "nearly the same samples. Choose the threshold for the network.",
        also="fewer while running: the reference is skipped once every sample has dropped it",
    ),
    entry(
        "Trajectory stitching",
        rule("stitched", rule=rule("cfg", 3.0), network="guide", low=4.0),
        rule("cfg", 3.0),
        r"D = D^\text{small} \text{ for } \sigma > \sigma_\text{low}, "
        r"\quad D^\text{main} \text{ below}",
        "To save time where a smaller network does as well: it draws the layout, the large one "
        "the details. Nested, it gives each range of noise levels an expert of its own.",
    ),
    entry(
        "Static thresholding",
        rule("static_threshold", rule=rule("cfg", 8.0), bound=1.0),
        rule("cfg", 8.0),
        r"D = \mathrm{clip}(G, -b, b)",
        "For networks of pixels at any scale above 1: predictions outside the data's range "
        "drive the next step astray. Not for latents.",
    ),
    entry(
        "Dynamic thresholding",
        rule("dynamic_threshold", rule=rule("cfg", 8.0), percentile=0.8),
        rule("cfg", 8.0),
        r"D = \mathrm{clip}(G, -q, q) \frac{b}{q}, \quad q = \max(\mathrm{quantile}_p |G|, b)",
        "For networks of pixels at high scales, where plain clipping saturates. Where most pixels "
        "of the data are at the ends of the range, as here, lower the percentile.",
    ),
    entry(
        "Several rules at once",
        rule("together", rules=(rule("cfg", 2.0), rule("autoguidance", 2.0))),
        rule("cfg", 2.0),
        r"D = D_y + \sum_i (D_i - D_y)",
        "To add up pushes with different references, each with its own scale and interval. What "
        "several of them evaluate is evaluated once.",
        source="this library",
    ),
    entry(
        "CFG and autoguidance",
        rule("cfg_and_autoguidance", 3.0, mix=0.5),
        rule("cfg", 3.0),
        r"D = D_y + (w - 1) \left((1 - m) (D_y - D_\varnothing) + m (D_y - D_\text{guide})\right)",
        "Where a condition is followed too loosely under autoguidance alone, as with texts: one "
        "scale, and a number that mixes the two.",
    ),
)

CLASSIFIERS = (
    entry(
        "Classifier guidance",
        rule("classifier", 1.0),
        UNGUIDED,
        r"D = D_\varnothing + w \sigma^2 \nabla_x \log p(y \mid x; \sigma)",
        "For a network without classes and a classifier trained on noisy samples. Here the "
        "network knows both classes of the fractal together and the classifier is the exact "
        "posterior: it picks out class A.",
        subject="both classes",
        also="a backward pass through the classifier",
    ),
    entry(
        "Off-the-shelf classifier",
        rule("elucd", 0.8),
        rule("cfg", 0.0),
        r"D = D_\varnothing + w s(\sigma) \nabla_D \left(\tau_1 f_y(D) - "
        r"\mathrm{logsumexp}(\tau_2 f(D))\right)",
        "For a classifier of clean images, trained without noise, and best on top of a condition. "
        "The small one shipped here moves details and finds few of the classes; at scale 3 it "
        "tears samples apart.",
        also="a backward pass through the classifier",
    ),
    entry(
        "Gradient-free classifier guidance",
        rule("gfcg", 5.0),
        UNGUIDED,
        r"D = D_y + (w - 1) (1 - p_y) (D_y - D_c), \quad c = \text{most likely wrong class}",
        "To tell apart classes that are confused, with a classifier of clean images and no "
        "gradient. Samples that are recognised already stay as they are.",
    ),
)

SAMPLERS = (
    entry(
        "CFG++",
        rule("cfgpp", 0.8),
        rule("cfg", 3.0),
        r"x' = D + \sigma' \frac{x - D_\varnothing}{\sigma}, \quad "
        r"D = D_\varnothing + \lambda (D_y - D_\varnothing)",
        "For inversion and editing, where samples must stay close to what the unconditional "
        "network follows. Its scale lies in 0 to 1 and depends on the number of steps.",
        **RENOISED,
    ),
    entry(
        "Renoised push",
        rule("renoised", push=rule("autoguidance", 1.0)),
        rule("autoguidance", 2.5),
        r"x' = D + \sigma' \frac{x - D_\text{ref}}{\sigma}, \quad "
        r"D = D_\text{ref} + w (D_y - D_\text{ref})",
        "CFG++ for any reference and any transform. Begin with a scale near 1, which is not off "
        "here.",
        **RENOISED,
    ),
    entry(
        "Feynman-Kac correction",
        rule("fkc", 2.0, network="uncond"),
        rule("cfg", 2.0, network="uncond"),
        r"d \log W = \tfrac12 w (w - 1) \lVert D_y - D_\varnothing \rVert^2 \sigma^{-4} d\sigma^2",
        "To sample the distribution that CFG's formula names, where few dimensions and many "
        "particles make that possible. Particles of a group depend on each other.",
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
