"""Networks by role: a frozen teacher, several that are trained, and starts from weight files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tables.loss_examples import MAIN, Stub
from tiny_configs.configs import setup, tiny, write_untrained

from guidestar.commands.config.training import FORM, checkpoints_of, networks_of, restored
from guidestar.commands.train import run as train
from guidestar.core.errors import UserError
from guidestar.models import builders
from guidestar.models.checkpoints import load
from guidestar.models.checkpoints.files import flatten
from guidestar.training.averages import ema
from guidestar.training.objectives.objective import Mean
from guidestar.training.setup import parameters_key
from guidestar.training.starts import start
from guidestar.training.state import OneNetwork, Recipe, Update, initial_state, make_step


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Weights of another network than the tiny one, for the same data."""
    model = tiny().model.to_dict() | {"width": 24}
    return write_untrained(tmp_path_factory.mktemp("teacher") / "teacher.safetensors", model)


def distilled(teacher, **training):
    config = tiny(**training)
    config.training.loss = {"name": "denoising_to_teacher"}
    config.roles = {"teacher": {"init_from": str(teacher)}}
    return config


def same(one, other):
    pairs = zip(*map(jax.tree.leaves, (one, other)), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


class Pull:
    """Main is pulled to what fake was on average, fake to a number: each by its own gradient."""

    roles = (MAIN, "fake")

    def __call__(self, roles, batch, keys, span):
        main, fake = roles[MAIN], roles["fake"]
        target = jax.lax.stop_gradient(fake.averages[0]["w"])
        value = (main.params["w"] - target) ** 2 + (fake.params["w"] - 3.0) ** 2
        return jnp.full(len(keys), value), {"target": jnp.full(len(keys), target)}


def test_every_trained_network_has_an_optimiser_averages_and_a_gradient_of_its_own():
    def update(rate, decay):
        return Update(
            optax.sgd(rate),
            lambda step: rate,
            ema.Averages((ema.constant(decay),), (None,)),
            lambda p: p,
        )

    recipe = Recipe(Mean(Pull()), {MAIN: update(0.5, 0.0), "fake": update(0.25, 0.5)})
    params = {MAIN: {"w": jnp.zeros(())}, "fake": {"w": jnp.ones(())}, "still": {"w": jnp.ones(())}}
    state = initial_state(recipe, params)
    advance = make_step(recipe, dict.fromkeys(params, Stub(None)), 0)
    state, metrics = advance(state, {"x": jnp.zeros((4, 1)), "condition": None})
    # From 0 by half the slope 2 (0 - 1); from 1 by a quarter of 2 (1 - 3), averaged by half.
    assert float(state.main.params["w"]) == pytest.approx(1.0)
    assert float(state.roles["fake"].params["w"]) == pytest.approx(2.0)
    assert float(state.roles["fake"].ema[0]["w"]) == pytest.approx(1.5)
    assert float(state.roles["still"].params["w"]) == 1 and state.roles["still"].ema == ()
    assert float(metrics["target"]) == 1
    assert [float(metrics[f"learning_rate{of}"]) for of in ("", "_fake")] == [0.5, 0.25]
    assert [float(metrics[f"gradient_norm{of}"]) for of in ("", "_fake")] == [2, 4]
    _, metrics = advance(state, {"x": jnp.zeros((4, 1)), "condition": None})
    assert float(metrics["target"]) == 1.5


@pytest.mark.longer
def test_a_student_learns_from_a_frozen_teacher_that_stays_as_its_file_has_it(teacher, tmp_path):
    train(distilled(teacher, steps=2), tmp_path)
    state = train(distilled(teacher, steps=4), tmp_path)
    held = state.roles["teacher"]
    assert same(held.params, load(teacher).params) and held.ema == () and held.optimizer == ()
    begun = setup(distilled(teacher)).create(parameters_key(0))
    assert not same(state.main.params, begun.main.params)
    assert same(begun.main.params, setup(tiny()).create(parameters_key(0)).main.params)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4]
    assert all(np.isfinite(record["teacher_error"]) for record in records)
    other = write_untrained(
        tmp_path / "other.safetensors", tiny().model.to_dict() | {"width": 24, "depth": 2}
    )
    with pytest.raises(UserError, match=r"another run: roles\.teacher\.start\.sha256"):
        train(distilled(other, steps=6), tmp_path)
    moved = tmp_path / "moved.safetensors"
    for suffix in (".safetensors", ".json"):
        moved.with_suffix(suffix).write_bytes(teacher.with_suffix(suffix).read_bytes())
    networks = networks_of(distilled(moved))
    checkpoints_of(distilled(moved, steps=4), tmp_path, networks).close()


ROLES = [
    ({"teacher": {}}, "denoising_to_teacher", "roles.teacher.init_from: name the weights"),
    ({}, "denoising_to_teacher", "add a section roles.teacher with init_from"),
    ({"teacher": {"init_from": "digits"}}, "denoising", "is a network that the loss denoising"),
    ({"main": {"init_from": "digits"}}, "denoising", "roles.main: the main network is that of"),
    (
        {"teacher": {"init_from": "digits", "rate": 1}},
        "denoising_to_teacher",
        "is a section of init_from, .*, and rate is none",
    ),
    (
        {"teacher": {"init_from": "digits", "average": True}},
        "denoising_to_teacher",
        "roles.teacher is frozen",
    ),
    (
        {"teacher": {"init_from": "fashion_mnist_dit"}},
        "denoising_to_teacher",
        r"has shape \(8, 8, 1\) and roles.teacher \(28, 28, 1\)",
    ),
    ({"teacher": "digits"}, "denoising_to_teacher", "roles.teacher is a section of init_from"),
]


@pytest.mark.parametrize(("roles", "loss", "message"), ROLES)
def test_roles_that_cannot_be_are_refused(roles, loss, message):
    config = tiny()
    config.training.loss, config.roles = {"name": loss}, roles
    with pytest.raises(UserError, match=message):
        setup(config)


class TestStarts:
    """Of another network's weights, what fits is taken and the rest is named."""

    def of(self, source, **fields):
        spec = builders.build(tiny().model)
        begin, _ = start("training.init_from", spec, weights=str(source), **fields)
        return begin, " ".join(begin.said)

    def test_all_of_a_file_of_the_same_network_is_taken(self, tmp_path):
        path = write_untrained(tmp_path / "same.safetensors", tiny().model.to_dict())
        begin, said = self.of(path)
        every = flatten(load(path).params)
        assert set(begin.taken) == set(every) and f"{len(every)} of {len(every)}" in said
        config = tiny()
        config.training.init_from.weights = str(path)
        state = setup(config).create(parameters_key(0))
        assert same(state.main.params, load(path).params) and same(
            state.main.ema[0], state.main.params
        )

    def test_a_part_is_taken_by_paths_and_the_rest_begins_fresh(self, tmp_path):
        path = write_untrained(tmp_path / "same.safetensors", tiny().model.to_dict())
        config = tiny()
        config.training.init_from = {"weights": str(path), "take": ("blocks",), "leave": ("bias$",)}
        begun = flatten(setup(config).create(parameters_key(0)).main.params)
        stored, fresh = (
            flatten(load(path).params),
            flatten(setup(tiny()).create(parameters_key(0)).main.params),
        )
        taken = {name for name in begun if "blocks" in name and not name.endswith("bias")}
        assert taken and all(np.array_equal(begun[name], stored[name]) for name in taken)
        rest = begun.keys() - taken
        assert all(np.array_equal(begun[name], fresh[name]) for name in rest)

    @pytest.mark.longer
    def test_what_has_another_shape_is_named_with_both(self, teacher):
        with pytest.raises(UserError, match="share no parameter of the same path and shape"):
            self.of(teacher, take=("blocks",))
        begin, said = self.of(teacher)
        assert "of another shape, so fresh: " in said and "in the file" in said
        assert 0 < len(begin.taken) < len(flatten(builders.build(tiny().model).shapes))

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            (dict(take=("(",)), r"take: '\(' is no regular expression"),
            (dict(leave=("nowhere",)), "leave: 'nowhere' is found in no parameter's path"),
            (dict(take="attention_of_nothing"), "take: 'attention_of_nothing' is found in no"),
        ],
    )
    def test_paths_that_choose_nothing_are_refused(self, teacher, fields, message):
        with pytest.raises(UserError, match=message):
            self.of(teacher, **fields)

    def test_a_choice_among_no_weights_is_refused(self):
        config = tiny()
        config.training.init_from.take = ("blocks",)
        with pytest.raises(UserError, match="choose among weights, and none are named"):
            networks_of(config)


@pytest.mark.longer
def test_a_checkpoint_from_before_there_were_roles_is_read(tmp_path):
    config = tiny()
    start_of = setup(config)
    state = start_of.create(parameters_key(0))
    networks = networks_of(config)
    before = checkpoints_of(config, tmp_path, networks)
    before._form = 1
    before.claim()
    before.save(3, OneNetwork.of(state), {"position": {"examples_seen": 24}}, wait=True)
    manifest = tmp_path / "checkpoints" / "3" / "manifest.json"
    written = json.loads(manifest.read_text())
    assert written.pop("form") == 1 != FORM
    manifest.write_text(json.dumps(written))
    step, found, extra = restored(checkpoints_of(config, tmp_path, networks), start_of)
    assert step == 3 and extra["position"] == {"examples_seen": 24} and same(found, state)


@pytest.mark.longer
def test_a_checkpoint_of_a_later_version_is_refused(tmp_path):
    config = tiny()
    start_of, networks = setup(config), networks_of(config)
    later = checkpoints_of(config, tmp_path, networks)
    later._form = FORM + 1
    later.claim()
    later.save(3, start_of.create(parameters_key(0)), {}, wait=True)
    with pytest.raises(UserError, match="is of another version of this project"):
        restored(checkpoints_of(config, tmp_path, networks), start_of)
