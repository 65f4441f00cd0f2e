"""Recipe configs: their published numbers, laptop-size versions, and arguments read strictly."""

import importlib

import numpy as np
import pytest
from tables.everyday import few
from tiny_configs.configs import recipe

from guidestar.commands.train import run as train
from guidestar.core.errors import UserError
from guidestar.models import builders

LOCAL = [
    ("edm2", "runlocal"),
    ("edm2", "uncond,runlocal"),
    ("dit", "runlocal"),
    ("dit", "weighting=p2,objective=clusters,perturb,runlocal"),
    ("dit", "objective=curriculum,runlocal"),
    ("sit", "path=gvp,runlocal"),
    ("sit", "time=logit_normal,runlocal"),
    ("lightning_dit", "runlocal"),
    ("umd", "runlocal"),
    ("umd", "classes,runlocal"),
]
FULL = [
    ("edm2", "", (64, 64, 4)),
    ("edm2", "size=img64-xs", (64, 64, 3)),
    ("dit", "size=S/2,image=512,weighting=min_snr", (64, 64, 4)),
    ("sit", "size=B/4", (32, 32, 4)),
    ("lightning_dit", "epochs=800", (16, 16, 32)),
    ("umd", "", (32, 32, 4)),
]


def config_of(name, arg=""):
    return importlib.import_module(f"guidestar.configs.recipes.{name}").get_config(arg)


@pytest.mark.longer
@pytest.mark.parametrize(("name", "arg", "shape"), few(2, FULL))
def test_a_published_recipe_composes_on_its_own_data(name, arg, shape):
    config = config_of(name, arg)
    recipe(config)
    assert builders.build(config.model).shape == shape
    assert config.training.batch_size % config.training.accumulate == 0


@pytest.mark.parametrize(("name", "arg"), few(3, LOCAL))
def test_its_laptop_version_is_the_same_recipe_on_digits(name, arg):
    config = config_of(name, arg)
    full = config_of(name, arg.replace("runlocal", "").strip(","))
    recipe(config)
    assert builders.build(config.model).shape == (8, 8, 1) and config.data.name == "digits"
    for part in ("loss", "noise", "weighting", "kernel", "perturbation"):
        assert config.training[part] == full.training[part], part
    assert config.training.objective.name == full.training.objective.name
    assert config.name == full.name + "_local"


def test_edm2s_numbers_are_the_papers():
    config = config_of("edm2", "size=img512-s")
    found = recipe(config).main
    # At 1 Gi images.
    images = 2**30
    expected = 0.01 / np.sqrt(images / (70_000 * 2048))
    assert float(found.rate(images // 2048)) == pytest.approx(expected, rel=1e-4)
    assert config.training.steps * 2048 == 2147.483648e6
    assert found.averages.stds == (0.10, 0.05)
    assert config.ema.snapshot_images == 4096 * 2048


def test_dits_average_starts_at_the_first_step_with_its_full_decay():
    config = config_of("dit")
    found = recipe(config).main
    assert [float(found.averages.schedules[0](n)) for n in (1, 10**6)] == pytest.approx(
        [0.9999] * 2
    )
    assert float(found.rate(0)) == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("name", "arg", "message"),
    [
        ("dit", "size=XXL/2", r"does not know 'size=XXL/2': .*size=XL/2\|XL/4"),
        ("dit", "XL/2", "does not know 'XL/2'"),
        ("edm2", "runlocal=1", "does not know 'runlocal=1'"),
        ("sit", "path=linear,fast", "does not know 'fast': .*path=linear.*runlocal"),
    ],
)
def test_an_argument_that_is_none_is_refused_with_those_there_are(name, arg, message):
    with pytest.raises(UserError, match=message):
        config_of(name, arg)


@pytest.mark.longer
@pytest.mark.parametrize(("name", "arg"), LOCAL)
def test_a_laptop_version_trains(name, arg, tmp_path):
    config = config_of(name, arg)
    config.training.steps = 60
    config.log.update(every_steps=5, preview_every_steps=60)
    state = train(config, tmp_path)
    assert int(state.step) == 60
    assert list((tmp_path / "previews").glob("*.png"))
