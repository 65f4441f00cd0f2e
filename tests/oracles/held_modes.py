"""Forward modes, held for all samples of a batch or for some."""

import jax
from oracles.analytic import keys

from guidestar.guidance.modes import Active
from guidestar.guidance.references import attention, blocks

DEPTH, CLASSES, BATCH = 3, 3, 5


NAMES = (
    "identity_attention",
    "blurred_queries",
    "attention_temperature",
    "skipped_blocks",
    "permuted_tokens",
)


RULES = dict(
    zip(NAMES, (attention.pag, attention.seg, attention.erg, blocks.slg, blocks.tpg), strict=True)
)


def branch_of(name, layers=(1, 2), batch=BATCH, **options):
    """Return the branch that a rule's reference asks for."""
    return RULES[name](2.0, layers, **options).reference.branch(None, None, keys(batch))


def held(branch, where=None):
    return tuple(Active(mode, where) for mode in branch.modes)


@jax.jit
def permute(mode, tokens):
    """Return the tokens as the block gets them."""
    return mode.block(lambda tokens: tokens, tokens)
