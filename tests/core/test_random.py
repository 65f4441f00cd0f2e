"""Seeds and keys: by global sample index, whatever generator jax takes by default."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guidestar.core import random
from guidestar.core.errors import UserError

WORDS = jax.random.key_data


@pytest.mark.parametrize("seed", [0, 1, 5, 2**31, 2**32 - 1])
def test_below_32_bits_the_root_key_is_the_usual_one(seed):
    usual = jax.random.key(np.uint32(seed), impl="threefry2x32")
    np.testing.assert_array_equal(WORDS(random.root_key(seed)), WORDS(usual))


def test_all_64_bits_of_a_seed_count():
    seeds = [0, 5, 2**32, 2**32 + 5, 2**33 + 5, 2**63, 2**64 - 1]
    words = {tuple(np.asarray(WORDS(random.root_key(seed)))) for seed in seeds}
    assert len(words) == len(seeds)
    np.testing.assert_array_equal(WORDS(random.root_key(np.uint64(7))), WORDS(random.root_key(7)))


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, 1.5, "3", None, True, float("nan"), [1]])
def test_other_seeds_are_refused_by_name(seed):
    with pytest.raises(UserError, match="sampling.seed is .*: give a whole number from 0 to 2"):
        random.checked_seed(seed, "sampling.seed")


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("use", "owner"),
    [
        (lambda key: random.sample_keys(key, random.NOISE, np.arange(3)), "sample_keys"),
        (lambda key: random.keys_per_sample("samplers.sample", key, 3), "samplers.sample"),
        (lambda key: random.require_generator("evaluate", key), "evaluate"),
    ],
)
def test_keys_of_another_generator_and_no_keys_are_refused(use, owner):
    with pytest.raises(ValueError, match=f"{owner}: the key is of the generator rbg, under which"):
        use(jax.random.key(0, impl="rbg"))
    for wrong in (3, None, "a", np.ones(3), jnp.int32(3)):
        with pytest.raises(ValueError, match=f"{owner}: .* is no random key: make one by guidest"):
            use(wrong)


def test_the_words_of_a_key_are_a_key():
    expected = random.keys_per_sample("o", jax.random.key(3), 2)
    found = random.keys_per_sample("o", WORDS(jax.random.key(3)), 2)
    np.testing.assert_array_equal(WORDS(found), WORDS(expected))
    each = random.keys_per_sample("o", WORDS(expected), 2)
    np.testing.assert_array_equal(WORDS(each), WORDS(expected))
    with pytest.raises(ValueError, match=r"o: key must be one key or one per sample \(3\), got"):
        random.keys_per_sample("o", expected, 3)


def test_a_sample_draws_by_its_index_alone():
    root = random.root_key(1)
    whole = random.unit_noise(random.sample_keys(root, random.NOISE, np.arange(6)), (2, 3))
    part = random.unit_noise(random.sample_keys(root, random.NOISE, np.array([4, 2])), (2, 3))
    np.testing.assert_array_equal(part, whole[np.array([4, 2])])
    # Keys are what the docstring says, and no two indices share a number.
    assert len(np.unique(whole)) == whole.size
    first = jax.random.fold_in(jax.random.fold_in(root, random.NOISE), 4)
    np.testing.assert_array_equal(random.unit_noise(first[None], (2, 3))[0], whole[4])
    other = random.unit_noise(random.sample_keys(root, random.STEPS, np.arange(6)), (2, 3))
    assert not np.allclose(whole, other)


PROGRAM = """
import jax, numpy as np
from guidestar import guidance
from guidestar.core import random
keys = random.sample_keys(random.root_key(2**32 + 5), random.NOISE, np.arange(3))
noise = random.unit_noise(keys, (2,))
x = {"given": np.ones((3, 2), np.float32), "independent": np.zeros((3, 2), np.float32)}
guided, _ = guidance.combine(guidance.icg(2.0, 5), x, key=random.root_key(0))
print(np.asarray(noise).tobytes().hex(), np.asarray(guided.denoised).tobytes().hex())
"""


def test_numbers_are_the_same_under_another_default_generator():
    printed = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=os.environ | {"JAX_DEFAULT_PRNG_IMPL": generator},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for generator in ("threefry2x32", "rbg")
    ]
    assert printed[0] == printed[1] and len(printed[0].split()) == 2
