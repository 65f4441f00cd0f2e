r"""Guidance rules: small pure ``init``/``apply`` pairs that combine predictions.

Knows jax and nothing else of this project. ``D = D_ref + scale * (D_main - D_ref)``: 1 is off.
A rule is a push away from a reference (`references`), through transforms (`transforms`), maybe
with something around it (`wrappers`).

In the equations of docstrings D is a prediction of the clean image, w the scale, y the condition
given, ``\varnothing`` the null one and ``\Delta`` the pair that is pushed. Numbers may be arrays:
one number a sample has as many axes as the samples, ``[batch, 1, 1, 1]`` for images.
"""

from . import operators, presets
from .combination import combine
from .config import from_config, to_config
from .description import describe
from .evaluations import cost
from .needs import idle_parts, needs_condition, needs_null
from .protocol import CLASSIFIER, GIVEN, GUIDE, MAIN, NULL, Branch, Guided, Rule, unguided
from .pushes import Push, chain, push, scale
from .references.attention import (
    attention_temperature,
    blurred_queries,
    erg,
    identity_attention,
    pag,
    seg,
)
from .references.autoguidance import autoguidance, weak
from .references.blocks import permuted_tokens, skipped_blocks, slg, tpg
from .references.cfg import cfg, domain, null
from .references.cfgpp import cfgpp, renoised
from .references.classifier import classifier, classifier_gradient
from .references.composition import (
    compose_and,
    compose_not,
    instruct,
    negative,
    negative_condition,
    perp_neg,
)
from .references.elucd import calibrated_classifier, elucd
from .references.fkc import fkc
from .references.gfcg import confused_class, gfcg
from .references.icg import icg, independent
from .references.tsg import perturbed_time, tsg
from .references.windows import sliding_windows, swg
from .structure import along
from .transforms.cfg_zero_star import cfg_zero_star, optimal_scale, zero_init
from .transforms.channels import channels
from .transforms.energy import energy_preserving, ep_cfg
from .transforms.frequency import frequency_decoupled, frequency_scales
from .transforms.magnitude import damp_magnitude, magnitude_aware
from .transforms.projection import apg, clip_norm, momentum, project
from .transforms.rescale import cfg_rescale, std_rescale
from .transforms.tangential import tangential, tcfg
from .transforms.weights import scheduled, scheduled_cfg
from .wrappers.cads import cads
from .wrappers.energy_guidance import freedom
from .wrappers.feature_alignment import feature
from .wrappers.history import higs
from .wrappers.interval import between
from .wrappers.loss_guided import lgd
from .wrappers.manifold import mpgd
from .wrappers.null_space import ddnm
from .wrappers.posterior_sampling import dps
from .wrappers.pseudoinverse import pigdm
from .wrappers.rectified import reg
from .wrappers.renewal import reuse
from .wrappers.skipping import skip_aligned
from .wrappers.spectral import ddrm
from .wrappers.steered_diffusion import steered
from .wrappers.stitched import stitch_point, stitched
from .wrappers.thresholding import dynamic_threshold, static_threshold
from .wrappers.together import cfg_and_autoguidance, together
from .wrappers.training_free import tfg
from .wrappers.universal_guidance import universal

__all__ = [
    "CLASSIFIER",
    "GIVEN",
    "GUIDE",
    "MAIN",
    "NULL",
    "Branch",
    "Guided",
    "Push",
    "Rule",
    "along",
    "apg",
    "attention_temperature",
    "autoguidance",
    "between",
    "blurred_queries",
    "cads",
    "calibrated_classifier",
    "cfg",
    "cfg_and_autoguidance",
    "cfg_rescale",
    "cfg_zero_star",
    "cfgpp",
    "chain",
    "channels",
    "classifier",
    "classifier_gradient",
    "clip_norm",
    "combine",
    "compose_and",
    "compose_not",
    "confused_class",
    "cost",
    "damp_magnitude",
    "ddnm",
    "ddrm",
    "describe",
    "domain",
    "dps",
    "dynamic_threshold",
    "elucd",
    "energy_preserving",
    "ep_cfg",
    "erg",
    "feature",
    "fkc",
    "freedom",
    "frequency_decoupled",
    "frequency_scales",
    "from_config",
    "gfcg",
    "higs",
    "icg",
    "identity_attention",
    "idle_parts",
    "independent",
    "instruct",
    "lgd",
    "magnitude_aware",
    "momentum",
    "mpgd",
    "needs_condition",
    "needs_null",
    "negative",
    "negative_condition",
    "null",
    "operators",
    "optimal_scale",
    "pag",
    "permuted_tokens",
    "perp_neg",
    "perturbed_time",
    "pigdm",
    "presets",
    "project",
    "push",
    "reg",
    "renoised",
    "reuse",
    "scale",
    "scheduled",
    "scheduled_cfg",
    "seg",
    "skip_aligned",
    "skipped_blocks",
    "slg",
    "sliding_windows",
    "static_threshold",
    "std_rescale",
    "steered",
    "stitch_point",
    "stitched",
    "swg",
    "tangential",
    "tcfg",
    "tfg",
    "to_config",
    "together",
    "tpg",
    "tsg",
    "unguided",
    "universal",
    "weak",
    "zero_init",
]
