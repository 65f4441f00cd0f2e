"""Statistics of a denoiser: what they hold, files of them, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracles.denoiser_statistics import waves
from oracles.multistep_runs import contract
from oracles.solver_runs import run
from safetensors.numpy import save_file

from guidestar import samplers
from guidestar.samplers.solvers.dpm_solver_v3 import dpm_solver_v3
from guidestar.samplers.solvers.statistics import Statistics, degenerate


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_saved_statistics_give_the_same_bits(tmp_path, kind):
    statistics, noise = waves(), jnp.ones((2, 3))
    statistics.save(tmp_path / "statistics.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["statistics.safetensors"]
    read = dpm_solver_v3(kind(tmp_path / "statistics.safetensors"), 3)
    for name in ("l", "s", "b", "lambdas"):
        kept, found = getattr(statistics, name), getattr(read.statistics, name)
        np.testing.assert_array_equal(kept, found)
        assert kept.dtype == found.dtype
    ends = [run(s, contract, samplers.karras(6), noise) for s in (read, dpm_solver_v3(waves(), 3))]
    np.testing.assert_array_equal(*ends)


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda a: a[::-1].copy()[::-1]])
def test_arrays_of_any_memory_layout_are_saved_as_they_are(tmp_path, layout):
    made = waves(shape=(2, 3))
    arrays = [layout(np.array(getattr(made, name))) for name in ("l", "s", "b")]
    Statistics(*arrays, made.lambdas).save(tmp_path / "statistics.safetensors")
    read = Statistics.load(tmp_path / "statistics.safetensors")
    for name in ("l", "s", "b", "lambdas"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))


def test_a_home_folder_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    waves().save("~/statistics.safetensors")
    assert (tmp_path / "statistics.safetensors").exists()
    assert Statistics.load("~/statistics.safetensors").shape == (3,)


@pytest.mark.untyped
def test_files_that_hold_no_statistics_are_refused(tmp_path):
    path = tmp_path / "statistics.safetensors"
    with pytest.raises(ValueError, match="no file .*samplers.calibrate"):
        dpm_solver_v3(path)
    path.write_bytes(b"not a file of arrays")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        dpm_solver_v3(path)
    arrays = {name: np.array(getattr(waves(), name)) for name in ("l", "s", "b", "lambdas")}
    waves().save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        dpm_solver_v3(path)
    save_file({**arrays, "extra": arrays["l"]}, path)
    with pytest.raises(ValueError, match="holds b, extra, l, lambdas, s and not"):
        dpm_solver_v3(path)
    save_file({**arrays, "s": arrays["s"][:-1]}, path)
    with pytest.raises(ValueError, match="one shape .* damaged"):
        dpm_solver_v3(path)
    save_file({**arrays, "b": np.full_like(arrays["b"], np.nan)}, path)
    with pytest.raises(ValueError, match="b must be finite .* damaged"):
        dpm_solver_v3(path)


def test_statistics_do_not_change():
    statistics = waves()
    with pytest.raises(ValueError, match="read-only"):
        statistics.l[0] = 1
    with pytest.raises(AttributeError):
        statistics.l = statistics.s
    np.testing.assert_allclose([statistics.sigma_min, statistics.sigma_max], [0.002, 80.0])
    assert statistics.shape == (3,)


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: degenerate(prediction="velocity"), "data or noise"),
        (lambda: degenerate(sigma_min=0.0), "0 < sigma_min"),
        (lambda: degenerate(intervals=0), "positive integer"),
        (lambda: Statistics(*np.ones((3, 2)), np.array([1.0, 0.0])), "increase"),
        (lambda: Statistics(*np.ones((3, 2)), np.arange(3.0)), "one shape"),
        (lambda: Statistics(*np.ones((3, 2), int), np.arange(2.0)), "floating-point"),
    ],
)
def test_what_are_no_statistics_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
