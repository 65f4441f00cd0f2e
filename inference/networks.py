"""The networks of a sampling job, by the names that rules use."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import Array, Float

from ..core.errors import UserError
from ..guidance import CLASSIFIER
from ..models.checkpoints import load
from ..models.denoiser import Denoiser, Network


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Classifier:
    """Map ``(x, sigma)`` to logits, with a network trained on clean samples: sigma is ignored.

    Parameters are pytree leaves, so a classifier passes through `jax.jit` as an argument.
    """

    params: Any
    network: Network = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """One sample's shape, without the batch."""
        return self.network.shape

    def __call__(
        self, x: Float[Array, " batch *shape"], sigma: Float[Array, ""]
    ) -> Float[Array, "batch class"]:
        """Return the logits of ``x``."""
        del sigma
        return self.network.module(self.params)(x)


def load_networks(weights: Mapping[str, str]) -> dict[str, Denoiser | Classifier]:
    """Load networks by name, ``{"main": source, "guide": source, "classifier": source}``.

    Args:
        weights: for each network a .safetensors path or a shipped name; empty sources are
            left out. The one called ``classifier`` is a classifier, all others are denoisers.

    Raises:
        UserError: no main network, a classifier in a denoiser's place or the other way round, or
            networks that differ in the samples' shape or a classifier in the classes.
    """
    sources = {name: source for name, source in weights.items() if source}
    if "main" not in sources:
        raise UserError("config.sampling.weights.main is empty: name the weights to sample from")
    networks: dict[str, Denoiser | Classifier] = {}
    for name, source in sources.items():
        loaded = load(source)
        classifies = loaded.plan.preconditioner is None
        if classifies and name != CLASSIFIER:
            raise UserError(
                f"config.sampling.weights.{name}: {source} is no denoiser; a classifier goes into "
                f"config.sampling.weights.{CLASSIFIER}"
            )
        if not classifies and name == CLASSIFIER:
            raise UserError(f"config.sampling.weights.{name}: {source} is no classifier")
        networks[name] = (
            Classifier(loaded.params, loaded.network) if classifies else loaded.denoiser
        )
    shapes = {name: network.shape for name, network in networks.items()}
    if len(set(shapes.values())) > 1:
        raise UserError(f"the networks work on samples of different shapes: {shapes}")
    classes = {name: network.network.num_classes for name, network in networks.items()}
    if CLASSIFIER in classes and classes["main"] not in (0, classes[CLASSIFIER]):
        raise UserError(
            f"config.sampling.weights.{CLASSIFIER} knows {classes[CLASSIFIER]} classes and the "
            f"main network {classes['main']}: they must be the same"
        )
    return networks
