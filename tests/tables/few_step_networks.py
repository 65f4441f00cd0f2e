"""Networks of few parameters that few-step objectives are solved on, and exact teachers."""

import jax
import jax.numpy as jnp
import numpy as np

from guidestar import models
from guidestar.models.conditions import described, like, null_of
from guidestar.models.exact import gaussian
from guidestar.models.preconditioning import Consistency, Direct
from guidestar.models.scalar_inputs import ScalarInput
from guidestar.models.spec import Spec
from guidestar.training.losses.loss import MAIN, Role
from guidestar.training.objectives.objective import Mean

# Of data: the null condition's Gaussian and those of two classes, on a line.
NULL, FIRST, SECOND = gaussian(0.0, 1.0), gaussian(0.8, 0.5), gaussian(-0.6, 0.7)
MEANS, STDS = (0.8, -0.6, 0.0), (0.5, 0.7, 1.0)
WEAK = 1.4


def exact(params, x, sigma, condition):
    """Denoise the Gaussian of each label, all of them ``params`` times as wide."""
    mean, std = (jnp.asarray(v, x.dtype)[condition][:, None] for v in (MEANS, STDS))
    variance = (params["width"] * std) ** 2
    return mean + (x - mean) * variance / (variance + sigma[:, None] ** 2)


def teacher(width=1.0):
    """Return a denoiser of two classes of numbers, wider than they are for a weak one."""
    return models.wrap(
        exact,
        {"width": jnp.asarray(width)},
        prediction="x0",
        schedule="sigma",
        shape=(1,),
        num_classes=2,
        null_condition=2,
        sigma_range=(0.002, 80.0),
    )


def role_of(denoiser):
    """Return a denoiser as a loss sees it."""
    return Role(denoiser.network, denoiser.params, (), denoiser.preconditioner)


class Net:
    """A network given as ``function(params, x, time, condition, **inputs)``; static."""

    name, sites = "Net", ()

    def __init__(self, function, inputs=(), num_classes=2):
        self.function, self.inputs, self.shape = function, tuple(inputs), (1,)
        self.condition, self.num_classes = described(num_classes), num_classes

    def null_condition(self, params):
        return null_of(self.condition, {})

    def condition_like(self, batch):
        return like(self.condition, batch)

    def __call__(self, params, x, time, condition, modes=(), **inputs):
        return self.function(params, x, time, condition, **inputs)


SCALE = (("scale", ScalarInput(0.0, 4.0)),)


def slopes(levels, inputs=()):
    """Return a network whose output is a multiple of its input, one a noise level.

    Its time is EDM's, ``ln(sigma) / 4``.
    """
    between = np.log(levels[1:] * levels[:-1]) / 8

    def function(params, x, time, condition, **given):
        place = jnp.searchsorted(jnp.asarray(between, time.dtype), time)
        return params["slope"][place][:, None] * x

    return Net(function, inputs, num_classes=0)


def _coefficients(levels, sigma_data):
    """Return skip and the factor of a slope, from float32 levels as a denoiser computes them."""
    column = jnp.asarray(levels, jnp.float32).reshape(-1, 1)
    found = Consistency(sigma_data, 0.002).coefficients(column)
    skip, out, inside, _ = (np.asarray(one[:, 0], float) for one in found)
    return skip, out * inside


def slope_of(params, levels, sigma_data=0.5):
    """Return the factors by which a consistency function of `slopes` multiplies x."""
    skip, factor = _coefficients(levels, sigma_data)
    return skip + factor * np.asarray(params["slope"])


def params_for(factors, levels, sigma_data=0.5):
    """Return the parameters with which `slopes` multiplies by such factors."""
    skip, factor = _coefficients(levels, sigma_data)
    safe = np.where(factor == 0, 1.0, factor)
    return {"slope": jnp.asarray(np.where(factor == 0, 0.0, (np.asarray(factors) - skip) / safe))}


def spec_of(network, preconditioner=None, inputs=(), condition=2):
    """Return a spec that says of a network what losses ask, with no module to build."""

    class Known(Spec):
        network = property(lambda self: network_)
        module = property(lambda self: network_)

    network_ = network
    return Known(
        None,
        condition,
        (1,),
        preconditioner or Direct(),
        sigma_range=(0.002, 80.0),
        inputs=tuple(inputs),
    )


def data(count, seed=0, std=0.5):
    """Return a batch of Gaussian numbers without a condition."""
    x = std * jax.random.normal(jax.random.key(seed), (count, 1), float)
    return {"x": x, "condition": None}


def keys(count, seed=1):
    return jax.random.split(jax.random.key(seed), count)


def exact_role(num_classes=0, stds=(0.5,), means=(0.0,), width=1.0):
    """Return the exact denoiser of Gaussian numbers, by class, as a loss sees it; in float64."""

    def denoise(params, x, sigma, condition):
        label = jnp.zeros(len(x), jnp.int32) if condition is None else condition
        mean, std = (jnp.asarray(v)[label][:, None] for v in (means, stds))
        return gaussian(mean, width * std).denoise(x, sigma)

    return Role(Net(denoise, num_classes=num_classes), {}, (), Direct())


def gradient_of(loss, roles, params, batch, own):
    """Return the gradient of the mean loss by the main network's parameters, and the metrics."""
    gradient, metrics = Mean(loss).gradient(roles, (), {MAIN: params}, batch, own)
    return gradient[MAIN], metrics
