"""Published files to this project's: by the command, with what they say of themselves."""

import importlib.util
import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from places import GOLDEN
from tables.everyday import few
from weight_files.writers import write_torch_zip

from guidestar import models
from guidestar.commands.import_ import files_of, overrides
from guidestar.commands.import_ import run as import_weights
from guidestar.configs import import_weights as config_file
from guidestar.configs import imported
from guidestar.core.errors import UserError
from guidestar.core.files import sha256
from guidestar.models.checkpoints.readers import open_weights

DIT, EDM2 = GOLDEN / "dit_tiny.pt", GOLDEN / "edm2_unet_tiny.pkl"
SMALL = GOLDEN / "diffusers_dit"


@partial(jax.jit, static_argnums=0)
def output(network, params, x, labels=(0,)):
    return network(params, x, jnp.full(len(x), 3.0), jnp.resize(jnp.array(labels), len(x)))


def outputs(path, x, **fields):
    """Return what the network of a file makes of images; equal networks are compiled once."""
    denoiser = models.load(path, **fields)
    return output(denoiser.network, denoiser.params, x, (1, 10) if denoiser.latent else (0,))


def run(workdir, source, **fields):
    config = config_file.get_config()
    config.weights.update(source=str(source), **fields)
    return import_weights(config, workdir)


def nothing_written(folder):
    return not folder.exists() or not [one for one in folder.iterdir() if one.suffix != ".py"]


@pytest.mark.longer
@pytest.mark.parametrize("scan_layers", few(1, [False, True]))
def test_a_dit_imported_is_the_dit_published(scan_layers, tmp_path, capsys):
    path = run(tmp_path, DIT, model="heads=4,preconditioner=discrete")
    said = capsys.readouterr().out
    assert "dit, 256,864 parameters, 8x8x4, 10 classes, sigma 0.0100005 to 157.407" in said
    x = jnp.linspace(-1, 1, 2 * 8 * 8 * 4).reshape(2, 8, 8, 4)
    found = outputs(path, x, scan_layers=scan_layers)
    wanted = outputs(DIT, x, heads=4, preconditioner="discrete")
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert sidecar["source"] == "dit_tiny.pt" and sidecar["sha256"] == sha256(DIT)
    assert sidecar["model"]["heads"] == 4 and "torch zip" in sidecar["format"]


def test_the_config_beside_it_samples_it(tmp_path):
    path = run(tmp_path, EDM2, name="tiny")
    spec = importlib.util.spec_from_file_location("written", tmp_path / "tiny.py")
    written = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(written)
    config = written.get_config()
    assert config.sampling.weights.main == str(path) and path.name == "tiny.safetensors"
    assert tuple(config.sampler.schedule[k] for k in ("sigma_min", "sigma_max")) == (0.002, 80.0)


def test_the_command_that_is_printed_runs_whatever_the_weights_make(tmp_path, capsys):
    run(tmp_path, DIT, name="latents", model="heads=4,preconditioner=discrete")
    *_, command, said = capsys.readouterr().out.splitlines()
    assert command.endswith("--mode=sample --config.sampling.format=npz")
    assert "--config.sampling.decoder=" in said
    run(tmp_path, SMALL, name="pixels", model="latent=False")
    assert capsys.readouterr().out.endswith("--mode=sample\n")


def test_weights_are_imported_beside_their_source(tmp_path, capsys):
    source = tmp_path / "tiny.pt"
    source.write_bytes(DIT.read_bytes())
    path = run(tmp_path, source, model="heads=4,preconditioner=discrete")
    assert path == tmp_path / "tiny.safetensors"
    assert run(tmp_path, source, model="heads=4,preconditioner=discrete") == path
    assert "is there already" in capsys.readouterr().out


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_import_of_the_same_is_there_already(tmp_path, capsys):
    path = run(tmp_path, SMALL, name="tiny")
    before = files_in(tmp_path)
    assert run(tmp_path, SMALL, name="tiny") == path
    assert "is there already" in capsys.readouterr().out and files_in(tmp_path) == before
    # Cut short after the arrays were written, it is finished.
    path.with_suffix(".py").unlink()
    run(tmp_path, SMALL, name="tiny")
    assert files_in(tmp_path) == before
    path.unlink()
    run(tmp_path, SMALL, name="tiny")
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("ending", [".safetensors", ".json", ".py"])
def test_what_another_wrote_is_not_replaced(ending, tmp_path):
    (tmp_path / f"tiny{ending}").write_text("mine")
    before = files_in(tmp_path)
    with pytest.raises(UserError, match=rf"tiny\{ending} exists and .* did not write it: set weig"):
        run(tmp_path, DIT, name="tiny", model="heads=4")
    assert files_in(tmp_path) == before


def test_an_import_of_other_weights_is_not_replaced(tmp_path):
    run(tmp_path, SMALL, name="tiny")
    before = files_in(tmp_path)
    for source, fields in ((DIT, dict(model="heads=4")), (SMALL, dict(dtype="float16"))):
        with pytest.raises(UserError, match=r"tiny\.safetensors is of another import: set weights"):
            run(tmp_path, source, name="tiny", **fields)
    assert files_in(tmp_path) == before


def test_an_import_of_an_earlier_version_is_made_anew(tmp_path):
    path = run(tmp_path, SMALL, name="tiny")
    beside = path.with_suffix(".json")
    sidecar = json.loads(beside.read_text())
    del sidecar["import"]
    beside.write_text(json.dumps(sidecar))
    path.with_suffix(".py").write_text("# made by hand for these weights")
    run(tmp_path, SMALL, name="tiny")
    assert "import" in json.loads(beside.read_text())
    assert "imported" in path.with_suffix(".py").read_text()


NAMES = ["", "..", "../../x", "a/b", ".hidden", "a'b", 'a"""b', "a\nb", "a:b", "a\\b", "a`b"]


@pytest.mark.parametrize("name", NAMES[1:])
def test_names_that_are_none_of_a_file_are_refused(name, tmp_path):
    with pytest.raises(UserError, match=r"weights\.name is "):
        run(tmp_path / "out", SMALL, name=name)
    assert nothing_written(tmp_path / "out")


def test_a_source_of_such_a_name_asks_for_another(tmp_path):
    source = tmp_path / "it's"
    shutil.copytree(SMALL, source)
    with pytest.raises(UserError, match=r"weights\.name is "):
        run(tmp_path / "out", source)
    path = run(tmp_path / "out", source, name="its")
    assert "it's" not in path.with_suffix(".py").read_text()


def test_nothing_of_names_is_in_what_is_executed(tmp_path):
    texts = {
        run(tmp_path / folder, SMALL, name=name).with_suffix(".py").read_text()
        for folder, name in (("a", "one"), ("b", "two with {braces} and $words"))
    }
    assert len(texts) == 1


def test_the_folder_of_diffusers_names_its_weights(tmp_path):
    path = run(tmp_path, GOLDEN / "diffusers_dit")
    assert path.name == "diffusers_dit.safetensors"
    assert json.loads(path.with_suffix(".json").read_text())["model"]["heads"] == 2


def test_a_config_of_imported_weights_is_of_weights_that_were(tmp_path):
    with pytest.raises(UserError, match="path after a colon"):
        imported.get_config()
    path = run(tmp_path, SMALL, name="tiny")
    assert imported.get_config(str(path)).name == "tiny"
    with pytest.raises(UserError, match="says nothing of its noise levels"):
        imported.get_config("fashion_mnist_dit")


def test_files_are_separated_by_commas_unless_one_has_one(tmp_path):
    (tmp_path / "a,b.pt").write_bytes(b"x")
    assert files_of(f"{tmp_path}/a,b.pt") == [f"{tmp_path}/a,b.pt"]
    assert files_of("a.pt, b.pt,") == ["a.pt", "b.pt"]


@pytest.mark.longer
def test_half_precision_is_asked_for_and_stays_half(tmp_path):
    whole, half = run(tmp_path / "a", EDM2), run(tmp_path / "b", EDM2, dtype="float16")
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    x = jnp.ones((1, 16, 16, 3))
    np.testing.assert_allclose(outputs(half, x), outputs(whole, x), atol=0.01)


@pytest.mark.longer
def test_snapshots_merge_into_an_average_of_another_width(tmp_path, capsys):
    files = []
    for kimg, std in ((8388, 0.05), (8388, 0.1), (16777, 0.05), (16777, 0.1)):
        files.append(tmp_path / f"network-snapshot-{kimg:07d}-{std:.3f}.pkl")
        files[-1].write_bytes(EDM2.read_bytes())
    path = run(tmp_path / "out", ",".join(map(str, files)), std=0.08)
    assert path.name == "merged-0.080.safetensors" and "edm2_unet" in capsys.readouterr().out
    # All four hold the same weights, and coefficients sum to 1.
    x = jnp.linspace(-1, 1, 16 * 16 * 3).reshape(1, 16, 16, 3)
    np.testing.assert_allclose(outputs(path, x), outputs(EDM2, x), atol=1e-5)
    facts = json.loads(path.with_suffix(".json").read_text())["ema"]
    assert facts["std"] == 0.08 and len({one["weight"] for one in facts["snapshots"]}) == 4
    for fields, message in [
        (dict(std=0.0), "weights.std says which relative width"),
        (dict(std=0.08, entry="ema"), "weights.entry is of one file"),
    ]:
        with pytest.raises(UserError, match=message):
            run(tmp_path, ",".join(map(str, files)), **fields)


def test_a_checksum_is_compared_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=r"has sha256 .* and weights\.sha256 is 00"):
        run(tmp_path, EDM2, sha256="00")
    assert nothing_written(tmp_path)
    run(tmp_path, EDM2, sha256=sha256(EDM2).upper())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(source=""), "source is empty"),
        (dict(source="nowhere.pt"), "no weights at 'nowhere.pt'"),
        (dict(source=DIT, dtype="int8"), "dtype 'int8' is not one of float16"),
        (dict(source=DIT, model="heads"), "only name=value"),
        (
            dict(source=DIT),
            r"needs the field 'heads': .* weights\.model .* models\.load\(..., heads=",
        ),
        (dict(source=DIT, model="heads=4,depth=2"), r"blocks\.2\..* has no place in dit"),
        (dict(source=DIT, model="heads=4,depth=4"), r"blocks\.3\..* is missing"),
        (dict(source=EDM2, model="name=dit"), "it is not of dit"),
        (dict(source=DIT, model="name=resnet"), "published weights of 'resnet'"),
    ],
)
def test_what_cannot_be_imported_is_refused_and_nothing_is_written(fields, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run(tmp_path, **fields)
    assert nothing_written(tmp_path)


def test_weights_that_are_not_numbers_are_refused_by_name(tmp_path):
    tensors = {name: tensor.read() for name, tensor in open_weights(DIT).tensors.items()}
    tensors["final_layer.linear.bias"] = np.full(32, np.nan, np.float32)
    write_torch_zip(tmp_path / "nan.pt", tensors)
    with pytest.raises(UserError, match=r"final/bias has 32 of 32 values that are NaN"):
        run(tmp_path / "out", tmp_path / "nan.pt", model="heads=4")
    assert nothing_written(tmp_path / "out")


@pytest.mark.parametrize(
    "text",
    ["heads", "4", "a=1), (b=2", "**{'a': 1}", "a=1,a=2", "a=b.c", "a=f()", "a=", "((((", "\0"],
)
def test_fields_that_are_no_data_are_refused(text):
    with pytest.raises(UserError, match=r"weights\.model=.* is not read"):
        overrides(text)


def test_fields_are_read_as_they_are_meant():
    assert overrides("name=sit, heads=16,mult=(1,2), rate=0.5, flag=True") == dict(
        name="sit", heads=16, mult=(1, 2), rate=0.5, flag=True
    )
    assert overrides("") == {}
