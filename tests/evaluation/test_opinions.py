"""What classifiers and denoisers say of images that are to be of given classes."""

import jax
import numpy as np
from oracles.analytic import MEANS, Labelled, gaussian_posterior

from guidestar.evaluation import opinions

IMAGES = np.array([MEANS[0], MEANS[1], MEANS[1], 0.2 * MEANS[1]])[:, None] * np.ones((4, 3))
LABELS, INDICES = np.array([0, 1, 0, 1]), np.arange(4)


def test_a_classifier_says_whether_it_agrees_and_how_probable_the_class_is():
    ask = opinions.of_classifier(jax.tree_util.Partial(gaussian_posterior), batch_size=3)
    found = ask(IMAGES, LABELS, INDICES)
    assert found.agrees.tolist() == [True, True, False, True]
    logits = np.asarray(gaussian_posterior(IMAGES, 0.0), np.float64)
    normed = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found.log_probability, normed[INDICES, LABELS], rtol=1e-5, atol=1e-7)


def test_a_denoiser_agrees_where_it_denoises_best_as_the_class():
    ask = opinions.of_denoiser(Labelled(), np.array([0.2, 0.5, 1.0]), batch_size=4, seed=0)
    found = ask(IMAGES, LABELS, INDICES)
    assert found.agrees.tolist() == [True, True, False, True] and found.log_probability is None
