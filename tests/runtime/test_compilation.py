"""Compiled programs are kept where the config says, and a damaged one is no reason to stop."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from guidestar.runtime.compilation import keep_programs

# A user's process: something is compiled before programs are kept, as in a notebook.
SAMPLES = """
import collections, json
import jax, jax.numpy as jnp
import guidestar
from guidestar import guidance, samplers

jax.jit(lambda x: x + 1)(1.0)
guidestar.keep_programs(every=True)
events = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: events.update([name.split("/")[-1]]))

@jax.tree_util.Partial
def network(x, sigma, condition):
    return jnp.tanh(x) + (0 if condition is None else condition[:, None])

noise = jax.random.normal(jax.random.key(1), (2, 3))
x = samplers.sample(
    network, guidance.cfg(2.0), samplers.heun(), samplers.karras(4), noise,
    jnp.ones(2, jnp.int32), jax.random.key(0),
)
print(json.dumps({"x": x.tolist(), "asked": events["compile_requests_use_cache"],
                  "found": events["cache_hits"]}))
"""
OPTIONS = {
    "jax_compilation_cache_dir": None,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
}


@pytest.fixture(autouse=True)
def restored():
    """Leave the process as it was."""
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_the_folder_is_the_configs_or_one_of_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("GUIDESTAR_CACHE", str(tmp_path / "cache"))
    assert keep_programs("off", {}) is None and jax.config.jax_compilation_cache_dir is None
    chosen = {"JAX_COMPILATION_CACHE_DIR": "elsewhere"}
    assert keep_programs("auto", chosen) is None and jax.config.jax_compilation_cache_dir is None
    assert keep_programs("auto", {}) == tmp_path / "cache" / "xla"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "cache" / "xla")
    assert keep_programs(str(tmp_path / "mine"), chosen) == tmp_path / "mine"
    assert (tmp_path / "mine").is_dir()


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    assert keep_programs(str(tmp_path / "file" / "below"), {}) is None
    assert jax.config.jax_compilation_cache_dir is None


def test_another_folder_takes_over_from_the_one_before(tmp_path):
    for number, name in enumerate(("one", "two")):
        keep_programs(str(tmp_path / name), {})
        jax.jit(lambda x, number=number: jnp.cos(x) * (5 + number))(2.0)
        assert list((tmp_path / name).glob("*-cache"))


@pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")
def test_programs_are_taken_from_it_and_damaged_ones_made_anew(tmp_path):
    compilation_cache.reset_cache()
    keep_programs(str(tmp_path), {})

    def computed():
        jax.clear_caches()
        return float(jax.jit(lambda x: jnp.sin(x) * 3)(2.0))

    first = computed()
    kept = [path for path in tmp_path.iterdir() if path.name.endswith("-cache")]
    assert kept
    hits = []
    listen = lambda name, **_: hits.append(name.endswith("cache_hits"))  # noqa: E731
    jax.monitoring.register_event_listener(listen)
    try:
        assert computed() == first and any(hits)
    finally:
        jax.monitoring.unregister_event_listener(listen)
    for path in kept:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert computed() == first


@pytest.mark.longer
def test_a_second_process_compiles_nothing_for_the_first_one_has(tmp_path):
    """One line switches it on, also where something has been compiled before."""
    environment = {**os.environ, "GUIDESTAR_CACHE": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    words = [sys.executable, "-c", SAMPLES]
    said = [
        json.loads(subprocess.run(words, env=environment, check=True, capture_output=True).stdout)
        for _ in range(2)
    ]
    assert said[0]["asked"] > said[0]["found"]
    assert said[1]["asked"] == said[1]["found"] > 0
    assert said[1]["x"] == said[0]["x"]
