"""The config of `tiny_configs.configs`, as a file that the command line takes."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny_configs.configs import tiny


def get_config():
    """Return the config."""
    return tiny()
