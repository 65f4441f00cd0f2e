"""DINOv2: vision transformers that tell pictures apart by their class token (arXiv 2304.07193).

With registers, tokens beside the class that take what patches would else be misused for (Darcet et
al., arXiv 2309.16588), or without. Positions are learnt on a grid of 37 x 37 patches and resized to
the image's, in the authors' two ways: theirs of the networks without registers adds 0.1 to the
number of patches before it takes the scale, and both make other features than a plain resizing.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ...core.registry import register
from ...core.resampling import cubic, separable
from ..layers.dense import linear, small_normal
from ..layers.encoder_block import EncoderBlock, gelu, layer_norm
from ..layers.stacks import stack, through
from ..layers.tokens import patchify, require_dividing, token_grid
from ..spec import Spec, checked_fields, compute_type

# name -> (depth, width, heads), arXiv 2304.07193, Table 17.
SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16)}
EPSILON = 1e-6
# Is added to the number of patches where positions are resized for networks without registers.
OFFSET = 0.1


class DINOv2(nnx.Module):
    """Vision transformer, ``x -> features`` of the class token after the last normalisation.

    Args:
        image_size: usual height and width of the input, divisible by ``patch_size``.
        patch_size: side of one token's square of pixels.
        width, depth, heads: transformer dimensions; ``width`` divisible by 4 and by ``heads``.
        registers: tokens beside the class's, 0 or 4 as published.
        position_grid: patches a side that positions are learnt for.
        antialias, offset: how positions are resized, as in `core.resampling.cubic`; the published
            networks with registers have True and 0, those without False and 0.1.
        scan_layers: keep the blocks' parameters stacked and loop over them.
        dtype: compute type of the matrix products; parameters stay float32.
        rngs: source of the initial parameters.

    Raises:
        ValueError: sizes that do not divide.
    """

    channels = 3

    def __init__(
        self,
        *,
        image_size: int = 224,
        patch_size: int = 14,
        width: int,
        depth: int,
        heads: int,
        registers: int = 0,
        position_grid: int = 37,
        antialias: bool = False,
        offset: float = OFFSET,
        scan_layers: bool = False,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        require_dividing(image_size, patch_size, width, heads)
        self.image_size, self.patch_size = image_size, patch_size
        self.position_grid, self.antialias, self.offset = position_grid, antialias, offset
        self.registers, self.depth, self.dtype = registers, depth, dtype
        self.patch_in = linear(3 * patch_size**2, width, dtype=dtype, rngs=rngs)
        self.class_token = nnx.Param(small_normal(rngs.params(), (1, width)))
        self.positions = nnx.Param(small_normal(rngs.params(), (1 + position_grid**2, width)))
        if registers:
            self.register_tokens = nnx.Param(small_normal(rngs.params(), (registers, width)))

        def block(rngs):
            return EncoderBlock(
                width, heads, epsilon=EPSILON, activation=gelu, scaled=True, dtype=dtype, rngs=rngs
            )

        self.blocks = stack(block, depth, scan_layers, rngs)
        self.norm = layer_norm(width, EPSILON, rngs)

    def resized_positions(self, grid: tuple[int, int]) -> Float[Array, "token width"]:
        """Return the positions of a grid of patches, (rows, columns)."""
        side, learnt = self.position_grid, self.positions[1:]
        if grid == (side, side):
            return learnt
        rows, columns = (
            cubic(side, patches, antialias=self.antialias, offset=self.offset) for patches in grid
        )
        width = learnt.shape[-1]
        return separable(rows, columns, learnt.reshape(1, side, side, width)).reshape(-1, width)

    def features(self, x: Float[Array, "batch h w 3"]) -> Float[Array, "batch width"]:
        """Return the class token for images normalised by ImageNet's mean and deviation.

        Raises:
            ValueError: other channels, or sides that the patches do not divide.
        """
        grid = token_grid(self, x.shape)
        h = self.patch_in(patchify(x, self.patch_size).astype(self.dtype))
        h = (h + self.resized_positions(grid)).astype(jnp.float32)
        front = self.class_token[...] + self.positions[:1]
        if self.registers:
            front = jnp.concatenate([front, self.register_tokens[...]])
        front = jnp.broadcast_to(front, (len(x), *front.shape)).astype(jnp.float32)
        h = jnp.concatenate([front, h], axis=1)

        def run(block, h, held):
            del held
            return block(h, grid)

        h = through(self.blocks, self.depth, h, (), run)
        return self.norm(h[:, 0])

    def __call__(self, x: Float[Array, "batch h w 3"]) -> Float[Array, "batch width"]:
        """Return what `features` does."""
        return self.features(x)


@register("network", "2304.07193", name="dinov2")
def dinov2_spec(size: str | None = None, dtype: str = "float32", **fields: Any) -> Spec:
    """Read the model section of a DINOv2: fields of the class, and two of this function.

    ``size`` is a published one, "B" or "L"; with ``registers`` its positions are resized as those
    of the published networks with registers are, unless the section says otherwise.
    """
    if size is not None and size not in SIZES:
        raise ValueError(f"size {size!r} is not one of {', '.join(SIZES)}")
    chosen: dict[str, Any] = {}
    if size is not None:
        chosen = dict(zip(("depth", "width", "heads"), SIZES[size], strict=True))
    if fields.get("registers"):
        chosen |= {"antialias": True, "offset": 0.0}
    own = checked_fields(DINOv2, "dinov2", chosen | fields)
    compute = compute_type(dtype)

    def build(rngs):
        return DINOv2(dtype=compute, rngs=rngs, **own)

    side = own.get("image_size", 224)
    return Spec(build, None, (side, side, 3), None)
