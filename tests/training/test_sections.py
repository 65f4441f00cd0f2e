"""Every number of a run's sections is checked by its owner; what has no effect is refused."""

import dataclasses
import json
import math
from itertools import product

import jax
import numpy as np
import pytest
from tiny_configs.configs import recipe, setup, tiny, write_untrained

from guidestar import input_pipeline
from guidestar.commands import affinity, ema, export, lcsc, train
from guidestar.commands.config import overrides
from guidestar.commands.config.training import plain, require_effect, require_numbers
from guidestar.configs import common
from guidestar.core.errors import UserError
from guidestar.data.source import Source
from guidestar.models import builders
from guidestar.runtime.sharding import layout
from guidestar.training import previews
from guidestar.training.averages.ema import averages
from guidestar.training.averages.posthoc_ema import std_in_names
from guidestar.training.loop import Conditioned
from guidestar.training.optimizers import optimizer
from guidestar.training.setup import parameters_key

SECTIONS = ("training", "optimizer", "ema", "checkpoint", "log", "sharding", "affinity", "lcsc")
WRONG = (-1.5, math.nan, math.inf)
# Widths, decays and shares end below 1; counts are whole.
TOO_MUCH = [
    ("training", "label_dropout", 1.1),
    ("training", "batch_size", 0),
    ("training", "batch_size", 2.5),
    ("training", "steps", -1),
    ("training", "accumulate", 0),
    ("training", "loss_scale", 0.0),
    ("optimizer", "learning_rate", 0.0),
    ("optimizer", "b1", 1.0),
    ("optimizer", "b2", 1.2),
    ("optimizer", "eps", 0.0),
    ("ema", "decay", 1.0),
    ("ema", "std", 0.3),
    ("ema", "images", 0),
    ("ema", "reconstruct", 0.3),
    ("checkpoint", "keep", 0),
    ("checkpoint", "every_steps", 0),
    ("log", "every_steps", 0.5),
    ("affinity", "grid", 1),
    ("affinity", "batches", 0),
    ("lcsc", "population", 1),
    ("lcsc", "spread", 0.0),
    ("lcsc", "images", 0),
]


def numbers(section):
    """Yield the names of a section's numbers."""
    for name, value in plain(common.base()[section]).items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield name


EVERY = [(s, f, w) for s in SECTIONS for f, w in product(numbers(s), WRONG)]


@dataclasses.dataclass
class Small:
    """What an optimiser asks of a network."""

    frozen = undecayed = staticmethod(lambda path: False)


def owner(section, config, workdir):
    """Hand a section to who reads it."""
    if section == "optimizer":
        optimizer(Small(), 8, **plain(config.optimizer))
    elif section == "sharding":
        layout(**plain(config.sharding))
    elif section in ("affinity", "lcsc"):
        {"affinity": affinity, "lcsc": lcsc}[section].run(config, workdir)
    else:
        require_numbers(config)
        kept = ("profile", "images", "ramp_up", "std", "decay", "tracked")
        averages(8, **{name: plain(config.ema)[name] for name in kept})


@pytest.mark.parametrize(("section", "field", "wrong"), EVERY + TOO_MUCH)
def test_a_number_that_cannot_be_is_refused_by_name(section, field, wrong, tmp_path):
    fields = plain(common.base()) | {"training": plain(common.base().training) | {"steps": 1}}
    fields[section] = fields[section] | {field: wrong}
    config = common.ConfigDict(fields, convert_dict=True)
    with pytest.raises(UserError, match=rf"^{section}\.{field} is .*: give a "):
        owner(section, config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_sections_as_they_are_pass_their_owners(tmp_path):
    config = common.base()
    for section in ("training", "optimizer", "sharding"):
        owner(section, config, tmp_path)
    assert config.training.label_dropout == train.USUAL_DROPOUT


def said(*options):
    """Return the tiny config as the command line changes it."""
    _, found = overrides.split([f"--config.{option}" for option in options])
    return overrides.apply(tiny(), found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("optimizer.schedule=constant", "optimizer.decay_steps=9"), "while optimizer.schedule is"),
        (("optimizer.schedule=constant", "optimizer.decay_images=9"), "decay_images is 9 and has"),
        (("optimizer.decay_images=64", "optimizer.decay_steps=9"), "beside optimizer.decay_images"),
        (("optimizer.warmup_images=64", "optimizer.warmup_steps=7"), "beside optimizer.warmup_im"),
        (("ema.std=0.1",), r"ema\.std is 0\.1 and has no effect while ema\.profile is half_life"),
        (("ema.decay=0.9",), r"ema\.decay is 0\.9 and has no effect"),
        (("ema.profile=constant", "ema.images=9"), r"ema\.images is 9 and has no effect"),
        (("ema.profile=power", "ema.ramp_up=0.1"), r"ema\.ramp_up is 0\.1 and has no effect"),
        (("ema.snapshot_weights=true",), "while ema.snapshot_images is 0"),
        (("sharding.whole_below=9",), "with the preset replicated"),
    ],
)
def test_a_field_of_the_command_line_without_effect_is_refused(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train.run(said(*options), tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("optimizer.schedule=constant",),  # what the config says of another schedule stays unused
        ("ema.profile=constant", "ema.decay=0.0"),
        ("ema.profile=power", "ema.std=0.1"),
        ("optimizer.warmup_images=64", "optimizer.warmup_steps=0"),
    ],
)
def test_fields_with_an_effect_pass(options):
    require_effect(said(*options))


def test_a_width_among_those_tracked_is_checked():
    config = tiny()
    config.ema.tracked = (0.05, 0.4)
    with pytest.raises(UserError, match=r"ema\.tracked\.1 is 0\.4: give a finite number above 0"):
        recipe(config)


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_evaluators_are_run_every_so_many_images_and_recorded(tmp_path):
    config = tiny(steps=4)
    config.log.every_steps = 0
    config.evaluators = {
        "held_out_loss": dict(every_images=16, split="test", batches=1),
        "fid": dict(name="frechet", every_images=100, samples=4, steps=2),
    }
    train.run(config, tmp_path)
    found = records(tmp_path)
    assert [(r["step"], r["held_out_loss"]) for r in found if "held_out_loss" in r] == [
        (2, pytest.approx(1.0, abs=0.5)),
        (4, pytest.approx(1.0, abs=0.5)),
    ]
    # 100 images are never reached, so that it is run at the end alone.
    assert [(r["step"], r["fid"] > 0) for r in found if "fid" in r] == [(4, True)]
    assert [r["step"] for r in found if "loss" in r] == [4]


@pytest.mark.parametrize(
    ("evaluators", "message"),
    [
        ({"a": dict(name="fid", every_images=1)}, r"evaluators\.a\.name 'fid' is not one of held_"),
        ({"a": dict(name="frechet", every_images=-1)}, r"a\.every_images is -1: give a whole"),
        ({"a": dict(name="frechet", samples=1)}, r"evaluators\.a\.samples is 1: give a whole"),
        ({"a": dict(name="held_out_loss", batches=0)}, r"evaluators\.a\.batches is 0"),
        ({"held_out_loss": dict(parts=3)}, "evaluators.held_out_loss, held_out_loss: .*'parts'"),
    ],
)
def test_evaluators_that_cannot_be_are_refused(evaluators, message):
    config = tiny()
    config.evaluators = evaluators
    with pytest.raises(UserError, match=message):
        list(train.evaluations(config, setup(config)))


@pytest.mark.parametrize(
    ("schedule", "steps", "said"),
    [
        (dict(decay_steps=2), 3, True),
        (dict(decay_steps=3), 3, False),
        (dict(decay_images=16), 3, True),
    ],
)
def test_a_schedule_that_ends_before_the_run_is_said(schedule, steps, said, capsys):
    section = plain(tiny().optimizer) | {"decay_steps": 0, "decay_images": 0} | schedule
    train._say_where_rates_end({"main": section}, 8, steps)
    line = capsys.readouterr().err
    assert ("from step 2 of 3 on the learning rate is 0" in line) == said == bool(line)


TEXT = dict(
    name="pixart", image_size=8, channels=1, patch_size=4, width=16, depth=1, heads=2
) | dict(text_width=6, tokens=3)


def captioned(**parts):
    rng = np.random.default_rng(0)
    count = 16
    condition = {"tokens": rng.normal(size=(count, 3, 6)).astype(np.float32)} | parts
    images = rng.normal(size=(count, 8, 8, 1)).astype(np.float32)
    return Source("captions", (8, 8, 1), x=images, condition=condition)


@pytest.mark.longer
def test_a_network_conditioned_on_captions_is_trained_and_its_captions_dropped():
    config = tiny(batch_size=8)
    config.model = TEXT
    spec = builders.build(config.model)
    parts = {name: like.shape[1:] for name, like in spec.network.condition_like(1).items()}
    more = {name: np.ones((16, *shape), np.float32) for name, shape in parts.items()}
    source = captioned(**(more | {"tokens": captioned().condition["tokens"]}))
    train._require_fit(spec, source, "captions", 0.5)
    start = setup(config)
    state = start.create(parameters_key(0))
    null = np.asarray(spec.network.null_condition(state.main.params)["tokens"])
    stream = Conditioned(
        input_pipeline.Pipeline(source, 8, seed=0), train._dropping(0.5, 0, start, state)
    )
    batch = next(stream)
    dropped = [np.array_equal(tokens, null) for tokens in batch["condition"]["tokens"]]
    assert 0 < sum(dropped) < 8
    _, metrics = jax.eval_shape(start.step(0), start.abstract, batch)
    assert metrics["loss"].shape == ()
    with pytest.raises(UserError, match="the model is conditioned on .*and the data set captions"):
        train._require_fit(spec, captioned(other=np.ones((16, 2), np.float32)), "captions", 0.1)


@pytest.mark.parametrize("label", [-1, 10, 11])
def test_labels_that_the_network_does_not_know_are_refused(label):
    spec = builders.build(tiny().model)
    labels = np.array([0, label, 3], np.int32)
    source = Source("odd", (8, 8, 1), 10, x=np.zeros((3, 8, 8, 1), np.uint8), condition=labels)
    with pytest.raises(UserError, match=f"the data hold the label {label}, and the model knows 0"):
        train._require_fit(spec, source, "odd", 0.1)


@pytest.mark.longer
@pytest.mark.parametrize(
    ("kernel", "prior"),
    [(dict(name="gaussian"), "Gaussian"), (dict(name="pfgmpp", D=64.0), "Pfgmpp")],
)
def test_previews_begin_as_the_network_was_trained_and_stay_in_its_range(
    kernel, prior, tmp_path, monkeypatch
):
    config, asked, shown = tiny(), [], []
    config.model.preconditioner = "flow"
    config.training.kernel = kernel
    start = setup(config)

    def sample(denoiser, rule, solver, sigmas, noise, condition, key, *, prior):
        asked.append((sigmas, type(prior).__name__))
        return noise

    monkeypatch.setattr(previews.samplers, "sample", sample)
    made = previews.Previews(
        start, seed=0, every_steps=3, workdir=tmp_path, show=lambda *given: shown.append(given)
    )
    assert [made.due(step, last=step == 5) for step in (1, 3, 5)] == [False, True, True]
    assert made.run(3, start.create(parameters_key(0))) == {}
    ((sigmas, found),) = asked
    low, high = start.specs["main"].sigma_range
    assert (sigmas[0], sigmas[-2], found) == (pytest.approx(high), pytest.approx(low), prior)
    assert (high, low) != (80.0, 0.002) and shown[0][:2] == (3, "samples")
    assert (tmp_path / "previews" / "00000003.png").exists()


def test_widths_in_file_names_keep_the_digits_that_tell_them_apart():
    assert [std_in_names(std) for std in (0.05, 0.1, 0.0504, 0.135)] == [
        *("0.050", "0.100", "0.0504", "0.135")
    ]


@pytest.mark.parametrize(
    ("command", "name"),
    [(ema, "digits-0.100"), (export, "digits"), (lcsc, "digits-lcsc")],
)
def test_weights_that_a_mode_did_not_write_are_not_replaced(command, name, tmp_path):
    path = write_untrained(tmp_path / f"{name}.safetensors", tiny().model.to_dict())
    before, config = path.read_bytes(), tiny()
    config.ema.reconstruct = 0.1
    with pytest.raises(UserError, match=rf"{name}\.safetensors exists and --mode=.* did not write"):
        command.run(config, tmp_path)
    assert path.read_bytes() == before


def test_a_file_in_the_affinities_place_is_not_replaced(tmp_path):
    np.savez(tmp_path / "affinity.npz", other=np.zeros(2))
    with pytest.raises(UserError, match="affinity.npz exists and --mode=affinity did not write it"):
        affinity.run(tiny(), tmp_path)
