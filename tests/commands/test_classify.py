"""The classify mode: what it finds, goes on with and refuses."""

import json

import numpy as np
import pytest
from tiny_configs.configs import tiny, write_untrained

from guidestar import models
from guidestar.commands import classify
from guidestar.configs import common
from guidestar.core.errors import UserError


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = common.base()
    config.data.name, config.data.split = "digits", "test"
    config.sampling.weights.main = str(
        write_untrained(
            tmp_path_factory.mktemp("weights") / "tiny.safetensors", tiny().model.to_dict()
        )
    )
    config.classification.schedule.steps = 6
    config.classification.stages = ((2, 4), (6, 1))
    config.classification.update(count=3, batch_size=20)
    return config


@pytest.fixture(scope="module")
def made(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    classify.run(config, folder)
    return folder


def changed(config, **fields):
    other = config.copy_and_resolve_references()
    other.classification.update(fields)
    return other


def record(folder):
    return json.loads((folder / classify.RECORD).read_text())


def test_it_says_how_many_were_right_and_what_that_cost(config, made):
    found = record(made)
    assert found["images"] == 3 and found["evaluations"] == 10 * 2 + 4 * 4
    confusion = np.array(found["confusion"])
    assert confusion.sum() == 3 and np.trace(confusion) == round(3 * found["accuracy"])
    assert found["multiply_adds"] == 36 * models.load(config.sampling.weights.main).macs


def test_it_goes_on_with_what_is_missing(config, made, monkeypatch):
    before = record(made)
    monkeypatch.setattr(classify, "diffusion_classifier", None)
    read, load_file = [], classify.load_file
    monkeypatch.setattr(classify, "load_file", lambda path: read.append(path) or load_file(path))
    classify.run(config, made)
    assert record(made) == before
    assert len(read) == 1  # a block is read once


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(stages=()), r"errors of images made of something else.*stages"),
        (dict(stages=((2, 4), (5, 1))), r"classification\.stages: draws are \[2, 5\].* are 6"),
        (dict(count=10**6), "examples: lower it, or 0 for all"),
        (dict(count=-1), r"classification\.count"),
        (dict(schedule=dict(name="exponential", steps=6, sigma_max=100.0)), "within"),
    ],
)
def test_what_cannot_be_is_refused(config, made, change, message):
    with pytest.raises(UserError, match=message):
        classify.run(changed(config, **change), made)


@pytest.mark.longer
def test_classes_must_be_those_of_the_denoiser(config, tmp_path):
    other = config.copy_and_resolve_references()
    other.data.name, other.data.split = "fractal2d", "train"
    with pytest.raises(UserError, match="choose data that it knows"):
        classify.run(other, tmp_path)
    other.sampling.weights.main = "fractal2d_uncond"
    with pytest.raises(UserError, match="knows no classes to choose from"):
        classify.run(other, tmp_path)
