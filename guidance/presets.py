"""Published settings: a rule with the model, the conditions and the figure it was reported with.

``presets.get("edm2-img512-s-autog-fid").rule`` is a rule like any other. Scales follow this
library (1 is off) and interval ends are in sigma. ``fid`` and ``dino`` in a name are the metric
that the setting was chosen for, FID or FD_DINOv2; less is better in both.

===================================  =====================================  =====  =======
name                                 rule                                   value  against
===================================  =====================================  =====  =======
edm2-img512-xs-cfg-fid               cfg(1.4)                                2.91     3.53
edm2-img512-s-cfg-fid                cfg(1.4)                                2.23     2.56
edm2-img512-m-cfg-fid                cfg(1.2)                                2.01     2.25
edm2-img512-l-cfg-fid                cfg(1.2)                                1.88     2.06
edm2-img512-xl-cfg-fid               cfg(1.2)                                1.85     1.96
edm2-img512-xxl-cfg-fid              cfg(1.2)                                1.81     1.91
edm2-img512-xs-cfg-dino              cfg(1.7)                               79.94   103.39
edm2-img512-s-cfg-dino               cfg(1.9)                               52.32    68.64
edm2-img512-m-cfg-dino               cfg(2.0)                               41.98    58.44
edm2-img512-l-cfg-dino               cfg(1.7)                               38.20    52.25
edm2-img512-xl-cfg-dino              cfg(1.7)                               35.67    45.96
edm2-img512-xxl-cfg-dino             cfg(1.7)                               33.09    42.84
edm2-img512-s-autog-fid              autoguidance(2.1)                       1.34     2.56
edm2-img512-s-autog-dino             autoguidance(2.45)                     36.67    68.64
edm2-img512-xxl-autog-fid            autoguidance(2.05)                      1.25     1.91
edm2-img512-xxl-autog-dino           autoguidance(2.3)                      24.18    42.84
edm2-img512-s-uncond-autog-fid       autoguidance(2.85)                      3.86    11.67
edm2-img512-s-uncond-autog-dino      autoguidance(2.9)                      90.39        -
edm2-img64-s-autog-fid               autoguidance(1.7)                       1.01     1.58
edm2-img64-s-autog-dino              autoguidance(2.2)                      31.85        -
edm2-img512-s-interval-fid           between(cfg(2.1), 0.2831, 2.9016)       1.68     2.23
edm2-img512-s-interval-dino          between(cfg(3.2), 0.6, 5.0)            46.25    52.32
edm2-img512-xxl-interval-fid         between(cfg(2.0), 0.19, 1.61)           1.40     1.81
edm2-img512-xxl-interval-dino        between(cfg(2.9), 0.6, 5.0)            29.16    33.09
dit-xl2-img512-interval-fid          between(cfg(2.5), 0.34, 1.02)           2.40     3.04
dit-xl2-img256-cfg-fid               push(null(), scale(1.5), channels(3))   2.27     9.62
dit-xl2-img256-cfg-all-channels-fid  cfg(1.375)                              2.23     9.62
dit-xl2-img512-cfg-fid               push(null(), scale(1.5), channels(3))   3.04        -
edm2-img512-s-apg-fid                apg(4.0, 0.0, 2.5, -0.75)               6.49    10.42
dit-xl2-apg-fid                      apg(4.0, 0.0, 5.0, -0.5)                9.34    19.14
sd2.1-apg-fid                        apg(10.0, 0.0, 7.5, -0.75)             22.21    27.53
sdxl-apg-fid                         apg(15.0, 0.0, 15.0, -0.5)             25.35    26.29
sd-cads                              cads(cfg(9.0), 0.6, 0.9, 0.25, 1.0)        -        -
===================================  =====================================  =====  =======
"""

import dataclasses
import difflib

from ..core.constructors import name_of
from .protocol import Rule
from .pushes import push, scale
from .references.autoguidance import autoguidance
from .references.cfg import cfg, null
from .transforms.channels import channels
from .transforms.projection import apg
from .wrappers.cads import cads
from .wrappers.interval import between

FID, DINO = "FID", "FD_DINOv2"
LATENT_512, PIXEL_64 = "ImageNet 512x512", "ImageNet 64x64"
HEUN, DDPM = "Heun, 32 steps, sigma 0.002 to 80, rho 7", "DDPM, 250 steps"
EDM2_CODE = "generate_images.py of the official EDM2 code"
INTERVAL = "arXiv 2404.07724, table 1"
DIT_CODE = "arXiv 2212.09748, and the official code, which guides 3 of the 4 channels"
# Interval ends are printed rounded; these are the levels of the 32-step schedule behind them.
STEP_22, STEP_15 = 0.2831, 2.9016


@dataclasses.dataclass(frozen=True)
class Preset:
    """A published setting.

    Attributes:
        rule: what guides.
        model: the network it was reported for.
        data: what that was trained on.
        metric: name of the figure; None where only pictures were published.
        value: the published figure.
        baseline: the same metric of what it is set against; None where not published.
        against: what that is.
        source: paper, table, code.
        networks: which networks, and the EMA lengths (relative standard deviation) of each.
        sampler: solver and schedule, where published.
        notes: what else the figure depends on.
        secondary: whether setting or figure were read in other works than the source itself.
    """

    rule: Rule
    model: str
    data: str
    metric: str | None
    value: float | None
    baseline: float | None
    against: str
    source: str
    networks: str = ""
    sampler: str = ""
    notes: str = ""
    secondary: bool = False

    @property
    def method(self) -> str:
        """Name of the rule's constructor."""
        return name_of(self.rule)


def _edm2_cfg(size: str, metric: str, weight: float, value: float, unguided: float, ema: float):
    return Preset(
        rule=cfg(weight, network="guide"),
        model=f"EDM2-{size}",
        data=LATENT_512,
        metric=metric,
        value=value,
        baseline=unguided,
        against="unguided, at the EMA that is best then",
        source=f"arXiv 2312.02696, and {EDM2_CODE}",
        networks=f"EMA {ema:.3f}; as guide the unconditional XS, EMA {ema:.3f}",
        sampler=HEUN,
    )


def _autoguidance(size, metric, weight, value, unguided, ema, guide, guide_ema, data=LATENT_512):
    return Preset(
        rule=autoguidance(weight),
        model=f"EDM2-{size}",
        data=data,
        metric=metric,
        value=value,
        baseline=unguided,
        against="" if unguided is None else "unguided",
        source=f"arXiv 2406.02507, and {EDM2_CODE}",
        networks=f"EMA {ema:.3f}; as guide {guide} M images, EMA {guide_ema:.3f}",
        sampler=HEUN,
        notes="an unconditional run: no class labels" if "uncond" in size else "",
    )


def _interval(size, metric, weight, low, high, value, constant, notes=""):
    code = "" if size == "S" else ", and generate_zip.py of the official code"
    return Preset(
        rule=between(cfg(weight, network="guide"), low, high),
        model=f"EDM2-{size}",
        data=LATENT_512,
        metric=metric,
        value=value,
        baseline=constant,
        against="the best CFG at all noise levels",
        source=INTERVAL + code,
        networks="as guide the unconditional XS",
        sampler=HEUN,
        notes=notes,
        secondary=not code,
    )


def _dit(resolution: int, rule: Rule, value: float, unguided: float | None, source: str):
    return Preset(
        rule=rule,
        model="DiT-XL/2",
        data=f"ImageNet {resolution}x{resolution}",
        metric=FID,
        value=value,
        baseline=unguided,
        against="" if unguided is None else "unguided",
        source=source,
        sampler=DDPM,
    )


def _apg(model: str, data: str, rule: Rule, value: float, plain: float):
    return Preset(
        rule=rule,
        model=model,
        data=data,
        metric=FID,
        value=value,
        baseline=plain,
        against="CFG of the same scale",
        source="arXiv 2410.02416, table 10 for the setting",
        notes="the norm bound is in the units of this model's latents",
        secondary=True,
    )


PRESETS: dict[str, Preset] = {
    # Scale, figure with guidance and without, EMA length.
    "edm2-img512-xs-cfg-fid": _edm2_cfg("XS", FID, 1.4, 2.91, 3.53, 0.045),
    "edm2-img512-s-cfg-fid": _edm2_cfg("S", FID, 1.4, 2.23, 2.56, 0.025),
    "edm2-img512-m-cfg-fid": _edm2_cfg("M", FID, 1.2, 2.01, 2.25, 0.030),
    "edm2-img512-l-cfg-fid": _edm2_cfg("L", FID, 1.2, 1.88, 2.06, 0.015),
    "edm2-img512-xl-cfg-fid": _edm2_cfg("XL", FID, 1.2, 1.85, 1.96, 0.020),
    "edm2-img512-xxl-cfg-fid": _edm2_cfg("XXL", FID, 1.2, 1.81, 1.91, 0.015),
    "edm2-img512-xs-cfg-dino": _edm2_cfg("XS", DINO, 1.7, 79.94, 103.39, 0.150),
    "edm2-img512-s-cfg-dino": _edm2_cfg("S", DINO, 1.9, 52.32, 68.64, 0.085),
    "edm2-img512-m-cfg-dino": _edm2_cfg("M", DINO, 2.0, 41.98, 58.44, 0.015),
    "edm2-img512-l-cfg-dino": _edm2_cfg("L", DINO, 1.7, 38.20, 52.25, 0.035),
    "edm2-img512-xl-cfg-dino": _edm2_cfg("XL", DINO, 1.7, 35.67, 45.96, 0.030),
    "edm2-img512-xxl-cfg-dino": _edm2_cfg("XXL", DINO, 1.7, 33.09, 42.84, 0.015),
    # Scale, figure with guidance and without, EMA length; guide and its EMA length.
    "edm2-img512-s-autog-fid": _autoguidance(
        "S", FID, 2.1, 1.34, 2.56, 0.070, "XS after 134", 0.125
    ),
    "edm2-img512-s-autog-dino": _autoguidance(
        "S", DINO, 2.45, 36.67, 68.64, 0.120, "XS after 134", 0.165
    ),
    "edm2-img512-xxl-autog-fid": _autoguidance(
        "XXL", FID, 2.05, 1.25, 1.91, 0.075, "M after 268", 0.155
    ),
    "edm2-img512-xxl-autog-dino": _autoguidance(
        "XXL", DINO, 2.3, 24.18, 42.84, 0.130, "M after 268", 0.205
    ),
    "edm2-img512-s-uncond-autog-fid": _autoguidance(
        "S-uncond", FID, 2.85, 3.86, 11.67, 0.070, "XS-uncond after 134", 0.110
    ),
    "edm2-img512-s-uncond-autog-dino": _autoguidance(
        "S-uncond", DINO, 2.9, 90.39, None, 0.090, "XS-uncond after 134", 0.125
    ),
    "edm2-img64-s-autog-fid": _autoguidance(
        "S", FID, 1.7, 1.01, 1.58, 0.045, "XS after 134", 0.110, PIXEL_64
    ),
    "edm2-img64-s-autog-dino": _autoguidance(
        "S", DINO, 2.2, 31.85, None, 0.105, "XS after 134", 0.175, PIXEL_64
    ),
    # Scale, ends, figure with the interval and with the best constant CFG.
    "edm2-img512-s-interval-fid": _interval(
        "S", FID, 2.1, STEP_22, STEP_15, 1.68, 2.23, "ends printed as 0.28 and 2.90"
    ),
    "edm2-img512-s-interval-dino": _interval("S", DINO, 3.2, 0.6, 5.0, 46.25, 52.32),
    "edm2-img512-xxl-interval-fid": _interval("XXL", FID, 2.0, 0.19, 1.61, 1.40, 1.81),
    "edm2-img512-xxl-interval-dino": _interval("XXL", DINO, 2.9, 0.6, 5.0, 29.16, 33.09),
    "dit-xl2-img512-interval-fid": Preset(
        rule=between(cfg(2.5), 0.34, 1.02),
        model="DiT-XL/2",
        data=LATENT_512,
        metric=FID,
        value=2.40,
        baseline=3.04,
        against="CFG 1.5 at all noise levels",
        source=INTERVAL,
        sampler=f"{DDPM}, 75 of them inside",
        notes="whether all latent channels were guided is not known",
        secondary=True,
    ),
    "dit-xl2-img256-cfg-fid": _dit(
        256, push(null(), scale(1.5), channels(3)), 2.27, 9.62, DIT_CODE
    ),
    "dit-xl2-img256-cfg-all-channels-fid": _dit(
        256, cfg(1.375), 2.23, 9.62, "the first author, in pull request 12 of the official code"
    ),
    "dit-xl2-img512-cfg-fid": _dit(
        512, push(null(), scale(1.5), channels(3)), 3.04, None, DIT_CODE
    ),
    "edm2-img512-s-apg-fid": _apg("EDM2-S", LATENT_512, apg(4.0, 0.0, 2.5, -0.75), 6.49, 10.42),
    "dit-xl2-apg-fid": _apg("DiT-XL/2", "ImageNet", apg(4.0, 0.0, 5.0, -0.5), 9.34, 19.14),
    "sd2.1-apg-fid": _apg(
        "Stable Diffusion 2.1", "images with texts", apg(10.0, 0.0, 7.5, -0.75), 22.21, 27.53
    ),
    "sdxl-apg-fid": _apg(
        "Stable Diffusion XL", "images with texts", apg(15.0, 0.0, 15.0, -0.5), 25.35, 26.29
    ),
    "sd-cads": Preset(
        rule=cads(cfg(9.0), 0.6, 0.9, 0.25, 1.0),
        model="Stable Diffusion",
        data="images with texts",
        metric=None,
        value=None,
        baseline=None,
        against="",
        source="arXiv 2310.17347",
        notes="chosen for diversity; no figure is known for exactly this setting",
        secondary=True,
    ),
}


def get(name: str) -> Preset:
    """Return a preset.

    Raises:
        ValueError: unknown name; lists the nearest ones.
    """
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name, PRESETS, n=4, cutoff=0.4) or names()
    raise ValueError(f"guidance.presets: no preset {name!r}; did you mean {', '.join(near)}?")


def names(model: str | None = None) -> list[str]:
    """Return the names of all presets, or of those for one model (``EDM2-S``, any case).

    Raises:
        ValueError: a model without presets; lists those that have some.
    """
    if model is None:
        return list(PRESETS)
    models = dict.fromkeys(preset.model for preset in PRESETS.values())
    chosen = [n for n, preset in PRESETS.items() if preset.model.lower() == model.lower()]
    if not chosen:
        raise ValueError(f"guidance.presets: no presets for {model!r}, only {', '.join(models)}")
    return chosen
