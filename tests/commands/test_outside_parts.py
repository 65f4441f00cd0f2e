"""An exception of a part from outside is one line that names it; one of our own is a traceback."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from guidestar import evaluation, guidance, input_pipeline, samplers
from guidestar.commands.config import imports, outside
from guidestar.commands.measuring.evaluation import numbers
from guidestar.core.errors import UserError
from guidestar.core.registry import KINDS, registry
from guidestar.models.builders import build

# Numbers of lines are those of this text, the first being 1.
TEXT = """
import dataclasses
import jax
import jax.numpy as jnp
import numpy as np
from guidestar import guidance, register


@register("rule")
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Failing:
    how: str = dataclasses.field(metadata={"static": True})

    def init(self, x):
        return ()

    def apply(self, evaluate, x, sigma, state, key):
        (given,) = evaluate((guidance.Branch(),))
        if self.how == "library":
            return jnp.reshape(given, (7, 7, 7)), state
        if self.how == "ours":
            return guidance.chain("no rule").at(3), state
        return self.not_there, state

    def at(self, sigma):
        return self


@register("rule")
def misfit(scale: float):
    return Misfitting()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Misfitting:
    def init(self):
        return ()

    apply = Failing.apply
    at = Failing.at


@register("metric")
def broken_metric(images):
    return helper({})


def helper(found):
    return found["never there"]


@register("metric")
def refusing_metric(images):
    return float(np.zeros(3) @ np.zeros(4))


@register("network")
def broken_network(width: int = 3):
    return jax.random.normal(None)


@register("source")
def broken_source(split: str = "train"):
    with open("/nowhere/at/all") as file:
        return file.read()
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """The file of parts that fail, imported."""
    path = tmp_path_factory.mktemp("outside") / "failing_parts.py"
    path.write_text(TEXT)
    tables = [registry(kind)._constructors for kind in KINDS]
    before = [dict(table) for table in tables]
    imports.import_modules(str(path))
    yield path
    for table, known in zip(tables, before, strict=True):  # other modules go over all that is known
        table.clear()
        table.update(known)


def sampled(rule):
    noise, end = jnp.ones((1, 4, 4, 1)), np.array([1.0, 0.0])
    keys = samplers.sample_keys(samplers.root_key(0), samplers.STEPS, np.arange(1))
    run = guidance.from_config(rule), samplers.euler(), end, noise, None, keys
    samplers.sample(lambda x, sigma, condition: x, *run)


def measured(name):
    images, features = np.zeros((3, 4, 4, 1), np.uint8), np.eye(3, dtype=np.float32)
    real = SimpleNamespace(measured=evaluation.Measured())
    chosen = evaluation.choose((name,))
    return numbers(chosen, lambda images: (features, None), real, [(images, None)])


@pytest.mark.parametrize(
    ("run", "part", "text", "message"),
    [
        (
            lambda: sampled({"name": "Failing", "how": "library"}),
            "the rule Failing",
            "jnp.reshape(given",
            "cannot reshape",
        ),
        (
            lambda: sampled({"name": "Failing", "how": "attribute"}),
            "the rule Failing",
            "return self.not_there",
            "AttributeError: 'Failing' object has no attribute",
        ),
        (
            lambda: sampled({"name": "misfit", "scale": 2.0}),
            "a part of the module failing_parts",
            "class Misfitting",
            "Misfitting.init() takes 1 positional argument",
        ),
        (
            lambda: measured("broken_metric"),
            "the metric broken_metric",
            'return found["never there"]',
            "KeyError: 'never there'",
        ),
        (
            lambda: measured("refusing_metric"),
            "the metric refusing_metric",
            "np.zeros(3) @",
            "mismatch",
        ),
        (
            lambda: build({"name": "broken_network"}),
            "the network broken_network",
            "jax.random.normal(None)",
            "",
        ),
        (
            lambda: input_pipeline.load_source("broken_source"),
            "the data set broken_source",
            'with open("/nowhere',
            "FileNotFoundError",
        ),
    ],
)
def test_a_part_from_outside_that_fails_is_named_in_one_line(
    module, tmp_path, run, part, text, message
):
    with pytest.raises(UserError) as raised, outside.named(tmp_path):
        run()
    said = str(raised.value)
    line = 1 + next(n for n, one in enumerate(TEXT.splitlines()) if text in one)
    # A decorated class begins at its first decorator.
    lines = [line - 2, line] if text.startswith("class") else [line]
    assert any(f"{part}, {module}, line {one}" in said for one in lines), said
    assert message in said and f"The traceback is in {tmp_path / 'error.txt'}" in said
    kept = (tmp_path / "error.txt").read_text()
    assert "Traceback (most recent call last)" in kept and said.partition(". The")[0] in kept


def test_what_fails_again_is_added(module, tmp_path):
    for _ in range(2):
        with pytest.raises(UserError), outside.named(tmp_path):
            measured("broken_metric")
    assert (tmp_path / "error.txt").read_text().count("KeyError: 'never there'\n") == 4


def refusal():
    raise UserError("say it as it is")


@pytest.mark.parametrize(
    ("run", "error"),
    [
        (refusal, UserError),
        (lambda: sampled({"name": "Failing", "how": "ours"}), Exception),
        (lambda: guidance.between(3.0, 1.0, 2.0), Exception),
        (lambda: sampled({"name": "cfg", "scale": 2.0, "eta": 1.0}), UserError),
    ],
)
def test_what_this_package_raises_passes_as_it_is(module, tmp_path, run, error):
    with pytest.raises(error) as plain:
        run()
    with pytest.raises(error) as raised, outside.named(tmp_path):
        run()
    assert type(raised.value) is type(plain.value) and str(raised.value) == str(plain.value)
    assert not any(tmp_path.iterdir())
