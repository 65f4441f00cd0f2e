"""The search mode: what it finds, tells of its way there, goes on with and refuses."""

import importlib
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ml_collections import ConfigDict
from networks.autoencoders import configured, write_digits
from PIL import Image
from places import ROOT
from tiny_configs.configs import tiny, write_untrained

from guidestar.commands import search
from guidestar.commands.encode import run as encode
from guidestar.commands.export import run as export
from guidestar.commands.sample import job_from_config
from guidestar.commands.train import run as train
from guidestar.configs import search_fashion_mnist
from guidestar.core.errors import UserError
from guidestar.data.images import to_uint8
from guidestar.inference.networks import read_any
from guidestar.runtime.store import Store

COUNT, STEPS, RUNS = 5, 3, 5


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    place = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    return str(write_untrained(place, tiny().model.to_dict()))


@pytest.fixture(scope="module")
def config(weights):
    config = tiny()
    config.sampling.weights.main = weights
    config.sampling.weights.guide = ""
    config.guidance = ConfigDict(dict(name="unguided"))
    config.sampler.solver = ConfigDict(dict(name="euler"))
    config.sampler.schedule.steps = STEPS
    config.sampling.update(count=COUNT, batch_size=3)
    config.search.update(budget=RUNS * STEPS + 1, verifier="digits_classifier", judge=weights)
    config.classification.schedule.update(steps=2, sigma_min=0.3, sigma_max=2.0)
    return config


@pytest.fixture(scope="module")
def made(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")
    search.run(config, folder)
    return folder


def changed(config, **fields):
    other = config.copy_and_resolve_references()
    for name, value in fields.items():
        section, _, field = name.partition("__")
        other[section][field] = ConfigDict(value) if isinstance(value, dict) else value
    return other


def images(folder):
    return Store.open(folder, COUNT).read(np.arange(COUNT))


def record(folder):
    return json.loads((folder / "search.json").read_text())


def test_it_finds_what_the_verifier_likes_and_tells_the_way_there(config, made):
    job, verifier = job_from_config(config), read_any("digits_classifier").network
    labels = job.labels(np.arange(COUNT))
    plain = job.finite_images(np.arange(COUNT))

    def said(x):
        logits = np.asarray(verifier(x, 0.0), np.float64)
        normed = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return normed[np.arange(COUNT), labels].mean(), (logits.argmax(axis=1) == labels).mean()

    told = record(made)
    assert told["images"] == COUNT and told["budget"] == RUNS * STEPS + 1
    assert told["evaluations"] == RUNS * STEPS and told["rewards"] == RUNS
    assert told["trace"]["evaluations"] == [STEPS * n for n in range(1, RUNS + 1)]
    assert [one["evaluations"] for one in told["best"]] == [STEPS * n for n in (1, 2, 4, 5)]
    # The first candidate is the plain sample.
    for one in (told["plain"], told["best"][0]):
        assert one["verifier"] == pytest.approx(said(plain)[0], abs=1e-4)
        assert one["verifier_agrees"] == pytest.approx(said(plain)[1])
    rewards = told["trace"]["reward"]
    assert rewards == sorted(rewards) and rewards[-1] > rewards[0] + 0.01
    np.testing.assert_allclose(
        [one["verifier"] for one in told["best"]], np.array(rewards)[[0, 1, 3, 4]], rtol=1e-4
    )
    assert all(0 <= one["judge_agrees"] <= 1 and "judge" not in one for one in told["best"])
    with Image.open(made / "beside.png") as picture:
        assert picture.size == (2 * (10 * COUNT - 2), 2 * (2 * 10 - 2))
        first = np.asarray(picture)[:16:2, :16:2]
    np.testing.assert_array_equal(first.reshape(8, 8), to_uint8(plain[:1])[0, :, :, 0])
    assert (images(made) != to_uint8(plain)).any()


@pytest.mark.longer
def test_it_goes_on_with_what_is_missing_and_refuses_another_search(config, made):
    before, told = images(made), record(made)
    (made / "images" / "00000003.png").unlink()
    (made / "traces" / "00000003.json").unlink()
    search.run(config, made)
    np.testing.assert_array_equal(images(made), before)
    assert record(made)["trace"]["reward"] == pytest.approx(told["trace"]["reward"], rel=1e-5)
    for fields in (
        dict(search__budget=20),
        dict(search__method=dict(name="zero_order")),
        dict(search__judge=""),
    ):
        with pytest.raises(UserError, match="made of something else"):
            search.run(changed(config, **fields), made)
    (made / "traces" / "00000001.json").unlink()
    with pytest.raises(UserError, match="cannot be read.*: remove image 1, and run the same"):
        search.run(config, made)


@pytest.mark.longer
def test_a_judge_may_be_a_classifier_and_a_search_any(config, tmp_path):
    other = changed(
        config,
        search__method=dict(name="rollover", initial=2),
        search__judge="digits_classifier",
        sampler__solver=dict(name="ancestral"),
    )
    search.run(other, tmp_path)
    told = record(tmp_path)
    # The judge is the verifier: they say the same.
    for one in (told["plain"], *told["best"]):
        assert one["judge"] == one["verifier"] and one["judge_agrees"] == one["verifier_agrees"]
    assert told["best"][-1]["evaluations"] <= told["evaluations"] <= told["budget"]
    assert told["best"][-1]["verifier"] == pytest.approx(told["trace"]["reward"][-1], rel=1e-4)


@pytest.mark.longer
def test_latents_are_decoded_for_the_verifier(tmp_path):
    autoencoder = write_digits(tmp_path)
    encode(configured(autoencoder), tmp_path / "digits_latents")
    config = tiny()
    config.data.update(name=str(tmp_path / "digits_latents"), split="train")
    config.model.update(image_size=4, channels=3, patch_size=2)
    train(config, tmp_path / "run")
    export(config, tmp_path / "run")
    (place,) = (tmp_path / "run").glob("*.safetensors")
    config.sampling.weights.main = str(place)
    config.sampler.schedule.steps = STEPS
    config.sampling.update(count=COUNT, batch_size=3, decoder=str(autoencoder))
    config.search.update(budget=200, verifier="digits_classifier")
    search.run(config, tmp_path / "out")
    told = record(tmp_path / "out")
    assert told["best"][-1]["verifier"] == pytest.approx(told["trace"]["reward"][-1], rel=1e-3)
    assert told["trace"]["reward"][-1] > told["trace"]["reward"][0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(search__budget=2), "search.method: search.best_of_n: one run takes 3 network eval"),
        (dict(search__budget=0), "search.budget is 0: give a whole number"),
        (dict(search__verifier=""), "search.verifier is empty"),
        (dict(search__verifier="MAIN"), "search.verifier .*tiny.safetensors is no classifier"),
        (dict(search__verifier="fashion_mnist_classifier"), "looks at images of shape"),
        (dict(search__method=dict(name="best_of")), "search.method.name 'best_of' is not one of"),
        (dict(search__method=dict(name="best_of_n", at=1)), "has no argument 'at'"),
        (dict(sampling__classes="none"), "search: the verifier is asked for each image's class"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_runs(
    config, weights, tmp_path, fields, message
):
    fields = {name: weights if value == "MAIN" else value for name, value in fields.items()}
    with pytest.raises(UserError, match=message):
        search.run(changed(config, **fields), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.longer
def test_the_shipped_config_names_what_is_there():
    config = search_fashion_mnist.get_config()
    job = job_from_config(config)
    assert config.search.budget == 16 * sum(job.plan().totals.values())
    for name in ("verifier", "judge"):
        assert read_any(config.search[name]).network.shape == job.main.shape


@pytest.mark.longer
def test_a_killed_search_continues_with_the_same_files(config, tmp_path):
    count = 60
    command = [
        *(sys.executable, "main.py", "--mode=search"),
        "--config=tests/tiny_configs/command_line.py",
        f"--config.sampling.weights.main={config.sampling.weights.main}",
        f"--config.sampling.count={count}",
        *("--config.sampling.batch_size=2", f"--config.sampler.schedule.steps={STEPS}"),
        *("--config.sampler.solver.name=euler", "--config.guidance.name=unguided"),
        f"--config.search.budget={RUNS * STEPS}",
        *("--config.search.verifier=digits_classifier", "--config.search.method.name=zero_order"),
    ]

    def start(folder):
        return subprocess.Popen(
            [*command, f"--workdir={tmp_path / folder}"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    process, deadline = start("killed"), time.monotonic() + 180
    killed = tmp_path / "killed"
    while time.monotonic() < deadline and process.poll() is None:
        if (killed / "images").exists() and sum(1 for _ in (killed / "images").iterdir()) > 8:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert not (killed / "search.json").exists()
    assert start("killed").wait() == 0 and start("whole").wait() == 0
    names = [one.name for one in (tmp_path / "whole" / "images").iterdir()]
    assert len(names) == count
    for name in names:
        there = (tmp_path / "whole" / "images" / name).read_bytes()
        assert (killed / "images" / name).read_bytes() == there
    assert record(killed) == record(tmp_path / "whole")


@pytest.mark.longer
def test_a_search_from_outside_is_known_by_its_file(config, tmp_path, monkeypatch):
    code = """
from guidestar import register
from guidestar.inference import search


@register("search")
def best_of_two(sample, reward, budget: int):
    return search.best_of_n(sample, reward, 2 * sample.evaluations())
"""
    place = tmp_path / "own_search_of_two.py"
    place.write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("own_search_of_two")
    other = changed(config, search__method=dict(name="best_of_two"), search__judge="")
    search.run(other, tmp_path / "out")
    assert record(tmp_path / "out")["evaluations"] == 2 * STEPS
    place.write_text(code.replace("2 * sample", "3 * sample"))
    with pytest.raises(UserError, match="the file that search.method is written in was changed"):
        search.run(other, tmp_path / "out")
