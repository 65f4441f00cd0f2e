"""The Frechet distance of few samples: the same samples each time, in batches of any size."""

import numpy as np
import pytest

from guidestar import evaluation
from guidestar.evaluation.few_samples import FrechetEvaluator


def flat(images):
    return images.reshape(len(images), -1).astype(np.float64)


@pytest.mark.parametrize("batch_size", [1, 4, 10, 64])
def test_it_is_that_of_all_samples_together(batch_size, recwarn):
    images = np.random.default_rng(0).integers(0, 256, (10, 2, 2, 3)).astype(np.uint8)
    real = evaluation.moments(flat(255 - images))
    asked = []

    def sample(networks, indices):
        asked.append((networks, indices.tolist()))
        return images[indices]

    one = FrechetEvaluator(flat, real, sample, samples=10, batch_size=batch_size, name="held_out")
    found = dict(one.run(7, "networks"))
    assert [index for _, indices in asked for index in indices] == list(range(10))
    assert {networks for networks, _ in asked} == {"networks"} and not recwarn
    with pytest.warns(UserWarning, match="singular"):
        expected = evaluation.frechet_distance(real, evaluation.moments(flat(images)))
    assert found == {"held_out": pytest.approx(expected)}
