"""Modes and tokens that are no part of the image: shown to none, and carried along by all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.filled import Doubled

from guidestar.core.sites import ATTENTION, BLOCK, TIME_EMBEDDING, around
from guidestar.guidance.references.attention import IdentityAttention
from guidestar.guidance.references.blocks import SkippedBlocks
from guidestar.models.layers.extra_tokens import of_image

EXTRA, GRID = 2, (2, 3)
QUERY, KEY, VALUE = jax.random.normal(jax.random.key(0), (3, 2, EXTRA + 6, 2, 4))
TOKENS = QUERY[:, :, 0]
SOME = jnp.array([True, False])


def attended(mode, where=None):
    modes = of_image(((mode, where),), EXTRA)
    attend = around(modes, ATTENTION, jax.nn.dot_product_attention, GRID)
    return attend(QUERY, KEY, VALUE)


def mixing(tokens):
    """A block in which every token sees all."""
    return tokens + tokens.mean(axis=1, keepdims=True)


def passed(mode, where=None):
    return around(of_image(((mode, where),), EXTRA), BLOCK, mixing)(TOKENS)


@pytest.mark.longer
def test_a_mode_of_the_attention_sees_the_tokens_of_the_grid_alone():
    mode, plain = Doubled(ATTENTION, (0,)), jax.nn.dot_product_attention(QUERY, KEY, VALUE)
    found = attended(mode)
    query, grid = mode.seen[0]
    assert grid == GRID and query.shape[1] == 6
    np.testing.assert_array_equal(query, QUERY[:, EXTRA:])
    np.testing.assert_allclose(found[:, EXTRA:], 2 * plain[:, EXTRA:], rtol=1e-6)
    np.testing.assert_allclose(found[:, :EXTRA], plain[:, :EXTRA], rtol=1e-6)


@pytest.mark.longer
def test_tokens_in_front_attend_where_a_mode_does_without():
    plain = jax.nn.dot_product_attention(QUERY, KEY, VALUE)
    for where, held in ((None, slice(0, 2)), (SOME, slice(0, 1))):
        found = attended(IdentityAttention((0,)), where)
        np.testing.assert_array_equal(found[held, EXTRA:], VALUE[held, EXTRA:])
        np.testing.assert_allclose(found[:, :EXTRA], plain[:, :EXTRA], rtol=1e-6)
        if where is not None:
            np.testing.assert_allclose(found[1], plain[1], rtol=1e-6)


def test_a_block_that_is_left_out_leaves_all_tokens_as_they_are():
    np.testing.assert_array_equal(passed(SkippedBlocks((0,))), TOKENS)
    some = passed(SkippedBlocks((0,)), SOME)
    np.testing.assert_array_equal(some[0], TOKENS[0])
    np.testing.assert_allclose(some[1], mixing(TOKENS)[1], rtol=1e-6)


def test_what_a_mode_does_to_the_image_reaches_the_tokens_in_front_through_the_block():
    mode = Doubled(BLOCK, (0,))
    by_hand = mixing(TOKENS.at[:, EXTRA:].multiply(2))
    np.testing.assert_allclose(passed(mode), by_hand, rtol=1e-5)
    assert mode.seen[0][0].shape[1] == 6


def test_modes_of_other_sites_stay_as_they_are():
    pair = (Doubled(TIME_EMBEDDING), None)
    assert of_image((pair,), EXTRA) == (pair,)
    (kept, _) = of_image(((Doubled(BLOCK, (3,)), None),), EXTRA)[0]
    assert (kept.name, kept.site, kept.layers) == ("doubled", BLOCK, (3,))
