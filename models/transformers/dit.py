"""DiT: diffusion transformer with adaLN-Zero conditioning (Peebles & Xie, arXiv 2212.09748)."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ..blueprint import Blueprint, compute_type
from ..preconditioning import from_config
from ..sites import (
    ATTENTION,
    BLOCK,
    CONDITION_EMBEDDING,
    TIME_EMBEDDING,
    around,
    changed,
    for_layer,
    require_offered,
    runs,
)

# name -> (depth, width, heads), arXiv 2212.09748, Table 1.
SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
TIME_FREQUENCIES = 256

xavier = nnx.initializers.xavier_uniform()
small_normal = nnx.initializers.normal(0.02)
zeros = nnx.initializers.zeros_init()


def sincos_positions(width: int, rows: int, columns: int) -> np.ndarray:
    """Fixed 2-D sine-cosine position embedding, ``[rows * columns, width]``, column half first."""
    frequencies = 10000.0 ** -(np.arange(width // 4) / (width / 4))

    def embed(positions: np.ndarray) -> np.ndarray:
        angles = positions.reshape(-1, 1) * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    return np.concatenate([embed(column), embed(row)], axis=1).astype(np.float32)


def time_features(time: Float[Array, " batch"]) -> Float[Array, "batch 256"]:
    """Sinusoidal features of the network's time input, cosines first, periods 2*pi to 2e4*pi."""
    half = TIME_FREQUENCIES // 2
    angles = time.astype(jnp.float32)[:, None] * jnp.exp(
        -math.log(10000.0) / half * jnp.arange(half, dtype=jnp.float32)
    )
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def modulate(x: Array, shift: Array, scale: Array) -> Array:
    """Apply a per-channel affine map to every token: ``x * (1 + scale) + shift``."""
    return x * (1 + scale[:, None]) + shift[:, None]


def linear(fan_in: int, fan_out: int, *, dtype, rngs, kernel_init=xavier) -> nnx.Linear:
    return nnx.Linear(
        fan_in, fan_out, kernel_init=kernel_init, bias_init=zeros, dtype=dtype, rngs=rngs
    )


class Attention(nnx.Module):
    """Multi-head self-attention with one fused qkv projection (rows ordered q, k, v)."""

    def __init__(self, width: int, heads: int, *, dtype, rngs: nnx.Rngs):
        self.heads = heads
        self.qkv = linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.proj = linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch token width"],
        grid: tuple[int, int],
        modes: tuple = (),
    ) -> Float[Array, "batch token width"]:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = (qkv[:, :, i] for i in range(3))
        attend = around(modes, ATTENTION, jax.nn.dot_product_attention, grid)
        return self.proj(attend(q, k, v).reshape(batch, tokens, width))


class Block(nnx.Module):
    """One adaLN-Zero transformer block; the identity at initialisation."""

    def __init__(self, width: int, heads: int, *, mlp_ratio: float, dtype, rngs: nnx.Rngs):
        self.dtype = dtype
        self.norm = nnx.LayerNorm(
            width, epsilon=1e-6, use_bias=False, use_scale=False, dtype=jnp.float32, rngs=rngs
        )
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
        # The normalisation runs in float32 whatever the compute type: its statistics do not
        # survive bfloat16.
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
        num_classes: real classes; the label table has one more row, the null class, last.
            0 builds an unconditional network.
        learn_variance: double the output channels (the published DiT predicts a variance too).
        scan_layers: keep the blocks' parameters stacked and loop over them with ``lax.scan``:
            compile time independent of depth.
        dtype: compute type of the matrix products; parameters stay float32.

    Raises:
        ValueError: sizes that do not divide.
    """

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
        mlp_ratio: float = 4.0,
        learn_variance: bool = False,
        scan_layers: bool = False,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if image_size % patch_size:
            raise ValueError(f"image_size {image_size} is not divisible by patch_size {patch_size}")
        if width % heads or width % 4:
            raise ValueError(f"width {width} must be divisible by 4 and by heads ({heads})")
        self.image_size, self.channels, self.patch_size = image_size, channels, patch_size
        self.num_classes, self.depth, self.dtype = num_classes, depth, dtype
        self.scan_layers = scan_layers
        self.out_channels = channels * (2 if learn_variance else 1)
        grid = image_size // patch_size
        self.patch_in = linear(patch_size**2 * channels, width, dtype=dtype, rngs=rngs)
        # A constant of the architecture, so static structure and not a parameter.
        self.positions = _Constant(sincos_positions(width, grid, grid))
        self.time_in = linear(
            TIME_FREQUENCIES, width, dtype=dtype, rngs=rngs, kernel_init=small_normal
        )
        self.time_out = linear(width, width, dtype=dtype, rngs=rngs, kernel_init=small_normal)
        if num_classes:
            self.label_table = nnx.Embed(
                num_classes + 1, width, embedding_init=small_normal, dtype=dtype, rngs=rngs
            )
        make = partial(Block, width, heads, mlp_ratio=mlp_ratio, dtype=dtype)
        if scan_layers:
            self.blocks = nnx.vmap(lambda keys: make(rngs=keys))(rngs.split(depth))
        else:
            self.blocks = nnx.List([make(rngs=rngs) for _ in range(depth)])
        self.final_norm = nnx.LayerNorm(
            width, epsilon=1e-6, use_bias=False, use_scale=False, dtype=jnp.float32, rngs=rngs
        )
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
    def from_name(cls, name: str, **overrides) -> "DiT":
        """Build a published size by name, ``"XL/2"`` for width 1152, depth 28, patch 2."""
        size, _, patch = name.partition("/")
        if size not in SIZES or not patch.isdigit():
            known = ", ".join(f"{s}/p" for s in SIZES)
            raise ValueError(f"unknown DiT size {name!r}; use one of {known} with a patch size p")
        depth, width, heads = SIZES[size]
        published = dict(
            image_size=32, channels=4, num_classes=1000, learn_variance=True, patch_size=int(patch)
        )
        return cls(**(published | dict(depth=depth, width=width, heads=heads) | overrides))

    def patchify(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch token patch"]:
        """Cut images into row-major patches, each flattened as (row, column, channel)."""
        batch, height, width, channels = x.shape
        p = self.patch_size
        x = x.reshape(batch, height // p, p, width // p, p, channels)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, p * p * channels)

    def unpatchify(
        self, tokens: Float[Array, "batch token patch"], grid: tuple[int, int]
    ) -> Float[Array, "batch h w c"]:
        """Put patches back in place, on a grid of (rows, columns); the inverse of `patchify`."""
        p, (rows, columns) = self.patch_size, grid
        x = tokens.reshape(tokens.shape[0], rows, columns, p, p, -1)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape[0], rows * p, columns * p, -1)

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
            label: integers, ``num_classes`` being the null class; None is the null class.
            modes: pairs (mode, where) that step in at the network's sites (see `models.sites`).

        Raises:
            ValueError: an input of other channels or of a size that does not divide, a mode at a
                site that is not offered or in a layer beyond the depth.
        """
        grid = self._grid(x.shape)
        require_offered(modes, self.sites, self.depth)
        h = self.patch_in(self.patchify(x).astype(self.dtype)) + self._positions(grid)
        embedding = self.time_out(jax.nn.silu(self.time_in(time_features(time))))
        embedding = changed(modes, TIME_EMBEDDING, embedding)
        if self.num_classes:
            label = jnp.full(x.shape[:1], self.num_classes) if label is None else label
            condition = self.label_table(label)
            table = self.label_table.embedding[: self.num_classes].astype(condition.dtype)
            embedding = embedding + changed(modes, CONDITION_EMBEDDING, condition, table)
        h = self._through_blocks(h.astype(self.dtype), embedding, grid, modes)
        shift, scale = jnp.split(self.final_modulation(jax.nn.silu(embedding)), 2, axis=-1)
        h = modulate(self.final_norm(h), shift, scale).astype(self.dtype)
        return self.unpatchify(self.final(h), grid).astype(jnp.float32)

    def _through_blocks(self, h, embedding, grid, modes):
        if not self.scan_layers:
            for layer, block in enumerate(self.blocks):
                h = block(h, embedding, grid, for_layer(modes, layer))
            return h
        structure, stacked = nnx.split(self.blocks)
        for layers, held in runs(modes, self.depth):

            def run(h, parameters, held=held):
                return nnx.merge(structure, parameters)(h, embedding, grid, held), None

            def run_numbered(h, layer, run=run):
                take = partial(jax.lax.dynamic_index_in_dim, index=layer, keepdims=False)
                return run(h, jax.tree.map(take, stacked))

            # A slice of the stack would copy its parameters at every evaluation, so part of it is
            # indexed; that is slow to differentiate in the parameters, so all of it is scanned.
            if len(layers) == self.depth:
                h, _ = jax.lax.scan(run, h, stacked)
            else:
                h, _ = jax.lax.scan(run_numbered, h, jnp.asarray(layers))
        return h

    def _grid(self, shape: tuple[int, ...]) -> tuple[int, int]:
        p = self.patch_size
        if len(shape) != 4 or shape[3] != self.channels or any(n % p or n < p for n in shape[1:3]):
            raise ValueError(
                f"this DiT takes {self.image_size}x{self.image_size}x{self.channels} inputs, or "
                f"others of {self.channels} channels and sides divisible by {p}, got {shape[1:]}"
            )
        return shape[1] // p, shape[2] // p

    def _positions(self, grid: tuple[int, int]) -> np.ndarray:
        if grid == (self.image_size // self.patch_size,) * 2:
            return self.positions.value
        return sincos_positions(self.positions.value.shape[1], *grid)


class _Constant:
    """A hashable array constant, so that nnx treats it as static structure."""

    def __init__(self, value: np.ndarray):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, _Constant) and np.array_equal(self.value, other.value)

    def __hash__(self):
        return hash((self.value.shape, self.value.tobytes()))


def blueprint(
    image_size,
    channels,
    num_classes,
    dtype="float32",
    sigma_data=0.5,
    preconditioner="edm",
    **fields,
) -> Blueprint:
    """Read the model section of a DiT: fields of `DiT`, ``sigma_data`` and ``preconditioner``."""
    compute = compute_type(dtype)

    def build(rngs):
        return DiT(
            image_size=image_size,
            channels=channels,
            num_classes=num_classes,
            dtype=compute,
            rngs=rngs,
            **fields,
        )

    # 250 ln(sigma)/4 spans about 660 units over [0.002, 80], the range DiT's sinusoids expect.
    precondition = from_config(preconditioner, sigma_data=sigma_data, noise_scale=250.0)
    return Blueprint(build, num_classes, (image_size, image_size, channels), precondition)
