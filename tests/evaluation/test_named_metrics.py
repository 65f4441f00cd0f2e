"""Metrics by name: what they are given, how many images they need, what is refused."""

import numpy as np
import pytest

from guidestar import evaluation, register
from guidestar.core.errors import UserError
from guidestar.core.registry import registry
from guidestar.evaluation.metrics.named import require_possible

ALL = (
    "frechet_distance",
    "manifold_scores",
    {"name": "kernel_distance", "subsets": 3, "size": 10},
    "inception_score",
    "vendi_score",
    "agreement",
    "contrast",
    "white",
    "saturation",
)


@pytest.fixture(scope="module")
def measured():
    random = np.random.default_rng(0)
    real, fake = random.normal(size=(30, 4)), random.normal(size=(20, 4)) + 1
    return evaluation.Measured(
        real_moments=evaluation.moments(real),
        real_features=real,
        features=fake,
        probabilities=random.dirichlet(np.ones(3), size=20),
        images=random.integers(0, 256, (20, 2, 2, 3)).astype(np.uint8),
        labels=np.arange(20) % 3,
    )


@pytest.fixture
def own_metric():
    """Register a metric for the length of a test."""
    added = []

    def add(function, **options):
        register("metric", **options)(function)
        added.append(options.get("name", function.__name__))
        return added[-1]

    yield add
    for name in added:
        registry("metric")._constructors.pop(name)


def test_every_metric_gives_what_its_function_gives(measured):
    found = evaluation.measure(evaluation.choose(ALL), measured)
    real, fake = measured.real_features, measured.features
    assert found["frechet_distance"] == pytest.approx(
        evaluation.frechet_distance(measured.real_moments, evaluation.moments(fake))
    )
    expected = evaluation.manifold_scores(real, fake)._asdict()
    assert {name: found[name] for name in expected} == expected
    kernel = evaluation.kernel_distance_over_subsets(real, fake, subsets=3, size=10)
    assert (found["kernel_distance"], found["kernel_distance_error"]) == kernel
    assert found["inception_score"] == evaluation.inception_score(measured.probabilities)
    assert found["vendi_score"] == evaluation.vendi_score(fake)
    for name in ("contrast", "white", "saturation"):
        assert found[name] == getattr(evaluation, name)(measured.images)
    hits = measured.probabilities.argmax(axis=1) == measured.labels
    assert found["agreement"] == hits.mean()
    table = registry("metric")
    own = {name for name in table if table[name].build.__module__.startswith("guidestar.")}
    tested = {one if isinstance(one, str) else one["name"] for one in ALL}
    assert own == tested, "a metric of the package is missing from this test"


def test_no_class_was_asked_for_of_an_unconditional_set(measured):
    found = evaluation.measure(evaluation.choose(["agreement"]), measured._replace(labels=None))
    assert found == {"agreement": None}


def test_a_metric_of_ones_own_is_given_what_its_arguments_are_named_after(measured, own_metric):
    def red(images, *, above: float = 0.0):
        return {"red": float(np.mean(images[..., 0] > above))}

    own_metric(red)
    chosen = evaluation.choose(["contrast", {"name": "red", "above": 100}])
    assert list(evaluation.measure(chosen, measured)) == ["contrast", "red"]
    with pytest.raises(UserError, match="evaluation.metrics.0.*red has no argument 'below'"):
        evaluation.choose([{"name": "red", "below": 3}])
    with pytest.raises(UserError, match="evaluation.metrics.0.above: red takes a number"):
        evaluation.choose([{"name": "red", "above": "x"}])


@pytest.mark.parametrize("value", [np.nan, -np.inf, None, "high", [1.0]], ids=str)
def test_what_is_no_finite_number_is_no_measurement(measured, own_metric, value):
    name = own_metric(lambda images: value, name="broken")
    with pytest.raises(UserError, match=f"metric {name}: {name} is .*finite number"):
        evaluation.measure(evaluation.choose([name]), measured)


def test_metrics_that_cannot_be_are_refused(own_metric, measured):
    own_metric(lambda pictures: 0.0, name="asks_for_more")
    own_metric(lambda images: {"contrast": 1.0}, name="another")
    for entries, message in [
        ([], "give a list of names of .*contrast"),
        ("contrast", "give a list of names"),
        (["fretchet_distance"], "did you mean frechet_distance"),
        (["white", "white"], "names white twice"),
        (["asks_for_more"], "'pictures', which is not measured: .*images"),
    ]:
        with pytest.raises(UserError, match=f"evaluation.metrics.*{message}"):
            evaluation.choose(entries)
    with pytest.raises(UserError, match="another: contrast is given by another metric"):
        evaluation.measure(evaluation.choose(["contrast", "another"]), measured)


@pytest.mark.parametrize(
    ("entry", "count", "real", "message"),
    [
        ("frechet_distance", 1, 30, "count is 1, and frechet_distance needs 2 images"),
        ("manifold_scores", 5, 30, "count is 5, and manifold_scores needs 6"),
        ({"name": "manifold_scores", "neighbours": 8}, 8, 30, "needs 9 images"),
        ("manifold_scores", 30, 5, "statistics keep the features of 5 images"),
        ("kernel_distance", 999, 2000, "needs 1000"),
        ({"name": "inception_score", "splits": 3}, 2, 30, "needs 3"),
    ],
)
def test_too_few_images_are_refused_before_they_are_made(entry, count, real, message):
    chosen = evaluation.choose([entry])
    with pytest.raises(UserError, match=message):
        require_possible(chosen, count, 4, real=real)
    assert not require_possible(chosen, 2000, 4, real=2000)


def test_few_images_are_said_where_they_say_little():
    chosen = evaluation.choose(["frechet_distance", "contrast"])
    (note,) = require_possible(chosen, 64, 64)
    assert "frechet_distance says little of 64 images" in note and "65 or more" in note
    assert not require_possible(chosen, 65, 64)


def test_what_there_will_not_be_is_named_with_what_gives_it():
    chosen = evaluation.choose(["frechet_distance", "agreement"])
    with pytest.raises(UserError, match="agreement needs probabilities: name a classifier"):
        require_possible(chosen, 50, 4, absent={"probabilities": "name a classifier"})


def test_images_are_walked_through_in_blocks(measured, monkeypatch):
    from guidestar.evaluation.metrics import feature_sets

    names = ["contrast", "white", "saturation"]
    whole = evaluation.measure(evaluation.choose(names), measured)
    monkeypatch.setattr(feature_sets, "BLOCK_NUMBERS", 7 * measured.images[0].size)
    assert evaluation.measure(evaluation.choose(names), measured) == pytest.approx(whole)
