"""Metrics by name: what they are given, how many images they need, what is refused."""

import numpy as np
import pytest

from guidestar import evaluation, register
from guidestar.core.errors import UserError
from guidestar.core.registry import registry
from guidestar.evaluation.metrics.named import require_possible
from guidestar.evaluation.table import gains_table

ALL = (
    "frechet_distance",
    {"name": "frechet_infinity", "fewest": 8},
    {"name": "resampled_frechet_distance", "top": 2},
    {"name": "precision_recall", "k": 4},
    "density_coverage",
    "authenticity",
    "kernel_distance",
    {"name": "kernel_distance_over_subsets", "subsets": 3, "size": 10},
    {"name": "inception_score", "splits": 2},
    {"name": "vendi_score", "q": 2.0},
    "agreement",
    "class_diversity",
    "contrast",
    "white",
    "saturation",
)


@pytest.fixture(scope="module")
def measured():
    """A real set as it is kept, and images with what is seen in them."""
    random = np.random.default_rng(0)
    real, fake = random.normal(size=(30, 4)), random.normal(size=(20, 4)) + 1
    kept = evaluation.Measured(
        real_moments=evaluation.moments(real),
        real_features=real,
        real_ranks=evaluation.class_ranks(random.dirichlet(np.ones(3), size=30)),
    )
    images = random.integers(0, 256, (20, 2, 2, 3)).astype(np.uint8)
    return kept, evaluation.Batch(
        fake, random.dirichlet(np.ones(3), size=20), images, np.arange(20) % 3
    )


def measure(entries, measured, size=20):
    """Return the numbers of the images, so many at a time."""
    real, batch = measured
    parts = [
        evaluation.Batch(*(None if one is None else one[at : at + size] for one in batch))
        for at in range(0, len(batch.images), size)
    ]
    return evaluation.measure(evaluation.choose(entries), parts, real)


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


@pytest.mark.parametrize("size", [20, 7])
def test_every_metric_gives_what_its_function_gives(measured, size):
    found = measure(ALL, measured, size)
    (kept, batch), real = measured, measured[0].real_features
    fake, seen = batch.features, batch.probabilities
    kernel = evaluation.kernel_distance_over_subsets(real, fake, subsets=3, size=10)
    infinity = evaluation.frechet_infinity(kept.real_moments, fake, fewest=8)
    resampled = evaluation.resampled_frechet_distance(
        real, fake, real_ranks=kept.real_ranks, probabilities=seen, top=2
    )
    expected = {
        "frechet_distance": evaluation.frechet_distance(real, fake),
        "frechet_bias": evaluation.frechet_bias(kept.real_moments, 20),
        "frechet_infinity": infinity.distance,
        "frechet_infinity_error": infinity.standard_error,
        "resampled_frechet_distance": resampled.distance,
        "resampled_effective_share": resampled.effective_share,
        "resampled_matched": resampled.matched,
        **evaluation.precision_recall(real, fake, k=4)._asdict(),
        **evaluation.density_coverage(real, fake)._asdict(),
        "authenticity": evaluation.authenticity(real, fake),
        "kernel_distance": evaluation.kernel_distance(real, fake),
        "kernel_distance_over_subsets": kernel.mean,
        "kernel_distance_error": kernel.standard_error,
        "inception_score": evaluation.inception_score(seen, splits=2),
        "vendi_score": evaluation.vendi_score(fake, q=2),
        "agreement": (seen.argmax(axis=1) == batch.labels).mean(),
        "class_diversity": evaluation.class_diversity(fake, batch.labels),
        **{
            name: getattr(evaluation, name)(batch.images)
            for name in ("contrast", "white", "saturation")
        },
    }
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, rel=1e-9)
    table = registry("metric")
    own = {name for name in table if table[name].build.__module__.startswith("guidestar.")}
    tested = {one if isinstance(one, str) else one["name"] for one in ALL}
    assert own == tested, "a metric of the package is missing from this test"


def test_no_class_was_asked_for_of_an_unconditional_set(measured):
    unconditional = measured[0], measured[1]._replace(labels=None)
    assert measure(["agreement", "class_diversity"], unconditional, 7) == {
        "agreement": None,
        "class_diversity": None,
    }


def test_what_no_metric_wants_of_all_images_is_not_kept(measured, own_metric):
    """Features are not where moments do, and images not where a metric is a mean over them."""
    given = {}

    def sees(moments, real_features):
        given.update(moments=moments)
        return 0.0

    own_metric(sees)
    kept = []

    class Kept(evaluation.Batch):
        def __getattribute__(self, name):
            kept.append(name)
            return super().__getattribute__(name)

    parts = [Kept(*measured[1]) for _ in range(3)]
    chosen = evaluation.choose(["sees", "contrast"])
    evaluation.measure(chosen, iter(parts), measured[0])
    assert given["moments"].count == 60
    assert "probabilities" not in kept and "labels" not in kept


def test_a_metric_of_ones_own_is_given_what_its_arguments_are_named_after(measured, own_metric):
    def red(images, *, above: float = 0.0):
        return {"red": float(np.mean(images[..., 0] > above))}

    own_metric(red)
    assert list(measure(["contrast", {"name": "red", "above": 100}], measured, 7)) == [
        "contrast",
        "red",
    ]
    with pytest.raises(UserError, match="evaluation.metrics.0.*red has no argument 'below'"):
        evaluation.choose([{"name": "red", "below": 3}])
    with pytest.raises(UserError, match="evaluation.metrics.0.above: red takes a number"):
        evaluation.choose([{"name": "red", "above": "x"}])


@pytest.mark.parametrize("value", [np.nan, -np.inf, None, "high", [1.0]], ids=str)
def test_what_is_no_finite_number_is_no_measurement(measured, own_metric, value):
    name = own_metric(lambda images: value, name="broken")
    with pytest.raises(UserError, match=f"metric {name}: {name} is .*finite number"):
        measure([name], measured)


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
        measure(["contrast", "another"], measured)


@pytest.mark.parametrize(
    ("entry", "count", "real", "message"),
    [
        ("frechet_distance", 1, 30, "count is 1, and frechet_distance needs 2 images"),
        ("density_coverage", 3, 30, "count is 3, and density_coverage needs 4"),
        ({"name": "precision_recall", "k": 8}, 8, 30, "needs 9 images"),
        ({"name": "precision_recall", "k": 5}, 30, 5, "statistics keep the features of 5 images"),
        ("kernel_distance_over_subsets", 999, 2000, "needs 1000"),
        ("frechet_infinity", 5000, 30, "needs 5001"),
        ({"name": "inception_score", "splits": 3}, 2, 30, "needs 3"),
    ],
)
def test_too_few_images_are_refused_before_they_are_made(entry, count, real, message):
    chosen = evaluation.choose([entry])
    with pytest.raises(UserError, match=message):
        require_possible(chosen, count, 4, real=real)
    assert not require_possible(chosen, 9000, 4, real=2000)


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
    whole = measure(names, measured)
    monkeypatch.setattr(feature_sets, "BLOCK_NUMBERS", 7 * measured[1].images[0].size)
    assert measure(names, measured) == pytest.approx(whole)


def test_what_a_metric_refuses_is_said_at_its_place(measured):
    real, batch = measured
    with pytest.raises(UserError, match="evaluation.metrics.0: labels go from 0 to 9"):
        measure(["agreement"], (real, batch._replace(labels=np.arange(20) % 10)))
    with pytest.raises(ValueError, match="no batch"):
        evaluation.measure(evaluation.choose(["contrast"]), [], real)


def test_what_gains_are_made_of_is_a_share_of_each():
    """2 of 4 gained are left with classes matched; a loss has no share."""
    distances = {"first": (10, 8), "half": (6, 6), "worse": (11, 9)}
    rows = {
        name: {"title": name, "frechet_distance": plain, "resampled_frechet_distance": matched}
        for name, (plain, matched) in distances.items()
    }
    head, _, half, worse = gains_table(rows)
    assert "nearer than first" in head
    assert half == "| half | 4.00 | 2.00 | 50% |" and worse == "| worse | -1.00 | -1.00 |  |"
