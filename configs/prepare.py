"""A folder of pictures to a data set.

    python main.py --config=configs/prepare.py --workdir=DATASET --mode=prepare \
        --config.prepare.source=PICTURES --config.prepare.size=64

Classes are the folders that pictures lie in, or what PICTURES/dataset.json or labels.csv says. Then
`--config.data.name=DATASET` trains on it.
"""

from guidestar.configs import common


def get_config():
    """Return the config."""
    config = common.base()
    config.name = "prepare"
    return config
