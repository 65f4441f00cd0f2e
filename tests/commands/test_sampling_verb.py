"""The sampling verb: the same images in any batch, on any devices, after any interruption."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from places import ROOT
from tables.everyday import few
from tiny_configs.configs import tiny, trained, write_untrained
from tiny_configs.own_parts import registered

from guidestar import guidance, samplers
from guidestar.commands.config import overrides
from guidestar.commands.export import run as export
from guidestar.commands.sample import job_from_config
from guidestar.commands.sample import run as sample
from guidestar.commands.train import run as train
from guidestar.core.errors import UserError
from guidestar.evaluation import rewards
from guidestar.guidance import operators
from guidestar.inference.job import class_labels
from guidestar.inference.networks import load_networks, read_weights
from guidestar.models.checkpoints import load, save
from guidestar.models.conditions import without_null
from guidestar.runtime.store import Store

CLASSIFIER = {
    "name": "classifier",
    "image_size": 8,
    "channels": 1,
    "num_classes": 10,
    "widths": (8,),
    "depths": (1,),
    "feature_width": 8,
}
CLASSIFIED = {"name": "elucd", "scale": 2.0}
MAIN = ("sampling", "weights", "main")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weight files of two tiny untrained digits networks with every layer at work."""
    folder = tmp_path_factory.mktemp("weights")
    model = tiny().model.to_dict()
    return {
        name: write_untrained(folder / f"{name}.safetensors", model | {"width": width})
        for name, width in (("main", 16), ("guide", 8))
    }


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """Weight file of a tiny untrained classifier of the digits."""
    return write_untrained(tmp_path_factory.mktemp("classifier") / "it.safetensors", CLASSIFIER)


@pytest.fixture
def config(weights):
    config = tiny()
    config.sampling.weights.main = str(weights["main"])
    config.sampling.weights.guide = str(weights["guide"])
    config.sampling.update(count=20, batch_size=7)
    config.sampler.schedule.steps = 4
    return config


@pytest.mark.longer
def test_images_do_not_depend_on_the_batch_they_are_made_in():
    # Of trained weights: their images are of order 1, and 1e-5 is above rounding.
    job = job_from_config(trained())
    whole = job.images(np.arange(20))
    for part in (np.arange(7, 14), np.array([19, 3])):
        np.testing.assert_allclose(job.images(part), whole[part], atol=1e-5)


@pytest.mark.parametrize("format", few(1, ["png", "npz"]))
def test_two_batch_sizes_make_the_same_files(config, tmp_path, format):
    config.sampling.format = format
    kept = []
    for batch_size in (7, 64):
        config.sampling.batch_size = batch_size
        sample(config, tmp_path / str(batch_size))
        store = Store.open(tmp_path / str(batch_size), 20)
        kept.append(store.read(np.arange(20)).astype(int))
        assert Image.open(tmp_path / str(batch_size) / "grid.png").size[0] > 100
    # Rounding to 256 levels may tip over where two programs differ in the last bit.
    assert np.abs(kept[0] - kept[1]).max() <= 1
    assert np.mean(kept[0] != kept[1]) < 1e-3


def test_an_interrupted_run_goes_on_and_touches_nothing_it_has(config, tmp_path):
    sample(config, tmp_path / "whole")
    config.sampling.count = 9
    sample(config, tmp_path / "halves")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "halves" / "images").iterdir()}
    assert len(before) == 9
    config.sampling.count = 20
    sample(config, tmp_path / "halves")
    assert (
        before.items()
        <= {p: p.stat().st_mtime_ns for p in (tmp_path / "halves" / "images").iterdir()}.items()
    )
    for path in sorted((tmp_path / "whole" / "images").iterdir()):
        assert (tmp_path / "halves" / "images" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.longer
def test_a_killed_run_continues_with_the_same_files(config, weights, tmp_path):
    command = [
        *(sys.executable, "main.py", "--mode=sample"),
        "--config=tests/tiny_configs/command_line.py",
        f"--config.sampling.weights.main={weights['main']}",
        *("--config.sampling.count=200", "--config.sampling.batch_size=4"),
        "--config.sampler.schedule.steps=4",
    ]

    def start():
        return subprocess.Popen(
            [*command, f"--workdir={tmp_path / 'killed'}"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    process, deadline = start(), time.monotonic() + 120
    images = tmp_path / "killed" / "images"
    while time.monotonic() < deadline and process.poll() is None:
        if images.exists() and sum(1 for _ in images.iterdir()) > 20:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert start().wait() == 0
    config.sampling.update(count=200, batch_size=4)
    sample(config, tmp_path / "whole")
    names = [p.name for p in (tmp_path / "whole" / "images").iterdir()]
    assert len(names) == 200
    for name in names:
        assert (images / name).read_bytes() == (tmp_path / "whole/images" / name).read_bytes()


@pytest.mark.longer
def test_two_processes_share_the_images_whoever_is_slower(config, weights, tmp_path):
    """The second reads its weights late, when the first would have begun."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    script = f"""
import runpy, sys, time
from guidestar.inference import networks
index, read = int(sys.argv[1]), networks.load
networks.load = lambda *a, **k: (time.sleep(4 * index), read(*a, **k))[1]
sys.argv = ["main.py", "--config=tests/tiny_configs/command_line.py", "--mode=sample",
    {f"--workdir={tmp_path / 'two'}"!r}, {f"--config.sampling.weights.main={weights['main']}"!r},
    "--config.sampling.count=20", "--config.sampling.batch_size=4",
    "--config.sampler.schedule.steps=4", "--config.hosts.coordinator=localhost:{port}",
    "--config.hosts.count=2", f"--config.hosts.index={{index}}"]
runpy.run_path("main.py", run_name="__main__")
"""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", script]
    both = [subprocess.Popen([*command, str(i)], cwd=ROOT, env=environment) for i in range(2)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    sample(config, tmp_path / "one")
    one, two = (Store.open(tmp_path / name, 20).read(np.arange(20)) for name in ("one", "two"))
    assert np.abs(one.astype(int) - two).max() <= 1
    assert (tmp_path / "two" / "grid.png").exists()


@pytest.mark.longer
def test_one_and_eight_devices_make_the_same_images(tmp_path):
    """Run the job on trained weights in a process with eight simulated devices, and compare."""
    script = f"""
import sys; sys.path.insert(0, {str(ROOT / "tests")!r})
import jax, numpy as np
from tiny_configs.configs import trained
from guidestar.commands.sample import job_from_config
assert jax.device_count() == 8
np.save({str(tmp_path / "eight.npy")!r}, job_from_config(trained()).images(np.arange(20)))
"""
    flags = "--xla_force_host_platform_device_count=8"
    subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        cwd=tmp_path,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )
    one = job_from_config(trained()).images(np.arange(20))
    np.testing.assert_allclose(np.load(tmp_path / "eight.npy"), one, atol=1e-5)
    # Images, not noise: digits are dark at the corners and bright somewhere.
    assert one[:, 0, 0].max() < -0.5 and one.max(axis=(1, 2, 3)).min() > 0.5


def test_classes_cycle_and_may_be_chosen(config):
    assert job_from_config(config).labels(np.array([0, 9, 10, 13])).tolist() == [0, 9, 0, 3]
    config.sampling.classes = "3,7"
    assert job_from_config(config).labels(np.arange(4)).tolist() == [3, 7, 3, 7]


def steered(config):
    """Return the job of a config, by particles in groups of three."""
    plain, mean = job_from_config(config), operators.average_pool(8)
    solver = samplers.steer(rewards.likelihood(mean, [[[1.0]]]), 40.0, 3, resample_below=1.0)
    sampler = plain.sampler._replace(solver=solver)
    return dataclasses.replace(plain, sampler=sampler, evaluated=None)


def test_particles_of_a_group_have_one_class(config):
    job = steered(config)
    assert job.labels(np.arange(8)).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert job.plan().totals["reward"] == len(job.sampler.sigmas) - 1


@pytest.mark.longer
def test_particles_are_the_same_whichever_are_asked_for(config):
    job = steered(config)
    images = job.images(np.arange(9))
    np.testing.assert_allclose(job.images(np.array([7, 4])), images[[7, 4]], atol=1e-5)


def test_the_plan_counts_networks_and_multiply_adds(config):
    config.guidance = {"name": "autoguidance", "scale": 2.0}
    job = job_from_config(config)
    assert job.plan().totals == {"main": 7, "guide": 7}
    only_main = job_from_config(tiny_with(config, {"name": "cfg", "scale": 2.0}))
    assert only_main.plan().totals == {"main": 14}
    assert only_main.plan().macs > job.plan().macs > only_main.plan().macs / 2


@pytest.mark.longer
def test_a_rule_of_nested_parts_keeps_its_folder_and_its_numbers(config, tmp_path):
    push = ({"name": "project", "eta": 0.0}, {"name": "scale", "scale": 2.0})
    rule = {"name": "push", "reference": {"name": "null"}, "push": push}
    config = tiny_with(config, rule)
    config.sampling.count, config.sampler.schedule.steps = 3, 2
    sample(config, tmp_path)
    images = {p: p.read_bytes() for p in (tmp_path / "images").iterdir()}
    sample(config, tmp_path)
    assert len(images) == 3
    assert images == {p: p.read_bytes() for p in (tmp_path / "images").iterdir()}
    # The folder's record is JSON, which knows lists alone.
    recorded = json.loads((tmp_path / "sampling.json").read_text())["made_of"]["rule"]
    assert recorded == {"name": "push", "reference": {"name": "null"}, "push": list(push)}
    assert guidance.to_config(job_from_config(config).rule) == rule
    config.guidance.push[0]["eta"] = 0.5
    with pytest.raises(UserError, match="made of something else"):
        sample(config, tmp_path)


@pytest.mark.longer
def test_a_run_without_conditions_is_the_run_of_the_null_class(config):
    config.guidance = {"name": "autoguidance", "scale": 2.0}
    config.sampler.schedule.steps = 2
    config.sampling.classes = "10"
    null = job_from_config(config).images(np.arange(5))
    config.sampling.classes = "none"
    job = job_from_config(config)
    assert job.classes is None and job.labels(np.arange(5)) is None
    np.testing.assert_allclose(job.images(np.arange(5)), null, atol=1e-6)


@pytest.mark.longer
def test_images_without_classes_are_written(config, tmp_path):
    config.guidance = {"name": "unguided"}
    config.sampling.update(classes="none", count=3, format="npz")
    config.sampler.schedule.steps = 2
    sample(config, tmp_path)
    (shard,) = (tmp_path / "images").glob("*.npz")
    assert set(np.load(shard)) == {"images", "indices"}


@pytest.mark.longer
def test_a_classifier_answers_a_rule_with_logits_whatever_the_noise(config, classifier):
    config.sampling.weights.classifier = str(classifier)
    networks = load_networks(config.sampling.weights.to_dict())
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    loaded = load(classifier)
    expected = loaded.network.module(loaded.params)(x)
    for sigma in (0.01, 80.0):
        np.testing.assert_array_equal(networks["classifier"](x, jnp.float32(sigma)), expected)
    assert jax.tree.leaves(networks["classifier"])[0].shape


@pytest.mark.longer
def test_a_rule_with_a_classifier_samples_and_is_counted(config, classifier):
    with pytest.raises(UserError, match=r"set sampling\.weights\.classifier"):
        job_from_config(tiny_with(config, CLASSIFIED))
    config.sampling.weights.classifier = str(classifier)
    config.sampler.schedule.steps = 2
    job = job_from_config(tiny_with(config, CLASSIFIED))
    assert job.plan().totals == {"main": 3, "classifier": 3, "classifier+grad": 3}
    assert job.plan().networks == ("classifier", "main")
    plain = job_from_config(tiny_with(config, {"name": "unguided"}))
    # Two convolutions onto 4x4 places, then 8 features and 10 logits.
    once = 16 * 8 * 9 * 1 + 16 * 8 * 9 * 8 + 8 * 8 + 8 * 10
    # A way back takes two products for the one of the way there.
    assert job.plan().macs - plain.plan().macs == 3 * (1 + 2) * once
    assert np.abs(job.images(np.arange(3)) - plain.images(np.arange(3))).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("classifier", "main", "is no classifier"),
        ("guide", "classifier", "is no denoiser; a classifier goes into"),
        ("main", "classifier", "is no denoiser"),
    ],
)
def test_networks_in_each_others_places_are_refused(
    config, weights, classifier, name, source, message
):
    # Of a rule that asks for it: what nothing asks for is not read.
    rules = {"classifier": CLASSIFIED, "guide": {"name": "autoguidance", "scale": 2.0}}
    config = tiny_with(config, rules.get(name, {"name": "unguided"}))
    config.sampling.weights[name] = str((weights | {"classifier": classifier})[source])
    with pytest.raises(UserError, match=message):
        job_from_config(config)


def test_a_classifier_of_other_classes_is_refused(config, tmp_path):
    path = write_untrained(tmp_path / "three.safetensors", CLASSIFIER | {"num_classes": 3})
    config.sampling.weights.classifier = str(path)
    with pytest.raises(UserError, match="knows 3 classes and the main network 10"):
        job_from_config(tiny_with(config, CLASSIFIED))


def tiny_with(config, rule):
    config = config.copy_and_resolve_references()
    config.guidance = rule
    return config


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sampling.classes", "3,11", r"labels in 0\.\.9"),
        ("sampling.classes", "", r"labels in 0\.\.9"),
        ("sampling.classes", "shoe", r"labels in 0\.\.9"),
        ("sampling.count", 0, "at least 1"),
        ("sampling.count", -3, "at least 1"),
        ("sampling.batch_size", 0, "sampling.batch_size is 0: give a whole number, at least 1"),
        ("sampling.branches", "both", "'both' is not one of fused, sequential"),
        ("sampling.any_decoder", True, "says nothing without sampling.decoder"),
        ("sampling.format", "jpeg", "not one of png, npz"),
        ("sampling.weights.main", "", "weights.main is empty"),
        ("sampling.weights.main", "missing.safetensors", "no weights at"),
        ("guidance", {"name": "cfg", "scale": float("nan")}, "finite"),
        ("guidance", {"name": "nosuch"}, "not one of"),
        ("sampler.schedule.steps", 0, "positive integer"),
        ("sampler.solver.name", "rk45", "not one of"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(config, tmp_path, path, value, message):
    *parents, field = path.split(".")
    section = config
    for parent in parents:
        section = section[parent]
    section[field] = value
    with pytest.raises(UserError, match=message):
        sample(config, tmp_path)
    assert not any(tmp_path.rglob("*.png"))


def test_a_rule_whose_network_is_not_configured_is_refused(config, tmp_path):
    config.guidance = {"name": "autoguidance", "scale": 2.0}
    config.sampling.weights.guide = ""
    with pytest.raises(UserError, match="set sampling.weights.guide"):
        sample(config, tmp_path)


def test_a_folder_of_another_run_is_refused_and_left_alone(config, tmp_path):
    sample(config, tmp_path)
    before = {p: p.read_bytes() for p in (tmp_path / "images").iterdir()}
    config.guidance.scale = 3.0
    with pytest.raises(UserError, match="made of something else"):
        sample(config, tmp_path)
    assert before == {p: p.read_bytes() for p in (tmp_path / "images").iterdir()}


OWN = {
    "rule": """
from guidestar import guidance, register

@register("rule")
def own(scale: float = 2.0):
    return guidance.cfg({factor} * scale)
""",
    "network": """
import jax.numpy as jnp
from flax import nnx
from guidestar import models, register
from guidestar.models.preconditioning import EDM

class Scaled(nnx.Module):
    def __init__(self, rngs):
        self.weight = nnx.Param(jnp.ones(()))

    def __call__(self, x, time, label):
        return {factor} * self.weight * x + label[:, None, None, None]

@register("network")
def own():
    return models.Spec(lambda rngs: Scaled(rngs), 10, (8, 8, 1), EDM(0.5))
""",
}


@pytest.mark.longer
@pytest.mark.parametrize("kind", OWN)
def test_images_by_other_code_of_a_part_from_outside_are_refused(
    config, tmp_path, monkeypatch, kind
):
    (tmp_path / "moved").mkdir()
    place = ("rule" if kind == "rule" else r"weights\.main") + " is written in was changed since"

    def run(factor, count, folder=tmp_path):
        registered(monkeypatch, folder, kind, "own", OWN[kind].format(factor=factor))
        if kind == "rule":
            config.guidance = ConfigDict({"name": "own"})
        else:
            weights = tmp_path / "own.safetensors"
            if not weights.exists():
                write_untrained(weights, {"name": "own"})
            config.sampling.weights.main = str(weights)
        config.sampling.count = count
        sample(config, tmp_path / "images")

    run(1.0, 2)
    run(1.0, 4, tmp_path / "moved")
    with pytest.raises(UserError, match=f"holds images made of .*: the file that {place}"):
        run(1.5, 6)


def test_a_full_disk_leaves_whole_files_only(config, tmp_path, monkeypatch):
    written = []

    def full(partial, path):
        written.append(path)
        if len(written) > 5:
            raise OSError(28, "No space left on device")
        return original(partial, path)

    original = os.replace
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"No space left on device.*goes on where it stopped"):
        sample(config, tmp_path)
    assert len(list((tmp_path / "images").iterdir())) == 4
    for path in (tmp_path / "images").iterdir():
        Image.open(path).verify()


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in (folder / "images").iterdir()}


def copied(weights, path):
    """Copy weights with what lies beside them."""
    for suffix in (".safetensors", ".json"):
        path.with_suffix(suffix).write_bytes(weights.with_suffix(suffix).read_bytes())
    return path


@pytest.mark.longer
def test_images_are_known_by_what_their_weights_hold(config, weights, tmp_path):
    config.sampling.update(count=3, batch_size=4)
    config.sampling.weights.main = str(copied(weights["main"], tmp_path / "net.safetensors"))
    sample(config, tmp_path / "out")
    before = bytes_of(tmp_path / "out")
    config.sampling.count = 4
    # Moved and renamed, they are the same weights.
    moved = tmp_path / "moved" / "other.safetensors"
    moved.parent.mkdir()
    config.sampling.weights.main = str(copied(weights["main"], moved))
    sample(config, tmp_path / "out")
    assert len(bytes_of(tmp_path / "out")) == 4
    assert before.items() <= bytes_of(tmp_path / "out").items()
    # Others in the same place are others.
    copied(weights["guide"], moved)
    config.sampling.count = 6
    with pytest.raises(UserError, match=r"weights\.main\.\w+ was '.*other.safetensors\) and is"):
        sample(config, tmp_path / "out")
    assert len(bytes_of(tmp_path / "out")) == 4


def earlier_record(config):
    """Return what an earlier release wrote beside images."""
    kept = config.sampling.to_dict()
    for machine in ("batch_size", "branches", "count", "any_decoder"):
        kept.pop(machine)
    parts = {name: config[name].to_dict() for name in ("guidance", "sampler")}
    return {"seed": config.seed, **parts, "sampling": kept}


@pytest.mark.longer
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, ""),
        ({"guidance.scale": 2.5}, "rule.scale was 2.5 and is 2.0"),
        ({"seed": 1}, "seed was 1 and is 0"),
        ({"sampling.classes": "3,7"}, "classes was"),
        ({"sampler.schedule.steps": 5}, "sigmas was"),
        ({"sampling.weights.main": "a/b.safetensors"}, "that of a/b.safetensors"),
        ({"guidance.name": "nosuch"}, "an earlier release made the images there"),
        ("replaced", "image 0 comes out otherwise now: weights or data were replaced since"),
    ],
)
def test_an_earlier_releases_images_are_continued_where_they_agree(
    config, weights, tmp_path, change, message
):
    config.sampling.update(count=3, batch_size=4)
    main = copied(weights["main"], tmp_path / "net.safetensors")
    config.sampling.weights.main = str(main)
    out = tmp_path / "out"
    sample(config, out)
    with_changes = config.copy_and_resolve_references()
    if change == "replaced":
        copied(weights["guide"], main)
    else:
        with_changes.update_from_flattened_dict(change)
    (out / "sampling.json").write_text(json.dumps(earlier_record(with_changes)))
    before = bytes_of(out)
    config.sampling.count = 4
    if message:
        with pytest.raises(UserError, match=message):
            sample(config, out)
        assert bytes_of(out) == before
        return
    sample(config, out)
    assert before.items() < bytes_of(out).items()
    assert json.loads((out / "sampling.json").read_text())["made_of"]["weights"]["main"]


@pytest.mark.longer
def test_images_that_are_not_finite_are_named_and_not_written(config, tmp_path):
    config.sampling.update(count=7, batch_size=4)
    config.guidance.scale = 3e38
    match = r"images 0, 1, 2, 3 are not finite, from step 1 of 4 on \(sigma 9.723\)"
    with pytest.raises(UserError, match=match):
        sample(config, tmp_path)
    assert not list((tmp_path / "images").iterdir())
    # What the message says to change is changed, and the same folder serves.
    config.guidance.scale = 2.0
    sample(config, tmp_path)
    assert len(bytes_of(tmp_path)) == 7


def network(num_classes=10, null=True):
    return num_classes, null


@pytest.mark.parametrize(
    ("classes", "main", "labels"),
    [
        ("all", network(3), (0, 1, 2)),
        ("all", network(0), None),
        ("none", network(3), None),
        ("none", network(0), None),
        (" 3, 7 ,9", network(), (3, 7, 9)),
        ([3, 7], network(), (3, 7)),
        ((np.int64(4),), network(), (4,)),
        (np.array([4, 5]), network(), (4, 5)),
        ("10", network(), (10,)),
    ],
)
def test_classes_are_labels_in_any_spelling(classes, main, labels):
    assert class_labels(classes, *main) == labels


@pytest.mark.parametrize(
    ("classes", "main", "message"),
    [
        ("", network(), r"labels in 0\.\.9 separated by commas \(10 is the null class\)"),
        (",", network(), r"labels in 0\.\.9"),
        ("3,,7", network(), r"labels in 0\.\.9"),
        ("-1", network(), r"labels in 0\.\.9"),
        ("11", network(), r"labels in 0\.\.9"),
        ("1.0", network(), r"labels in 0\.\.9"),
        ("1e3", network(), r"labels in 0\.\.9"),
        ("9" * 5000, network(), r"labels in 0\.\.9"),
        ("ALL", network(), r"labels in 0\.\.9"),
        ([], network(), r"labels in 0\.\.9"),
        ([-1], network(), r"labels in 0\.\.9"),
        ([True], network(), r"labels in 0\.\.9"),
        ("3,7,3", network(), "has 3 more than once"),
        ("10", network(null=False), r"labels in 0\.\.9 separated by commas$"),
        ("none", network(null=False), "has learnt no prediction without a class"),
        ("3", network(0), "knows no classes"),
    ],
)
def test_classes_that_a_network_does_not_know_are_refused(classes, main, message):
    with pytest.raises(UserError, match=message):
        class_labels(classes, *main)


@pytest.mark.longer
def test_a_guide_of_other_classes_is_refused_and_one_without_serves(config, tmp_path):
    config = tiny_with(config, {"name": "autoguidance", "scale": 2.0})
    for count, message in ((5, "guide knows 5 classes and the main network 10"), (0, "")):
        model = tiny().model.to_dict() | {"num_classes": count, "width": 8}
        path = write_untrained(tmp_path / f"{count}.safetensors", model)
        config.sampling.weights.guide = str(path)
        if message:
            with pytest.raises(UserError, match=message):
                job_from_config(config)
        else:
            config.sampler.schedule.steps = 2
            assert np.isfinite(job_from_config(config).images(np.arange(3))).all()


@pytest.mark.longer
def test_a_network_that_nothing_asks_is_left_out_and_said(config, tmp_path, capsys):
    config.sampling.count = 2
    sample(config, tmp_path / "out")
    assert "the network 'guide' of sampling.weights is left out" in capsys.readouterr().out
    assert job_from_config(config).networks.keys() == {"main"}
    # Where it lies is looked at all the same.
    config.sampling.weights.guide = str(tmp_path / "misspelt.safetensors")
    with pytest.raises(UserError, match="no weights at"):
        job_from_config(config)


@pytest.mark.parametrize(
    ("rule", "changes", "message"),
    [
        (
            {"name": "cfg", "scale": 2.0},
            {"classes": "none"},
            "no condition .* can do nothing",
        ),
        (
            {"name": "apg", "scale": 2.0},
            {"classes": "none"},
            "no condition .* can do nothing",
        ),
        ({"name": "cfg", "scale": 1.0}, {"classes": "none"}, ""),
        ({"name": "icg", "scale": 2.0, "classes": 12}, {}, "draws from 12 classes"),
        ({"name": "cfg", "scale": 2.0}, {"no_null": True}, "never learnt.*take a rule"),
        (
            {"name": "unguided"},
            {"no_null": True, "classes": "none"},
            "learnt no prediction",
        ),
        ({"name": "unguided"}, {"no_null": True}, ""),
    ],
)
def test_guidance_that_networks_cannot_give_is_refused(config, rule, changes, message):
    config = tiny_with(config, rule)
    config.sampling.classes = changes.get("classes", "all")
    main = read_weights("main", config.sampling.weights.main)
    if "no_null" in changes:
        inner = main.network.network
        unlearnt = dataclasses.replace(inner, condition=without_null(inner.condition))
        main = dataclasses.replace(
            main, network=dataclasses.replace(main.network, network=unlearnt)
        )
    if message:
        with pytest.raises(UserError, match=message):
            job_from_config(config, {"main": main})
    else:
        job_from_config(config, {"main": main})


@pytest.mark.longer
def test_an_interval_that_covers_no_step_is_said(config, tmp_path, capsys):
    rule = {"name": "between", "rule": {"name": "cfg", "scale": 2.0}, "low": 90.0, "high": 99.0}
    config = tiny_with(config, rule)
    config.sampling.count = 1
    sample(config, tmp_path)
    assert "holds at none of the schedule's steps" in capsys.readouterr().out


def test_what_only_running_finds_is_refused_in_a_line(config):
    config = tiny_with(config, {"name": "cfgpp", "scale": 0.6})
    with pytest.raises(UserError, match="not defined for Heun"):
        job_from_config(config).images(np.arange(1))


def test_what_a_job_evaluates_is_counted_once(config, monkeypatch):
    job = job_from_config(config)
    assert job.plan() is job.plan()


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, "3"])
def test_seeds_that_are_none_are_refused(config, seed):
    config = config.copy_and_resolve_references()
    with config.ignore_type():
        config.seed = seed
    with pytest.raises(UserError, match="give a whole number from 0 to 2"):
        job_from_config(config)


def test_samples_that_are_no_images_are_refused(config, tmp_path):
    config.sampling.weights.main = "fractal2d_main"
    config.guidance = {"name": "unguided"}
    config.sampler.schedule.sigma_max = 5.0
    with pytest.raises(UserError, match=r"makes samples of shape \(2,\), which are no images"):
        sample(config, tmp_path)


# A training run's folder.


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run of four steps, of a model of its own."""
    config = tiny(steps=4)
    config.model.width = 24
    folder = tmp_path_factory.mktemp("run")
    train(config, folder)
    return folder


@pytest.mark.longer
def test_a_runs_folder_gives_samples_of_what_was_trained_there(
    config, weights, run_folder, tmp_path, capsys
):
    config.sampling.update(count=3, batch_size=4)
    config.sampling.weights.main = "digits"  # a config's default
    config.sampler.schedule.steps = 2
    sample(config, run_folder)
    assert f"step 4 of {run_folder}" in capsys.readouterr().out
    of_run = Store.open(run_folder / "samples" / "step_4", 3).read(np.arange(3))
    as_trained = tiny(steps=4)
    as_trained.model.width = 24
    config.sampling.weights.main = str(export(as_trained, run_folder))
    sample(config, tmp_path)
    exported = Store.open(tmp_path, 3).read(np.arange(3))
    # Exported weights are rounded to float16.
    assert np.abs(of_run.astype(int) - exported).max() <= 3 and of_run.std() > 1
    # Of weights that are named, those; beside the others.
    given = overrides.apply(config, [overrides.Override(MAIN, str(weights["main"]))])
    sample(given, run_folder)
    assert (run_folder / "samples" / "main" / "grid.png").exists()
    # The folder is still that of the run, which goes on.
    assert not (run_folder / "images").exists()


@pytest.mark.longer
def test_other_samples_of_a_run_say_what_to_move(config, run_folder):
    config.sampling.update(count=3, batch_size=4)
    config.sampler.schedule.steps = 2
    sample(config, run_folder)
    config.guidance.scale = 3.0
    with pytest.raises(UserError, match=r"Give again .* or move .*samples/step_4 away"):
        sample(config, run_folder)


def test_a_run_that_saved_nothing_says_so(config, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="saved nothing to sample from: run --mode=train"):
        sample(config, tmp_path)


# Weight files.


def test_weights_survive_the_round_trip_within_float16(weights):
    loaded = load(weights["main"])
    assert json.loads(weights["main"].with_suffix(".json").read_text())["steps"] == 0
    assert loaded.denoiser.shape == (8, 8, 1) and loaded.denoiser.null_condition == 10


def test_weights_of_another_architecture_are_named_with_both_shapes(weights, tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(weights["main"].read_bytes())
    sidecar = json.loads(weights["main"].with_suffix(".json").read_text())
    sidecar["model"]["width"] = 32
    path.with_suffix(".json").write_text(json.dumps(sidecar))
    with pytest.raises(UserError, match=r"has shape \(.*\) in the file and \(.*\) in the network"):
        load(path)


def test_damaged_and_incomplete_weight_files_are_refused(weights, tmp_path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(weights["main"].read_bytes()[:100])
    with pytest.raises(UserError, match="copy both files"):
        load(path)
    sidecar = json.loads(weights["main"].with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({"model": sidecar["model"]}))
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load(path)


def test_weights_beyond_float16_are_not_written(tmp_path):
    with pytest.raises(UserError, match="outside float16"):
        save(tmp_path / "big.safetensors", {"a": np.array([1e6])}, tiny().model, {})
    assert not any(tmp_path.iterdir())


@pytest.mark.longer
def test_windows_are_judged_by_the_size_of_the_networks_images():
    config = trained()
    config.guidance = ConfigDict(dict(name="swg", scale=1.5, size=6))
    # Two windows of 6 cover the digits' 8 pixels; they would leave gaps in a larger image.
    assert job_from_config(config).plan().evaluations[0] == {"main": 10}
    config.guidance.size = 9
    with pytest.raises(UserError, match="do not fit"):
        job_from_config(config)
