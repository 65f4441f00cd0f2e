"""The networks of a sampling job, by the names that rules use."""

from collections.abc import Mapping

from ..errors import UserError
from ..models.denoiser import Denoiser
from ..models.weights import load


def load_networks(weights: Mapping[str, str]) -> dict[str, Denoiser]:
    """Load denoisers by name, ``{"main": source, "guide": source}``.

    Args:
        weights: for each network a .safetensors path or a shipped name; empty sources are
            left out.

    Raises:
        UserError: no main network, a classifier in its place, or networks whose samples differ
            in shape.
    """
    sources = {name: source for name, source in weights.items() if source}
    if "main" not in sources:
        raise UserError("config.sampling.weights.main is empty: name the weights to sample from")
    networks = {}
    for name, source in sources.items():
        loaded = load(source)
        if loaded.plan.preconditioner is None:
            raise UserError(f"config.sampling.weights.{name}: {source} is no denoiser")
        networks[name] = loaded.denoiser
    shapes = {name: network.shape for name, network in networks.items()}
    if len(set(shapes.values())) > 1:
        raise UserError(f"the networks make samples of different shapes: {shapes}")
    return networks
