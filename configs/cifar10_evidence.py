"""CIFAR-10: how far the shipped EDM network's samples are from the real set.

    python main.py --config=configs/cifar10_evidence.py --workdir=out/cifar10 --mode=evaluate

docs/training.md has the figures. The features are those of `cifar10_classifier`, so that distances
compare with nothing published.
"""

from ml_collections import ConfigDict

from guidestar.configs import common


def get_config():
    """Return the config."""
    config = common.base()
    config.name = "cifar10_evidence"
    config.data.name = "cifar10"
    config.sampling.weights.main = "cifar10_edm_small"
    config.sampling.batch_size = 100
    config.sampler.schedule.steps = 18
    config.rows = ConfigDict(
        dict(unguided=dict(title="Unguided", guidance=dict(name="unguided"), sampling={}))
    )
    config.evaluation = ConfigDict(
        dict(
            classifier="cifar10_classifier",
            statistics="cifar10_statistics",
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
            count=500,
            # Sets of as many images, of other seeds each: mean, deviation and lowest are kept.
            repeats=1,
            # N: the distance once more with the images' N most probable classes as frequent as the
            # real ones'; 0 leaves it out.
            resample=0,
        )
    )
    return config
