"""UMD: one transformer for masked autoencoding and diffusion (arXiv 2406.17688).

An encoder sees the visible tokens of a noisy image alone, a smaller decoder sees places for all of
them. Without noise that is a masked autoencoder, without a mask a diffusion transformer.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from ...core.registry import register
from ...core.sites import (
    ATTENTION,
    BLOCK,
    CONDITION_EMBEDDING,
    TIME_EMBEDDING,
    around,
    at_site,
    changed,
    require_offered,
)
from ..layers.attention import attend
from ..layers.dense import linear, modulate, small_normal, zeros
from ..layers.extra_tokens import of_image
from ..layers.frequencies import sinusoids
from ..layers.labels import label_or_null, where_known
from ..layers.stacks import stack, through
from ..layers.tokens import patchify, require_dividing, unpatchify
from ..preconditioning import Discrete, Preconditioner, from_config, sigma_range
from ..spec import Spec, class_conditional

# name -> (width, blocks of the encoder, of the decoder, heads), as in the published code.
SIZES = {"S": (384, 12, 4, 6), "B": (768, 12, 4, 12), "L": (1024, 24, 8, 16)}
# What the published networks work on: pixels, and latents of 256x256 images.
PUBLISHED = {"B/4": dict(image_size=64, channels=3), "L/2": dict(image_size=32, channels=4)}
LATENT = "L/2"

fan_in = nnx.initializers.lecun_normal()


def draw_visible(
    keys: Key[Array, " batch"], tokens: int, mask: float
) -> Int[Array, "batch visible"]:
    """Draw the tokens that a mask leaves visible, each sample its own.

    Args:
        keys: one a sample.
        tokens: how many tokens an image has.
        mask: share of them that is hidden: 0.75 without noise and 0.375 with, as published.

    Raises:
        ValueError: a mask outside [0, 1), or one that leaves no token.
    """
    if not 0 <= mask < 1:
        raise ValueError(f"mask must be a share in [0, 1), got {mask}")
    # A share such as 0.9 is not exact: 10 tokens have to keep one.
    visible = math.floor(tokens * (1 - mask) + 1e-6)
    if not visible:
        raise ValueError(f"a mask of {mask} leaves none of {tokens} tokens visible")
    return jax.vmap(lambda key: jax.random.permutation(key, tokens)[:visible])(keys)


class Trunk(nnx.Module):
    """Two-layer MLP of an embedding."""

    def __init__(self, width: int, *, dtype, rngs: nnx.Rngs):
        make = partial(linear, dtype=dtype, rngs=rngs, kernel_init=fan_in)
        self.first, self.last = make(width, 2 * width), make(2 * width, width)

    def __call__(self, x: Float[Array, "batch width"]) -> Float[Array, "batch width"]:
        return self.last(jax.nn.silu(self.first(x)))


class Attention(nnx.Module):
    """Multi-head self-attention with a projection each for query, key and value."""

    def __init__(self, width: int, heads: int, *, dtype, rngs: nnx.Rngs):
        self.heads = heads
        make = partial(linear, width, width, dtype=dtype, rngs=rngs)
        self.query, self.key, self.value, self.out = make(), make(), make(), make()

    def __call__(self, x, grid, modes=()):
        heads = (*x.shape[:2], self.heads, x.shape[2] // self.heads)
        parts = (one(x).reshape(heads) for one in (self.query, self.key, self.value))
        run = around(modes, ATTENTION, attend, grid)
        return self.out(run(*parts).reshape(x.shape))


class Block(nnx.Module):
    """Self-attention and MLP, each after a norm with parameters, adaLN and a gate of its own."""

    def __init__(self, width: int, heads: int, *, mlp_ratio: float, dtype, rngs: nnx.Rngs):
        self.dtype = dtype
        self.attention_norm, self.mlp_norm = norm(width, rngs), norm(width, rngs)
        self.attention = Attention(width, heads, dtype=dtype, rngs=rngs)
        hidden = int(width * mlp_ratio)
        self.mlp_in = linear(width, hidden, dtype=dtype, rngs=rngs)
        self.mlp_out = linear(hidden, width, dtype=dtype, rngs=rngs)
        self.modulation = linear(width, 6 * width, dtype=dtype, rngs=rngs, kernel_init=zeros)

    def __call__(self, x, embedding, grid, modes=()):
        return around(modes, BLOCK, partial(self._run, embedding, grid, modes))(x)

    def _run(self, embedding, grid, modes, x):
        parts = jnp.split(self.modulation(embedding), 6, axis=-1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts
        h = modulate(self.attention_norm(x), shift_a, scale_a).astype(self.dtype)
        x = x + gate_a[:, None] * self.attention(h, grid, modes)
        h = modulate(self.mlp_norm(x), shift_m, scale_m).astype(self.dtype)
        return x + gate_m[:, None] * self.mlp_out(jax.nn.gelu(self.mlp_in(h), approximate=True))


def norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Return a layer norm with parameters, in float32: its statistics do not survive less."""
    return nnx.LayerNorm(width, epsilon=1e-6, dtype=jnp.float32, rngs=rngs)


class UMD(nnx.Module):
    """Unified masked diffusion, ``(x, time, label) -> output`` in the network's own coordinates.

    The output has twice the input's channels: first what the preconditioner asks for, the noise
    as published, then the clean image. Blocks are counted through encoder and decoder; modes see
    the image's tokens alone.

    Args:
        image_size: height and width of the input, divisible by ``patch_size``.
        channels: input channels.
        patch_size: side of one token's square of pixels.
        width, heads: of all blocks; ``width`` divisible by 4 and by ``heads``.
        depth, decoder_depth: blocks of the encoder and of the decoder.
        num_classes: real classes; 0 builds an unconditional network.
        null_class: whether the label table has one more row, the null class, last.
        summaries: tokens beside the image's whose mean goes on to the decoder in one.
        clean_time: the time that means no noise at all; others are counted from it.
        scan_layers: keep the parameters of the encoder's blocks, and of the decoder's, stacked and
            loop over them with ``lax.scan``: compile time independent of depth.
        dtype: compute type of the matrix products; parameters stay float32.

    Raises:
        ValueError: sizes that do not divide, no block in the encoder or in the decoder, no
            summary.

    Source: Hansen-Estruch et al., arXiv 2406.17688; structure as in the published code.
    """

    def __init__(
        self,
        *,
        image_size: int,
        channels: int,
        patch_size: int,
        width: int,
        depth: int,
        decoder_depth: int,
        heads: int,
        num_classes: int,
        null_class: bool = True,
        mlp_ratio: float = 4.0,
        summaries: int = 4,
        clean_time: float = -1.0,
        scan_layers: bool = False,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        require_dividing(image_size, patch_size, width, heads)
        if min(depth, decoder_depth, summaries) < 1:
            raise ValueError(
                f"depth, decoder_depth and summaries must be 1 or more, got {depth}, "
                f"{decoder_depth} and {summaries}"
            )
        self.image_size, self.channels, self.patch_size = image_size, channels, patch_size
        self.depth, self.decoder_depth, self.summaries = depth, decoder_depth, summaries
        self.num_classes, self.null_class = num_classes, null_class
        self.clean_time, self.dtype = clean_time, dtype
        self.grid = (image_size // patch_size,) * 2
        tokens = math.prod(self.grid)
        make = partial(linear, dtype=dtype, rngs=rngs)
        self.patch_in = make(patch_size**2 * channels, width, kernel_init=fan_in)
        places = nnx.initializers.normal(1 / math.sqrt(tokens))
        self.positions = nnx.Param(places(rngs.params(), (tokens, width)))
        self.decoder_positions = nnx.Param(places(rngs.params(), (tokens, width)))
        self.summary = nnx.Param(jnp.zeros((summaries, width)))
        self.hidden = nnx.Param(small_normal(rngs.params(), (width,)))
        self.time = Trunk(width, dtype=dtype, rngs=rngs)
        if num_classes:
            self.label_table = nnx.Embed(num_classes + null_class, width, dtype=dtype, rngs=rngs)
            self.label = Trunk(width, dtype=dtype, rngs=rngs)
        block = partial(Block, width, heads, mlp_ratio=mlp_ratio, dtype=dtype)
        self.encoder = stack(block, depth, scan_layers, rngs)
        self.encoder_norm = norm(width, rngs)
        self.decoder = stack(block, decoder_depth, scan_layers, rngs)
        self.decoder_norm = norm(width, rngs)
        self.final_modulation = make(width, 2 * width, kernel_init=zeros)
        # One bias a channel, not one a pixel of the patch.
        self.final = nnx.Linear(
            width,
            patch_size**2 * 2 * channels,
            use_bias=False,
            kernel_init=small_normal,
            dtype=dtype,
            rngs=rngs,
        )
        self.final_bias = nnx.Param(jnp.zeros(2 * channels))

    @property
    def sites(self) -> tuple[str, ...]:
        """Where modes may step in; without classes there is no condition to embed."""
        condition = (CONDITION_EMBEDDING,) if self.num_classes else ()
        return (TIME_EMBEDDING, *condition, ATTENTION, BLOCK)

    @classmethod
    def fields(cls, name: str) -> dict[str, Any]:
        """Return the fields of a size, "B/4": those of the image too where it is a published one.

        Raises:
            ValueError: no such size.
        """
        size, _, patch = name.partition("/")
        if size not in SIZES or not patch.isdigit():
            known = ", ".join(f"{s}/p" for s in SIZES)
            raise ValueError(f"unknown UMD size {name!r}; use one of {known} with a patch size p")
        width, depth, decoder_depth, heads = SIZES[size]
        own = dict(width=width, depth=depth, decoder_depth=decoder_depth, heads=heads)
        return own | dict(patch_size=int(patch), num_classes=1000) | PUBLISHED.get(name, {})

    @classmethod
    def from_name(cls, name: str, **overrides) -> "UMD":
        """Build a network by size: ``"B/4"`` on 64x64 pixels, ``"L/2"`` on 32x32 latents."""
        return cls(**(cls.fields(name) | overrides))

    def __call__(
        self,
        x: Float[Array, "batch h w c"],
        time: Float[Array, " batch"],
        label: Int[Array, " batch"] | None,
        modes: tuple = (),
        visible: Int[Array, "batch visible"] | None = None,
    ) -> Float[Array, "batch h w 2*c"]:
        """Run the network.

        Args:
            x: images of the network's size and channels.
            time: the network's time input; ``clean_time`` where there is no noise.
            label: integers, ``num_classes`` being the null class; None is the null class.
            modes: pairs (mode, where) that step in at the network's sites (see `core.sites`).
            visible: numbers, row by row, of the tokens that the encoder sees, each once and the
                same number in every sample (see `draw_visible`); None is all of them.

        Raises:
            ValueError: an input of another size, a mode at a site that is not offered or in a
                layer beyond the depth, a mode together with a mask, more tokens than there are.
        """
        self._require(x, modes, visible)
        embedding = self._embedding(time, label, modes)
        inside = at_site(modes, ATTENTION) + at_site(modes, BLOCK)
        h, summary = self._encoded(x, embedding, inside, visible)
        h = self._everywhere(h, visible) + self.decoder_positions[...]
        h = jnp.concatenate([summary[:, None], h.astype(self.dtype)], axis=1)
        run = self._runner(embedding)
        inside = of_image(inside, 1)
        h = through(self.decoder, self.decoder_depth, h, inside, run, first=self.depth)
        shift, scale = jnp.split(self.final_modulation(embedding), 2, axis=-1)
        h = modulate(self.decoder_norm(h)[:, 1:], shift, scale).astype(self.dtype)
        output = unpatchify(self.final(h), self.patch_size, self.grid)
        return output.astype(jnp.float32) + self.final_bias[...]

    def summarise(
        self,
        x: Float[Array, "batch h w c"],
        time: Float[Array, " batch"],
        label: Int[Array, " batch"] | None = None,
    ) -> Float[Array, "batch width"]:
        """Return what the encoder says of an image as a whole, for probes; arguments as a call's.

        Raises:
            ValueError: an input of another size.
        """
        self._require(x, (), None)
        embedding = self._embedding(time, label, ())
        return self._encoded(x, embedding, (), None)[1].astype(jnp.float32)

    def hidden_pixels(self, visible: Int[Array, "batch visible"]) -> Float[Array, "batch h w 1"]:
        """Return 1 in the pixels of tokens that are not among ``visible``, 0 in the others."""
        rows = jnp.arange(visible.shape[0])[:, None]
        tokens = jnp.ones((visible.shape[0], math.prod(self.grid))).at[rows, visible].set(0)
        patches = jnp.repeat(tokens[..., None], self.patch_size**2, axis=-1)
        return unpatchify(patches, self.patch_size, self.grid)

    def _embedding(self, time, label, modes):
        features = sinusoids(
            time - self.clean_time, self.positions.shape[-1], endpoint=True, sine_first=True
        )
        embedding = changed(modes, TIME_EMBEDDING, self.time(features))
        if self.num_classes:
            classes = self.num_classes, self.null_class
            label = label_or_null(label, time.shape[0], *classes)
            condition = where_known(self.label_table(label), label, *classes)
            table = self.label_table.embedding[: self.num_classes].astype(condition.dtype)
            condition = changed(modes, CONDITION_EMBEDDING, condition, table)
            embedding = embedding + self.label(condition)
        return jax.nn.silu(embedding)

    def _encoded(self, x, embedding, modes, visible):
        """Return the image's tokens, or the visible ones, and their summary."""
        h = self.patch_in(patchify(x.astype(self.dtype), self.patch_size)) + self.positions[...]
        if visible is not None:
            h = jnp.take_along_axis(h, visible[..., None], axis=1)
        summary = jnp.broadcast_to(self.summary[...], (x.shape[0], *self.summary.shape))
        h = jnp.concatenate([summary, h], axis=1).astype(self.dtype)
        run = self._runner(embedding)
        h = through(self.encoder, self.depth, h, of_image(modes, self.summaries), run)
        h = self.encoder_norm(h).astype(self.dtype)
        return h[:, self.summaries :], h[:, : self.summaries].mean(axis=1)

    def _everywhere(self, h, visible):
        """Put tokens in their places, and the hidden ones' stand-in in the others."""
        if visible is None:
            return h
        rows = jnp.arange(h.shape[0])[:, None]
        shape = (h.shape[0], math.prod(self.grid), h.shape[-1])
        return jnp.broadcast_to(self.hidden[...].astype(h.dtype), shape).at[rows, visible].set(h)

    def _runner(self, embedding):
        return lambda block, h, held: block(h, embedding, self.grid, held)

    @staticmethod
    def undecayed(path: str) -> bool:
        """Say whether a parameter is a bias or a token of its own, which nothing decays."""
        return path.rpartition("/")[2] in ("bias", "summary", "hidden")

    def _require(self, x, modes, visible):
        expected = (self.image_size, self.image_size, self.channels)
        if x.shape[1:] != expected:
            side = self.image_size
            raise ValueError(
                f"this UMD takes {side}x{side}x{self.channels} inputs alone, got {x.shape[1:]}"
            )
        depth = self.depth + self.decoder_depth
        require_offered(modes, self.sites, depth)
        if visible is None:
            return
        if modes:
            raise ValueError(f"modes hold for whole images, and here {visible.shape} are visible")
        tokens = math.prod(self.grid)
        if (
            visible.ndim != 2
            or visible.shape[0] != x.shape[0]
            or not 1 <= visible.shape[1] <= tokens
        ):
            raise ValueError(
                f"visible must be [{x.shape[0]}, n], n from 1 to {tokens}, got {visible.shape}"
            )


@register("network", "2406.17688", name="umd")
def umd_spec(
    size: str | None = None,
    dtype: str = "float32",
    latent: bool | None = None,
    sigma_data: float = 0.5,
    preconditioner: str | Mapping[str, Any] = "discrete",
    **fields: Any,
) -> Spec:
    """Read the model section of a UMD: fields of `UMD`, and five of this function.

    ``size`` is a published one, "B/4" or "L/2", or another size and patch; ``preconditioner``
    "discrete" as published for latents, or "edm" with ``sigma_data``. Without a ``clean_time``,
    it is one below the lowest time that the preconditioner knows.
    """
    # 250 ln(sigma)/4 spans about 660 units over [0.002, 80], the range the sinusoids expect.
    chosen = from_config(preconditioner, sigma_data=sigma_data, noise_scale=250.0)
    if "clean_time" not in fields:
        fields["clean_time"] = _lowest_time(chosen) - 1
    latent = size == LATENT if latent is None else latent
    return class_conditional(
        UMD, "umd", chosen, size=size, dtype=dtype, latent=latent, fields=fields
    )


def _lowest_time(preconditioner: Preconditioner) -> float:
    if isinstance(preconditioner, Discrete):
        return 0.0
    ends = jnp.asarray(sigma_range(preconditioner))
    return float(preconditioner.coefficients(ends).noise.min())
