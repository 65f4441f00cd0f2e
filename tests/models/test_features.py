"""Features of UNets: read, replaced by others, added to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.edm_unets import DDPMPP, NETWORKS, denoiser, inputs
from tables.everyday import few

from guidestar.core.sites import H_SPACE, SKIP
from guidestar.guidance.protocol import Branch
from guidestar.models.denoiser import Denoiser
from guidestar.models.features import Add, Replace, read
from guidestar.models.preconditioning import Direct
from guidestar.samplers.evaluator import Evaluator

SIGMA = np.float32(0.7)
read_jitted = jax.jit(read)
denoise = jax.jit(Denoiser.__call__)
EDM2 = {k: v for k, v in DDPMPP.items() if k != "augment_dim"} | dict(
    name="edm2_unet", channels_per_head=8
)
UNETS = {name: denoiser(model) for name, model in (NETWORKS | {"EDM2": EDM2}).items()}


def everything(features):
    """Return modes that put all of the given features in place."""
    skips = (Replace(one, SKIP, (n,)) for n, one in enumerate(features[SKIP]))
    return tuple((mode, None) for mode in (Replace(features[H_SPACE]), *skips))


@pytest.mark.longer
@pytest.mark.parametrize("name", few(1, UNETS))
def test_features_put_in_place_are_all_that_the_output_depends_on(name):
    unet, (x, _, label) = UNETS[name], inputs()
    direct = Denoiser(unet.params, unet.network, Direct())
    denoised, features = read_jitted(direct, x, SIGMA, label)
    np.testing.assert_array_equal(denoised, denoise(direct, x, SIGMA, label))
    wide, narrow = (64, 64) if name == "ADM" else (16, 8)
    assert features[H_SPACE].shape == (3, 4, 4, wide)
    shapes = [one.shape for one in features[SKIP]]
    assert shapes == [(3, 8, 8, narrow)] * 2 + [(3, 4, 4, narrow), (3, 4, 4, wide)]
    modes = everything(features)
    np.testing.assert_allclose(denoise(direct, x, SIGMA, label, modes), denoised, atol=1e-5)
    # Another image, whose own features go nowhere.
    other = denoise(direct, x[::-1] + 1, SIGMA, label, modes)
    np.testing.assert_allclose(other, denoised, atol=1e-5)
    assert np.abs(denoise(direct, x[::-1] + 1, SIGMA, label) - denoised).max() > 1e-2


@pytest.mark.longer
@pytest.mark.parametrize(("site", "layers"), few(1, [(H_SPACE, None), (SKIP, (2,))]))
def test_adding_is_replacing_by_the_sum_and_by_zero_it_is_nothing(site, layers):
    unet, (x, _, label) = UNETS["DDPM++"], inputs()
    denoised, features = read_jitted(unet, x, SIGMA, label)
    own = features[site] if layers is None else features[site][layers[0]]
    change = np.random.default_rng(0).normal(size=own.shape).astype("f")

    def under(mode):
        return denoise(unet, x, SIGMA, label, ((mode, None),))

    added = under(Add(change, site, layers, 0.5))
    np.testing.assert_allclose(under(Replace(own + 0.5 * change, site, layers)), added, atol=1e-5)
    assert np.abs(added - denoised).max() > 1e-3
    np.testing.assert_allclose(under(Add(change, site, layers, 0.0)), denoised, atol=1e-6)
    # A scale for each sample.
    scales = np.array([0.0, 0.5, 0.0], "f")
    mixed = under(Add(change, site, layers, scales))
    np.testing.assert_allclose(mixed[1], added[1], atol=1e-5)
    np.testing.assert_allclose(mixed[::2], denoised[::2], atol=1e-5)


@pytest.mark.longer
def test_what_is_put_in_place_is_read():
    unet, (x, _, label) = UNETS["DDPM++"], inputs()
    change = np.random.default_rng(1).normal(size=(3, 4, 4, 16)).astype("f")
    _, features = read_jitted(unet, x, SIGMA, label, ((Replace(change), None),))
    np.testing.assert_array_equal(features[H_SPACE], change)


@pytest.mark.longer
def test_a_guidance_branch_takes_features_like_any_mode():
    unet, (x, _, label) = UNETS["DDPM++"], inputs()
    change = np.random.default_rng(1).normal(size=(3, 4, 4, 16)).astype("f")

    @jax.jit
    def branches(x):
        evaluate = Evaluator({"main": unet}, x, jnp.asarray(SIGMA), label, "fused")
        return evaluate((Branch(), Branch(modes=(Replace(change),))))

    plain, replaced = branches(x)
    expected = denoise(unet, x, SIGMA, label, ((Replace(change), None),))
    np.testing.assert_allclose(plain, denoise(unet, x, SIGMA, label), atol=1e-5)
    np.testing.assert_allclose(replaced, expected, atol=1e-5)


@pytest.mark.longer
def test_the_bottleneck_has_a_derivative_in_the_input():
    unet, (x, _, label) = UNETS["DDPM++"], inputs()
    direction = np.random.default_rng(2).normal(size=x.shape).astype("f")

    def bottleneck(x):
        return read(unet, x, SIGMA, label)[1][H_SPACE]

    _, slope = jax.jit(lambda x: jax.jvp(bottleneck, (x,), (direction,)))(x)
    step = 1e-2
    ends = [read_jitted(unet, x + s * direction, SIGMA, label)[1][H_SPACE] for s in (step, -step)]
    finite = (ends[0] - ends[1]) / (2 * step)
    assert np.abs(finite - slope).max() < 0.02 * np.abs(slope).max()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Replace(jnp.zeros(3), "attention"), "h_space or skip"),
        (lambda: Replace(jnp.zeros(3), SKIP), "say which skip connections"),
        (lambda: Add(jnp.zeros(3), layers=(1,)), "takes no layers"),
    ],
)
def test_edits_without_a_place_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_features_that_do_not_fit_are_refused():
    unet, (x, _, label) = UNETS["DDPM++"], inputs()
    for mode, where in (
        (Replace(jnp.zeros((3, 5, 5, 16))), "h_space,"),
        (Add(jnp.zeros((3, 8, 8, 8)), SKIP, (2,)), r"skip \(2,\),"),
    ):
        with pytest.raises(ValueError, match=rf"do not fit those of the network at its {where}"):
            jax.eval_shape(unet, x, SIGMA, label, ((mode, None),))


def test_a_network_without_features_is_refused():
    def plain(x, sigma, condition, modes=()):
        return x

    with pytest.raises(ValueError, match="offers no site: take a UNet"):
        read(plain, jnp.zeros((1, 4, 4, 1)), SIGMA)
