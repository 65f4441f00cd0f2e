"""Perturbed blocks: some of them skipped, or given their tokens in disorder.

SLG (Stability AI, skip-layer guidance of Stable Diffusion 3.5) and TPG (Rajabi et al., arXiv
2506.10036). Both keep the condition and work without one.
"""

from typing import ClassVar

import jax
from jaxtyping import Array, Key

from ...core.pytrees import pytree, static
from ...core.random import folded, require_keys
from ...core.registry import register
from ...core.sites import BLOCK
from ..modes import checked_layers
from ..protocol import Branch, require_finite
from ..pushes import Perturbed, Push, Scale
from .attention import InMode


@pytree
class SkippedBlocks:
    """The blocks are left out: what goes in comes out."""

    name: ClassVar[str] = "skipped_blocks"
    site: ClassVar[str] = BLOCK
    layers: tuple[int, ...] = static()

    def block(self, run, tokens):
        del run
        return tokens


@pytree
class PermutedTokens:
    """The blocks get their tokens in a random order, each sample's own."""

    name: ClassVar[str] = "permuted_tokens"
    site: ClassVar[str] = BLOCK
    layers: tuple[int, ...] = static()
    keys: Key[Array, " batch"]

    def block(self, run, tokens):
        if tokens.ndim < 3:
            raise ValueError(
                f"guidance.permuted_tokens: the network's blocks have no tokens to permute, only "
                f"{tokens.shape}: choose a network of tokens or another reference"
            )
        flat = tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])
        return run(jax.vmap(jax.random.permutation)(self.keys, flat).reshape(tokens.shape))


@pytree
class Permuted(Perturbed):
    """The plain prediction's condition, with tokens permuted before each chosen block."""

    layers: tuple[int, ...] = static()

    def branch(self, x, sigma, key):
        del x, sigma
        key = require_keys(PermutedTokens.name, key)
        # A mode a layer, so that each draws a permutation of its own.
        modes = tuple(PermutedTokens((layer,), folded(key, layer)) for layer in self.layers)
        return Branch(modes=modes, name=PermutedTokens.name)


@register("reference")
def skipped_blocks(layers: tuple[int, ...]) -> InMode:
    """Return the reference of skip-layer guidance: the network without some of its blocks.

    Args:
        layers: blocks, counted from 0.

    Raises:
        ValueError: layers that are no block numbers; beyond the network's depth when traced.
    """
    return InMode(SkippedBlocks(checked_layers("skipped_blocks", layers)))


@register("reference", "2506.10036")
def permuted_tokens(layers: tuple[int, ...]) -> Permuted:
    """Return the reference of TPG: tokens in random order at the input of the chosen blocks.

    Every sample, evaluation and block draws a permutation of its own, and it is not undone after
    the block: self-attention and MLP look at no positions, so a block between a permutation and
    its inverse would be the plain block. Norms stay as they are.

    Args:
        layers: blocks, counted from 0.

    Raises:
        ValueError: layers that are no block numbers; beyond the network's depth when traced.

    Source: Rajabi et al., arXiv 2506.10036.
    """
    return Permuted(checked_layers("permuted_tokens", layers))


@register("rule")
def slg(scale: float | Array, layers: tuple[int, ...]) -> Push:
    r"""Return skip-layer guidance, ``D_skip + scale * (D_main - D_skip)``.

    Needs no training and no condition. Costs one evaluation beside the plain one. Published with
    CFG and in the first fifth of the steps alone: ``together(cfg(w), between(slg(...), ...))``.

    Equation:
        D = D_\text{skip} + w (D - D_\text{skip})

    When to use: Cheap to try on deep transformers, where leaving out a block in the middle
    weakens the network without breaking it. Published on top of CFG, in the first fifth of the
    steps.

    Args:
        scale: 1 is off; the published weight is ``scale - 1`` (2.8, so scale 3.8).
        layers: see `skipped_blocks`; 7, 8 and 9 of Stable Diffusion 3.5 medium.

    Raises:
        ValueError: scale not finite, layers that are no block numbers.

    Source: Stability AI, Stable Diffusion 3.5 reference code; no paper.
    """
    require_finite("slg", scale=scale)
    return Push(Scale(scale), skipped_blocks(checked_layers("slg", layers)))


@register("rule", "2506.10036")
def tpg(scale: float | Array, layers: tuple[int, ...]) -> Push:
    r"""Return token perturbation guidance, ``D_permuted + scale * (D_main - D_permuted)``.

    Needs no training and no condition. Costs one evaluation beside the plain one.

    Equation:
        D = D_\pi + w (D - D_\pi), \quad h \to \pi h

    When to use: For transformers without a condition. Shuffled tokens keep their norms, so the
    reference is wrong in structure and not in contrast.

    Args:
        scale: 1 is off; the paper's weight is ``scale - 1`` (3, so scale 4).
        layers: see `permuted_tokens`.

    Raises:
        ValueError: scale not finite, layers that are no block numbers; no keys to draw from.

    Source: Rajabi et al., arXiv 2506.10036.
    """
    require_finite("tpg", scale=scale)
    return Push(Scale(scale), permuted_tokens(checked_layers("tpg", layers)))
