"""CLIP's image tower: a vision transformer trained beside a text encoder (arXiv 2103.00020)."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ...core.registry import register
from ..layers.dense import small_normal
from ..layers.encoder_block import EncoderBlock, layer_norm, quick_gelu
from ..layers.stacks import stack, through
from ..layers.tokens import patchify, require_dividing
from ..spec import Spec, checked_fields, compute_type

# name -> (patch size, depth, width, heads, output), arXiv 2103.00020, Table 20.
SIZES = {
    "B/32": (32, 12, 768, 12, 512),
    "B/16": (16, 12, 768, 12, 512),
    "L/14": (14, 24, 1024, 16, 768),
}
EPSILON = 1e-5


class CLIPImage(nnx.Module):
    """Vision transformer, ``x -> features`` in the space that images and texts share.

    Args:
        image_size: height and width of the input, divisible by ``patch_size``.
        patch_size: side of one token's square of pixels.
        width, depth, heads: transformer dimensions; ``width`` divisible by 4 and by ``heads``.
        output: numbers in one image's features.
        scan_layers: keep the blocks' parameters stacked and loop over them.
        dtype: compute type of the matrix products; parameters stay float32.
        rngs: source of the initial parameters.

    Raises:
        ValueError: sizes that do not divide.
    """

    def __init__(
        self,
        *,
        image_size: int = 224,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        output: int,
        scan_layers: bool = False,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        require_dividing(image_size, patch_size, width, heads)
        self.image_size, self.patch_size = image_size, patch_size
        self.depth, self.dtype = depth, dtype
        side = image_size // patch_size
        # Patches have no bias of their own.
        shape = (3 * patch_size**2, width)
        self.patch_kernel = nnx.Param(small_normal(rngs.params(), shape))
        self.class_token = nnx.Param(small_normal(rngs.params(), (1, width)))
        self.positions = nnx.Param(small_normal(rngs.params(), (1 + side**2, width)))
        self.norm_in = layer_norm(width, EPSILON, rngs)

        def block(rngs):
            return EncoderBlock(
                width,
                heads,
                epsilon=EPSILON,
                activation=quick_gelu,
                scaled=False,
                dtype=dtype,
                rngs=rngs,
            )

        self.blocks = stack(block, depth, scan_layers, rngs)
        self.norm = layer_norm(width, EPSILON, rngs)
        self.projection = nnx.Param(small_normal(rngs.params(), (width, output)))

    def features(self, x: Float[Array, "batch h w 3"]) -> Float[Array, "batch output"]:
        """Return the projected class token, not normalised, for images in CLIP's own colours.

        Raises:
            ValueError: images of another shape.
        """
        side = self.image_size
        if x.shape[1:] != (side, side, 3):
            raise ValueError(f"this CLIPImage takes {side}x{side}x3 images, got {x.shape[1:]}")
        h = patchify(x, self.patch_size).astype(self.dtype) @ self.patch_kernel.astype(self.dtype)
        front = jnp.broadcast_to(self.class_token[...], (len(x), *self.class_token.shape))
        h = jnp.concatenate([front, h.astype(jnp.float32)], axis=1) + self.positions[...]
        grid = (side // self.patch_size,) * 2

        def run(block, h, held):
            del held
            return block(h, grid)

        h = through(self.blocks, self.depth, self.norm_in(h), (), run)
        return self.norm(h[:, 0]) @ self.projection[...]

    def __call__(self, x: Float[Array, "batch h w 3"]) -> Float[Array, "batch output"]:
        """Return what `features` does."""
        return self.features(x)


@register("network", "2103.00020", name="clip_image")
def clip_spec(size: str | None = None, dtype: str = "float32", **fields: Any) -> Spec:
    """Read the model section of CLIP's image tower: fields of the class, and two of this function.

    ``size`` is a published one, "B/32".
    """
    if size is not None and size not in SIZES:
        raise ValueError(f"size {size!r} is not one of {', '.join(SIZES)}")
    names = ("patch_size", "depth", "width", "heads", "output")
    chosen = dict(zip(names, SIZES[size], strict=True)) if size is not None else {}
    own = checked_fields(CLIPImage, "clip_image", {**chosen, **fields})
    compute = compute_type(dtype)

    def build(rngs):
        return CLIPImage(dtype=compute, rngs=rngs, **own)

    side = own.get("image_size", 224)
    return Spec(build, None, (side, side, 3), None)
