"""How much the error at each noise level counts: weights of ``|D(x; sigma) - x0|^2``.

A weighting is a function ``(sigma, preconditioner) -> weight``. Weights live in x0 space, where
every network's prediction can be compared; `converted` gives the weight of the same loss on the
error of a predicted noise, velocity or network output, and ``uniform(target)`` is the plain loss
on one of these. SNR stands for ``1 / sigma^2``.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from ...core.registry import register
from ...models.preconditioning import EDM, Preconditioner

Weighting = Callable[[Float[Array, "..."], Preconditioner], Float[Array, "..."]]

# target -> squared error of that prediction, for a squared error 1 of the x0 it stands for.
# eps = (x - x0) / sigma; v = (eps - sigma x0) / sqrt(1 + sigma^2) in variance-preserving
# coordinates (arXiv 2202.00512); network: its own output F of D = c_skip x + c_out F.
TARGETS: dict[str, Weighting] = {
    "x0": lambda sigma, preconditioner: jnp.ones_like(sigma),
    "eps": lambda sigma, preconditioner: 1 / sigma**2,
    "v": lambda sigma, preconditioner: 1 + 1 / sigma**2,
    "network": lambda sigma, preconditioner: 1 / preconditioner.coefficients(sigma).out ** 2,
}


def converted(weighting: Weighting, target: str) -> Weighting:
    """Return the weight on the squared error of ``target`` that gives the same loss.

    Args:
        weighting: in x0 space.
        target: one of `TARGETS`.

    Raises:
        ValueError: another target.
    """
    factor = TARGETS[_checked(target)]
    return lambda sigma, preconditioner: (
        weighting(sigma, preconditioner) / factor(sigma, preconditioner)
    )


@register("weighting")
def uniform(target: str = "network") -> Weighting:
    """Return weights that make the loss the plain mean squared error of ``target``.

    ``network`` is EDM's weight for EDM's preconditioning, 1/sigma^2 for networks that predict
    noise, and the loss on the velocity for flows.

    Args:
        target: ``x0``, ``eps``, ``v`` or ``network``.

    Raises:
        ValueError: another target.
    """
    return TARGETS[_checked(target)]


@register("weighting", "2206.00364")
def edm(sigma_data: float = 0.5) -> Weighting:
    """Return EDM's ``(sigma^2 + sigma_data^2) / (sigma sigma_data)^2`` for any network.

    Source: Karras et al., arXiv 2206.00364, Table 1.
    """
    return lambda sigma, preconditioner: EDM(sigma_data).loss_weight(sigma)


@register("weighting", "2303.09556")
def min_snr(gamma: float = 5.0) -> Weighting:
    """Return ``min(SNR, gamma)``.

    Raises:
        ValueError: gamma not above 0.

    Source: Hang et al., arXiv 2303.09556.
    """
    if not gamma > 0:
        raise ValueError(f"min_snr: gamma bounds the SNR and must be above 0, got {gamma}")
    return lambda sigma, preconditioner: jnp.minimum(1 / sigma**2, gamma)


@register("weighting", "2202.00512")
def truncated_snr() -> Weighting:
    """Return ``max(SNR, 1)``: the loss on noise where it is low, on x0 where it is high.

    Source: Salimans and Ho, arXiv 2202.00512.
    """
    return lambda sigma, preconditioner: jnp.maximum(1 / sigma**2, 1)


@register("weighting", "2204.00227")
def p2(gamma: float = 1.0, k: float = 1.0) -> Weighting:
    """Return ``SNR / (k + SNR)^gamma``: weight ``1 / (k + SNR)^gamma`` on the noise's error.

    Raises:
        ValueError: gamma below 0 or k not above 0.

    Source: Choi et al., arXiv 2204.00227.
    """
    if not (gamma >= 0 and k > 0):
        raise ValueError(f"p2: gamma is 0 or more and k above 0, got {gamma} and {k}")
    # SNR / (k + SNR)^gamma without an SNR that overflows: both sides times sigma^(2 gamma).
    return lambda sigma, preconditioner: sigma ** (2 * gamma - 2) / (k * sigma**2 + 1) ** gamma


def _checked(target: str) -> str:
    if target not in TARGETS:
        raise ValueError(f"target {target!r} is not one of {', '.join(TARGETS)}")
    return target
