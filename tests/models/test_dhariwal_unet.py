"""DhariwalUNet: the published size, cost and outputs, its embedding, the zero it starts as."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks.edm_unets import ADM, CLASSES, count, denoiser, golden, inputs, run, shapes_of
from networks.filled import initialise

from guidestar.core.macs import macs
from guidestar.models import DhariwalUNet
from guidestar.models.denoiser import Denoiser, split
from guidestar.models.preconditioning import EDM


@pytest.mark.longer
def test_the_published_network_has_its_parameters_its_attention_and_its_cost():
    module = nnx.eval_shape(lambda: DhariwalUNet.from_name("adm-imagenet64", rngs=nnx.Rngs(0)))
    network, shapes = split(module, num_classes=1000, shape=(64, 64, 3))
    assert count(shapes) == 295_899_267
    assert module.arrangement.attentions == 22
    assert macs(Denoiser(shapes, network, EDM())) / 1e9 == pytest.approx(109.7, abs=0.05)


@pytest.mark.longer
def test_a_published_checkpoint_denoises_as_published(tmp_path):
    loaded, arrays = golden("edm_adm", tmp_path)
    x, sigma, labels = (arrays[key] for key in ("x", "sigma", "labels"))
    found = jax.jit(Denoiser.__call__)(loaded.denoiser, x, sigma, labels)
    for one, expected in zip(found, arrays["denoised"], strict=True):
        np.testing.assert_allclose(one, expected, atol=2e-5 * np.abs(expected).max())
    assert loaded.sidecar["model"] == dict(
        name="dhariwal_unet",
        image_size=16,
        channels=3,
        num_classes=10,
        augment_dim=0,
        model_channels=64,
        channel_mult=[1, 1],
        channel_mult_emb=1,
        num_blocks=1,
        attn_resolutions=[8],
        learn_variance=False,
        preconditioner="edm",
    )


@pytest.mark.longer
def test_an_untrained_network_answers_zero_and_has_loss_one():
    spec, network, _ = shapes_of(ADM)
    fresh = initialise(spec.build, jax.random.key(0), num_classes=CLASSES, shape=spec.shape)[1]
    one = Denoiser(fresh, network, spec.preconditioner)
    data, noise = jax.random.normal(jax.random.key(1), (2, 96, *spec.shape))
    data = 0.5 * data
    sigma = jnp.repeat(jnp.array([0.05, 1.0, 30.0]), 32)
    column = sigma[:, None, None, None]
    x = data + column * noise
    denoised = jax.jit(Denoiser.__call__)(one, x, sigma, jnp.arange(96) % CLASSES)
    np.testing.assert_allclose(denoised, 0.25 / (column**2 + 0.25) * x, rtol=1e-5)
    losses = spec.preconditioner.loss_weight(column) * (denoised - data) ** 2
    np.testing.assert_allclose(losses.reshape(3, -1).mean(axis=1), 1, atol=0.08)
    block = fresh["enc"]["4x4_block0"]
    for part, fan_in in (("conv0", 576), ("qkv", 64), ("affine", 64)):
        bound = fan_in**-0.5
        for leaf in block[part].values():
            assert 0.9 * bound < np.abs(leaf).max() <= bound
    assert not any(np.any(leaf) for p in ("conv1", "proj") for leaf in block[p].values())
    assert float(fresh["map_label"]["kernel"].std()) == pytest.approx(1, abs=0.25)


@pytest.mark.longer
def test_the_null_class_is_no_class():
    one, unconditional = denoiser(ADM), denoiser(ADM | dict(num_classes=0))
    x, time, label = inputs()
    null = run(one.network, one.params, x, time, np.full(3, CLASSES))
    params = {name: part for name, part in one.params.items() if name != "map_label"}
    np.testing.assert_allclose(run(unconditional.network, params, x, time, None), null, atol=1e-5)
    assert np.abs(run(one.network, one.params, x, time, label) - null).max() > 1e-3


@pytest.mark.longer
def test_samples_do_not_see_each_other_and_see_their_time_and_augmentation():
    one = denoiser(ADM)
    x, time, label = inputs()
    augment = np.random.default_rng(0).normal(size=(3, 9)).astype("f")
    batch = run(one.network, one.params, x, time, label, augment=augment)
    alone = run(one.network, one.params, x[1:2], time[1:2], label[1:2], augment=augment[1:2])
    np.testing.assert_allclose(batch[1:2], alone, atol=1e-5)
    later = run(one.network, one.params, x, time + 0.3, label, augment=augment)
    assert np.abs(later - batch).max(axis=(1, 2, 3)).min() > 1e-4
    turned = run(one.network, one.params, x, time, label, augment=augment[::-1])
    assert np.abs(turned - batch)[0].max() > 1e-3


@pytest.mark.longer
def test_a_learned_variance_doubles_the_channels_and_is_not_in_the_denoised():
    wide = denoiser(ADM | dict(learn_variance=True, preconditioner="iddpm"))
    x, _, label = inputs()
    denoised = jax.jit(Denoiser.__call__)(wide, x, 2.0, label)
    step = int(wide.preconditioner.coefficients(jnp.float32(2.0)).noise)
    raw = run(wide.network, wide.params, x / 5**0.5, np.full(3, step, "f"), label)
    assert raw.shape == (3, 8, 8, 4)
    np.testing.assert_allclose(denoised, x - 2 * raw[..., :2], atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(model_channels=32), "do not divide into heads of 64"),
        (dict(image_size=9), "cannot be halved 1 times"),
        (dict(channel_mult=()), "needs a level"),
        (dict(dropout=-0.1), r"dropout must be in \[0, 1\)"),
        (dict(size="adm-imagenet512"), "unknown DhariwalUNet 'adm-imagenet512'; use one of adm-i"),
        (dict(encoder_type="skip"), "encoder_type"),
    ],
)
def test_fields_that_make_no_network_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        shapes_of(ADM | changes)
