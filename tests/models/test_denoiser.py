"""A denoiser as a value: what it says of itself, what recompiles it, where it comes from."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.everyday import few

from guidestar import models
from guidestar.core.errors import UserError
from guidestar.models.checkpoints import load, save
from guidestar.models.denoiser import Origin

MODEL = dict(name="dit", image_size=4, channels=1, patch_size=2, width=8, depth=1, heads=2)
MODEL |= dict(num_classes=3)


@pytest.fixture(scope="module")
def denoiser():
    spec = models.build(MODEL)
    return spec.denoiser(spec.initialise(jax.random.key(0)))


@pytest.mark.longer
def test_it_says_what_it_is_in_a_line_without_its_arrays(denoiser):
    numbers = sum(leaf.size for leaf in jax.tree.leaves(denoiser.params))
    one = dataclasses.replace(denoiser, origin=Origin("one.safetensors", sha256="0123456789abcdef"))
    assert repr(one) == (
        f"Denoiser(DiT: {numbers:,} parameters, 4x4x1, 3 classes, sigma 0.002 to 80, "
        "from one.safetensors)"
    )
    assert repr(one.network) == "DiT(4x4x1, 3 classes)"
    assert repr(models.build(MODEL)) == "Spec(DiT(4x4x1, 3 classes))"
    assert repr(one.origin) == "Origin('one.safetensors', sha256='0123456789ab')"
    pixart = MODEL | dict(name="pixart", tokens=2, text_width=4)
    del pixart["num_classes"]
    spec = models.build(pixart)
    assert repr(spec) == "Spec(PixArt(4x4x1, mask, tokens))"
    assert "sigma 0.0100005 to 157.407" in repr(spec.denoiser(spec.shapes))


@pytest.mark.longer
def test_other_weights_of_another_origin_run_the_same_program(denoiser):
    traced = []

    @jax.jit
    def run(one, x):
        traced.append(one.origin)
        return one(x, 1.0)

    x = jnp.ones((2, *denoiser.shape))
    other = dataclasses.replace(
        denoiser,
        params=jax.tree.map(lambda a: a + 1, denoiser.params),
        origin=Origin("other.safetensors", "ab", {"steps": 3}),
    )
    first, second = run(denoiser, x), run(other, x)
    assert len(traced) == 1 and np.abs(np.asarray(first - second)).max() > 1e-3
    np.testing.assert_array_equal(run(denoiser, x), first)


def test_a_loaded_denoiser_knows_its_file_and_what_is_said_of_it(tmp_path, denoiser):
    save(tmp_path / "one.safetensors", denoiser.params, MODEL, {"steps": 7})
    found = models.load(tmp_path / "one.safetensors")
    assert found.origin.file == "one.safetensors" and found.origin.facts["steps"] == 7
    assert "model" not in found.origin.facts


@pytest.mark.longer
@pytest.mark.parametrize(
    ("training", "null"),
    few(1, [({"label_dropout": 0.0}, None), ({"label_dropout": 0.1}, 3), ({}, 3)]),
)
def test_weights_trained_with_every_label_know_no_null_condition(
    tmp_path, denoiser, training, null
):
    path = tmp_path / "one.safetensors"
    save(path, denoiser.params, MODEL, {"config": {"training": training}})
    assert json.loads(path.with_suffix(".json").read_text())["config"]["training"] == training
    found = load(path).denoiser
    assert found.null_condition == null and found.network.num_classes == 3
    x, label = jnp.ones((2, *found.shape)), np.array([0, 2])
    assert np.isfinite(np.asarray(found(x, 1.0, label))).all()
    if null is None:
        with pytest.raises(ValueError, match="DiT knows no prediction without a condition"):
            found(x, 1.0)


def test_what_is_offered_in_the_place_of_weights_that_are_not_there_loads():
    with pytest.raises(UserError, match="no weights at 'nothing'") as refused:
        models.load("nothing")
    offered = str(refused.value).rpartition(": ")[2].split(", ")
    assert {"digits", "fashion_mnist_dit", "fractal2d_main"} <= set(offered)
    assert all(models.load(name).sigma_range for name in offered)


def test_a_network_that_is_no_denoiser_makes_none():
    classifier = dict(name="classifier", image_size=8, channels=1, num_classes=2, widths=(8,))
    spec = models.build(classifier | dict(depths=(0,)))
    with pytest.raises(ValueError, match="Classifier is no denoiser"):
        spec.denoiser(spec.shapes)
