"""Functions of a batch over any number of examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guidestar.core.batches import Batches


@jax.jit
def both(fixed, x):
    return {"sum": fixed + x.sum(axis=1), "twice": 2 * x, "nothing": None}


@pytest.mark.parametrize("count", [1, 4, 5, 11])
def test_every_example_has_its_own_result_in_one_program(count, compilations):
    x = np.arange(3.0 * count, dtype=np.float32).reshape(count, 3)
    run = Batches(both, jnp.float32(1.0), 4)
    with compilations() as programs:
        found = run(x)
    np.testing.assert_array_equal(found["sum"], 1 + x.sum(axis=1))
    np.testing.assert_array_equal(found["twice"], 2 * x)
    assert found["nothing"] is None and len(programs) <= 1


def test_what_is_done_before_is_done_to_the_examples_of_a_batch_alone():
    seen = []

    def shortened(examples):
        seen.append(len(examples))
        return examples[:, :2]

    x = np.ones((7, 3), np.float32)
    found = Batches(both, jnp.float32(0.0), 4, before=shortened)(x)
    assert seen == [4, 3] and found["twice"].shape == (7, 2)


def test_batches_have_an_example():
    with pytest.raises(ValueError, match="give at least 1"):
        Batches(both, None, 0)
