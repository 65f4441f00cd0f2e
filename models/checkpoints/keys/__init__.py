"""Names and layouts of published checkpoints, a table for each architecture in a file of its own.

A module here has two functions:

``recognise(weights: WeightSource) -> dict | None``: the ``model`` section of the network that a
file's tensors belong to, as far as the file says (shapes, classes and their arguments); None where
they are of another architecture. A field that the file says something of which networks here do
not know may be the `UserError` that says so: it is raised unless the caller gives the field. A
table of labels without a row for no class is ``null_class`` False, which is no field of a network
but goes into the sidecar.

``keys(**fields) -> dict[str, Entry | None]``: for fields of such a section (it takes those that it
needs by name), every published name with the parameter's path here, layers one by one, and its
change of layout; None for a constant that the network here computes for itself. An architecture
that is published under several sets of names takes ``names``, those of the file, as well.

Two more it may have. ``renamed(weights) -> WeightSource | None``: a file whose arrays are split
otherwise, under the names of the table; None for other files. ``absent(weights, section) -> dict``:
arrays, by their path here, of layers that a file is without because they do nothing there.
"""

import importlib
from types import ModuleType

# Networks by registered name, and the files here; of several that recognise a file, the first.
ARCHITECTURES = {
    "edm2_unet": "edm2",
    "song_unet": "song",
    "dhariwal_unet": "dhariwal",
    "lightning_dit": "lightning_dit",
    "pixart": "pixart",
    "dit": "dit",
    "sit": "sit",
    "dico": "dico",
    "dimr": "dimr",
    "umd": "umd",
    "sd_vae": "sd_vae",
    "inception_v3": "inception",
    "dinov2": "dinov2",
    "clip_image": "clip",
}


def architecture(name: str) -> ModuleType:
    """Return the module with an architecture's table."""
    return importlib.import_module(f".{ARCHITECTURES[name]}", __package__)
