"""Entries of the atlas: references, transforms, measurements; how shown, and beside what."""


def entry(title: str, guidance: dict, base: dict, **options) -> dict:
    """Return an entry; the options are the fields of `atlas.OPTIONS`."""
    return dict(title=title, guidance=guidance, base=base, **options)


def rule(name: str, scale: float | None = None, **arguments) -> dict:
    """Return the config of a rule."""
    return dict(name=name, **({} if scale is None else dict(scale=scale)), **arguments)


UNGUIDED = rule("unguided")
FREE = dict(classes="none")

REFERENCES = (
    entry("Classifier-free guidance", rule("cfg", 3.0), UNGUIDED),
    entry("Autoguidance", rule("autoguidance", 3.0), UNGUIDED, subject="fractal"),
    entry(
        "Domain guidance",
        rule("domain", 2.5),
        UNGUIDED,
        note="The shipped guide stands in for the base.",
    ),
    entry("Independent condition guidance", rule("icg", 3.0, classes=10), rule("cfg", 3.0)),
    entry("Time-step guidance", rule("tsg", 2.0), UNGUIDED, **FREE),
    entry("Perturbed-attention guidance", rule("pag", 3.0, layers=(2, 3)), UNGUIDED, **FREE),
    entry("Smoothed energy guidance", rule("seg", 2.0, layers=(2, 3)), UNGUIDED, **FREE),
    entry(
        "Entropy rectifying guidance",
        rule("erg", 3.0, layers=(2, 3), temperature=0.3),
        UNGUIDED,
        **FREE,
    ),
    entry(
        "Skip-layer guidance",
        rule("slg", 1.8, layers=(3,)),
        UNGUIDED,
        source="Stability AI, reference code of Stable Diffusion 3.5; no paper",
        **FREE,
    ),
    entry("Token perturbation guidance", rule("tpg", 1.4, layers=(2,)), UNGUIDED, **FREE),
    entry("Sliding-window guidance", rule("swg", 1.6, size=20, count=2), UNGUIDED, **FREE),
    entry(
        "Negative condition",
        rule("negative", 3.0, condition=6),
        rule("cfg", 3.0),
        note="The negative is the class Shirt (6), with which tops and coats are confused.",
    ),
    entry(
        "Conjunction",
        rule("compose_and", conditions=("given", 8), scales=(2.0, 1.5)),
        rule("cfg", 3.0),
        note="The class given and Bag (8).",
    ),
    entry(
        "Negation", rule("compose_not", 2.0, condition=6), rule("cfg", 2.0), note="Not Shirt (6)."
    ),
    entry(
        "Perpendicular negatives",
        rule("perp_neg", 3.0, negatives=(6,)),
        rule("cfg", 3.0),
        note="The negative is Shirt (6) again.",
    ),
    entry(
        "Image and instruction",
        rule("instruct", 7.5, image_scale=1.5),
        UNGUIDED,
        subject="",
        why="No picture: the networks shipped here have one condition, and this rule needs two.",
    ),
)

TRANSFORMS = (
    entry(
        "Adaptive projected guidance",
        rule("apg", 8.0, eta=0.0, norm=2.5, momentum=0.0),
        rule("cfg", 8.0),
    ),
    entry("CFG rescale", rule("cfg_rescale", 8.0, phi=0.7), rule("cfg", 8.0)),
    entry(
        "CFG-Zero*",
        rule("cfg_zero_star", 3.0, zero_init_steps=1),
        rule("cfg", 3.0),
        note="On this network, which is no flow, it changes next to nothing.",
        solver="euler",
        base_solver="euler",
    ),
    entry("Tangential damping", rule("tcfg", 8.0), rule("cfg", 8.0)),
    entry(
        "Frequency-decoupled guidance",
        rule("frequency_decoupled", scales=(8.0, 2.0)),
        rule("cfg", 8.0),
    ),
    entry("Magnitude-aware guidance", rule("magnitude_aware", 8.0, alpha=5.0), rule("cfg", 8.0)),
    entry("Energy-preserving guidance", rule("ep_cfg", 8.0), rule("cfg", 8.0)),
    entry("Scheduled guidance", rule("scheduled_cfg", 3.0, shape="linear"), rule("cfg", 3.0)),
)

# A measurement of any image, the same in every place: what the entries' costs are counted with.
POOL = dict(name="average_pool", size=2)
VALUES = (((0.5,),),)


def measured(title: str, name: str, goal: str = "operator", **options) -> dict:
    """Return the entry of a rule that takes a measurement, without a picture."""
    numbers = options.pop("numbers", {})
    return entry(
        title,
        rule(name, **{goal: POOL}, measurement=VALUES, **numbers),
        UNGUIDED,
        subject="",
        why="No picture here: [own operators](howto/own_operator.md) shows restored images beside "
        "their measurements.",
        **options,
    )


MEASURED = (
    measured("Diffusion posterior sampling", "dps"),
    measured(
        "Pseudo-inverse guidance",
        "pigdm",
        numbers=dict(noise=0.1, variance=0.25),
        source="Song et al., Pseudoinverse-Guided Diffusion Models for Inverse Problems, ICLR 2023",
    ),
    measured("Null-space projection", "ddnm"),
    measured("Restoration by singular values", "ddrm", numbers=dict(noise=0.1)),
    measured("Manifold-preserving guidance", "mpgd", "reward"),
    measured("FreeDoM", "freedom", "reward"),
    measured("Universal guidance", "universal", "reward", numbers=dict(steps=2)),
    measured(
        "Loss-guided diffusion",
        "lgd",
        "reward",
        source="Song et al., Loss-Guided Diffusion Models for Plug-and-Play Controllable "
        "Generation, ICML 2023",
    ),
    measured("Training-free guidance", "tfg", "reward", numbers=dict(spread=0.1)),
    measured("Steered diffusion", "steered", "reward"),
    entry(
        "Guidance by features",
        rule("feature", target=((1.0,),), layer=2),
        UNGUIDED,
        subject="",
        why="No picture: the networks shipped here were not trained to align their features.",
        source="Test-Time Conditioning with Representation-Aligned Visual Features, arXiv "
        "2602.03753",
    ),
)
