"""Networks by name: from a section, by arguments, and own ones beside those of the package."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from guidestar import models, register
from guidestar.core.errors import UserError
from guidestar.core.registry import registry
from guidestar.models import builders
from guidestar.models.preconditioning import EDM
from guidestar.models.spec import Spec

TINY = dict(image_size=8, channels=1, patch_size=4, width=8, depth=1, heads=2, num_classes=3)
KEY = jax.random.key(0)

# Published sizes of every family, and what they are of: shape and classes.
SIZES = {
    ("dit", "S/2"): ((32, 32, 4), 1000),
    ("dit", "B/4"): ((32, 32, 4), 1000),
    ("dit", "L/8"): ((32, 32, 4), 1000),
    ("dit", "XL/2"): ((32, 32, 4), 1000),
    ("sit", "XL/2"): ((32, 32, 4), 1000),
    ("lightning_dit", "XL/1"): ((16, 16, 32), 1000),
    ("pixart", "XL/2"): ((64, 64, 4), 0),
    ("umd", "B/4"): ((64, 64, 3), 1000),
    ("dico", "S"): ((32, 32, 4), 1000),
    ("dimr", "XL/2R"): ((32, 32, 4), 1000),
    ("edm2_unet", "XXS"): ((64, 64, 4), 1000),
    ("edm2_unet", "img64-S"): ((64, 64, 3), 1000),
    ("edm2_unet", "XXL"): ((64, 64, 4), 1000),
    ("song_unet", "ddpmpp-cifar10"): ((32, 32, 3), 0),
    ("dhariwal_unet", "adm-imagenet64"): ((64, 64, 3), 1000),
}


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_every_family_is_built_by_its_published_sizes(name, size):
    shape, classes = SIZES[name, size]
    spec = registry("network").build(dict(name=name, size=size), "model")
    assert spec.shape == shape and spec.num_classes == classes
    assert spec.preconditioner is not None


def test_what_is_created_is_a_denoiser_with_fresh_parameters():
    denoise = models.create("dit", key=KEY, **TINY)
    x = jnp.ones((2, 8, 8, 1))
    assert isinstance(denoise, models.Denoiser) and denoise.shape == (8, 8, 1)
    assert np.isfinite(np.asarray(denoise(x, 1.0, np.array([0, 2])))).all()
    again, other = (models.create("dit", key=key, **TINY) for key in (KEY, jax.random.key(1)))
    same = [
        np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (denoise, again)), strict=True)
    ]
    differ = [
        np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (again, other)), strict=True)
    ]
    assert all(same) and not all(differ)


def test_a_size_is_changed_by_fields():
    shapes = jax.eval_shape(
        lambda key: models.create("dit", size="S/2", key=key, depth=1, num_classes=0), KEY
    )
    assert shapes.network.num_classes == 0
    assert shapes.params["patch_in"]["kernel"].shape == (16, 384)
    assert list(shapes.params["blocks"]) == [0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(name="dti"), "'dti' is not one of classifier, .*; did you mean dit"),
        (dict(name="dit", size="Q/2"), "unknown DiT size 'Q/2'; use one of S/p, B/p, L/p, XL/p"),
        (dict(name="dit", size="S/0"), "patch_size must be 1 or more, got 0"),
        (dict(name="edm2_unet", size="XXXL"), "use one of XXS, XS, S, M, L, XL, XXL"),
        (dict(name="song_unet", size="cifar"), "use one of ddpmpp-cifar10"),
        (dict(name="pixart", size="S/2"), "the published one is XL/2"),
        (dict(name="dico", size="XXL"), "use one of S, B, L, XL, H"),
        (dict(name="dimr", size="S"), "use one of XL/2R"),
        (dict(name="umd", size="XL/2"), "use one of S/p, B/p, L/p"),
        (dict(name="dit", size="S/2", widht=3), r"no field 'widht' \(did you mean width\?\)"),
        (dict(name="dit", sise="S/2"), r"is missing: give it|no field 'sise'"),
        (dict(name="dit", size="S/2", sise=1), r"no field 'sise' \(did you mean size\?\)"),
        (dict(name="dit", **(TINY | dict(depth="3"))), "depth: dit takes a whole number here"),
        (dict(name="dit", **(TINY | dict(width=8.0))), "width: dit takes a whole number here"),
        (dict(name="dit", **(TINY | dict(depth=0))), "depth must be 1 or more, got 0"),
        (dict(name="dit", **(TINY | dict(num_classes=-1))), "num_classes must be 0 or more"),
        (dict(name="dit", **(TINY | dict(null_class=1))), "null_class: dit takes true or false"),
        (dict(name="dit", **TINY, dtype=jnp.float32), "dtype: dit takes a string here"),
        (dict(name="dit", **TINY, preconditioner=3), "preconditioner: dit takes a string or a sec"),
        (dict(name="dit", **TINY, preconditioner="emd"), "preconditioner 'emd' is not one of edm"),
        (dict(name="score_mlp"), "needs the field 'hidden'"),
        (dict(name="classifier", image_size=8, channels=1, num_classes=2), "is no denoiser"),
        (dict(name="sd_vae", block_out_channels=(32,), layers_per_block=1), "SDVAE is no denoiser"),
    ],
)
def test_what_makes_no_network_is_refused_by_name(arguments, message):
    with pytest.raises(UserError, match=f"^models.create.*({message})"):
        models.create(key=KEY, **arguments)


def test_a_section_is_read_in_its_own_name_and_nests():
    section = dict(name="dit", **TINY, preconditioner=dict(name="edm", sigma_data=0.7))
    assert builders.build(section).preconditioner == EDM(0.7, 250.0)
    with pytest.raises(UserError, match="^networks.teacher: dit has no field 'x'"):
        builders.build(section | {"x": 1}, "networks.teacher")


class Own(nnx.Module):
    """A network that the package does not have."""

    def __init__(self, *, gain: float, rngs: nnx.Rngs):
        self.gain = nnx.Param(jnp.float32(gain) + 0 * rngs.params().ndim)

    def __call__(self, x, time, condition):
        del time, condition
        return self.gain[...] * x


def test_a_network_of_ones_own_is_built_by_name_and_saved_like_any_other(tmp_path):
    @register("network", name="own_for_this_test")
    def own(gain: float = 2.0) -> Spec:
        return Spec(lambda rngs: Own(gain=gain, rngs=rngs), None, (3,), EDM())

    try:
        denoise = models.create("own_for_this_test", key=KEY, gain=3.0)
        assert denoise(jnp.ones((2, 3)), 1.0).shape == (2, 3)
        assert denoise.params["gain"] == 3.0 and denoise.null_condition is None
        path = tmp_path / "own.safetensors"
        models.checkpoints.save(path, denoise.params, dict(name="own_for_this_test"), {})
        np.testing.assert_array_equal(models.load(path).params["gain"], 3.0)
        with pytest.raises(UserError, match="has no argument 'gian'; it takes gain"):
            builders.build(dict(name="own_for_this_test", gian=1.0))
    finally:
        del registry("network")._constructors["own_for_this_test"]
