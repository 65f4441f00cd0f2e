"""Figures and pictures of generated points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from guidestar.data.sources import fractal2d
from guidestar.evaluation.metrics import point_clouds
from guidestar.studies import point_cloud_plot


@pytest.fixture(scope="module")
def true_points():
    return fractal2d.mixture("A").sample(jax.random.key(0), 2000)


@pytest.mark.longer
def test_true_samples_lie_inside_and_cover_the_class(true_points):
    found = point_clouds.evaluate(true_points)
    log_density = fractal2d.mixture("A").log_density(true_points)
    assert found["mean_log_density"] == pytest.approx(float(log_density.mean()), abs=1e-3)
    assert found["median_log_density"] == pytest.approx(float(jnp.median(log_density)), abs=1e-3)
    assert found["outside"] < 0.03
    assert found["coverage"] > 0.4


@pytest.mark.longer
def test_points_on_every_component_mean_cover_all_or_nearly(true_points):
    means = fractal2d.mixture("A").means
    half = point_clouds.evaluate(means[:508])["coverage"]
    assert half == pytest.approx(0.5, abs=0.08)
    assert point_clouds.evaluate(means)["coverage"] > 1.7 * half


def test_collapse_to_one_point_is_seen_in_coverage_alone(true_points):
    density = fractal2d.mixture("A").log_density(true_points)
    collapsed = jnp.repeat(true_points[density.argmax()][None], 500, axis=0)
    found = point_clouds.evaluate(collapsed)
    assert found["outside"] == 0
    assert found["mean_log_density"] > float(density.mean())
    assert found["coverage"] == pytest.approx(1 / 1016)


@pytest.mark.longer
def test_points_of_the_other_class_are_outside():
    other, _ = fractal2d.sample(jax.random.key(1), 500, "B")
    assert point_clouds.evaluate(other)["outside"] > 0.9
    assert point_clouds.evaluate(other, ("B",))["outside"] < 0.05


@pytest.mark.longer
def test_outside_is_judged_by_the_outline_of_the_classes_asked_for():
    points, _ = fractal2d.sample(jax.random.key(1), 2000)
    depth = fractal2d.peak(("A", "B")) - fractal2d.mixture().log_density(points)
    found = point_clouds.evaluate(points, ("A", "B"))["outside"]
    assert found == pytest.approx(float(jnp.mean(depth > 2.12**2)))
    assert found < point_clouds.evaluate(points, ("A",))["outside"] / 10


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((0, 2)), "count > 0"),
        (np.zeros((3, 3)), "give \\[count, 2\\]"),
        (np.array([[0.0, np.nan]]), "diverged"),
    ],
)
def test_points_that_cannot_be_judged_are_refused(points, message):
    with pytest.raises(ValueError, match=message):
        point_clouds.evaluate(points)


@pytest.mark.longer
def test_the_picture_has_one_panel_a_method_and_shows_its_points(
    tmp_path, true_points, monkeypatch
):
    monkeypatch.setattr(point_cloud_plot, "GRID", 60)
    empty, full, both = (tmp_path / name for name in ("empty.png", "full.png", "both.png"))
    nothing = np.zeros((0, 2))
    point_cloud_plot.save({"unguided": nothing}, empty)
    point_cloud_plot.save({"unguided": true_points}, full)
    point_cloud_plot.save({"unguided": nothing, "CFG": true_points}, both)
    pictures = [np.asarray(Image.open(path).convert("RGB"), int) for path in (empty, full, both)]
    blue = [int(np.sum(p[..., 2] - p[..., 0] > 60)) for p in pictures]
    assert blue[0] == 0
    assert blue[1] > 500
    assert pictures[2].shape[1] == 2 * pictures[0].shape[1]
    assert blue[2] == pytest.approx(blue[1], rel=0.2)
    columns = np.nonzero(np.any(pictures[2][..., 2] - pictures[2][..., 0] > 60, axis=0))[0]
    assert columns.min() > pictures[0].shape[1]


def test_a_picture_without_panels_is_refused(tmp_path):
    with pytest.raises(ValueError, match="give at least one title"):
        point_cloud_plot.save({}, tmp_path / "none.png")
