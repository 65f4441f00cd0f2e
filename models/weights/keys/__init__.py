"""Published names of parameters to this project's, a table for each architecture.

A module here has two functions:

``recognise(weights) -> dict | None``: the ``model`` section of the network that a file's tensors
belong to, as far as the file says; None where they are of another architecture.

``keys(**fields) -> dict[str, Entry]``: for the fields of such a section, every published name with
the parameter's path here (layers one by one) and its change of layout.
"""

import importlib
from types import ModuleType

# Names of model sections; where several recognise a file, the first is taken.
ARCHITECTURES = (
    "edm2_unet",
    "song_unet",
    "dhariwal_unet",
    "lightning_dit",
    "pixart",
    "dit",
    "sit",
    "dico",
    "dimr",
    "sd_vae",
)


def architecture(name: str) -> ModuleType:
    """Return the module with an architecture's table."""
    return importlib.import_module(f".{name}", __package__)
