"""Condition embedding perturbation: as much noise as the paper says, in training alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.filled import initialise
from tables.loss_examples import fixed, images, keys, only

from guidestar.models import builders
from guidestar.models.denoiser import Denoiser
from guidestar.training.losses import Denoising
from guidestar.training.noise.perturbation import ConditionPerturbation

MODEL = dict(name="dit", image_size=4, channels=2, num_classes=3, patch_size=2) | dict(
    width=8, depth=1, heads=2
)


@pytest.mark.parametrize(("kind", "expected"), [("uniform", 1 / 3), ("normal", 1.0)])
@pytest.mark.parametrize(("gamma", "width"), [(1.0, 16), (0.5, 64)])
def test_the_squared_norm_of_the_noise_is_the_papers(kind, expected, gamma, width):
    mode = ConditionPerturbation(kind, gamma)(keys(4000))
    embedding = jnp.ones((4000, width))
    noise = mode.condition_embedding(embedding, None) - embedding
    assert float((noise**2).sum(axis=1).mean()) == pytest.approx(expected * gamma**2, rel=0.03)
    assert float(jnp.abs(noise.mean())) < 0.01 * gamma
    if kind == "uniform":
        assert float(jnp.abs(noise).max()) <= gamma / np.sqrt(width) * (1 + 1e-6)


def test_samples_draw_their_own_noise_from_their_own_key():
    mode = ConditionPerturbation()(keys(3))
    noise = mode.condition_embedding(jnp.zeros((3, 8)), None)
    assert len(np.unique(noise.round(6), axis=0)) == 3
    alone = ConditionPerturbation()(keys(3)[1:2]).condition_embedding(jnp.zeros((1, 8)), None)
    np.testing.assert_array_equal(alone[0], noise[1])


@pytest.mark.longer
def test_training_sees_the_perturbation_and_sampling_never_does():
    spec = builders.build(MODEL)
    network, params = initialise(spec.build, jax.random.key(0), num_classes=3, shape=spec.shape)
    leaves, structure = jax.tree.flatten(params)
    fresh = jax.random.split(jax.random.key(1), len(leaves))
    params = structure.unflatten(
        [a + 0.3 * jax.random.normal(k, a.shape) for a, k in zip(leaves, fresh, strict=True)]
    )
    batch, own = images(4), keys(4)
    losses = [
        jax.jit(lambda p, loss=loss: loss(only(network, p), batch, own)[0])(params)
        for loss in (
            Denoising(spec.preconditioner, fixed(0.5)),
            Denoising(spec.preconditioner, fixed(0.5, perturbation=ConditionPerturbation())),
        )
    ]
    assert np.abs(losses[1] - losses[0]).max() > 1e-3
    # The perturbed loss is that of the plain one for a network whose embeddings were moved: the
    # denoiser that is sampled from knows neither.
    denoise = Denoiser(params, network, spec.preconditioner)
    sampled = [denoise(batch["x"], 0.5, batch["condition"]) for _ in range(2)]
    np.testing.assert_array_equal(*sampled)


@pytest.mark.parametrize("bad", [{"kind": "cauchy"}, {"gamma": 0.0}])
def test_a_perturbation_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="condition perturbation of kind"):
        ConditionPerturbation(**bad)
