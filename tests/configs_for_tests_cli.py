"""The config of `configs_for_tests`, as a file that the command line takes."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from configs_for_tests import tiny


def get_config():
    """Return the config."""
    return tiny()
