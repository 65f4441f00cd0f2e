"""Some channels guided, the others left to the conditional prediction."""

import numpy as np

from ...core.pytrees import pytree, static
from ...core.registry import register
from ..pushes import Stateless


@pytree
class Channels(Stateless):
    """Remove the push outside the first channels."""

    count: int = static()

    def push_of(self, push, context):
        del context
        return push * (np.arange(push.shape[-1]) < self.count).astype(push.dtype)


@register("transform", "2212.09748")
def channels(count: int) -> Channels:
    """Return the transform that keeps the push in the first ``count`` channels.

    The published figures of DiT and SiT guide 3 of 4 latent channels.

    Raises:
        ValueError: fewer than one channel.

    Source: the official DiT sampling code's default (Peebles & Xie, arXiv 2212.09748).
    """
    if count < 1:
        raise ValueError(f"guidance.channels: count must be at least 1, got {count}")
    return Channels(int(count))
