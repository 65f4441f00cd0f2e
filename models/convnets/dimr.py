"""DiMR: branches from low to high resolution with time-dependent norms (arXiv 2406.09416)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ...core.registry import register
from ...core.sites import (
    ATTENTION,
    BLOCK,
    CONDITION_EMBEDDING,
    TIME_EMBEDDING,
    at_site,
    changed,
    require_offered,
)
from ..layers.labels import label_or_null, where_known
from ..preconditioning import Discrete, Preconditioner, from_config, sigma_range
from ..spec import Spec, class_conditional
from .dimr_branch import Branch, ConvBlock, TransformerBlock

# name -> (side of the input, widths of the branches, blocks of the branches). The published code
# rounds its numbers of blocks (20) to odd ones; those of XL/3R are in no published file, and give
# the published 525M parameters.
SIZES = {
    "XL/2R": (32, (960, 480), (39, 21)),
    "G/2R": (32, (1152, 576), (57, 29)),
    "XL/3R": (64, (960, 480, 240), (39, 21, 21)),
}
# The published networks learned the noise of Stable Diffusion's table of 1000 steps.
SCHEDULE = dict(betas="scaled_linear", beta_start=0.00085, beta_end=0.012)
# The indices of steps that tau = -1 and tau = 1 stand for, were there a step -1.
STEPS = (-1.0, 999.0)


def targets(
    noise: Float[Array, "batch h w c"], branches: int
) -> tuple[Float[Array, "batch _h _w c"], ...]:
    """Return what each branch's head predicts, the coarsest first, where the last predicts noise.

    Twice the mean of 2x2 pixels, again and again: of unit variance like the noise.

    Source: Liu et al., arXiv 2406.09416, with the factor of the published code.
    """
    found = [noise]
    for _ in range(branches - 1):
        batch, height, width, channels = found[0].shape
        squares = found[0].reshape(batch, height // 2, 2, width // 2, 2, channels)
        found.insert(0, 2 * squares.mean(axis=(2, 4)))
    return tuple(found)


class DiMR(nnx.Module):
    """Multi-resolution network, ``(x, time, label) -> output`` in the network's own coordinates.

    The first branch is a transformer with long skip connections at the lowest resolution, where a
    token tells the class; the others are convolutional, each of twice the resolution, and take the
    features of all blocks of the one below. Time enters through the norms alone, as
    ``tau``, which is what the site ``time_embedding`` sees; the blocks are counted through all
    branches.

    Args:
        image_size: largest, and usual, height and width of the input.
        channels: input channels.
        widths: of the branches, the coarsest first.
        depths: blocks of the branches, odd.
        num_classes: real classes; 0 builds an unconditional network.
        null_class: whether the label table has one more row, the null class, last.
        heads: of the attention.
        mlp_ratio: hidden width of the gated MLPs in multiples of the blocks'.
        kernel_size: of the depth-wise convolutions.
        norm: of the blocks, "rms" as published or "layer" (see `time_norm`).
        time_range: the times that tau = -1 and tau = 1 stand for; the published ones are those of
            1000 steps.
        scan_layers: keep the parameters of each half of a branch stacked and loop over them with
            ``lax.scan``: compile time independent of depth.
        dtype: compute type of the matrix products; parameters stay float32.

    Raises:
        ValueError: sizes that do not divide or do not match, an even depth, an unknown norm.

    Source: Liu et al., arXiv 2406.09416; structure as in the published code.
    """

    def __init__(
        self,
        *,
        image_size: int,
        channels: int,
        widths: Sequence[int],
        depths: Sequence[int],
        num_classes: int,
        null_class: bool = True,
        heads: int = 16,
        mlp_ratio: float = 2.0,
        kernel_size: int = 7,
        norm: str = "rms",
        time_range: tuple[float, float] = STEPS,
        scan_layers: bool = False,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.patch_size = 2 ** (len(widths) - 1)
        if not widths or len(widths) != len(depths):
            raise ValueError(
                f"widths and depths must be as many, one a branch, got {widths} and {depths}"
            )
        if any(depth < 3 or depth % 2 == 0 for depth in depths):
            raise ValueError(f"depths must be odd numbers from 3 on, got {depths}")
        if image_size % self.patch_size or image_size < 1:
            raise ValueError(
                f"image_size {image_size} must be divisible by {self.patch_size} for "
                f"{len(widths)} branches"
            )
        if widths[0] % heads:
            raise ValueError(f"the first width {widths[0]} must be divisible by heads ({heads})")
        if not time_range[0] < time_range[1]:
            raise ValueError(f"time_range must be two increasing numbers, got {time_range}")
        self.image_size, self.channels = image_size, channels
        self.num_classes, self.null_class = num_classes, null_class
        self.depths, self.time_range, self.dtype = tuple(depths), tuple(time_range), dtype
        branches, below = {}, 0
        for n, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            hidden = int(width * mlp_ratio)
            kind: Callable = partial(TransformerBlock, width, heads, hidden)
            if n:
                kind = partial(ConvBlock, width, kernel_size, hidden)
            patch_size = self.patch_size // 2**n
            branches[f"branch_{n + 1}"] = Branch(
                partial(kind, norm=norm, dtype=dtype),
                width,
                depth,
                channels=channels,
                patch_size=patch_size,
                side=image_size // patch_size,
                below=below,
                labels=num_classes + null_class if num_classes and not n else 0,
                scan_layers=scan_layers,
                dtype=dtype,
                rngs=rngs,
            )
            below = width * (depth + 1)
        self.branches = nnx.Dict(branches)

    @property
    def sites(self) -> tuple[str, ...]:
        """Where modes may step in; without classes there is no condition to embed."""
        condition = (CONDITION_EMBEDDING,) if self.num_classes else ()
        return (TIME_EMBEDDING, *condition, ATTENTION, BLOCK)

    @classmethod
    def fields(cls, name: str) -> dict[str, Any]:
        """Return the fields of a published size, "XL/2R", "G/2R" or "XL/3R".

        Raises:
            ValueError: no such size.
        """
        if name not in SIZES:
            raise ValueError(f"unknown DiMR size {name!r}; use one of {', '.join(SIZES)}")
        image_size, widths, depths = SIZES[name]
        own = dict(image_size=image_size, widths=widths, depths=depths)
        return own | dict(channels=4, num_classes=1000)

    @classmethod
    def from_name(cls, name: str, **overrides) -> "DiMR":
        """Build a published size by name: ``"XL/2R"``, of two resolutions."""
        return cls(**(cls.fields(name) | overrides))

    def __call__(
        self,
        x: Float[Array, "batch h w c"],
        time: Float[Array, " batch"],
        label: Int[Array, " batch"] | None,
        modes: tuple = (),
    ) -> Float[Array, "batch h w c"]:
        """Run the network.

        Args:
            x: images of the network's channels; height and width divisible by 2 for each branch
                but the last, and not larger than it was made for.
            time: the network's time input.
            label: integers, ``num_classes`` being the null class; None is the null class.
            modes: pairs (mode, where) that step in at the network's sites (see `core.sites`).

        Raises:
            ValueError: an input that it does not take, a mode at a site that is not offered or in
                a layer beyond the depth.
        """
        return self.stages(x, time, label, modes)[-1]

    def stages(
        self,
        x: Float[Array, "batch h w c"],
        time: Float[Array, " batch"],
        label: Int[Array, " batch"] | None,
        modes: tuple = (),
    ) -> tuple[Float[Array, "batch _h _w c"], ...]:
        """Return the prediction of every branch, the coarsest first; arguments as in a call.

        Training compares them with `targets`, weighted 1/4 and 1 in the published two branches.
        """
        self._require(x, modes)
        low, high = self.time_range
        tau = 2 * (time.astype(jnp.float32) - low) / (high - low) - 1
        tau = changed(modes, TIME_EMBEDDING, tau[:, None])
        token, inside = self._token(x.shape[0], label, modes), self._inside(modes)
        below, first = None, 0
        found: list[Array] = []
        for branch, depth in zip(self.branches.values(), self.depths, strict=True):
            features = branch.features(x, below, None if found else token, tau, inside, first)
            found.append(branch.predict(features[-1], tau))
            below = jnp.moveaxis(features, 0, -2).reshape(*features.shape[1:4], -1)
            first += depth
        return tuple(found)

    def _token(self, batch, label, modes):
        """Return the token of the class, ``[batch, 1, width]``; an empty one without classes."""
        if not self.num_classes:
            width = self.branches["branch_1"].positions.shape[-1]
            return jnp.zeros((batch, 0, width), self.dtype)
        embed = self.branches["branch_1"].label_table
        classes = self.num_classes, self.null_class
        label = label_or_null(label, batch, *classes)
        row = where_known(embed(label), label, *classes)
        table = embed.embedding[: self.num_classes].astype(self.dtype)
        return changed(modes, CONDITION_EMBEDDING, row, table)[:, None]

    def _inside(self, modes):
        return at_site(modes, ATTENTION) + at_site(modes, BLOCK)

    @staticmethod
    def undecayed(path: str) -> bool:
        """Say whether a parameter is a gate of a time-dependent norm, which nothing decays."""
        return path.rpartition("/")[2] in ("slope", "offset")

    def _require(self, x, modes):
        unit, largest = self.patch_size, self.image_size
        sides = x.shape[1:3]
        if (
            x.ndim != 4
            or x.shape[3] != self.channels
            or any(n % unit or not 0 < n <= largest for n in sides)
        ):
            raise ValueError(
                f"this DiMR takes {largest}x{largest}x{self.channels} inputs, or smaller ones of "
                f"{self.channels} channels and sides divisible by {unit}, got {x.shape[1:]}"
            )
        depths = {ATTENTION: self.depths[0], BLOCK: sum(self.depths)}
        for mode, where in modes:
            require_offered(((mode, where),), self.sites, depths.get(mode.site, 0))


@register("network", "2406.09416", name="dimr")
def dimr_spec(
    size: str | None = None,
    dtype: str = "float32",
    latent: bool | None = None,
    sigma_data: float = 0.5,
    preconditioner: str | Mapping[str, Any] = "discrete",
    **fields: Any,
) -> Spec:
    """Read the model section of a DiMR: fields of `DiMR`, and five of this function.

    ``size`` is a published one, "XL/2R"; ``preconditioner`` "discrete", with the published table
    of steps, or "edm" with ``sigma_data``. Without a ``time_range``, tau goes from -1 to 1 over
    the noise levels that the preconditioner knows.
    """
    chosen = from_config(preconditioner, sigma_data=sigma_data, **SCHEDULE)
    if "time_range" not in fields:
        fields["time_range"] = _time_range(chosen)
    return class_conditional(
        DiMR, "dimr", chosen, size=size, dtype=dtype, latent=latent, fields=fields
    )


def _time_range(preconditioner: Preconditioner) -> tuple[float, float]:
    if isinstance(preconditioner, Discrete):
        return -1.0, preconditioner.steps - 1.0
    ends = jnp.asarray(sigma_range(preconditioner))
    low, high = sorted(float(end) for end in preconditioner.coefficients(ends).noise)
    return low, high
