"""SiT: DiT's network, told the time of a flow and read as its velocity."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tables.transformer_examples import condition_of, make

from guidestar.core.macs import macs
from guidestar.models import DiT, SiT, builders
from guidestar.models.denoiser import Denoiser
from guidestar.models.preconditioning import Flow

BATCH = 3
SIGMA = jnp.array([0.2, 1.0, 30.0])


def call(denoise, x, sigma=SIGMA):
    return jax.jit(lambda d, *given: d(*given))(denoise, x, sigma, condition_of("sit", BATCH))


def noisy():
    return jax.random.normal(jax.random.key(0), (BATCH, 8, 8, 2)) * (1 + SIGMA[:, None, None, None])


@pytest.mark.parametrize(
    ("name", "parameters", "giga"),
    [("S/2", 32_865_056, 6.06), ("B/4", 130_426_496, 5.57), ("XL/2", 674_834_720, 118.62)],
)
def test_published_sizes_are_those_of_dit(name, parameters, giga):
    spec = builders.build(dict(name="sit", size=name, scan_layers=True))
    network, params = spec.network, spec.shapes
    assert sum(math.prod(p.shape) for p in jax.tree.leaves(params)) == parameters
    assert macs(Denoiser(params, network, spec.preconditioner)) / 1e9 == pytest.approx(
        giga, abs=0.006
    )
    assert (spec.shape, spec.num_classes, spec.latent) == ((32, 32, 4), 1000, True)
    assert spec.preconditioner == Flow() and spec.sigma_range == Flow().sigma_range


@pytest.mark.longer
def test_it_is_the_network_of_dit():
    fields = dict(image_size=8, channels=2, patch_size=2, width=8, depth=1, heads=2, num_classes=3)
    dit, sit = (kind(**fields, rngs=nnx.Rngs(0)) for kind in (DiT, SiT))
    one, other = (nnx.to_pure_dict(nnx.state(network)) for network in (dit, sit))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert sit.sites == dit.sites


@pytest.mark.longer
def test_it_is_told_the_time_as_it_is_and_read_as_a_velocity_towards_the_data():
    denoise, x = make("sit"), noisy()
    column = SIGMA[:, None, None, None]
    time = 1 / (1 + column)
    point = time * x
    condition = condition_of("sit", BATCH)
    velocity = jax.jit(lambda d, *given: d.raw(*given))(denoise, point, time.ravel(), condition)
    expected = point + (1 - time) * velocity[..., :2]
    np.testing.assert_allclose(call(denoise, x), expected, rtol=1e-4, atol=1e-4)


def test_a_network_of_the_other_direction_is_read_with_time_and_sign_turned():
    denoise, x = make("sit"), noisy()

    @dataclasses.dataclass(frozen=True)
    class Turned:
        """What a training with time 1 at the noise would have made of the same network."""

        network: object
        num_classes: int = 3
        shape: tuple = (8, 8, 2)
        sites: tuple = ()
        condition: object = None
        name: str = "Turned"

        def __call__(self, params, x, time, label, modes=()):
            return -self.network(params, x, 1 - time, label, modes)

        def condition_like(self, batch):
            return self.network.condition_like(batch)

        def null_condition(self, params):
            return self.network.null_condition(params)

    turned = Denoiser(denoise.params, Turned(denoise.network), Flow(time="to_noise"))
    np.testing.assert_allclose(call(turned, x), call(denoise, x), rtol=1e-4, atol=1e-4)


@pytest.mark.longer
def test_a_config_chooses_the_path():
    model = dict(name="sit", size="S/2", num_classes=10, image_size=16)
    spec = builders.build(model | dict(preconditioner=dict(name="flow", path="vp"), latent=False))
    assert spec.preconditioner == Flow("vp") and spec.sigma_range == Flow("vp").sigma_range
    assert (spec.shape, spec.num_classes, spec.latent) == ((16, 16, 4), 10, False)
    with pytest.raises(ValueError, match="path must be one of linear, gvp, vp"):
        builders.build(model | dict(preconditioner=dict(name="flow", path="straight")))
    with pytest.raises(ValueError, match="image_size is missing: give it, or a published size"):
        builders.build(dict(name="sit", width=8, depth=1, heads=1, patch_size=1))
