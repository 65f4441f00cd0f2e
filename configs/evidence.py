"""What each rule does to Fashion-MNIST samples, against what its paper claims.

make evidence    python main.py --config=configs/evidence.py --workdir=out/evidence --mode=evidence

Some rows alone: ``--config=configs/evidence.py:cfg_3,apg_8``. ``--mode=evaluate`` measures the same
and writes no page for docs/.
"""

from ml_collections import ConfigDict

from guidestar.configs import common

UNCONDITIONAL = dict(classes="none")


def cfg(scale: float) -> dict:
    """Return the dictionary of CFG at a scale."""
    return dict(name="cfg", scale=scale)


def apg(momentum: float) -> dict:
    """Return the dictionary of APG at scale 8."""
    return dict(name="apg", scale=8.0, eta=0.0, norm=2.5, momentum=momentum)


# name -> (title, guidance, fields of `sampling` that differ)
ROWS = {
    "unguided": ("Unguided", dict(name="unguided"), {}),
    "cfg_1_5": ("CFG 1.5", cfg(1.5), {}),
    "cfg_2": ("CFG 2", cfg(2.0), {}),
    "cfg_2_5": ("CFG 2.5", cfg(2.5), {}),
    "cfg_3": ("CFG 3", cfg(3.0), {}),
    "cfg_3_5": ("CFG 3.5", cfg(3.5), {}),
    "cfg_4_5": ("CFG 4.5", cfg(4.5), {}),
    "cfg_8": ("CFG 8", cfg(8.0), {}),
    "interval": (
        "CFG 3 in an interval",
        dict(name="between", rule=cfg(3.0), low=0.5, high=5.0),
        {},
    ),
    "autoguidance": ("Autoguidance 2", dict(name="autoguidance", scale=2.0), {}),
    "apg_8": ("APG 8, no momentum", apg(0.0), {}),
    "apg_8_momentum": ("APG 8, momentum -0.5", apg(-0.5), {}),
    "cads": (
        "CADS on CFG 4.5",
        dict(name="cads", rule=cfg(4.5), tau1=0.45, tau2=0.9, noise=0.25),
        {},
    ),
    "icg_3": ("ICG 3, a class", dict(name="icg", scale=3.0, classes=10), {}),
    "icg_3_embedding": ("ICG 3, an embedding", dict(name="icg", scale=3.0, embedding=True), {}),
    "unconditional": ("Unconditional", dict(name="unguided"), UNCONDITIONAL),
    "unconditional_tsg": ("Unconditional, TSG 2", dict(name="tsg", scale=2.0), UNCONDITIONAL),
    "unconditional_pag": (
        "Unconditional, PAG 2",
        dict(name="pag", scale=2.0, layers=(2, 3)),
        UNCONDITIONAL,
    ),
}
CONSTANT = ("cfg_1_5", "cfg_2", "cfg_2_5", "cfg_3", "cfg_3_5", "cfg_4_5", "cfg_8")


def claim(title: str, metric: str, row: str, relation: str, *than: str, **more) -> dict:
    """Return a claim as `guidestar.evaluation.claims.judge` reads it."""
    return dict(title=title, metric=metric, row=row, relation=relation, than=than, **more)


DISTANCE = "frechet_distance"
CLAIMS = (
    claim("APG at scale 8 has less contrast than CFG at 8", "contrast", "apg_8", "below", "cfg_8"),
    claim("... and fewer white pixels", "white", "apg_8", "below", "cfg_8"),
    claim("... and higher recall", "recall", "apg_8", "above", "cfg_8"),
    claim("CADS has higher recall than CFG at its scale", "recall", "cads", "above", "cfg_4_5"),
    claim("An interval beats the best constant CFG", DISTANCE, "interval", "below", *CONSTANT),
    claim("Autoguidance beats the best constant CFG", DISTANCE, "autoguidance", "below", *CONSTANT),
    claim("ICG is within 10 % of CFG", DISTANCE, "icg_3", "within", "cfg_3", tolerance=0.1),
    claim("... with an embedding", DISTANCE, "icg_3_embedding", "within", "cfg_3", tolerance=0.1),
    claim("TSG helps without a class", DISTANCE, "unconditional_tsg", "below", "unconditional"),
    claim("PAG helps without a class", DISTANCE, "unconditional_pag", "below", "unconditional"),
)


def get_config(rows: str = ""):
    """Return the config.

    Args:
        rows: names of rows separated by commas; all when empty.

    Raises:
        ValueError: an unknown row.
    """
    names = rows.split(",") if rows else list(ROWS)
    if unknown := [name for name in names if name not in ROWS]:
        raise ValueError(f"{unknown[0]!r} is not a row: choose from {', '.join(ROWS)}")
    config = common.base()
    config.name = "evidence"
    config.data.name = "fashion_mnist"
    config.sampling.weights.main = "fashion_mnist_dit_unmirrored"
    config.sampling.weights.guide = "fashion_mnist_guide_unmirrored"
    config.sampling.batch_size = 100
    config.sampler.schedule.steps = 12
    config.rows = ConfigDict(
        {
            name: dict(title=title, guidance=guidance, sampling=sampling)
            for name in names
            for title, guidance, sampling in [ROWS[name]]
        },
        sort_keys=False,  # shown in this order
    )
    config.claims = CLAIMS
    config.evaluation = ConfigDict(
        dict(
            classifier="fashion_mnist_classifier",
            statistics="fashion_mnist_statistics",
            # Where not the classifier's, whose features: {"name": ..., argument: ...}.
            extractor=dict(name="classifier"),
            metrics=(
                "frechet_distance",
                dict(name="precision_recall", k=5),
                dict(name="density_coverage", k=5),
                "agreement",
                "contrast",
                "white",
            ),
            # Of moments that others published, which of several: fid, fd_dinov2, spatial.
            statistics_key="",
            count=2000,
            # Sets of as many images, of other seeds each: mean, deviation and lowest are kept.
            repeats=1,
            # N: the distance once more with the images' N most probable classes as frequent as the
            # real ones'; 0 leaves it out.
            resample=0,
        )
    )
    # What --mode=evidence says of how its page was made.
    config.evidence = ConfigDict(
        dict(
            command="make evidence",
            row_command=(
                "python main.py --config=configs/evidence.py:{row} --workdir=out/{row} "
                "--mode=evaluate"
            ),
        )
    )
    return config
