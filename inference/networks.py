"""The networks of a sampling job, by the names that rules use, and what they were made of."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..core.errors import UserError
from ..core.files import digest_of, sha256
from ..core.registry import written_in
from ..guidance import CLASSIFIER, MAIN
from ..models.checkpoints import Loaded, load, resolve
from ..models.checkpoints.files import sidecar_of
from ..models.classifiers.trained import TrainedClassifier
from ..models.denoiser import Denoiser

# Where a person names the weights of a network.
PLACE = "sampling.weights"


@dataclasses.dataclass(frozen=True)
class Weights:
    """A network with its weights, and what tells them from others.

    Attributes:
        network: a denoiser, or a classifier.
        made_of: JSON data: the digest of the weights, and of what the network is built by.
        place: where they lie, for messages.
        latents: the scaling of the latents that the network was trained on, JSON data; None where
            nothing is known of it.
        name: a folder's, for what is made of them.
    """

    network: Denoiser | TrainedClassifier
    made_of: Mapping[str, str]
    place: str
    latents: Mapping[str, Any] | None = None
    name: str = ""


def read_weights(name: str, source: str, read: Callable[[str], Loaded] = load) -> Weights:
    """Read the weights of one network.

    Args:
        name: what rules call it; ``classifier`` is a classifier, all others are denoisers.
        source: a weight file or a shipped name, as `models.load` takes it.
        read: `models.checkpoints.load`, or its `outline` for shapes alone.

    Raises:
        UserError: no such file, or a classifier in a denoiser's place or the other way round.
    """
    weights = read_any(source, read)
    classifies = isinstance(weights.network, TrainedClassifier)
    if classifies and name != CLASSIFIER:
        raise UserError(
            f"{PLACE}.{name}: {source} is no denoiser; a classifier goes into {PLACE}.{CLASSIFIER}"
        )
    if not classifies and name == CLASSIFIER:
        raise UserError(f"{PLACE}.{name}: {source} is no classifier")
    return weights


def read_any(source: str, read: Callable[[str], Loaded] = load) -> Weights:
    """Read the weights of a denoiser or of a classifier, whichever they are.

    Raises:
        UserError: no such file.
    """
    loaded = read(source)
    classifies = loaded.spec.preconditioner is None
    path = resolve(source)
    made_of = {"sha256": sha256(path)}
    if sidecar_of(path) is not None:
        # Beside the arrays, and not in them. Of other files it is found from the arrays.
        made_of["model"] = digest_of(loaded.sidecar["model"])
    made_of |= code_of(loaded.sidecar["model"])
    network = TrainedClassifier(loaded.params, loaded.network) if classifies else loaded.denoiser
    return Weights(network, made_of, str(path), loaded.sidecar.get("latents"), path.stem)


def code_of(model: Mapping[str, Any]) -> dict[str, str]:
    """Return what tells the code of a network from outside; nothing of one of this package's."""
    return written_in({"model": model}).get(model["name"], {})


def require_named(sources: Mapping[str, Any], names: Iterable[str], asking: str) -> None:
    """Refuse a job that names no weights for a network that is asked for.

    Args:
        sources: weights by network name; those that are empty count as not named.
        names: of the networks that are asked for.
        asking: who asks, for the message.

    Raises:
        UserError: the first network that is missing.
    """
    if not sources.get(MAIN):
        raise UserError(f"{PLACE}.{MAIN} is empty: name the weights to sample from")
    if missing := sorted(name for name in names if not sources.get(name)):
        raise UserError(f"{asking} needs a network named {missing[0]!r}: set {PLACE}.{missing[0]}")


def require_fitting(networks: Mapping[str, Denoiser | TrainedClassifier]) -> None:
    """Refuse networks that cannot work on the same samples of the same classes.

    Raises:
        UserError: they differ in the samples' shape; or know other classes than the main network,
            whose labels would mean something else to them. A network without classes may guide
            one with classes, and the other way round.
    """
    shapes = {name: network.shape for name, network in networks.items()}
    if len(set(shapes.values())) > 1:
        raise UserError(f"the networks work on samples of different shapes: {shapes}")
    classes = {name: network.network.num_classes for name, network in networks.items()}
    for name, count in classes.items():
        if count and classes[MAIN] and count != classes[MAIN]:
            raise UserError(
                f"{PLACE}.{name} knows {count} classes and the main network {classes[MAIN]}: they "
                f"must be the same"
            )


def load_networks(weights: Mapping[str, str]) -> dict[str, Denoiser | TrainedClassifier]:
    """Load networks by name, ``{"main": source, "guide": source, "classifier": source}``.

    Args:
        weights: for each network a weight file or a shipped name; empty sources are left out. The
            one called ``classifier`` is a classifier, all others are denoisers.

    Raises:
        UserError: no main network, a classifier in a denoiser's place or the other way round, or
            networks that differ in the samples' shape or the classes.
    """
    sources = {name: source for name, source in weights.items() if source}
    require_named(sources, (), "a job")
    networks = {name: read_weights(name, source).network for name, source in sources.items()}
    require_fitting(networks)
    return networks
