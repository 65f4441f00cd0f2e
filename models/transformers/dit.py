"""DiT: diffusion transformer with adaLN-Zero conditioning (Peebles & Xie, arXiv 2212.09748)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ...core.pytrees import Constant
from ...core.registry import register
from ...core.sites import (
    ATTENTION,
    BLOCK,
    CONDITION_EMBEDDING,
    TIME_EMBEDDING,
    around,
    changed,
    require_offered,
)
from ..layers.attention import Attention
from ..layers.dense import linear, modulate, plain_norm, small_normal, zeros
from ..layers.frequencies import TIME_FREQUENCIES, time_features
from ..layers.labels import label_or_null, where_known
from ..layers.stacks import stack, through
from ..layers.tokens import patchify, require_dividing, sincos_positions, token_grid, unpatchify
from ..preconditioning import from_config
from ..spec import Spec, class_conditional

# name -> (depth, width, heads), arXiv 2212.09748, Table 1.
SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}


class Block(nnx.Module):
    """One adaLN-Zero transformer block; the identity at initialisation."""

    def __init__(self, width: int, heads: int, *, mlp_ratio: float, dtype, rngs: nnx.Rngs):
        self.dtype = dtype
        self.norm = plain_norm(width, rngs)
        self.attention = Attention(width, heads, dtype=dtype, rngs=rngs)
        hidden = int(width * mlp_ratio)
        self.mlp_in = linear(width, hidden, dtype=dtype, rngs=rngs)
        self.mlp_out = linear(hidden, width, dtype=dtype, rngs=rngs)
        self.modulation = linear(width, 6 * width, dtype=dtype, rngs=rngs, kernel_init=zeros)

    def __call__(self, x, embedding, grid, modes=()):
        return around(modes, BLOCK, partial(self._run, embedding, grid, modes))(x)

    def _run(self, embedding, grid, modes, x):
        parts = jnp.split(self.modulation(jax.nn.silu(embedding)), 6, axis=-1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts
        h = modulate(self.norm(x), shift_a, scale_a).astype(self.dtype)
        x = x + gate_a[:, None] * self.attention(h, grid, modes)
        h = modulate(self.norm(x), shift_m, scale_m).astype(self.dtype)
        return x + gate_m[:, None] * self.mlp_out(jax.nn.gelu(self.mlp_in(h), approximate=True))


class DiT(nnx.Module):
    """Diffusion transformer, ``(x, time, label) -> output`` in the network's own coordinates.

    Args:
        image_size: usual height and width of the input, divisible by ``patch_size``.
        channels: input channels.
        patch_size: side of one token's square of pixels.
        width, depth, heads: transformer dimensions; ``width`` divisible by 4 and by ``heads``.
        num_classes: real classes; 0 builds an unconditional network.
        null_class: whether the label table has one more row, the null class, last.
        learn_variance: double the output channels (the published DiT predicts a variance too).
        scan_layers: keep the blocks' parameters stacked and loop over them with ``lax.scan``:
            compile time independent of depth.
        dtype: compute type of the matrix products; parameters stay float32.
        block_fields: of a relative's blocks; DiT's own take none.

    Raises:
        ValueError: sizes that do not divide.
    """

    # A relative has other blocks, or another normalisation before the last layer.
    block: Any = Block
    norm: Callable[[int, nnx.Rngs], nnx.Module] = staticmethod(plain_norm)

    def __init__(
        self,
        *,
        image_size: int,
        channels: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        num_classes: int,
        null_class: bool = True,
        mlp_ratio: float = 4.0,
        learn_variance: bool = False,
        scan_layers: bool = False,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
        **block_fields: Any,
    ):
        require_dividing(image_size, patch_size, width, heads)
        self.image_size, self.channels, self.patch_size = image_size, channels, patch_size
        self.num_classes, self.null_class = num_classes, null_class
        self.depth, self.dtype = depth, dtype
        self.scan_layers = scan_layers
        self.out_channels = channels * (2 if learn_variance else 1)
        grid = image_size // patch_size
        self.patch_in = linear(patch_size**2 * channels, width, dtype=dtype, rngs=rngs)
        # A constant of the architecture, so static structure and not a parameter.
        self.positions = Constant(sincos_positions(width, grid, grid))
        self.time_in = linear(
            TIME_FREQUENCIES, width, dtype=dtype, rngs=rngs, kernel_init=small_normal
        )
        self.time_out = linear(width, width, dtype=dtype, rngs=rngs, kernel_init=small_normal)
        if num_classes:
            self.label_table = nnx.Embed(
                num_classes + null_class, width, embedding_init=small_normal, dtype=dtype, rngs=rngs
            )
        make = partial(self.block, width, heads, mlp_ratio=mlp_ratio, dtype=dtype, **block_fields)
        self.blocks = stack(make, depth, scan_layers, rngs)
        self.final_norm = self.norm(width, rngs)
        self.final_modulation = linear(width, 2 * width, dtype=dtype, rngs=rngs, kernel_init=zeros)
        self.final = linear(
            width, patch_size**2 * self.out_channels, dtype=dtype, rngs=rngs, kernel_init=zeros
        )

    @property
    def sites(self) -> tuple[str, ...]:
        """Where modes may step in; without classes there is no condition to embed."""
        condition = (CONDITION_EMBEDDING,) if self.num_classes else ()
        return (TIME_EMBEDDING, *condition, ATTENTION, BLOCK)

    @classmethod
    def fields(cls, name: str) -> dict[str, Any]:
        """Return the fields of a published size by its name, ``"XL/2"``.

        Raises:
            ValueError: no such size.
        """
        size, _, patch = name.partition("/")
        if size not in SIZES or not patch.isdigit():
            known = ", ".join(f"{s}/p" for s in SIZES)
            raise ValueError(
                f"unknown {cls.__name__} size {name!r}; use one of {known} with a patch size p"
            )
        depth, width, heads = SIZES[size]
        own = dict(patch_size=int(patch), depth=depth, width=width, heads=heads)
        return cls.published() | own

    @classmethod
    def published(cls) -> dict[str, Any]:
        """Return what all published sizes have in common."""
        return dict(image_size=32, channels=4, num_classes=1000, learn_variance=True)

    @classmethod
    def from_name(cls, name: str, **overrides) -> "DiT":
        """Build a published size by name, ``"XL/2"`` for width 1152, depth 28, patch 2."""
        return cls(**(cls.fields(name) | overrides))

    def patchify(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch token patch"]:
        """Cut images into the network's patches (see `layers.tokens.patchify`)."""
        return patchify(x, self.patch_size)

    def unpatchify(
        self, tokens: Float[Array, "batch token patch"], grid: tuple[int, int]
    ) -> Float[Array, "batch h w c"]:
        """Put patches back in place, on a grid of (rows, columns); the inverse of `patchify`."""
        return unpatchify(tokens, self.patch_size, grid)

    def __call__(
        self,
        x: Float[Array, "batch h w c"],
        time: Float[Array, " batch"],
        label: Int[Array, " batch"] | None,
        modes: tuple = (),
    ) -> Float[Array, "batch h w out"]:
        """Run the network.

        Args:
            x: images of the network's channels; height and width divisible by ``patch_size``, and
                as in training unless a caller knows better (crops of a larger image).
            time: the network's time input.
            label: integers, ``num_classes`` being the null class; None is the null class. Another
                is answered with NaN.
            modes: pairs (mode, where) that step in at the network's sites (see `core.sites`).

        Raises:
            ValueError: an input of other channels or of a size that does not divide, a mode at a
                site that is not offered or in a layer beyond the depth, no label for a network that
                knows no null class.
        """
        grid = token_grid(self, x.shape)
        require_offered(modes, self.sites, self.depth)
        h = self.patch_in(self.patchify(x).astype(self.dtype)) + self._positions(grid)
        embedding = self.time_out(jax.nn.silu(self.time_in(time_features(time))))
        embedding = changed(modes, TIME_EMBEDDING, embedding)
        if self.num_classes:
            classes = self.num_classes, self.null_class
            label = label_or_null(label, x.shape[0], *classes)
            condition = where_known(self.label_table(label), label, *classes)
            table = self.label_table.embedding[: self.num_classes].astype(condition.dtype)
            embedding = embedding + changed(modes, CONDITION_EMBEDDING, condition, table)

        def run(block, h, held):
            return block(h, embedding, grid, held)

        h = through(self.blocks, self.depth, h.astype(self.dtype), modes, run)
        shift, scale = jnp.split(self.final_modulation(jax.nn.silu(embedding)), 2, axis=-1)
        h = modulate(self.final_norm(h), shift, scale).astype(self.dtype)
        return self.unpatchify(self.final(h), grid).astype(jnp.float32)

    def _positions(self, grid: tuple[int, int]) -> np.ndarray:
        if grid == (self.image_size // self.patch_size,) * 2:
            return self.positions.value
        return sincos_positions(self.positions.value.shape[1], *grid)


@register("network", "2212.09748", name="dit")
def dit_spec(
    size: str | None = None,
    dtype: str = "float32",
    latent: bool | None = None,
    sigma_data: float = 0.5,
    preconditioner: str | Mapping[str, Any] = "edm",
    **fields: Any,
) -> Spec:
    """Read the model section of a DiT: fields of `DiT`, and five of this function.

    ``size`` is a published one, "XL/2"; ``preconditioner`` "edm" with ``sigma_data``, or
    "discrete" as published.
    """
    # 250 ln(sigma)/4 spans about 660 units over [0.002, 80], the range DiT's sinusoids expect.
    chosen = from_config(preconditioner, sigma_data=sigma_data, noise_scale=250.0)
    return class_conditional(
        DiT, "dit", chosen, size=size, dtype=dtype, latent=latent, fields=fields
    )
