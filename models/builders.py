"""From the name of a network to the network: out of a config's ``model`` section, or by arguments.

Importing this registers every network of this package.
"""

from collections.abc import Mapping
from typing import Any

from ..core.registry import explained, registry
from .autoencoders import lite_vae, sd_vae
from .classifiers import residual
from .convnets import dico, dimr
from .mlps import score_mlp
from .spec import Spec
from .transformers import dit, lightning_dit, pixart, sit, umd
from .unets import dhariwal, edm2_ladder, song

# The files that register the networks of this package.
FILES = (
    lite_vae,
    sd_vae,
    residual,
    dico,
    dimr,
    score_mlp,
    dit,
    lightning_dit,
    pixart,
    sit,
    umd,
    dhariwal,
    edm2_ladder,
    song,
)


def build(section: Mapping[str, Any], where: str = "model") -> Spec:
    """Read a ``model`` section: a registered network and its fields.

    Args:
        section: ``name`` (``dit``, or another that was registered) and the network's own fields.
        where: its place in a config, for messages.

    Raises:
        UserError: unknown name, a field that the network does not take or that is missing, or
            values that make no network.
    """
    plain = {name: _plain(value) for name, value in section.items()}
    spec = registry("network").build(plain, where)
    with explained(where):
        # Shapes alone: a field that does not fit is found before anything is computed.
        spec.shapes  # noqa: B018
    return spec


def _plain(value: Any) -> Any:
    """Return a config's own kind of mapping as a dictionary, anything else as it is."""
    return value.to_dict() if hasattr(value, "to_dict") else value
