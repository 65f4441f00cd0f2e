"""From a clean batch to what a network is trained on: noise, augmentation, perturbed conditions."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Key

from ...core.random import fold_each, normal_like
from ...core.registry import register
from ...models.denoiser import Denoiser, Network
from ...models.preconditioning import Coefficients
from ...samplers import priors
from ...samplers.priors import Prior, pfgmpp_kernel
from . import levels
from .augmentation import AugmentPipe
from .perturbation import ConditionPerturbation

# Streams of a sample's key, so that no two draws share bits.
SIGMA, NOISE, AUGMENT, CONDITION, DROPOUT = range(5)


@runtime_checkable
class Kernel(Protocol):
    """Draw ``(x - x0) / sigma``."""

    def __call__(self, clean: Array, sigma: Array, keys: Key[Array, " batch"]) -> Array:
        """Return noise of the shape of ``clean``, one key a sample."""
        ...

    @property
    def prior(self) -> Prior:
        """What samples of a network trained on it begin from."""
        ...


@dataclasses.dataclass(frozen=True)
class GaussianKernel:
    """Unit noise."""

    @property
    def prior(self) -> Prior:
        """Noise of standard deviation sigma."""
        return priors.gaussian()

    def __call__(self, clean, sigma, keys):
        """Return unit noise."""
        del sigma
        return normal_like(keys, clean)


@dataclasses.dataclass(frozen=True)
class PFGMPPKernel:
    """Noise of PFGM++ in units of sigma.

    Attributes:
        D: extra dimensions.
    """

    D: float

    @property
    def prior(self) -> Prior:
        """That of as many extra dimensions."""
        return priors.pfgmpp(self.D)

    def __call__(self, clean, sigma, keys):
        """Return noise of norm as of PFGM++'s kernel at sigma 1."""
        del sigma
        return pfgmpp_kernel(jnp.zeros_like(clean), 1.0, self.D, keys)


@register("kernel")
def gaussian() -> GaussianKernel:
    """Return the kernel of Gaussian diffusion: unit noise."""
    return GaussianKernel()


@register("kernel", "2302.04265")
def pfgmpp(D: float = 2048.0) -> PFGMPPKernel:
    """Return the kernel of PFGM++ with D extra dimensions, in units of sigma.

    Raises:
        ValueError: D not above 0.

    Source: Xu et al., arXiv 2302.04265; see `samplers.pfgmpp_kernel`.
    """
    if not D > 0:
        raise ValueError(f"pfgmpp: D counts the extra dimensions and must be above 0, got {D}")
    return PFGMPPKernel(float(D))


class Corrupted(NamedTuple):
    """What a network is given, and what it should find.

    Attributes:
        clean: x0 ``[batch, ...]``, augmented.
        noise: ``(x - x0) / sigma``.
        sigma: ``[batch]``.
        condition: labels, or None.
        modes, inputs: what else the network's call is given.
    """

    clean: Array
    noise: Array
    sigma: Array
    condition: Any
    modes: tuple
    inputs: dict[str, Array]

    @property
    def column(self) -> Array:
        """Sigma in a shape that multiplies samples."""
        return self.sigma.reshape((-1,) + (1,) * (self.clean.ndim - 1))

    @property
    def noisy(self) -> Array:
        """``x = x0 + sigma noise``."""
        return self.clean + self.column * self.noise


class Outcome(NamedTuple):
    """A network's output on a corrupted batch, in its own coordinates.

    Attributes:
        raw: all its channels.
        target: what the sample's own channels of it should be, ``(x0 - c_skip x) / c_out``.
        coefficients: of the preconditioner, shaped to multiply samples.
    """

    raw: Array
    target: Array
    coefficients: Coefficients

    @property
    def error(self) -> Array:
        """The output's error; times c_out it is the denoiser's, ``D(x) - x0``."""
        return self.raw[..., : self.target.shape[-1]] - self.target


def outcome(denoiser: Denoiser, given: Corrupted) -> Outcome:
    """Run a denoiser's network on a corrupted batch."""
    coefficients = denoiser.preconditioner.coefficients(given.column)
    raw = denoiser.raw(
        coefficients.inside * given.noisy,
        coefficients.noise.reshape(-1),
        given.condition,
        given.modes,
        **given.inputs,
    )
    # x0 - c_skip x, from the noise itself: where sigma is small their difference has no digits.
    wanted = (1 - coefficients.skip) * given.clean - (
        coefficients.skip * given.column * given.noise
    )
    return Outcome(raw, wanted / coefficients.out, coefficients)


def condition_of(network: Network, batch: Mapping[str, Any]) -> Any:
    """Return a batch's condition; None for a network that takes none."""
    return None if network.condition is None else batch.get("condition")


@dataclasses.dataclass(frozen=True)
class Corruption:
    """How a clean batch is corrupted; every sample from its own key.

    Attributes:
        levels: distribution of noise levels, see `training.noise`.
        kernel: ``(clean, sigma, keys) -> noise``, see `gaussian`.
        augment: augmentation that the network is told of.
        perturbation: noise on the condition's embedding.
        dropout: give the network keys for its dropout.
    """

    levels: levels.Noise
    kernel: Kernel = dataclasses.field(default_factory=gaussian)
    augment: AugmentPipe | None = None
    perturbation: ConditionPerturbation | None = None
    dropout: bool = False

    def __call__(
        self,
        network: Network,
        batch: Mapping[str, Any],
        keys: Key[Array, " batch"],
        span: tuple = levels.WHOLE,
    ) -> Corrupted:
        """Corrupt a batch.

        Args:
            network: says whether it takes a condition.
            batch: ``x`` ``[batch, ...]`` and ``condition``, null where it was dropped.
            keys: one a sample.
            span: part of the distribution of noise levels, see `noise.draw`.
        """
        clean, modes, inputs = batch["x"], (), {}
        if self.augment is not None:
            clean, inputs["augment"] = self.augment(clean, fold_each(keys, AUGMENT))
        if self.perturbation is not None:
            modes = ((self.perturbation(fold_each(keys, CONDITION)), None),)
        if self.dropout:
            inputs["dropout_key"] = fold_each(keys, DROPOUT)
        sigma = levels.draw(self.levels, fold_each(keys, SIGMA), span)
        noise = self.kernel(clean, sigma, fold_each(keys, NOISE))
        return Corrupted(clean, noise, sigma, condition_of(network, batch), modes, inputs)
