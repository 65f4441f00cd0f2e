"""EDM's networks: the published rows of its tables, deterministic and stochastic.

    python main.py --config=configs/published/edm.py:cifar10-cond-vp --workdir=out/edm --mode=sample

makes the 50 000 images of a row (arXiv 2206.00364, tables 2 and 5). CIFAR-10: 18 Heun steps, 35
evaluations; FFHQ and AFHQv2: 40 steps, 79 evaluations; ImageNet-64: 256 steps with churn, 511
evaluations (published 1.36), or 40 without (2.22). The published figure is the least of three FIDs.

Weights: https://nvlabs-fi-cdn.nvidia.com/edm/pretrained, CC BY-NC-SA 4.0, looked for in
$GUIDESTAR_WEIGHTS (default ~/.cache/guidestar/weights).
"""

from ml_collections import ConfigDict

from guidestar.configs import common
from guidestar.core.errors import UserError

CHURN = dict(name="edm_churn", s_churn=40.0, s_tmin=0.05, s_tmax=50.0, s_noise=1.003)
HEUN = dict(name="heun")
# row -> weights, steps, solver, published FID (None where it was not read in the paper itself).
ROWS = {
    "cifar10-cond-vp": ("edm-cifar10-32x32-cond-vp.pkl", 18, HEUN, 1.79),
    "cifar10-uncond-vp": ("edm-cifar10-32x32-uncond-vp.pkl", 18, HEUN, 1.97),
    "cifar10-cond-ve": ("edm-cifar10-32x32-cond-ve.pkl", 18, HEUN, None),
    "cifar10-uncond-ve": ("edm-cifar10-32x32-uncond-ve.pkl", 18, HEUN, None),
    "ffhq-vp": ("edm-ffhq-64x64-uncond-vp.pkl", 40, HEUN, None),
    "ffhq-ve": ("edm-ffhq-64x64-uncond-ve.pkl", 40, HEUN, None),
    "afhqv2-vp": ("edm-afhqv2-64x64-uncond-vp.pkl", 40, HEUN, None),
    "afhqv2-ve": ("edm-afhqv2-64x64-uncond-ve.pkl", 40, HEUN, None),
    "imagenet64-ode": ("edm-imagenet-64x64-cond-adm.pkl", 40, HEUN, 2.22),
    "imagenet64-sde": ("edm-imagenet-64x64-cond-adm.pkl", 256, CHURN, 1.36),
}


def get_config(row: str = ""):
    """Return the config of a row.

    Raises:
        UserError: no such row; names them all.
    """
    if row not in ROWS:
        raise UserError(
            f"configs/published/edm.py has no row {row!r}: write one after a colon, of "
            f"{', '.join(ROWS)}"
        )
    weights, steps, solver, figure = ROWS[row]
    config = common.base()
    config.name = f"edm-{row}"
    config.guidance = ConfigDict(dict(name="unguided"))
    config.sampler.schedule.steps = steps
    config.sampler.solver = ConfigDict(solver)
    config.sampling.weights.main = weights
    config.sampling.count = 50_000
    config.published = ConfigDict(dict(figure=figure or 0.0, metric="FID"))
    return config
