"""A function of one's own as a denoiser: the exact one of a mixture in every coordinate."""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tables.everyday import few

from guidestar import guidance, models, samplers
from guidestar.core.errors import UserError
from guidestar.models import GaussianMixture, Values

MIXTURE = GaussianMixture([0.4, 0.6], [[1.0, -1.0], [-0.5, 0.3]], np.stack([0.3 * np.eye(2)] * 2))
STEPS = 200
BETAS = {
    "linear": np.linspace(1e-4, 0.02, 1000),
    "scaled_linear": np.linspace(1e-4**0.5, 0.02**0.5, 1000) ** 2,
    "cosine": np.minimum(
        0.999,
        1
        - np.cos((np.arange(1, 1001) / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
        / np.cos((np.arange(1000) / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2,
    ),
}
TABLE = np.cumprod(1 - np.linspace(1e-3, 0.05, STEPS))


def stepped(alpha_bar):
    """Return alpha and s of a step, between two steps by its noise level's logarithm."""
    log_sigmas = np.log(1 / alpha_bar - 1) / 2

    def at(t):
        sigma = jnp.exp(jnp.interp(t, jnp.arange(len(alpha_bar), dtype=t.dtype), log_sigmas))
        alpha = 1 / jnp.sqrt(1 + sigma**2)
        return alpha, alpha * sigma

    return at


def vp(t, beta_min=0.1, beta_max=20.0):
    alpha = jnp.exp(-((beta_max - beta_min) * t**2 / 2 + beta_min * t) / 2)
    return alpha, jnp.sqrt(-jnp.expm1(2 * jnp.log(alpha)))


# schedule -> alpha(t) and s(t) of x_t = alpha x0 + s noise.
SCHEDULES = {
    **{name: (name, stepped(np.cumprod(1 - betas))) for name, betas in BETAS.items()},
    "short": (
        dict(name="linear", steps=100, beta_start=1e-3, beta_end=0.1),
        stepped(np.cumprod(1 - np.linspace(1e-3, 0.1, 100))),
    ),
    "table": (TABLE, stepped(TABLE)),
    "vp": ("vp", vp),
    "vp in thousandths": (
        dict(name="vp", beta_min=0.2, beta_max=15.0, time_scale=1000.0),
        lambda t: vp(t / 1000, 0.2, 15.0),
    ),
    "flow": ("flow", lambda t: (1 - t, t)),
    "flow to the data": (dict(name="flow", time="to_data"), lambda t: (t, 1 - t)),
    "flow in thousandths": (
        dict(name="flow", time_scale=1000.0),
        lambda t: (1 - t / 1000, t / 1000),
    ),
    "gvp": (
        dict(name="flow", path="gvp"),
        lambda t: (jnp.cos(math.pi / 2 * t), jnp.sin(math.pi / 2 * t)),
    ),
    "sigma": ("sigma", lambda t: (jnp.ones_like(t), t)),
}
FLOWS = [name for name in SCHEDULES if "flow" in name or name == "gvp"]
ROWS = [
    (name, prediction)
    for name in SCHEDULES
    for prediction in ("eps", "x0", "v", "flow")
    if (prediction != "flow" or name in FLOWS)
    and (prediction != "v" or name not in ("sigma", *FLOWS) or name == "gvp")
]


def predicted(coordinates, prediction, time_scale, mixture, x, t, condition):
    """Return what a perfect network would, from its own inputs alone."""
    del condition
    alpha, s = (one[:, None] for one in coordinates(t))
    x0 = mixture.denoise(x / alpha, (s / alpha)[:, 0])
    noise = (x - alpha * x0) / s
    if prediction == "flow":
        (_, slope_alpha), (_, slope_s) = (
            jax.jvp(lambda t, n=n: coordinates(t)[n], (t,), (jnp.ones_like(t),)) for n in (0, 1)
        )
        # The velocity is that of a time from 0 to 1, however the network is told it.
        return time_scale * (slope_alpha[:, None] * x0 + slope_s[:, None] * noise)
    return {"eps": noise, "x0": x0, "v": alpha * noise - s * x0}[prediction]


@pytest.mark.parametrize(("name", "prediction"), few(9, ROWS))
def test_the_exact_denoiser_is_the_same_in_every_parameterisation(name, prediction):
    schedule, coordinates = SCHEDULES[name]
    time_scale = schedule.get("time_scale", 1.0) if isinstance(schedule, dict) else 1.0
    denoise = models.wrap(
        functools.partial(predicted, coordinates, prediction, time_scale),
        MIXTURE,
        prediction=prediction,
        schedule=schedule,
        shape=(2,),
    )
    sigma = np.float32([0.05, 0.3, 1.0, 4.0])
    x = np.random.default_rng(0).normal(size=(4, 2)).astype("f") * (1 + sigma[:, None])
    np.testing.assert_allclose(denoise(x, sigma), MIXTURE.denoise(x, sigma), rtol=1e-5, atol=1e-5)


def test_the_range_of_noise_levels_is_the_schedules_or_the_callers():
    options = dict(prediction="eps", shape=(2,))
    times = [
        models.wrap(scaled, {"w": jnp.ones(2)}, schedule=schedule, **options).sigma_range
        for schedule in ("linear", TABLE)
    ]
    np.testing.assert_allclose(times[0], np.sqrt(1 / np.cumprod(1 - BETAS["linear"])[[0, -1]] - 1))
    np.testing.assert_allclose(times[1], np.sqrt(1 / TABLE[[0, -1]] - 1))
    chosen = models.wrap(
        scaled, {"w": jnp.ones(2)}, schedule="sigma", sigma_range=(0.1, 3.0), **options
    )
    assert chosen.sigma_range == (0.1, 3.0) and chosen.shape == (2,) and chosen.sites == ()


def scaled(params, x, t, condition):
    del t, condition
    return params["w"] * x


class Linen(nn.Module):
    """A linen network of a label."""

    @nn.compact
    def __call__(self, x, t, label):
        return nn.Dense(2)(x) + nn.Embed(4, 2)(label) + t[:, None]


def linen():
    module = Linen()
    inputs = jnp.ones((1, 2)), jnp.ones(1), jnp.zeros(1, int)
    return module.apply, module.init(jax.random.key(0), *inputs)


def split_nnx():
    graph, params = nnx.split(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
    return lambda params, x, t, label: nnx.merge(graph, params)(x) + label[:, None], params


@pytest.mark.longer
@pytest.mark.parametrize("made", [linen, split_nnx])
def test_new_weights_never_compile_anew_and_are_never_the_old_ones(made):
    apply, params = made()
    options = dict(prediction="v", schedule="linear", shape=(2,), num_classes=3, null_condition=3)
    traced = []

    @jax.jit
    def run(denoise, x):
        traced.append(denoise)
        rule = guidance.cfg(2.0)
        keys = jax.random.split(jax.random.key(0), 4)
        sigmas = samplers.karras(3, 0.1, 10.0)
        labels = jnp.array([0, 1, 2, 0])
        return samplers.sample(denoise, rule, samplers.euler(), sigmas, x, labels, keys)

    x = jnp.ones((4, 2))
    first = run(models.wrap(apply, params, **options), x)
    other = jax.tree.map(lambda leaf: leaf + 0.1, params)
    second = run(models.wrap(apply, other, **options), x)
    assert len(traced) == 1 and np.abs(np.asarray(first - second)).max() > 1e-3
    replaced = dataclasses.replace(models.wrap(apply, params, **options), params=other)
    np.testing.assert_array_equal(run(replaced, x), second)
    assert len(traced) == 1 and np.isfinite(np.asarray(first)).all()


compiled = jax.jit(lambda denoise, *inputs: denoise(*inputs))


def labelled(params, x, t, label):
    del t
    return params["w"] * x + label[:, None]


def test_labels_and_their_null():
    make = functools.partial(
        models.wrap, labelled, {"w": jnp.ones(2)}, prediction="x0", schedule="sigma", shape=(2,)
    )
    denoise = make(num_classes=3, null_condition=-1)
    x = jnp.zeros((5, 2))
    found = compiled(denoise, x, 1.0, np.array([0, 2, -1, 3, -2]))
    np.testing.assert_array_equal(found[:, 0], [0, 2, -1, np.nan, np.nan])
    np.testing.assert_array_equal(denoise(x, 1.0), jnp.full((5, 2), -1.0))
    assert denoise.null_condition == -1 and denoise.network.num_classes == 3
    never = make(num_classes=3, null_condition=None)
    assert never.null_condition is None
    with pytest.raises(ValueError, match="labelled knows no prediction without a condition"):
        never(x, 1.0)
    assert repr(denoise) == ("Denoiser(labelled: 2 parameters, 2, 3 classes, sigma 0.002 to 80)")


def texted(params, x, t, text):
    del t
    return params["w"] * x + text["tokens"].sum(axis=(1, 2))[:, None]


def test_a_condition_of_arrays_and_its_null():
    null = {"tokens": np.full((3, 2), 0.5, "f")}
    make = functools.partial(
        models.wrap, texted, {"w": jnp.ones(2)}, prediction="x0", schedule="sigma", shape=(2,)
    )
    denoise = make(null_condition=null)
    x, tokens = jnp.zeros((4, 2)), np.ones((4, 3, 2), "f")
    np.testing.assert_allclose(denoise(x, 1.0, {"tokens": tokens}), 6.0)
    np.testing.assert_allclose(compiled(denoise, x, 1.0), 3.0)
    assert hash(jax.tree.structure(denoise)) == hash(jax.tree.structure(make(null_condition=null)))
    described = make(condition={"tokens": Values((3, 2))}, null_condition=null)
    np.testing.assert_allclose(described(x, 1.0), 3.0)
    array = models.wrap(
        lambda params, x, t, text: params["w"] * x + text,
        {"w": jnp.ones(2)},
        prediction="x0",
        schedule="sigma",
        shape=(2,),
        null_condition=np.float32([1, 2]),
    )
    np.testing.assert_allclose(array(x, 1.0), np.tile([1, 2], (4, 1)))
    assert denoise.macs == 0


MODULE = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
WEIGHTS = jnp.ones(2)
GOOD = dict(apply=scaled, params={"w": jnp.ones(2)}, prediction="eps", schedule="linear")
GOOD |= dict(shape=(2,))


class Held:
    """An object that keeps a module."""

    def __init__(self):
        self.module = MODULE

    def __call__(self, params, x, t, condition):
        return self.module(x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(prediction="epsilon"), "prediction 'epsilon' is not one of eps, v, x0, flow"),
        (dict(schedule="squared"), "schedule 'squared' is not one of linear"),
        (dict(schedule={"steps": 3}), "schedule None is not one of linear"),
        (dict(schedule=None), "schedule is one of .*, got NoneType"),
        (
            dict(schedule={"name": "linear", "stpes": 3}),
            "has no field 'stpes'; it .* steps",
        ),
        (dict(schedule={"name": "sigma", "low": 3}), "'sigma' has no field 'low'"),
        (dict(schedule={"name": "linear", "steps": 1}), "need 2 steps or more"),
        (dict(schedule={"name": "cosine", "beta_end": 0.1}), "leave beta_start and beta_end out"),
        (dict(schedule={"name": "vp", "beta_min": 30.0}), "0 < beta_min < beta_max"),
        (dict(schedule={"name": "flow", "time": "back"}), "time must be one of to_data, to_noise"),
        (dict(schedule=TABLE[::-1]), "must fall from one step to the next"),
        (dict(schedule=np.append(TABLE, 0.0)), "lie between 0 and 1, got 0 to"),
        (dict(schedule=[0.5]), "a list of 2 numbers or more"),
        (dict(prediction="flow"), "the velocity of a flow"),
        (dict(prediction="v", schedule="flow"), "that of a flow is called 'flow'"),
        (dict(apply=lambda p, x, t, c: x[..., :1]), r"returns shape \(2, 1\) for samples of shape"),
        (dict(apply=lambda p, x, t, c: x[0]), r"returns shape \(2,\) for samples of shape"),
        (dict(apply=lambda p, x, t, c: jnp.concatenate([x, x], -1)), "without a learned variance"),
        (dict(apply=lambda p, x: x), "fails on .params, x .2, 2.* TypeError"),
        (dict(apply=lambda p, x, t, c: MODULE(x)), "holds the module 'MODULE'"),
        (dict(apply=Held()), "holds the module 'module'"),
        (dict(apply=functools.partial(lambda m, p, x, t, c: m(x), MODULE)), "holds the module"),
        (dict(apply=MODULE), "apply is Linear: give a function"),
        (dict(apply=3), "apply is int: give a function"),
        (dict(apply=lambda p, x, t, c: WEIGHTS * x, params={}), "takes 'WEIGHTS' from around it"),
        (dict(num_classes=3), "say what stands for no class, null_condition=3"),
        (dict(num_classes=3, null_condition="none"), "it is a label, or None"),
        (dict(num_classes=3, null_condition=3, condition=Values((2,))), "leave condition out"),
        (dict(condition=Values((2,))), "say what stands for none"),
        (dict(null_condition=3), "a label needs num_classes"),
        (
            dict(condition={"a": Values((2,))}, null_condition={"a": np.ones(3)}),
            "null_condition has 'a' of shape",
        ),
        (dict(condition={"a": (2,)}, null_condition=None), "described by a Label"),
        (dict(sigma_range=(2.0, 1.0)), "sigma_range is two noise levels"),
    ],
)
def test_what_makes_no_denoiser_is_refused_by_name(changes, message):
    arguments = GOOD | changes
    apply, params = arguments.pop("apply"), arguments.pop("params")
    with pytest.raises(UserError, match=f"^models.wrap: .*{message}"):
        models.wrap(apply, params, **arguments)


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(shape=2), r"shape is one sample's .*, got 2$"),
        (dict(shape=(2.0,)), r"got \(2.0,\)"),
        (dict(shape=(-2,)), r"got \(-2,\)"),
        (dict(num_classes=1.5, null_condition=1), "num_classes is 1.5: give a whole number"),
        (dict(num_classes=-1, null_condition=1), "num_classes is -1"),
    ],
)
def test_sizes_that_are_none_are_refused_by_name(changes, message):
    arguments = GOOD | changes
    apply, params = arguments.pop("apply"), arguments.pop("params")
    with pytest.raises(UserError, match=f"^models.wrap: .*{message}"):
        models.wrap(apply, params, **arguments)


def test_a_function_of_other_shapes_is_refused_when_they_come():
    denoise = models.wrap(
        lambda p, x, t, c: p["w"] * x[:, :2],
        {"w": jnp.ones(2)},
        prediction="x0",
        schedule="vp",
        shape=(2,),
    )
    with pytest.raises(ValueError, match=r"returns shape \(3, 2\) for samples of shape \(3, 4\)"):
        denoise(jnp.ones((3, 4)), 1.0)
