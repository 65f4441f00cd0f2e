"""One resolution of DiMR: blocks between long skip connections, its input and its head."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ...core.sites import ATTENTION, BLOCK, around, for_layer
from ..layers.attention import attend
from ..layers.dense import linear, small_normal
from ..layers.extra_tokens import of_image
from ..layers.stacks import stack, through
from ..layers.starts import UNIFORM
from ..layers.tokens import patchify, unpatchify
from .time_norm import TimeDependentNorm


class GatedMLP(nnx.Module):
    """A residual MLP with a gate (GEGLU) after a time-dependent norm."""

    def __init__(self, width: int, hidden: int, *, norm: str, dtype, rngs: nnx.Rngs):
        self.dtype = dtype
        make = partial(linear, dtype=dtype, rngs=rngs, kernel_init=small_normal)
        self.norm = TimeDependentNorm(width, norm, rngs=rngs)
        self.gate, self.value, self.out = (
            make(width, hidden),
            make(width, hidden),
            make(hidden, width),
        )

    def __call__(self, x, tau):
        h = self.norm(x, tau).astype(self.dtype)
        return x + self.out(jax.nn.gelu(self.gate(h), approximate=False) * self.value(h))


class TransformerBlock(nnx.Module):
    """Self-attention and a gated MLP, each after a time-dependent norm."""

    def __init__(self, width: int, heads: int, hidden: int, *, norm: str, dtype, rngs: nnx.Rngs):
        self.heads, self.dtype = heads, dtype
        self.norm = TimeDependentNorm(width, norm, rngs=rngs)
        self.qkv = nnx.Linear(
            width, 3 * width, use_bias=False, kernel_init=small_normal, dtype=dtype, rngs=rngs
        )
        self.proj = linear(width, width, dtype=dtype, rngs=rngs, kernel_init=small_normal)
        self.mlp = GatedMLP(width, hidden, norm=norm, dtype=dtype, rngs=rngs)

    def __call__(self, x, tau, grid, modes=()):
        return around(modes, BLOCK, partial(self._run, tau, grid, modes))(x)

    def _run(self, tau, grid, modes, x):
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm(x, tau).astype(self.dtype))
        qkv = qkv.reshape(batch, tokens, 3, self.heads, width // self.heads)
        run = around(modes, ATTENTION, attend, grid)
        h = run(*(qkv[:, :, n] for n in range(3))).reshape(batch, tokens, width)
        return self.mlp(x + self.proj(h), tau)


class ConvBlock(nnx.Module):
    """Depth-wise convolution and a gated MLP, as in ConvNeXt, with a time-dependent norm."""

    def __init__(
        self, width: int, kernel_size: int, hidden: int, *, norm: str, dtype, rngs: nnx.Rngs
    ):
        self.conv = spatial(width, width, kernel_size, groups=width, dtype=dtype, rngs=rngs)
        self.mlp = GatedMLP(width, hidden, norm=norm, dtype=dtype, rngs=rngs)

    def __call__(self, x, tau, grid, modes=()):
        del grid
        return around(modes, BLOCK, partial(self._run, tau))(x)

    def _run(self, tau, x):
        return self.mlp(x + self.conv(x), tau)


class Joined(nnx.Module):
    """A block that a long skip connection leads to, through a linear layer."""

    def __init__(self, make, width: int, *, dtype, rngs: nnx.Rngs):
        self.join = linear(2 * width, width, dtype=dtype, rngs=rngs, kernel_init=small_normal)
        self.block = make(rngs=rngs)

    def __call__(self, x, skip, tau, grid, modes=()):
        return self.block(self.join(jnp.concatenate([x, skip], axis=-1)), tau, grid, modes)


def spatial(
    fan_in: int, fan_out: int, size: int, *, groups: int = 1, dtype, rngs: nnx.Rngs
) -> nnx.Conv:
    """Return a convolution that keeps the resolution, starting as torch's own."""
    return nnx.Conv(
        fan_in,
        fan_out,
        (size, size),
        padding=((size // 2, size // 2),) * 2,
        feature_group_count=groups,
        kernel_init=UNIFORM.kernel,
        bias_init=UNIFORM.bias(fan_in // groups * size**2),
        dtype=dtype,
        rngs=rngs,
    )


class Branch(nnx.Module):
    """One resolution: from the image and the features of the branch below to noise and features.

    Blocks are in a row of odd length; the output of each in the first half skips to its mirror
    image in the second.

    Args:
        make: builds a block from ``rngs=``.
        width, depth: of the blocks.
        channels: of the image.
        patch_size: side of the square of pixels that makes one place of this resolution.
        side: usual height and width at this resolution.
        below: channels of the features of the branch below; 0 where there is none.
        labels: rows of the table of the token that tells the class; 0 where there is none.
    """

    def __init__(
        self,
        make,
        width: int,
        depth: int,
        *,
        channels: int,
        patch_size: int,
        side: int,
        below: int,
        labels: int,
        scan_layers: bool,
        dtype,
        rngs: nnx.Rngs,
    ):
        self.depth, self.patch_size, self.dtype = depth, patch_size, dtype
        inputs = patch_size**2 * channels
        self.image_in = nnx.Linear(
            inputs,
            width,
            kernel_init=UNIFORM.kernel,
            bias_init=UNIFORM.bias(inputs),
            dtype=dtype,
            rngs=rngs,
        )
        self.positions = nnx.Param(small_normal(rngs.params(), (side, side, width)))
        if below:
            self.below_norm = TimeDependentNorm(below, "layer", rngs=rngs)
            self.below_in = linear(
                below, 4 * width, dtype=dtype, rngs=rngs, kernel_init=small_normal
            )
            self.raised_norm = TimeDependentNorm(width, "layer", rngs=rngs)
        if labels:
            self.label_table = nnx.Embed(
                labels, width, embedding_init=small_normal, dtype=dtype, rngs=rngs
            )
        self.first = stack(make, depth // 2, scan_layers, rngs)
        self.middle = make(rngs=rngs)
        joined = partial(Joined, make, width, dtype=dtype)
        self.last = stack(joined, depth // 2, scan_layers, rngs)
        self.head_norm = TimeDependentNorm(width, "layer", rngs=rngs)
        self.head = spatial(width, channels, 3, dtype=dtype, rngs=rngs)

    def features(self, x, below, token, tau, modes, first) -> Array:
        """Return the input of the blocks and the output of each, ``[depth + 1, batch, h, w, d]``.

        Args:
            x: images.
            below: features of the branch below, as a batch of channels; None where there is none.
            token: of the class, for a branch of tokens; None in branches of images.
            tau: times, ``[batch, 1]``.
            modes: pairs (mode, where).
            first: number of the first block.
        """
        batch, grid = x.shape[0], tuple(n // self.patch_size for n in x.shape[1:3])
        h = self.image_in(patchify(x.astype(self.dtype), self.patch_size))
        h = h.reshape(batch, *grid, -1) + self.positions[: grid[0], : grid[1]]
        if below is not None:
            raised = self.below_in(self.below_norm(below, tau).astype(self.dtype))
            coarse = below.shape[1:3]
            raised = unpatchify(raised.reshape(batch, -1, raised.shape[-1]), 2, coarse)
            h = h + self.raised_norm(raised, tau)
        if token is None:
            return self._through(h.astype(self.dtype), tau, grid, modes, first)
        h = h.reshape(batch, -1, h.shape[-1])
        h = jnp.concatenate([token, h.astype(self.dtype)], axis=1)
        h = self._through(h, tau, grid, of_image(modes, token.shape[1]), first)
        return h[:, :, token.shape[1] :].reshape(len(h), batch, *grid, -1)

    def predict(self, h: Float[Array, "batch h w d"], tau) -> Float[Array, "batch h w c"]:
        """Return the noise at this resolution from the last block's output."""
        return self.head(self.head_norm(h, tau).astype(self.dtype)).astype(jnp.float32)

    def _through(self, h, tau, grid, modes, first):
        # Scanned blocks have no lists to put what they make into, so all have one array.
        kept = jnp.zeros((self.depth + 1, *h.shape), h.dtype).at[0].set(h)

        def after(h, kept, layer):
            return h, jax.lax.dynamic_update_index_in_dim(kept, h, layer + 1, 0), layer + 1

        def run(block, state, held):
            h, kept, layer = state
            return after(block(h, tau, grid, held), kept, layer)

        def run_joined(block, state, held):
            h, kept, layer = state
            skip = jax.lax.dynamic_index_in_dim(kept, self.depth - layer, keepdims=False)
            return after(block(h, skip, tau, grid, held), kept, layer)

        half = self.depth // 2
        state = (h, kept, jnp.zeros((), jnp.int32))
        state = through(self.first, half, state, modes, run, first)
        state = run(self.middle, state, for_layer(modes, first + half))
        state = through(self.last, half, state, modes, run_joined, first + half + 1)
        return state[1]
