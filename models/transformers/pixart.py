"""PixArt-alpha: a DiT that reads text by cross-attention (Chen et al., arXiv 2310.00426).

The condition is a dictionary: ``tokens`` of a caption, as T5-XXL's encoder gives them, and the
``mask`` of those that are words. One projection of the noise level modulates all blocks, each with
a table of its own added to it (adaLN-single). It works on the latents of Stable Diffusion's
autoencoder and predicts the noise at DiT's 1000 discrete steps, and a variance.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ...core.pytrees import Constant
from ...core.registry import register
from ...core.sites import ATTENTION, BLOCK, TIME_EMBEDDING, around, changed, require_offered
from ..conditions import LEARNT, Parts, Values
from ..layers.attention import Attention, attend
from ..layers.dense import linear, modulate, plain_norm, small_normal, zeros
from ..layers.frequencies import TIME_FREQUENCIES, time_features
from ..layers.stacks import stack, through
from ..layers.tokens import patchify, require_dividing, sincos_positions, token_grid, unpatchify
from ..preconditioning import from_config, sigma_range
from ..spec import Spec, checked_fields, compute_type
from .dit import SIZES

# Pixels a latent on each side, for the image size that a network is told of.
PIXELS = 8
TOKENS, TEXT_WIDTH = 120, 4096


def table(rows: int, width: int, rngs: nnx.Rngs) -> nnx.Param:
    """Return shifts, scales and gates of a block, or of the last layer, ``N(0, 1 / width)``."""
    return nnx.Param(jax.random.normal(rngs.params(), (rows, width)) / width**0.5)


class CrossAttention(nnx.Module):
    """From image tokens to the words of the sample's own caption; zero at initialisation."""

    def __init__(self, width: int, heads: int, *, dtype, rngs: nnx.Rngs):
        self.heads = heads
        self.query = linear(width, width, dtype=dtype, rngs=rngs)
        self.key_value = linear(width, 2 * width, dtype=dtype, rngs=rngs)
        self.proj = linear(width, width, dtype=dtype, rngs=rngs, kernel_init=zeros)

    def __call__(
        self,
        x: Float[Array, "batch token width"],
        text: Float[Array, "batch word width"],
        mask: Array,
    ) -> Float[Array, "batch token width"]:
        def heads(array, count):
            return array.reshape(*array.shape[:2], count, self.heads, -1)

        q, both = heads(self.query(x), 1)[:, :, 0], heads(self.key_value(text), 2)
        k, v = both[:, :, 0], both[:, :, 1]
        # Masking each sample's own padding is what packing all captions in one block-diagonal
        # attention, as the authors do, computes.
        attended = attend(q, k, v, mask=mask[:, None, None])
        return self.proj(attended.reshape(x.shape))


class PixArtBlock(nnx.Module):
    """Self-attention, cross-attention without normalisation or gate, and an MLP."""

    def __init__(self, width: int, heads: int, *, mlp_ratio: float, dtype, rngs: nnx.Rngs):
        self.dtype = dtype
        self.norm = plain_norm(width, rngs)
        self.attention = Attention(width, heads, dtype=dtype, rngs=rngs)
        self.cross_attention = CrossAttention(width, heads, dtype=dtype, rngs=rngs)
        hidden = int(width * mlp_ratio)
        self.mlp_in = linear(width, hidden, dtype=dtype, rngs=rngs)
        self.mlp_out = linear(hidden, width, dtype=dtype, rngs=rngs)
        self.table = table(6, width, rngs)

    def __call__(self, x, modulation, text, mask, grid, modes=()):
        return around(modes, BLOCK, partial(self._run, modulation, text, mask, grid, modes))(x)

    def _run(self, modulation, text, mask, grid, modes, x):
        parts = modulation + self.table[...].astype(modulation.dtype)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (parts[:, i] for i in range(6))
        h = modulate(self.norm(x), shift_a, scale_a).astype(self.dtype)
        x = x + gate_a[:, None] * self.attention(h, grid, modes)
        x = x + self.cross_attention(x, text, mask)
        h = modulate(self.norm(x), shift_m, scale_m).astype(self.dtype)
        return x + gate_m[:, None] * self.mlp_out(jax.nn.gelu(self.mlp_in(h), approximate=True))


class SizeEmbedding(nnx.Module):
    """Embedding of numbers about the image, each by the same small MLP, side by side."""

    def __init__(self, width: int, *, dtype, rngs: nnx.Rngs):
        make = partial(linear, dtype=dtype, rngs=rngs, kernel_init=small_normal)
        self.inside, self.outside = make(TIME_FREQUENCIES, width), make(width, width)

    def __call__(self, numbers: Float[Array, "batch number"]) -> Float[Array, "batch feature"]:
        features = time_features(numbers.reshape(-1))
        return self.outside(jax.nn.silu(self.inside(features))).reshape(numbers.shape[0], -1)


class PixArt(nnx.Module):
    """Text-conditional diffusion transformer, ``(x, time, condition) -> output``.

    The condition is a dictionary of arrays:

    ``tokens`` ``[batch, word, text_width]``, a caption's, padded; ``mask`` ``[batch, word]``, 1 at
    its words and 0 at the padding (without it all count); with ``micro_conditions``, ``size``
    ``[batch, 2]``, height and width of the image in pixels, and ``aspect_ratio`` ``[batch, 1]``,
    height by width (without them, those of the network's own image size).

    Args:
        image_size: usual height and width of the input, divisible by ``patch_size``.
        channels: input channels.
        patch_size: side of one token's square of pixels.
        width, depth, heads: transformer dimensions; ``width`` divisible by 4 and by ``heads``, and
            by 3 with ``micro_conditions``.
        tokens, text_width: length and width of the null caption.
        learn_variance: double the output channels, as published.
        position_scale: positions are divided by it: 1 up to 512 pixels, 2 for 1024 (the authors'
            ``lewei_scale``). Inputs of another size are spread over the same positions.
        micro_conditions: also tell it the image's size and aspect ratio, as the published network
            for 1024 pixels is.
        scan_layers, dtype, mlp_ratio: as of `DiT`.

    Raises:
        ValueError: sizes that do not divide.
    """

    sites = (TIME_EMBEDDING, ATTENTION, BLOCK)

    def __init__(
        self,
        *,
        image_size: int,
        channels: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        tokens: int = TOKENS,
        text_width: int = TEXT_WIDTH,
        mlp_ratio: float = 4.0,
        learn_variance: bool = True,
        position_scale: float = 1.0,
        micro_conditions: bool = False,
        scan_layers: bool = False,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        require_dividing(image_size, patch_size, width, heads)
        if micro_conditions and width % 3:
            raise ValueError(
                f"width {width} must be divisible by 3: height, width and aspect ratio of the "
                f"image take a third of the embedding each"
            )
        self.image_size, self.channels, self.patch_size = image_size, channels, patch_size
        self.depth, self.dtype, self.text_width = depth, dtype, text_width
        self.position_scale, self.micro_conditions = position_scale, micro_conditions
        make = partial(linear, dtype=dtype, rngs=rngs, kernel_init=small_normal)
        self.patch_in = linear(patch_size**2 * channels, width, dtype=dtype, rngs=rngs)
        self.positions = Constant(self._positions(width, (image_size // patch_size,) * 2))
        self.time_in, self.time_out = make(TIME_FREQUENCIES, width), make(width, width)
        if micro_conditions:
            self.size_embedding = SizeEmbedding(width // 3, dtype=dtype, rngs=rngs)
            self.ratio_embedding = SizeEmbedding(width // 3, dtype=dtype, rngs=rngs)
        self.modulation = make(width, 6 * width)
        self.text_in, self.text_out = make(text_width, width), make(width, width)
        self.null_tokens = nnx.Param(
            jax.random.normal(rngs.params(), (tokens, text_width)) / text_width**0.5
        )
        block = partial(PixArtBlock, width, heads, mlp_ratio=mlp_ratio, dtype=dtype)
        self.blocks = stack(block, depth, scan_layers, rngs)
        self.final_norm = plain_norm(width, rngs)
        self.final_table = table(2, width, rngs)
        outputs = patch_size**2 * channels * (2 if learn_variance else 1)
        self.final = linear(width, outputs, dtype=dtype, rngs=rngs, kernel_init=zeros)

    @classmethod
    def fields(cls, name: str) -> dict:
        """Return the fields of a published size by its name, ``"XL/2"``.

        Raises:
            ValueError: no such size.
        """
        if name != "XL/2":
            raise ValueError(f"unknown PixArt size {name!r}; the published one is XL/2")
        depth, width, heads = SIZES["XL"]
        return dict(image_size=64, channels=4, patch_size=2, depth=depth, width=width, heads=heads)

    @classmethod
    def from_name(cls, name: str, **overrides) -> "PixArt":
        """Build a published size by name, "XL/2": width 1152, depth 28, patch 2."""
        return cls(**(cls.fields(name) | overrides))

    def null_condition(self) -> dict[str, Array]:
        """Return the null caption's tokens, ``[word, text_width]``.

        Mask, image size and aspect ratio are not in it: the authors leave those of the caption in
        place where its tokens are dropped, in training and in guidance. The tokens are no
        parameter in training either.
        """
        return {"tokens": jax.lax.stop_gradient(self.null_tokens[...])}

    def __call__(
        self,
        x: Float[Array, "batch h w c"],
        time: Float[Array, " batch"],
        condition: Mapping[str, Array] | None,
        modes: tuple = (),
    ) -> Float[Array, "batch h w out"]:
        """Run the network.

        Args:
            x: latents; height and width divisible by ``patch_size``.
            time: index of the noise level's step, 0 to 999.
            condition: see the class; None is the null caption.
            modes: pairs (mode, where) that step in at the network's sites (see `core.sites`);
                cross-attention is no site.

        Raises:
            ValueError: an input of other channels or of a size that does not divide, a condition
                with other parts or shapes, a mode at a site that is not offered or in a layer
                beyond the depth.
        """
        grid = token_grid(self, x.shape)
        require_offered(modes, self.sites, self.depth)
        tokens, mask, numbers = self._condition(condition, x.shape[0])
        width = self.positions.value.shape[1]
        native = grid == (self.image_size // self.patch_size,) * 2
        positions = self.positions.value if native else self._positions(width, grid)
        h = self.patch_in(patchify(x, self.patch_size).astype(self.dtype)) + positions
        embedding = self.time_out(jax.nn.silu(self.time_in(time_features(time))))
        embedding = changed(modes, TIME_EMBEDDING, embedding)
        if self.micro_conditions:
            size, ratio = numbers
            told = [self.size_embedding(size), self.ratio_embedding(ratio)]
            embedding = embedding + jnp.concatenate(told, axis=-1)
        modulation = self.modulation(jax.nn.silu(embedding)).reshape(-1, 6, width)
        text = self.text_in(tokens.astype(self.dtype))
        text = self.text_out(jax.nn.gelu(text, approximate=True))

        def run(block, h, held):
            return block(h, modulation, text, mask, grid, held)

        h = through(self.blocks, self.depth, h.astype(self.dtype), modes, run)
        parts = embedding[:, None] + self.final_table[...].astype(embedding.dtype)
        h = modulate(self.final_norm(h), parts[:, 0], parts[:, 1]).astype(self.dtype)
        return unpatchify(self.final(h), self.patch_size, grid).astype(jnp.float32)

    def _positions(self, width: int, grid: tuple[int, int]) -> np.ndarray:
        usual = self.image_size // self.patch_size
        rows, columns = (usual / count / self.position_scale for count in grid)
        return sincos_positions(width, *grid, (rows, columns))

    def _condition(self, condition, batch):
        """Return tokens, mask, and the numbers about the image, whatever was left out filled in."""
        side = PIXELS * self.image_size
        given = dict(self.null_condition() if condition is None else condition)
        numbers = {"size": (side, side), "aspect_ratio": (1.0,)} if self.micro_conditions else {}
        known = ("tokens", "mask", *numbers)
        if "tokens" not in given or set(given) - set(known):
            raise ValueError(
                f"this PixArt's condition is a dictionary of {', '.join(known)} (tokens at least), "
                f"got {', '.join(given) or 'an empty one'}"
            )
        if condition is None:
            given["tokens"] = jnp.broadcast_to(given["tokens"], (batch, *given["tokens"].shape))
        words = given["tokens"].shape[1] if jnp.ndim(given["tokens"]) == 3 else 0
        expected = {"tokens": (words, self.text_width), "mask": (words,)}
        expected |= {name: (len(default),) for name, default in numbers.items()}
        for name, array in given.items():
            if jnp.shape(array) != (batch, *expected[name]):
                raise ValueError(
                    f"{name} of a PixArt's condition is of shape {('batch', *expected[name])}, got "
                    f"{jnp.shape(array)} for a batch of {batch}"
                )
        mask = jnp.asarray(given.get("mask", jnp.ones((batch, words)))) > 0.5
        filled = [
            jnp.broadcast_to(jnp.asarray(given.get(name, default), jnp.float32), (batch, size))
            for name, default in numbers.items()
            for size in (len(default),)
        ]
        return given["tokens"], mask, filled


@register("network", "2310.00426", name="pixart")
def pixart_spec(
    size: str | None = None,
    dtype: str = "float32",
    latent: bool = True,
    preconditioner: str | Mapping[str, Any] = "discrete",
    **fields: Any,
) -> Spec:
    """Read the model section of a PixArt: fields of the class, and four of this function.

    ``size`` is a published one, "XL/2" (for 512 pixels; ``image_size=128, position_scale=2,
    micro_conditions=True`` beside it for 1024).
    """
    compute = compute_type(dtype)
    fields = (PixArt.fields(size) if size else {}) | fields
    for field in ("image_size", "channels"):
        if field not in fields:
            raise ValueError(f"{field} is missing: give it, or the published size='XL/2'")
    fields = checked_fields(PixArt, "pixart", fields)

    def build(rngs):
        return PixArt(**fields, dtype=compute, rngs=rngs)

    chosen = from_config(preconditioner)
    words = fields.get("tokens", TOKENS)
    tokens = Values((words, fields.get("text_width", TEXT_WIDTH)), null=LEARNT)
    condition = {"tokens": tokens, "mask": Values((words,))}
    if fields.get("micro_conditions"):
        condition |= {"size": Values((2,)), "aspect_ratio": Values((1,))}
    side = fields["image_size"]
    return Spec(
        build,
        Parts(condition),
        (side, side, fields["channels"]),
        chosen,
        sigma_range=sigma_range(chosen),
        latent=latent,
        # The empty caption is given: no gradient reaches it, and no decay may.
        frozen=lambda path: path == "null_tokens",
    )
