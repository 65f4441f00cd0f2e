"""UMD's loss: masked autoencoding and masked denoising in one batch (arXiv 2406.17688)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ...core.random import fold_each
from ...core.registry import register
from ...models.preconditioning import Preconditioner
from ...models.transformers.umd import draw_visible
from ..noise.corruption import Corruption, outcome
from ..noise.levels import WHOLE
from ..noise.weightings import Weighting, uniform
from .loss import MAIN, Batch, Role, Roles, over_elements

# Stream of a sample's key, beside those of `training.corruption`.
MASK = 5
# As good as no noise: what scales a clean image is the same from here down to 0.
CLEAN = 1e-6


@dataclasses.dataclass(frozen=True)
class Masked:
    """Of a batch, ``clean_share`` is autoencoded and the rest denoised, both under a mask.

    Without noise the loss is ``|x0 - x0*|^2`` in hidden pixels. With noise it is half
    ``w(sigma) |D - x0*|^2`` in visible pixels plus half ``|x0 - x0*|^2`` in hidden ones, or both
    of them everywhere where nothing is hidden. The network is `models.UMD`, whose output is first
    what the preconditioner asks for, the noise as published, and then x0. Clean samples have no
    label.

    Attributes:
        preconditioner: of the network.
        corruption: of the samples with noise.
        weighting: w, as in `losses.Denoising`.
        clean_share: share of the batch without noise, 0.5 as published; whole samples, rounded
            down, spread evenly over the batch.
        clean_mask, mask: share of tokens hidden without and with noise.

    Raises:
        ValueError: a share outside [0, 1], no mask where there is no noise, or perturbed
            conditions under a mask.
    """

    preconditioner: Preconditioner
    corruption: Corruption
    weighting: Weighting = dataclasses.field(default_factory=uniform)
    clean_share: float = 0.5
    clean_mask: float = 0.75
    mask: float = 0.375

    def __post_init__(self):
        if not (0 <= self.clean_share <= 1 and 0 <= self.mask < 1):
            raise ValueError(
                f"masked: clean_share {self.clean_share} lies in [0, 1], mask {self.mask} in [0, 1)"
            )
        if self.clean_share and not 0 < self.clean_mask < 1:
            raise ValueError(
                f"masked: clean_mask {self.clean_mask} must lie between 0 and 1: without noise, "
                f"what is not hidden is known"
            )
        if self.mask and self.corruption.perturbation is not None:
            raise ValueError("masked: conditions are perturbed where mask is 0 alone")

    def __call__(
        self,
        roles: Roles,
        batch: Batch,
        keys: Key[Array, " batch"],
        span: tuple = WHOLE,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's loss, and the errors it is made of; see `losses.Loss`."""
        main = roles[MAIN]._replace(preconditioner=self.preconditioner)
        clean, noisy = _parts(len(keys), self.clean_share)
        values, metrics = jnp.zeros(len(keys)), {}
        if clean.size:
            part = jax.tree.map(lambda values: values[clean], dict(batch))
            found = self._autoencoded(main, part, keys[clean])
            values, metrics = values.at[clean].set(found), {"autoencoding_error": found}
        if noisy.size:
            part = jax.tree.map(lambda values: values[noisy], dict(batch))
            here = tuple(end[noisy] if jnp.ndim(end) else end for end in span)
            found, errors = self._denoised(main, part, keys[noisy], here)
            values, metrics = values.at[noisy].set(found), metrics | errors
        return values, metrics

    def _autoencoded(self, main: Role, batch: Batch, keys):
        image, module = batch["x"], main.network.module(main.params)
        visible = draw_visible(fold_each(keys, MASK), math.prod(module.grid), self.clean_mask)
        level = jnp.full((len(keys),) + (1,) * (image.ndim - 1), CLEAN)
        inside = self.preconditioner.coefficients(level).inside
        time = jnp.full(len(keys), module.clean_time)
        raw = main.denoiser.raw(inside * image, time, None, visible=visible)
        return _mean_where(module.hidden_pixels(visible), (_pixels(raw, image) - image) ** 2)

    def _denoised(self, main: Role, batch: Batch, keys, span):
        given = self.corruption(main.network, batch, keys, span)
        module = main.network.module(main.params)
        hidden = None
        if self.mask:
            visible = draw_visible(fold_each(keys, MASK), math.prod(module.grid), self.mask)
            given = given._replace(inputs=given.inputs | {"visible": visible})
            hidden = module.hidden_pixels(visible)
        found = outcome(main.denoiser, given)
        weight = self.weighting(given.column, self.preconditioner) * found.coefficients.out**2
        seen = weight * found.error**2
        unseen = (_pixels(found.raw, given.clean) - given.clean) ** 2
        if hidden is None:
            parts = over_elements(jnp.mean, seen), over_elements(jnp.mean, unseen)
        else:
            parts = _mean_where(1 - hidden, seen), _mean_where(hidden, unseen)
        errors = {"denoising_error": parts[0], "pixel_error": parts[1]}
        return (parts[0] + parts[1]) / 2, errors


def _parts(count: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of a batch that are clean and those that are noisy, evenly mixed."""
    steps = np.floor(np.arange(count + 1) * share + 1e-9)
    is_clean = np.diff(steps) > 0
    return np.flatnonzero(is_clean), np.flatnonzero(~is_clean)


def _pixels(raw: Array, image: Array) -> Array:
    """Return the part of the output that is the clean image."""
    return raw[..., image.shape[-1] :]


def _mean_where(mask: Array, values: Array) -> Float[Array, " batch"]:
    """Return the mean of values in the pixels of a mask, sample by sample."""
    mask = jnp.broadcast_to(mask, values.shape)
    return over_elements(jnp.sum, mask * values) / over_elements(jnp.sum, mask)


@register("loss", "2406.17688")
def masked(
    preconditioner: Preconditioner,
    corruption: Corruption,
    weighting: Weighting,
    /,
    clean_share: float = 0.5,
    clean_mask: float = 0.75,
    mask: float = 0.375,
) -> Masked:
    """Autoencode a part of the batch and denoise the rest, both under a mask.

    Args:
        preconditioner, corruption, weighting, clean_share, clean_mask, mask: as of `Masked`.
    """
    return Masked(preconditioner, corruption, weighting, clean_share, clean_mask, mask)
