"""Modes in transformers whose first tokens are no part of the image: a class, a summary.

A mode knows the tokens of an image by their places on a grid, so it is shown those alone. The
tokens in front go through the same layers beside them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from ...core.sites import ATTENTION, BLOCK


def of_image(modes: Sequence, extra: int) -> tuple:
    """Return modes that leave out the first ``extra`` tokens of attention layers and blocks.

    Where a mode does without the attention, the tokens in front attend as they would without it;
    where it does without a block, they pass it by as well.
    """
    return tuple(
        (_OfImage(mode, extra) if mode.site in (ATTENTION, BLOCK) else mode, where)
        for mode, where in modes
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _OfImage:
    mode: Any
    extra: int

    @property
    def name(self) -> str:
        return self.mode.name

    @property
    def site(self) -> str:
        return self.mode.site

    @property
    def layers(self) -> tuple[int, ...]:
        return self.mode.layers

    def attention(self, attend, query, key, value, grid):
        whole, fronts = (query, key, value), []

        def attend_image(*parts):
            joined = (self._joined(one, part) for one, part in zip(whole, parts, strict=True))
            return self._split(attend(*joined), fronts)

        parts = [one[:, self.extra :] for one in whole]
        image = self.mode.attention(attend_image, *parts, grid)
        if not fronts:
            attend_image(*parts)
        return jnp.concatenate([fronts[-1], image], axis=1)

    def block(self, run, tokens):
        fronts = [tokens[:, : self.extra]]

        def run_image(image):
            return self._split(run(self._joined(tokens, image)), fronts)

        image = self.mode.block(run_image, tokens[:, self.extra :])
        return jnp.concatenate([fronts[-1], image], axis=1)

    def _joined(self, whole, image):
        return jnp.concatenate([whole[:, : self.extra], image], axis=1)

    def _split(self, tokens, fronts):
        fronts.append(tokens[:, : self.extra])
        return tokens[:, self.extra :]
