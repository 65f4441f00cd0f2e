"""Numbers as inputs of any network: it begins as the network without them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.everyday import rows

from guidestar.core.errors import UserError
from guidestar.models import builders, create
from guidestar.models.checkpoints.files import flatten, unflatten

DIT = dict(
    name="dit",
    image_size=8,
    channels=1,
    num_classes=3,
    patch_size=4,
    width=16,
    depth=2,
    heads=2,
    scan_layers=True,
)
SONG = dict(
    name="song_unet",
    image_size=8,
    channels=1,
    num_classes=3,
    model_channels=8,
    channel_mult=(1, 1),
    num_blocks=1,
    attn_resolutions=(),
)
NETWORKS = {"dit": DIT, "dit without scan": DIT | dict(scan_layers=False), "song_unet": SONG}
INPUTS = dict(scale=(1.0, 5.0), low=dict(low=0.0, high=2.0, factor=1.0))


def filled(spec, seed=0):
    """Return parameters of which none is zero, by path."""
    shapes = flatten(spec.shapes)
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return {
        path: 0.2 * jax.random.normal(key, shape.shape)
        for key, (path, shape) in zip(keys, sorted(shapes.items()), strict=True)
    }


def nested(flat):
    return unflatten(flat.items())


@pytest.mark.longer
@pytest.mark.parametrize("name", rows(NETWORKS, lambda name: name == "dit without scan"))
def test_a_network_begins_as_it_is_without_its_inputs_whatever_they_are(name):
    plain = builders.build(NETWORKS[name])
    spec = builders.build(NETWORKS[name] | {"inputs": INPUTS})
    made = filled(plain)
    x = jax.random.normal(jax.random.key(1), (2, *plain.shape))
    label = jnp.array([0, 2])
    expected = plain.denoiser(nested(made))(x, 0.7, label)
    fresh = flatten(spec.initialise(jax.random.key(2)))
    assert {path for path in fresh if path not in made} == {
        "scalar_inputs/scale/kernel",
        "scalar_inputs/low/kernel",
    }
    whole = spec.denoiser(nested(fresh | made))
    for scale, low in ((1.0, 0.0), (3.3, 1.0)):
        np.testing.assert_array_equal(whole.bind(scale=scale, low=low)(x, 0.7, label), expected)
    moved = {path: fresh[path] + 0.1 for path in fresh if path not in made}
    trained = spec.denoiser(nested(made | moved)).bind(low=1.0)
    one, other = (trained(x, 0.7, label, scale=s) for s in (1.0, jnp.array([1.0, 3.3])))
    np.testing.assert_allclose(one[0], other[0], rtol=1e-5, atol=1e-5)
    assert float(jnp.abs(one[1] - other[1]).max()) > 1e-4


@pytest.mark.longer
def test_other_values_compile_no_program(compilations):
    denoise = create(**DIT, key=jax.random.key(0), inputs=INPUTS)
    run = jax.jit(lambda denoise, x: denoise(x, 1.0))
    x = jnp.ones((2, 8, 8, 1))
    run(denoise.bind(scale=2.0, low=0.5), x)
    again = denoise.bind(scale=4.0, low=0.5)
    with compilations() as compiled:
        run(again, x)
    assert not compiled


def test_what_was_not_trained_is_refused():
    denoise = create(**DIT, key=jax.random.key(0), inputs=INPUTS)
    assert "scale 1 to 5" in repr(denoise) and denoise.macs > 0
    x = jnp.ones((2, 8, 8, 1))
    with pytest.raises(ValueError, match=r"takes the input scale, trained from 1 to 5"):
        denoise.bind(low=0.0)(x, 1.0)
    with pytest.raises(ValueError, match=r"scale is 7.0, .* from 1 to 5"):
        denoise.bind(scale=7.0)
    with pytest.raises(ValueError, match="no input 'scal' .did you mean scale"):
        denoise.bind(scal=2.0)
    for wrong, word in (
        (dict(scale=(5.0, 1.0)), "low to high"),
        (dict(scale=3.0), "the range that it is trained in"),
        (dict(scale=dict(low=1, high=2, factor=0)), "above 0"),
    ):
        with pytest.raises(UserError, match=word):
            builders.build(DIT | {"inputs": wrong})
    classifier = dict(
        name="classifier", image_size=8, channels=1, num_classes=3, widths=(8,), depths=(1,)
    )
    with pytest.raises(UserError, match="no time embedding"):
        builders.build(classifier | {"inputs": INPUTS})
