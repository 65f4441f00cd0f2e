"""What EDM's two UNets share: the way through the blocks, the sites, the checks of the input."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from ...core.sites import (
    ATTENTION,
    BLOCK,
    CONDITION_EMBEDDING,
    H_SPACE,
    SKIP,
    TIME_EMBEDDING,
    at_site,
    changed,
    for_layer,
    require_offered,
)
from ..layers.labels import label_or_null, one_hot
from .blocks import UNetBlock
from .stages import Arrangement, Stage


class Passage(NamedTuple):
    """What every block of one evaluation is given.

    Attributes:
        embedding: of noise level and condition, ``[batch, width]``.
        modes: pairs (mode, where).
        keys: of dropout, one a sample; None drops nothing.
    """

    embedding: Array
    modes: tuple
    keys: Array | None


class Backbone(nnx.Module):
    """Encoder, bottleneck and decoder of a UNet whose blocks are arranged by `stages.arrange`.

    A subclass makes ``enc`` and ``dec``, dictionaries of blocks by their stages' names, and the
    attributes below.

    Attributes:
        arrangement: of the blocks.
        image_size, channels: of the input it was made for.
        num_classes: real classes; 0 for an unconditional network.
        null_class: whether it knows a null class beside them.
        augment_dim: numbers in an augmentation's label; 0 if it takes none.
        dtype: compute type.
    """

    arrangement: Arrangement
    image_size: int
    channels: int
    num_classes: int
    null_class: bool
    enc: nnx.Dict
    dec: nnx.Dict
    augment_dim: int

    @property
    def sites(self) -> tuple[str, ...]:
        """Where modes may step in; without classes there is no condition to embed."""
        condition = (CONDITION_EMBEDDING,) if self.num_classes else ()
        return (TIME_EMBEDDING, *condition, ATTENTION, BLOCK, H_SPACE, SKIP)

    def require(self, x: Array, augment: Array | None, modes: tuple) -> None:
        """Refuse what the network cannot take.

        Raises:
            ValueError: an input of other channels or of sides that cannot be halved for each
                level, augmentation labels of another width, a mode at a site that is not offered
                or in a layer that is not there.
        """
        unit = 2 ** (len(self.arrangement.levels) - 1)
        if (
            x.ndim != 4
            or x.shape[3] != self.channels
            or any(n % unit or not n for n in x.shape[1:3])
        ):
            raise ValueError(
                f"this {type(self).__name__} takes {self.image_size}x{self.image_size}x"
                f"{self.channels} inputs, or others of {self.channels} channels and sides "
                f"divisible by {unit}, got {x.shape[1:]}"
            )
        if augment is not None and augment.shape != (x.shape[0], self.augment_dim):
            raise ValueError(
                f"augmentation labels must be [{x.shape[0]}, {self.augment_dim}] (augment_dim is "
                f"{self.augment_dim}), got {augment.shape}"
            )
        depths = {
            ATTENTION: self.arrangement.attentions,
            BLOCK: len(self.arrangement.blocks),
            SKIP: self.arrangement.connections,
        }
        for mode, where in modes:
            require_offered(((mode, where),), self.sites, depths.get(mode.site, 0))

    def one_hot(self, label: Int[Array, " batch"] | None, batch: int) -> Float[Array, "batch k"]:
        """Return a row with a single 1 for each label; zeros for the null class and None.

        Raises:
            ValueError: None, and the network knows no null class.
        """
        classes = self.num_classes, self.null_class
        return one_hot(label_or_null(label, batch, *classes), *classes)

    def run(
        self, blocks: nnx.Dict, stage: Stage, x: Array, passage: Passage
    ) -> Float[Array, "batch h w c"]:
        """Run one block, with the modes that hold in it."""
        modes = for_layer(at_site(passage.modes, BLOCK), stage.block)
        if stage.attention is not None:
            modes += for_layer(at_site(passage.modes, ATTENTION), stage.attention)
        block: UNetBlock = blocks[stage.name]
        return block(x, passage.embedding, modes, passage.keys)

    def join(self, x: Array, connection: Array) -> Float[Array, "batch h w c"]:
        """Put a skip connection's channels beside those of the features that meet it."""
        return jnp.concatenate([x, connection], axis=-1)

    def decode(self, x: Array, connections: list[Array], passage: Passage) -> list[Array]:
        """Run the decoder.

        Args:
            x: the encoder's output.
            connections: skip connections in the order in which the encoder made them.
            passage: what every block is given.

        Returns:
            What each level ends in, from the coarsest to the finest.
        """
        outputs = []
        for level in reversed(self.arrangement.levels):
            for stage in level.decoder:
                if stage.takes is not None:
                    held = for_layer(at_site(passage.modes, SKIP), stage.takes)
                    x = self.join(x, changed(held, SKIP, connections[stage.takes]))
                x = self.run(self.dec, stage, x, passage)
                if stage == self.arrangement.bottleneck:
                    x = changed(passage.modes, H_SPACE, x)
            outputs.append(x)
        return outputs


def sample_keys(
    key: Key[Array, ""] | Key[Array, " batch"] | None, batch: int
) -> Key[Array, " batch"] | None:
    """Return one key a sample: those given, or each sample's own out of a single one."""
    if key is None or key.ndim:
        return key
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(batch))
