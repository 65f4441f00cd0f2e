r"""Entries of the atlas: references and transforms; what each is, how it is shown, beside what.

In the formulas w is the scale, y the class given and \varnothing the null condition.
"""


def entry(title: str, guidance: dict, base: dict, equation: str, when: str, **options) -> dict:
    """Return an entry; the options are the fields of `atlas.OPTIONS`."""
    return dict(title=title, guidance=guidance, base=base, equation=equation, when=when, **options)


def rule(name: str, scale: float | None = None, **arguments) -> dict:
    """Return the config of a rule."""
    return dict(name=name, **({} if scale is None else dict(scale=scale)), **arguments)


UNGUIDED = rule("unguided")
FREE = dict(classes="none")

REFERENCES = (
    entry(
        "Classifier-free guidance",
        rule("cfg", 3.0),
        UNGUIDED,
        r"D = D_\varnothing + w (D_y - D_\varnothing)",
        "The first thing to try with any network trained on a null condition. Raise the scale "
        "until samples are typical enough; too much of it costs variety and burns contrast.",
    ),
    entry(
        "Autoguidance",
        rule("autoguidance", 3.0),
        UNGUIDED,
        r"D = D_\text{guide} + w (D_y - D_\text{guide})",
        "When a smaller or less trained copy of the network is at hand. It removes outliers "
        "without drawing samples towards the middle of their class, and works without classes.",
        subject="fractal",
    ),
    entry(
        "Domain guidance",
        rule("domain", 2.5),
        UNGUIDED,
        r"D = D^\text{base}_\varnothing + w (D^\text{tuned}_y - D^\text{base}_\varnothing)",
        "For a fine-tuned network whose base is still at hand: the base knows the general domain "
        "better than a null class learnt while fine-tuning. The shipped guide stands in for the "
        "base here.",
    ),
    entry(
        "Independent condition guidance",
        rule("icg", 3.0, classes=10),
        rule("cfg", 3.0),
        r"D = D_{\tilde y} + w (D_y - D_{\tilde y}), \quad \tilde y \sim p(y)",
        "For conditional networks that never saw a null condition. Expect what CFG gives at the "
        "same scale, a little weaker: now and then the class drawn is the one given.",
    ),
    entry(
        "Time-step guidance",
        rule("tsg", 2.0),
        UNGUIDED,
        r"D = D_{\tilde t} + w (D_t - D_{\tilde t}), \quad "
        r"e(\tilde t) = e(t) + s t^\alpha \mathrm{std}(e) n",
        "For networks without a null condition, or without any condition: only the embedding of "
        "the noise level is perturbed. Lower s if samples fall apart.",
        **FREE,
    ),
    entry(
        "Perturbed-attention guidance",
        rule("pag", 3.0, layers=(2, 3)),
        UNGUIDED,
        r"D = D_I + w (D - D_I), \quad \mathrm{softmax}(Q K^\top / \sqrt d) \to I",
        "For transformers without a condition, or on top of CFG with `together`. Which blocks are "
        "perturbed matters as much as the scale: begin with one or two in the middle.",
        **FREE,
    ),
    entry(
        "Smoothed energy guidance",
        rule("seg", 2.0, layers=(2, 3)),
        UNGUIDED,
        r"D = D_G + w (D - D_G), \quad Q \to G_\sigma * Q",
        "Where PAG is too rough: the blur sets how far attention is perturbed, at a fixed scale. "
        "An infinite blur replaces all queries by their mean.",
        **FREE,
    ),
    entry(
        "Entropy rectifying guidance",
        rule("erg", 3.0, layers=(2, 3), temperature=0.3),
        UNGUIDED,
        r"D = D_\tau + w (D - D_\tau), \quad "
        r"\mathrm{softmax}(Q K^\top / \sqrt d) \to \mathrm{softmax}(\tau Q K^\top / \sqrt d)",
        "The mildest of the attention perturbations: flatter maps instead of none. Works with any "
        "condition or without one; begin it after the first steps with `between`.",
        **FREE,
    ),
    entry(
        "Skip-layer guidance",
        rule("slg", 1.8, layers=(3,)),
        UNGUIDED,
        r"D = D_\text{skip} + w (D - D_\text{skip})",
        "Cheap to try on deep transformers, where leaving out a block in the middle weakens the "
        "network without breaking it. Published on top of CFG, in the first fifth of the steps.",
        source="Stability AI, reference code of Stable Diffusion 3.5; no paper",
        **FREE,
    ),
    entry(
        "Token perturbation guidance",
        rule("tpg", 1.4, layers=(2,)),
        UNGUIDED,
        r"D = D_\pi + w (D - D_\pi), \quad h \to \pi h",
        "For transformers without a condition. Shuffled tokens keep their norms, so the "
        "reference is wrong in structure and not in contrast.",
        **FREE,
    ),
    entry(
        "Sliding-window guidance",
        rule("swg", 1.6, size=20, count=2),
        UNGUIDED,
        r"D = D_\text{windows} + w (D - D_\text{windows})",
        "To strengthen what needs the whole image, such as symmetry and layout, in networks "
        "that take inputs of other sizes. Costs one evaluation a window, each smaller than the "
        "image.",
        **FREE,
    ),
    entry(
        "Negative condition",
        rule("negative", 3.0, condition=6),
        rule("cfg", 3.0),
        r"D = D_n + w (D_y - D_n)",
        "To move away from something that can be named: here from the class Shirt (6), with "
        "which tops and coats are confused. Where the two conditions agree, it pushes nothing.",
    ),
    entry(
        "Conjunction",
        rule("compose_and", conditions=("given", 8), scales=(2.0, 1.5)),
        rule("cfg", 3.0),
        r"D = D_\varnothing + w \sum_i w_i (D_{y_i} - D_\varnothing)",
        "For samples that satisfy several conditions at once, here the class given and Bag (8). "
        "It multiplies densities: conditions that exclude each other give something in between.",
    ),
    entry(
        "Negation",
        rule("compose_not", 2.0, condition=6),
        rule("cfg", 2.0),
        r"D = D_\varnothing + w (D_y - D_\text{not})",
        "For the condition given and not another, here not Shirt (6), started from the null "
        "prediction. For the class that is negated itself it leaves the null prediction.",
    ),
    entry(
        "Perpendicular negatives",
        rule("perp_neg", 3.0, negatives=(6,)),
        rule("cfg", 3.0),
        r"D = D_\varnothing + w \left(\Delta - \sum_i w_i \Delta_i^\perp\right), \quad "
        r"\Delta_i^\perp = \Delta_i - \frac{\langle \Delta_i, \Delta \rangle}"
        r"{\langle \Delta, \Delta \rangle} \Delta",
        "For negatives that overlap with what is wanted: the part that they share with the "
        "condition given is kept. The negative is Shirt (6) again.",
    ),
    entry(
        "Image and instruction",
        rule("instruct", 7.5, image_scale=1.5),
        UNGUIDED,
        r"D = D_{\varnothing\varnothing} + w_I (D_{I\varnothing} - D_{\varnothing\varnothing}) "
        r"+ w (D_{IT} - D_{I\varnothing})",
        "For editing networks conditioned on an image and on a text, each with its own scale.",
        subject="",
        why="No picture: the networks shipped here have one condition, and this rule needs two.",
    ),
)

TRANSFORMS = (
    entry(
        "Adaptive projected guidance",
        rule("apg", 8.0, eta=0.0, norm=2.5, momentum=0.0),
        rule("cfg", 8.0),
        r"D = D_y + (w - 1) (m_\perp + \eta m_\parallel), \quad "
        r"m = \Delta + \beta m_\text{before} \text{ clipped to } \lVert m \rVert \le r",
        "For high scales, where CFG burns contrast. What lies along the prediction is dropped, "
        "the rest is bounded, in the data's units. Leave the momentum out, as here, with few steps "
        "or a solver of two stages: a negative one tears samples apart there.",
    ),
    entry(
        "CFG rescale",
        rule("cfg_rescale", 8.0, phi=0.7),
        rule("cfg", 8.0),
        r"D = \phi G \frac{\mathrm{std}(D_y)}{\mathrm{std}(G)} + (1 - \phi) G, \quad "
        r"G = D_\varnothing + w (D_y - D_\varnothing)",
        "The simplest cure for too much contrast: the spread of the plain prediction, kept. "
        "Made for networks with zero terminal SNR.",
    ),
    entry(
        "CFG-Zero*",
        rule("cfg_zero_star", 3.0, zero_init_steps=1),
        rule("cfg", 3.0),
        r"v = s^* v_\varnothing + w (v_y - s^* v_\varnothing), \quad "
        r"s^* = \langle v_y, v_\varnothing \rangle / \lVert v_\varnothing \rVert^2",
        "For flow-matching networks that are not fully trained, whose first velocities are worse "
        "than none. On a network like this one, which is no flow, it changes next to nothing.",
        solver="euler",
        base_solver="euler",
    ),
    entry(
        "Tangential damping",
        rule("tcfg", 8.0),
        rule("cfg", 8.0),
        r"\epsilon = \epsilon_\varnothing' + w (\epsilon_y - \epsilon_\varnothing'), \quad "
        r"\epsilon_\varnothing' = v_1 v_1^\top \epsilon_\varnothing",
        "To make CFG gentler without a new number to choose: of the unconditional noise stays "
        "what it shares with the conditional one.",
    ),
    entry(
        "Frequency-decoupled guidance",
        rule("frequency_decoupled", scales=(8.0, 2.0)),
        rule("cfg", 8.0),
        r"D_b = D_{y, b} + (w_b - 1) \Delta_b, \quad b = \text{bands of a Laplacian pyramid}",
        "To sharpen details without what a high scale does to colour and contrast: a high scale "
        "for high frequencies, a low one for low frequencies.",
    ),
    entry(
        "Magnitude-aware guidance",
        rule("magnitude_aware", 8.0, alpha=5.0),
        rule("cfg", 8.0),
        r"w_\text{eff} = 1 + (w - 1) e^{-\alpha \lVert D_y - D_\varnothing \rVert / "
        r"\lVert D_\varnothing \rVert}",
        "For high scales in few steps: the push is damped where the two predictions are far "
        "apart, mostly in the first steps. The right alpha depends on the network.",
    ),
    entry(
        "Energy-preserving guidance",
        rule("ep_cfg", 8.0),
        rule("cfg", 8.0),
        r"D = G \frac{\lVert D_y \rVert}{\lVert G \rVert}, \quad "
        r"G = D_\varnothing + w (D_y - D_\varnothing)",
        "Like CFG rescale, with the norm in the place of the spread and nothing to choose. Keeps "
        "brightness and contrast of the plain prediction at any scale.",
    ),
    entry(
        "Scheduled guidance",
        rule("scheduled_cfg", 3.0, shape="linear"),
        rule("cfg", 3.0),
        r"w(u) = 1 + (w - 1) g(u), \quad \int_0^1 g(u) du = 1",
        "To spend the same guidance at other noise levels: rising shapes leave variety to the "
        "first steps and guide the details.",
    ),
)
