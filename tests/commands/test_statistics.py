"""The statistics mode: what it writes, and what it refuses to replace."""

import json

import pytest
from tables.everyday import few
from tiny_configs.evaluations import classifier, evaluation

from guidestar.commands import statistics
from guidestar.configs import evidence
from guidestar.core.errors import UserError


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return evaluation(lambda: evidence.get_config("unguided"), tmp_path_factory.mktemp("weights"))


def changed(config, **fields):
    other = config.copy_and_resolve_references()
    other.evaluation.update(fields)
    return other


@pytest.mark.longer
def test_asked_again_it_writes_the_same(config, tmp_path):
    statistics.run(config, tmp_path)
    path = tmp_path / "real.safetensors"
    first = path.read_bytes()
    statistics.run(changed(config, statistics="real.safetensors"), tmp_path)
    assert path.read_bytes() == first
    assert json.loads((tmp_path / "real.json").read_text())["images"] == 1442


@pytest.mark.longer
@pytest.mark.parametrize("beside", few(1, ["other classifier", "weights", "arrays alone"]))
def test_it_replaces_nothing_that_it_did_not_make(config, tmp_path, beside):
    path = tmp_path / "real.safetensors"
    if beside == "other classifier":
        other = classifier(tmp_path / "other.safetensors", feature_width=5)
        statistics.run(changed(config, classifier=other), tmp_path)
    elif beside == "weights":
        classifier(path)
    else:
        path.write_bytes(b"mine")
    kept = path.read_bytes()
    with pytest.raises(UserError, match=r"real\.safetensors .*choose another evaluation.stat"):
        statistics.run(config, tmp_path)
    assert path.read_bytes() == kept


@pytest.mark.parametrize("name", ["", "../real", "/tmp/real", ".real"])
def test_it_writes_into_the_workdir_alone(config, tmp_path, name):
    with pytest.raises(UserError, match="evaluation.statistics is .*name of a file"):
        statistics.run(changed(config, statistics=name), tmp_path)
