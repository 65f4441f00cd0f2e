"""The arrangement of a UNet's blocks: names, channels, resolutions, attention, skip connections.

EDM's UNets (Karras et al., arXiv 2206.00364) name a block by its resolution and its role:
``16x16_conv``, then in the encoder ``8x8_down``, ``8x8_block0``, ..., in the decoder ``8x8_in0``
and ``8x8_in1`` (the bottleneck), ``16x16_up``, ``16x16_block0``, ...
"""

import dataclasses
import itertools
from collections.abc import Sequence

DOWN, UP = "down", "up"


@dataclasses.dataclass(frozen=True)
class Stage:
    """One block and its place in the network.

    Attributes:
        name: as in the published checkpoints.
        fan_in, fan_out: its channels; the connection that it takes is among those that come in.
        attends: whether self-attention follows.
        resample: "down" to halve the resolution, "up" to double it, None to keep it.
        takes: number of the skip connection that is concatenated to its input; None without.
        block: its number among the blocks, in the order in which they run.
        attention: number of its attention among the network's, in that order; None without.
    """

    name: str
    fan_in: int
    fan_out: int
    attends: bool = False
    resample: str | None = None
    takes: int | None = None
    block: int = 0
    attention: int | None = None

    @property
    def keeps_shape(self) -> bool:
        """Whether what comes out has the shape of what goes in."""
        return self.fan_in == self.fan_out and self.resample is None


@dataclasses.dataclass(frozen=True)
class Level:
    """The blocks of one resolution.

    Attributes:
        label: "16x16".
        encoder, decoder: blocks in the order in which they run.
        width: channels that its blocks make, in the encoder and in the decoder.
    """

    label: str
    encoder: tuple[Stage, ...]
    decoder: tuple[Stage, ...]
    width: int


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """Every block of a UNet.

    Attributes:
        width: channels that the first convolution makes; its output is skip connection 0, that
            of encoder block n is connection n + 1.
        levels: from the finest resolution to the coarsest.
    """

    width: int
    levels: tuple[Level, ...]

    @property
    def encoder(self) -> tuple[Stage, ...]:
        """The encoder's blocks in the order in which they run."""
        return tuple(itertools.chain.from_iterable(level.encoder for level in self.levels))

    @property
    def decoder(self) -> tuple[Stage, ...]:
        """The decoder's blocks in the order in which they run."""
        return tuple(itertools.chain.from_iterable(x.decoder for x in reversed(self.levels)))

    @property
    def blocks(self) -> tuple[Stage, ...]:
        """All blocks in the order in which they run."""
        return self.encoder + self.decoder

    @property
    def attentions(self) -> int:
        """How many blocks end in self-attention."""
        return sum(stage.attends for stage in self.blocks)

    @property
    def connections(self) -> int:
        """How many skip connections there are."""
        return len(self.encoder) + 1

    @property
    def bottleneck(self) -> Stage:
        """The block whose output is the h-space: the last before the decoder takes connections."""
        return self.levels[-1].decoder[1]


def arrange(
    image_size: int,
    width: int,
    widths: Sequence[int],
    num_blocks: int,
    attn_resolutions: Sequence[int],
    *,
    decoder_attends_last: bool,
) -> Arrangement:
    """Lay out the blocks of one of EDM's UNets.

    Args:
        image_size: height and width of the input at the finest level.
        width: channels that the first convolution makes.
        widths: channels of each level, finest first.
        num_blocks: blocks of a level in the encoder; the decoder has one more.
        attn_resolutions: resolutions at which blocks end in self-attention. The first block of
            the bottleneck always does.
        decoder_attends_last: of a level's blocks in the decoder, the last one alone attends.

    Raises:
        ValueError: no levels, no blocks, or a resolution that cannot be halved for each level.
    """
    if not widths or num_blocks < 1:
        raise ValueError(
            f"a UNet needs a level (channel_mult) and a block (num_blocks) at least, got "
            f"{len(widths)} and {num_blocks}"
        )
    if image_size % 2 ** (len(widths) - 1):
        raise ValueError(
            f"image_size {image_size} cannot be halved {len(widths) - 1} times, once for each "
            f"level of channel_mult after the first"
        )
    made, encoders, decoders = [width], [], []
    for level, out in enumerate(widths):
        label, attends = _level(image_size, level, attn_resolutions)
        stages = []
        if level:
            stages.append(Stage(f"{label}_down", made[-1], made[-1], resample=DOWN))
            made.append(made[-1])
        for index in range(num_blocks):
            stages.append(Stage(f"{label}_block{index}", made[-1], out, attends))
            made.append(out)
        encoders.append(stages)
    left, now = len(made), made[-1]
    for level, out in reversed(list(enumerate(widths))):
        label, attends = _level(image_size, level, attn_resolutions)
        if level == len(widths) - 1:
            stages = [Stage(f"{label}_in0", now, now, True), Stage(f"{label}_in1", now, now)]
        else:
            stages = [Stage(f"{label}_up", now, now, resample=UP)]
        for index in range(num_blocks + 1):
            left -= 1
            here = attends and (index == num_blocks or not decoder_attends_last)
            name = f"{label}_block{index}"
            stages.append(Stage(name, now + made[left], out, here, takes=left))
            now = out
        decoders.append(stages)
    return Arrangement(width, _numbered(image_size, encoders, decoders[::-1], widths))


def _level(image_size: int, level: int, attn_resolutions: Sequence[int]) -> tuple[str, bool]:
    size = image_size >> level
    return f"{size}x{size}", size in attn_resolutions


def _numbered(image_size, encoders, decoders, widths) -> tuple[Level, ...]:
    blocks, attentions = itertools.count(), itertools.count()

    def number(stages):
        return tuple(
            dataclasses.replace(
                stage,
                block=next(blocks),
                attention=next(attentions) if stage.attends else None,
            )
            for stage in stages
        )

    encoders = [number(stages) for stages in encoders]
    decoders = [number(stages) for stages in reversed(decoders)][::-1]
    return tuple(
        Level(_level(image_size, level, ())[0], encoder, decoder, widths[level])
        for level, (encoder, decoder) in enumerate(zip(encoders, decoders, strict=True))
    )
