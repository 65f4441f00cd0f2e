"""Fixtures shared by the whole suite."""

import contextlib
import gc
import os
from importlib.metadata import version

import pytest
from places import TESTS

# Tests compile thousands of small programs and run each a few times: optimising them, or splitting
# them to be compiled in parallel, costs more than it saves. Processes that tests start inherit it.
FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if version("jaxlib").startswith("0.10."):
    # The emitters of fused kernels double the time to compile; later versions have no other, and
    # end the process at a flag that they do not know.
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
# What they import is found as it is here: the tests' own tables, and this checkout's package.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
)
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])

if os.environ.get("GUIDESTAR_TYPECHECK"):
    # Every annotation of these packages is checked at every call: see `make test-types`.
    from jaxtyping import TypeCheckError, install_import_hook

    CHECKED = [f"guidestar.{name}" for name in ("core", "guidance", "samplers", "models")]
    install_import_hook(CHECKED, "typecheck.checked")

import jax  # noqa: E402  (reads the flags)

# Programs hold millions of objects, next to none of them in cycles: to go through all of them after
# every 700 new ones takes an eighth of the time.
gc.set_threshold(200_000, 20, 20)

UNTYPED = "untyped: gives values that annotations forbid; their checker may refuse them first"


def pytest_configure(config):
    config.addinivalue_line("markers", UNTYPED)


def pytest_collection_modifyitems(items):
    if os.environ.get("GUIDESTAR_TYPECHECK"):
        # The registry turns the checker's refusals into its own, in words that are not the owner's.
        refused = pytest.mark.xfail(raises=(TypeCheckError, AssertionError), strict=False)
        for item in items:
            if item.get_closest_marker("untyped"):
                item.add_marker(refused)


BACKEND_COMPILE = "/jax/core/compile/backend_compile_duration"


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Drop compiled programs after each module: thousands of them would fill the memory."""
    yield
    jax.clear_caches()


@pytest.fixture
def compilations():
    """Return a context manager that collects one entry a compiled program."""

    @contextlib.contextmanager
    def counting():
        events = []

        def listen(name, seconds, **details):
            if name == BACKEND_COMPILE:
                events.append(seconds)

        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            yield events
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)

    return counting


@pytest.fixture
def x64():
    """Compute in float64 for the length of a test."""
    with jax.enable_x64(True):
        yield
