"""Published weights to this project's files.

    python main.py --config=configs/import_weights.py --workdir=WEIGHTS --mode=import \
        --config.weights.source=edm2-img512-s-2147483-0.130.pkl

SOURCE is a path, or the name of a published file in $GUIDESTAR_WEIGHTS; nothing in it is run.
What the file does not say goes into `--config.weights.model="name=sit,heads=16"`. Beside the
weights comes a config that samples them.
"""

from guidestar.configs import common


def get_config():
    """Return the config."""
    config = common.base()
    config.name = "import_weights"
    return config
