"""Training on eight devices equals training on one, in every layout; placements and refusals."""

import dataclasses
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec
from ml_collections import ConfigDict
from places import PROCESSES
from processes.sharded_training import (
    BATCH,
    MODELS,
    WAYS,
    batches,
    on_one,
    pairs,
    sharding,
    trained,
)
from tables.everyday import rows
from tiny_configs import configs
from tiny_configs.configs import tiny

from guidestar.commands.train import run as train
from guidestar.core.errors import UserError
from guidestar.runtime.sharding import AXES, PRESETS, Layout, layout, on_one_device
from guidestar.training.gradients import POLICIES, rematerialised

SCRIPT = PROCESSES / "sharded_training.py"
P = PartitionSpec


def on_eight(path, which):
    """Return results of a process with eight simulated devices."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    subprocess.run(
        [sys.executable, SCRIPT, path, which],
        check=True,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )
    return np.load(path)


@pytest.fixture(scope="module")
def everyday(tmp_path_factory):
    return on_eight(tmp_path_factory.mktemp("devices") / "eight.npz", "everyday")


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    return on_eight(tmp_path_factory.mktemp("devices") / "eight.npz", "longer")


one = functools.lru_cache(on_one)


def check(eight, model, way):
    losses, params = one(model)
    np.testing.assert_allclose(eight[f"{model}/{way}/losses"], losses, atol=1e-5)
    np.testing.assert_allclose(eight[f"{model}/{way}/params"], params, atol=1e-5)
    assert eight[f"{model}/{way}/share"] <= 1.05 / WAYS[way][2]


@pytest.mark.longer
@pytest.mark.parametrize(("model", "way"), pairs(longer=False))
def test_eight_devices_train_like_one(everyday, model, way):
    check(everyday, model, way)


@pytest.mark.longer
@pytest.mark.parametrize(("model", "way"), pairs(longer=True))
def test_eight_devices_train_like_one_in_every_way(longer, model, way):
    check(longer, model, way)


@pytest.mark.longer
def test_these_runs_change_every_parameter_and_another_seed_changes_the_result():
    losses, params = one("dit")
    before = jax.tree.leaves(setup("dit").create(jax.random.key(0)).main.params)
    before = np.concatenate([np.ravel(leaf) for leaf in before])
    assert np.abs(params - before).max() > 1e-3
    other, _, _ = trained("dit", on_one_device(jax.devices()[0]), seed=4)
    assert np.abs(other - losses).max() > 1e-2


def setup(model, **fields):
    config = tiny()
    config.model = ConfigDict(MODELS[model] | fields)
    return configs.setup(config)


def test_micro_batches_give_the_gradient_of_the_batch():
    """After one step, before which both runs are the same: no rounding has been amplified."""
    start = setup("dit", depth=1)
    batch = start.layout.place(next(batches()), BATCH)
    one_go, cut = (
        start.step(3, accumulate=n)(start.create(jax.random.key(0)), batch) for n in (1, 4)
    )
    for name in one_go[1]:
        np.testing.assert_allclose(cut[1][name], one_go[1][name], rtol=2e-6)
    moments = (state.main.optimizer for state, _ in (one_go, cut))
    for whole, parts in zip(*map(jax.tree.leaves, moments), strict=True):
        np.testing.assert_allclose(parts, whole, atol=1e-6 * max(1, np.abs(whole).max()))


def compiled(policy, **fields):
    start = setup("dit", **fields)
    batch = {
        "x": jax.ShapeDtypeStruct((BATCH, 8, 8, 1), jnp.float32),
        "condition": jax.ShapeDtypeStruct((BATCH,), jnp.int32),
    }
    return start.step(3, remat=policy).lower(start.abstract, batch).compile()


@pytest.mark.longer
def test_what_is_computed_again_needs_no_memory():
    deep = dict(depth=6, width=32, scan_layers=True)
    size = {p: compiled(p, **deep).memory_analysis().temp_size_in_bytes for p in POLICIES}
    assert size["full"] < 0.5 * size["dots"] < 0.5 * size["none"]
    assert size["full"] < size["dots_no_batch"] < size["none"]


@pytest.mark.longer
@pytest.mark.parametrize(
    ("policy", "scan_layers"),
    rows([("full", False), ("full", True), ("dots", True)], lambda policy, _: policy == "dots"),
)
def test_rematerialised_runs_train_alike(policy, scan_layers):
    batch, found = next(batches()), []
    for remat in ("none", policy):
        start = setup("dit", depth=2, width=32, scan_layers=scan_layers)
        state, advance = start.create(jax.random.key(0)), start.step(3, remat=remat)
        placed = start.layout.place(batch, BATCH)
        for _ in range(2):
            state, metrics = advance(state, placed)
        found.append([metrics["loss"], metrics["gradient_norm"]])
    np.testing.assert_allclose(*found, rtol=1e-6)


def made_layout(preset, rules=(), whole_below=0, **sizes):
    """Return a layout of a mesh that needs no devices."""
    mesh = AbstractMesh(
        tuple(sizes.get(a, 1) for a in AXES), AXES, axis_types=(AxisType.Auto,) * len(AXES)
    )
    return Layout(mesh, PRESETS[preset], rules, whole_below)


def placed(layout, name, shape, other=()):
    """Return how a parameter is stored and used, beside others that make it small."""
    params = {"net": {name: {"kernel": jnp.zeros(shape)}}} | dict(other)
    return tuple(
        tree["net"][name]["kernel"].spec
        for tree in (layout.of_parameters(params), layout.of_use(params))
    )


@pytest.mark.parametrize(
    ("preset", "name", "shape", "stored", "used"),
    [
        ("replicated", "qkv", (8, 24), P(), P()),
        ("fsdp", "qkv", (8, 24), P(None, "fsdp"), P()),
        ("fsdp", "qkv", (24, 8), P("fsdp", None), P()),
        ("fsdp", "qkv", (24, 7), P("fsdp", None), P()),
        ("fsdp", "qkv", (7, 5), P(None, None), P()),
        ("fsdp", "stacked", (64, 8, 8), P(None, "fsdp", None), P()),
        ("fsdp", "stacked", (64, 3, 3), P("fsdp", None, None), P()),
        ("fsdp_tensor", "mlp_in", (32, 8), P("fsdp", "tensor"), P(None, "tensor")),
        ("fsdp_tensor", "mlp_in", (8, 32), P(None, ("tensor", "fsdp")), P(None, "tensor")),
        ("fsdp_tensor", "mlp_out", (8, 32), P("tensor", "fsdp"), P("tensor", None)),
        ("fsdp_tensor", "mlp_in", (8, 33), P(("fsdp", "tensor"), None), P()),
        ("fsdp_tensor", "qkv", (8, 24), P("tensor", "fsdp"), P()),
        ("fsdp_tensor", "norm", (16,), P(("fsdp", "tensor")), P()),
    ],
)
def test_presets_cut_what_divides(preset, name, shape, stored, used):
    found = placed(made_layout(preset, fsdp=4, tensor=2 if "tensor" in preset else 1), name, shape)
    padded = [P(*spec, *(None,) * (len(shape) - len(spec))) for spec in (stored, used)]
    assert [P(*s, *(None,) * (len(shape) - len(s))) for s in found] == padded


def test_rules_come_before_the_preset_and_name_the_last_dimensions():
    rules = (("qkv", (None, "tensor")), ("qkv|mlp", ()))
    chosen = made_layout("fsdp", rules, fsdp=4, tensor=2)
    assert placed(chosen, "qkv", (3, 8, 24)) == (P(None, None, "tensor"),) * 2
    assert placed(chosen, "mlp", (8, 24), {"qkv": jnp.zeros((4, 4))})[0] == P(None, None)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            (("qkv", (None, "tensor")),),
            r"'qkv' puts the axis 'tensor' of size 4 on dimension 1 of net/qkv/kernel with shape "
            r"\(8, 26\), and 26 is not divisible by 4",
        ),
        (
            (("qkv", ("fsdp", "tensor", None)),),
            r"'qkv' names axes for 3 dimensions and net/qkv/kernel has shape \(8, 26\)",
        ),
        ((("qvk", ("tensor",)),), "'qvk' is found in no parameter's path; paths are net/qkv"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused_with_parameter_shape_axis_and_size(rules, message):
    with pytest.raises(UserError, match=message):
        placed(made_layout("fsdp", rules, fsdp=2, tensor=4), "qkv", (8, 26))


def test_small_parameters_stay_whole_while_they_cost_a_device_next_to_nothing():
    params = {f"bias{n}": jnp.zeros((16,)) for n in range(40)} | {"kernel": jnp.zeros((256, 256))}
    chosen = made_layout("fsdp", whole_below=64, fsdp=8)
    specs = {name: s.spec for name, s in chosen.of_parameters(params).items()}
    whole = [name for name, spec in specs.items() if spec == P()]
    assert 10 < len(whole) < 40 and specs["kernel"] == P("fsdp", None)
    held = sum(np.prod(params[name].shape) / (1 if name in whole else 8) for name in params) / sum(
        np.prod(p.shape) for p in params.values()
    )
    assert 1 / 8 < held < 1.05 / 8


def test_averages_and_moments_lie_as_their_parameters_do():
    params = {"a": {"kernel": jnp.zeros((8, 16))}, "b": {"bias": jnp.zeros((8,))}}
    state = {
        "params": params,
        "ema": (params, params),
        "stacked": {"a": {"kernel": jnp.zeros((3, 8, 16))}},
        "optimizer": [{"mu": params, "count": jnp.zeros(())}],
        "memory": {"table": jnp.zeros((32, 2)), "waited": jnp.zeros(3)},
    }
    found = made_layout("fsdp", fsdp=4).of_state(state, params)
    for tree in (found["params"], *found["ema"], found["optimizer"][0]["mu"]):
        assert tree["a"]["kernel"].spec == P(None, "fsdp") and tree["b"]["bias"].spec == P("fsdp")
    assert found["stacked"]["a"]["kernel"].spec == P(None, None, "fsdp")
    assert found["optimizer"][0]["count"].spec == P()
    assert found["memory"]["table"].spec == P("fsdp", None)
    assert found["memory"]["waited"].spec == P(None)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (dict(preset="zero"), "preset 'zero' is not one of replicated, fsdp"),
        (dict(mesh=dict(data=3)), r"data=3, fsdp=1, tensor=1 does not make use of exactly 1 dev"),
        (dict(mesh=dict(fsdp=-1, data=-1)), r"-1 \(what is left\) once"),
        (dict(mesh=dict(tensor=-2)), "tensor is -2: give a whole number from -1"),
        (dict(preset="pmap", rules=(("a", ("data",)),)), "pmap keeps the parameters whole"),
        (dict(preset="pmap", mesh=dict(fsdp=2)), "pmap keeps the parameters whole"),
        (dict(rules=(("(", ("data",)),)), "is not a pair of a regex"),
        (dict(rules=(("a",),)), "is not a pair of a regex"),
        (dict(rules=(("a", ("model",)),)), "names the axes .*; they are data, fsdp, tensor"),
        (dict(rules=(("a", ("fsdp", "fsdp")),)), "each at most once"),
    ],
)
def test_a_section_that_cannot_be_is_refused(section, message):
    with pytest.raises(UserError, match=message):
        layout(**sharding(**section))


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        (
            "training",
            "accumulate",
            3,
            "cannot be shared equally by 1 parts of the mesh",
        ),
        ("training", "accumulate", 0, "accumulate is 0: give a whole number from 1"),
        ("training", "remat", "some", "remat 'some' is not one of none, full, dots"),
    ],
)
def test_a_step_that_cannot_be_is_refused(tmp_path, section, field, value, message):
    config = tiny()
    config[section][field] = value
    with pytest.raises(UserError, match=message):
        train(config, tmp_path)


def test_remat_is_refused_where_there_are_no_blocks():
    network = dataclasses.replace(setup("dit").network, sites=())
    assert rematerialised(network, "none") is network
    with pytest.raises(UserError, match="offers no site named 'block'"):
        rematerialised(network, "full")
