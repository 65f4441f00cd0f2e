"""Every published rule, as a function of its scale: the table that property tests run over."""

import dataclasses
from collections.abc import Callable

import numpy as np

from guidestar import guidance

INTERVAL = (0.2, 3.0)
LAYERS = (1,)
# What a rule may need of the networks that evaluate it, beside a plain prediction.
LABELS, IMAGES, CROPS, CLASSIFIER = "labels", "images", "crops", "classifier"
TIME, CONDITION, ATTENTION, BLOCK = "time_embedding", "condition_embedding", "attention", "block"
GUIDE, GRADIENT, WIDE = "guide", "gradient", "wide time embedding"
READ = "features that may be read"


@dataclasses.dataclass(frozen=True)
class Case:
    """A rule and what is known of it.

    Attributes:
        make: the rule at a scale.
        cost: evaluations by network where the rule holds.
        off: the scale that gives the plain prediction; None where no scale does.
        exact: whether it does so bit for bit.
        reference: name of the prediction that scale 0 gives, for rules affine in the scale.
        needs: what the networks must offer.
        equal: whether equal predictions pass through.
        typical: a scale at which it works visibly.
    """

    make: Callable
    cost: dict[str, int]
    off: float | None = 1.0
    exact: bool = True
    reference: str | None = None
    needs: frozenset = frozenset()
    equal: bool = True
    typical: float = 2.5

    @property
    def forward(self) -> dict[str, int]:
        """The forward passes of its cost, by network."""
        return {name: count for name, count in self.cost.items() if "+" not in name}


TWO, GUIDED = {"main": 2}, {"main": 1, "guide": 1}
ONE, BACK = {"main": 1}, {"main": 1, "main+grad": 1}
# A measurement of images of 4 by 4 pixels.
POOL = guidance.operators.average_pool(2)
MEASURED = np.array([[[0.5], [-1.0]], [[0.2], [1.5]]])


def case(make, cost=TWO, *needs, **known) -> Case:
    """Return a case; needs are given after the cost."""
    return Case(make, cost, needs=frozenset(needs), **known)


def null_push(*after):
    """Return a maker of pushes away from the null condition: the scale, then ``after``."""
    return lambda s: guidance.push(guidance.null(), guidance.scale(s), *after)


# Of rules whose scale 0 is the plain prediction, and 1 no special one.
MOVED = dict(off=0.0, equal=False)
RULES = {
    # References
    "cfg": case(guidance.cfg, TWO, LABELS, reference="null"),
    "autoguidance": case(guidance.autoguidance, GUIDED, GUIDE, reference="guide"),
    "domain": case(guidance.domain, GUIDED, GUIDE, LABELS, reference="guide_null"),
    "icg": case(lambda s: guidance.icg(s, 2), TWO, LABELS, reference="independent"),
    "icg, embedding": case(
        lambda s: guidance.icg(s, embedding=True), TWO, LABELS, CONDITION, reference="independent"
    ),
    "tsg": case(guidance.tsg, TWO, TIME, WIDE, reference="perturbed_time"),
    "pag": case(
        lambda s: guidance.pag(s, LAYERS), TWO, ATTENTION, IMAGES, reference="identity_attention"
    ),
    "seg": case(
        lambda s: guidance.seg(s, LAYERS), TWO, ATTENTION, IMAGES, reference="blurred_queries"
    ),
    "seg, finite": case(
        lambda s: guidance.seg(s, LAYERS, 1.5), TWO, ATTENTION, IMAGES, reference="blurred_queries"
    ),
    "erg": case(
        lambda s: guidance.erg(s, LAYERS, 0.3),
        *(TWO, ATTENTION, IMAGES),
        reference="attention_temperature",
    ),
    "slg": case(lambda s: guidance.slg(s, LAYERS), TWO, BLOCK, reference="skipped_blocks"),
    "tpg": case(lambda s: guidance.tpg(s, LAYERS), TWO, BLOCK, IMAGES, reference="permuted_tokens"),
    "swg": case(lambda s: guidance.swg(s, 3), {"main": 5}, IMAGES, CROPS),
    "swg, masked": case(lambda s: guidance.swg(s, 3, 2, True), {"main": 5}, IMAGES, CROPS),
    "negative": case(lambda s: guidance.negative(s, 0), TWO, LABELS, reference="negative"),
    "compose_and": case(
        lambda s: guidance.compose_and(["given"], [s]), TWO, LABELS, exact=False, reference="null"
    ),
    "compose_and, two": case(
        lambda s: guidance.compose_and(["given", 1], [s, 1.0]),
        {"main": 3},
        LABELS,
        off=None,
    ),
    "compose_not": case(
        lambda s: guidance.compose_not(s, 0), {"main": 3}, LABELS, off=None, equal=True
    ),
    "perp_neg": case(lambda s: guidance.perp_neg(s, [0]), {"main": 3}, LABELS, off=None),
    # Transforms
    "apg": case(lambda s: guidance.apg(s, eta=0.2, norm=1.5, momentum=-0.5), TWO, LABELS),
    "cfg_rescale": case(guidance.cfg_rescale, TWO, LABELS),
    "cfg_zero_star": case(lambda s: guidance.cfg_zero_star(s, zero_init_steps=0), TWO, LABELS),
    "cfg_zero_star, zero_init": case(
        lambda s: guidance.cfg_zero_star(s, zero_init_steps=2), TWO, LABELS, off=None, equal=False
    ),
    "tcfg": case(guidance.tcfg, TWO, LABELS),
    "frequency_decoupled": case(
        lambda s: guidance.frequency_decoupled((s, 1 + (s - 1) / 2), (0.5, 1.0)),
        *(TWO, LABELS, IMAGES),
    ),
    "magnitude_aware": case(lambda s: guidance.magnitude_aware(s, alpha=0.1), TWO, LABELS),
    "channels": case(null_push(guidance.channels(1)), TWO, LABELS),
    "scheduled": case(lambda s: guidance.scheduled_cfg(s, "cosine"), TWO, LABELS),
    "scheduled, powered": case(
        lambda s: guidance.scheduled_cfg(s, "powered_cosine", power=2.0), TWO, LABELS
    ),
    "energy_preserving": case(guidance.ep_cfg, TWO, LABELS),
    # Around other rules
    "between(cfg)": case(
        lambda s: guidance.between(guidance.cfg(s), *INTERVAL), TWO, LABELS, reference="null"
    ),
    "between(apg)": case(lambda s: guidance.between(guidance.apg(s), *INTERVAL), TWO, LABELS),
    # Inside its interval the guide answers for everything.
    "stitched": case(
        lambda s: guidance.stitched(guidance.cfg(s), "guide", *INTERVAL),
        *({"guide": 2}, LABELS, GUIDE),
        off=None,
    ),
    "together": case(
        lambda s: guidance.together(guidance.cfg(s), guidance.autoguidance(s)),
        {"main": 2, "guide": 1},
        *(LABELS, GUIDE),
    ),
    "cads": case(
        lambda s: guidance.cads(guidance.cfg(s), 0.1, 0.8), TWO, LABELS, CONDITION, off=None
    ),
    "cads, dynamic": case(
        lambda s: guidance.cads(guidance.cfg(s), 0.1, 0.8, null_noised=True, dynamic=True),
        *(TWO, LABELS, CONDITION),
        off=None,
    ),
    # The toy network's gradient is steep: a small scale, lest rounding grow with it.
    "reg": case(
        lambda s: guidance.reg(guidance.cfg(s)),
        {"main": 2, "main+grad": 1},
        *(LABELS, GRADIENT),
        typical=1.3,
    ),
    "higs": case(lambda s: guidance.higs(guidance.cfg(s)), TWO, LABELS),
    "skip_aligned": case(lambda s: guidance.skip_aligned(guidance.cfg(s), 0.5), TWO, LABELS),
    # Renewed where costs are counted; `run` reuses it in its last steps.
    "reuse": case(
        lambda s: guidance.reuse(guidance.cfg(s), 3, high=0.9), TWO, LABELS, reference="null"
    ),
    "static_threshold": case(
        lambda s: guidance.static_threshold(guidance.cfg(s), 100.0), TWO, LABELS, reference="null"
    ),
    "dynamic_threshold": case(
        lambda s: guidance.dynamic_threshold(guidance.cfg(s), bound=100.0),
        TWO,
        LABELS,
        reference="null",
    ),
    # For solvers that look at more than the prediction
    "cfgpp": case(guidance.cfgpp, TWO, LABELS, reference="null"),
    "renoised(autoguidance)": case(
        lambda s: guidance.renoised(guidance.autoguidance(s)), GUIDED, GUIDE, reference="guide"
    ),
    "fkc": case(guidance.fkc, TWO, LABELS, reference="null"),
    # With a classifier
    "classifier": case(
        lambda s: guidance.classifier(s, condition="given"),
        {"main": 1, "classifier": 1, "classifier+grad": 1},
        *(LABELS, CLASSIFIER, GRADIENT),
        off=0.0,
        exact=False,
        equal=False,
    ),
    "elucd": case(
        lambda s: guidance.elucd(s, condition="given"),
        {"main": 1, "classifier": 1, "classifier+grad": 1},
        *(LABELS, CLASSIFIER),
        off=0.0,
        exact=False,
        equal=False,
    ),
    "gfcg": case(guidance.gfcg, {"main": 2, "classifier": 1}, LABELS, CLASSIFIER),
    # By a measurement, or a target
    "dps": case(lambda s: guidance.dps(POOL, MEASURED, s), BACK, IMAGES, GRADIENT, **MOVED),
    "dps, cfg inside": case(
        lambda s: guidance.dps(POOL, MEASURED, s, rule=guidance.cfg(2.0)),
        {"main": 2, "main+grad": 2},
        *(IMAGES, GRADIENT, LABELS),
        off=None,
        equal=False,
    ),
    "pigdm": case(
        lambda s: guidance.pigdm(POOL, MEASURED, 0.3, scale=0.3 * s),
        BACK,
        IMAGES,
        GRADIENT,
        **MOVED,
    ),
    "pigdm, skipped": case(
        lambda s: guidance.pigdm(POOL, MEASURED, 0.3, scale=s, skip=True), ONE, IMAGES, **MOVED
    ),
    "ddnm": case(lambda s: guidance.ddnm(POOL, s * MEASURED), ONE, IMAGES, off=None, equal=False),
    "ddnm, noisy": case(
        lambda s: guidance.ddnm(POOL, s * MEASURED, 0.3), ONE, IMAGES, off=None, equal=False
    ),
    "ddrm": case(
        lambda s: guidance.ddrm(POOL, s * MEASURED, 0.3), ONE, IMAGES, off=None, equal=False
    ),
    "mpgd": case(lambda s: guidance.mpgd(POOL, MEASURED, s), ONE, IMAGES, **MOVED),
    "freedom": case(lambda s: guidance.freedom(POOL, MEASURED, 0.02 * s), BACK, IMAGES, **MOVED),
    "universal": case(
        lambda s: guidance.universal(POOL, MEASURED, s), BACK, IMAGES, GRADIENT, **MOVED
    ),
    "universal, backward": case(
        lambda s: guidance.universal(POOL, MEASURED, s, steps=3, remat=True),
        *(BACK, IMAGES, GRADIENT),
        off=None,
        equal=False,
    ),
    "lgd": case(lambda s: guidance.lgd(POOL, MEASURED, s), BACK, IMAGES, GRADIENT, **MOVED),
    "tfg": case(
        lambda s: guidance.tfg(POOL, MEASURED, 0.1 * s, 0.1, spread=0.1, draws=2),
        *(BACK, IMAGES, GRADIENT),
        off=None,
        equal=False,
    ),
    "steered": case(lambda s: guidance.steered(POOL, MEASURED, s), ONE, IMAGES, **MOVED),
    "feature": case(
        lambda s: guidance.feature(np.ones((1, 1)), 1, s), BACK, BLOCK, READ, GRADIENT, **MOVED
    ),
    # A composition of the parts
    "apg on autoguidance": case(
        lambda s: guidance.push(
            guidance.weak(),
            guidance.momentum(-0.5),
            guidance.clip_norm(1.0),
            guidance.project(0.3),
            guidance.scale(s),
        ),
        *(GUIDED, GUIDE),
    ),
}
AFFINE = {name: one for name, one in RULES.items() if one.reference}
EVERY = {name: one.make(one.typical) for name, one in RULES.items()} | {
    "unguided": guidance.unguided()
}
# A solver must know what to do with these beside the prediction.
RENOISING = {"cfgpp", "renoised(autoguidance)", "dps", "dps, cfg inside", "mpgd", "tfg"}
RENOISING |= {"ddnm", "ddnm, noisy", "ddrm"}
