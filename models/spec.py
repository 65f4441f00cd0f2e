"""What building a model needs to know; every network's file has a function that returns one."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from .preconditioning import Preconditioner

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
SIGMA_RANGE = (0.002, 80.0)


def compute_type(name: str):
    """Return the type of a network's matrix products by its name in a config.

    Raises:
        ValueError: another name than those of `DTYPES`.
    """
    if name not in DTYPES:
        raise ValueError(f"model.dtype {name!r} is not one of {', '.join(DTYPES)}")
    return DTYPES[name]


def sigma_range(preconditioner: Preconditioner) -> tuple[float, float]:
    """Return the noise levels that networks of a family know: its own, or EDM's."""
    return getattr(preconditioner, "sigma_range", SIGMA_RANGE)


def unchanged(params: Any) -> Any:
    """Return parameters as they are: what most networks do to them after an update."""
    return params


def nothing(path: str) -> bool:
    """Say of any parameter that it is no exception."""
    return False


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """What building a model needs to know.

    Attributes:
        build: callable from `nnx.Rngs` to the module.
        num_classes: real classes; 0 when the network takes no label.
        shape: one input's shape, without the batch.
        preconditioner: turns the network into a denoiser; None for a classifier.
        project: what training applies to the parameters after every update (forced weight
            normalisation); leaves them as they are for most networks.
        sigma_range: lowest and highest noise level that the network knows.
        latent: whether it works on an autoencoder's latents.
        condition: names and shapes, without the batch, of the float arrays in the dictionary that
            a network conditioned on something else than a class takes.
        frozen: says of a parameter, by its path ``"emb_fourier/freqs"``, whether it is a constant
            that the network shares with its checkpoints: the optimiser leaves it as it is.
        undecayed: says of a parameter, by its path, whether weight decay leaves it alone.
    """

    build: Callable
    num_classes: int
    shape: tuple[int, ...]
    preconditioner: Preconditioner | None
    project: Callable = unchanged
    sigma_range: tuple[float, float] = SIGMA_RANGE
    latent: bool = False
    condition: tuple[tuple[str, tuple[int, ...]], ...] = ()
    frozen: Callable[[str], bool] = nothing
    undecayed: Callable[[str], bool] = nothing
