"""Metrics: published implementations' numbers, closed forms, and refusals of bad input."""

import numpy as np
import places
import pytest

from guidestar import evaluation
from guidestar.evaluation.metrics import feature_sets

GOLDEN = places.GOLDEN / "metrics.npz"


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN))


@pytest.fixture
def tiny_blocks(monkeypatch):
    """Make every pairwise matrix fall into many blocks with an incomplete last one."""
    monkeypatch.setattr(feature_sets, "BLOCK_NUMBERS", 7 * 600)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def gaussian(mean, variances):
    """Moments of a Gaussian with exactly this mean and diagonal covariance."""
    count = 1000
    return evaluation.Moments(count, np.array(mean, float), np.diag(variances) * (count - 1.0))


def frechet(real, fake):
    return evaluation.frechet_distance(evaluation.moments(real), evaluation.moments(fake))


class TestFrechet:
    def test_agrees_with_the_published_implementation(self, golden):
        expected = golden["frechet_distance"]
        assert frechet(golden["real"], golden["fake"]) == pytest.approx(expected, rel=1e-9)

    def test_diagonal_gaussians_have_a_closed_form(self):
        real, fake = gaussian([0, 0], [1, 4]), gaussian([1, 2], [9, 1])
        # |(1, 2)|^2 + (1 - 3)^2 + (2 - 1)^2
        assert evaluation.frechet_distance(real, fake) == pytest.approx(10.0, abs=1e-9)

    def test_correlated_gaussians_have_a_closed_form_in_two_dimensions(self):
        # tr (AB)^(1/2) = sqrt(tr AB + 2 sqrt(det AB)) for 2 x 2 matrices.
        a, b = np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[1.0, -0.7], [-0.7, 3.0]])
        overlap = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
        moments = [evaluation.Moments(101, np.zeros(2), 100 * c) for c in (a, b)]
        expected = np.trace(a + b) - 2 * overlap
        assert evaluation.frechet_distance(*moments) == pytest.approx(expected, abs=1e-9)

    def test_a_set_is_at_distance_zero_from_itself(self):
        x = normal(0, 300, 20) @ normal(1, 20, 20)
        assert frechet(x, x) < 1e-6 * np.trace(np.cov(x, rowvar=False))

    def test_is_symmetric_and_unchanged_by_rotation(self):
        x, y = normal(0, 200, 8) * 2 + 1, normal(1, 150, 8) * np.arange(1, 9)
        rotation, _ = np.linalg.qr(normal(2, 8, 8))
        assert frechet(y, x) == pytest.approx(frechet(x, y), rel=1e-9)
        assert frechet(x @ rotation, y @ rotation) == pytest.approx(frechet(x, y), rel=1e-9)

    def test_bias_of_finite_samples_is_as_documented(self):
        d, n = 16, 500
        distances = [frechet(normal((s, 0), n, d), normal((s, 1), n, d)) for s in range(40)]
        assert np.mean(distances) == pytest.approx(2 * d / n + d * (d + 1) / (2 * n), rel=0.05)

    def test_streamed_moments_equal_those_of_the_whole_set(self):
        # The large offset destroys the digits of any sum-of-squares accumulation.
        x = normal(0, 1000, 5) * 1e-3 + 1e4
        streamed = evaluation.moments_of_batches(x[i : i + 64] for i in range(0, 1000, 64))
        assert streamed.count == 1000
        np.testing.assert_allclose(streamed.mean, x.mean(axis=0), rtol=1e-14)
        np.testing.assert_allclose(streamed.covariance, np.cov(x, rowvar=False), atol=1e-13)

    def test_float32_features_are_accumulated_in_float64(self):
        x = (normal(0, 4000, 3) + 300).astype(np.float32)
        exact = np.cov(x.astype(np.float64), rowvar=False)
        np.testing.assert_allclose(evaluation.moments(x).covariance, exact, rtol=1e-10)

    def test_moments_survive_storage(self, tmp_path):
        stored = evaluation.moments(normal(0, 50, 4))
        np.savez(tmp_path / "moments.npz", **stored._asdict())
        loaded = evaluation.Moments(**np.load(tmp_path / "moments.npz"))
        assert evaluation.frechet_distance(stored, loaded) < 1e-9

    @pytest.mark.parametrize("count, singular", [(8, True), (9, False)])
    def test_warns_when_the_covariance_is_singular(self, recwarn, count, singular):
        frechet(normal(0, 100, 8), normal(1, count, 8))
        assert [f"fake has {count} samples" in str(w.message) for w in recwarn] == [True] * singular

    def test_refuses_one_sample_no_batch_and_other_networks_features(self):
        with pytest.raises(ValueError, match="fake has 1 sample"):
            frechet(normal(0, 10, 2), normal(0, 1, 2))
        with pytest.raises(ValueError, match="no batch"):
            evaluation.moments_of_batches([])
        with pytest.raises(ValueError, match="3 features and the other 2"):
            frechet(normal(0, 10, 3), normal(0, 10, 2))
        with pytest.raises(ValueError, match="3 features and the other 2"):
            evaluation.moments_of_batches([normal(0, 10, 3), normal(0, 10, 2)])


class TestManifold:
    @pytest.mark.parametrize("k", [3, 5])
    def test_agrees_with_the_published_implementation(self, golden, k):
        scores = evaluation.manifold_scores(golden["real"], golden["fake"], neighbours=k)
        for name, value in scores._asdict().items():
            assert value == pytest.approx(float(golden[f"{name}_k{k}"]), abs=1e-12), name

    def test_blocks_do_not_change_the_scores(self, golden, tiny_blocks):
        scores = evaluation.manifold_scores(golden["real"], golden["fake"], neighbours=5)
        expected = [golden[f"{name}_k5"] for name in scores._fields]
        np.testing.assert_allclose(scores, expected, atol=1e-12)

    def test_one_dimensional_example_worked_by_hand(self):
        # k = 1: real balls (-1, 1), (0, 2), (1, 7) around 0, 1, 4; fake radius 4 around 3 and 7.
        real, fake = np.array([[0.0], [1.0], [4.0]]), np.array([[3.0], [7.0]])
        scores = evaluation.manifold_scores(real, fake, neighbours=1)
        # 7 lies on the surface of the last ball: precise, but neither dense nor covering.
        assert scores == pytest.approx((1.0, 1.0, 0.5, 1 / 3))

    def test_identical_sets_score_exactly_one(self):
        x = normal(0, 200, 6)
        assert evaluation.manifold_scores(x, x, neighbours=5) == (1.0, 1.0, 1.0, 1.0)

    def test_far_sets_score_zero(self):
        x = normal(0, 100, 4)
        assert evaluation.manifold_scores(x, x + 1e3, neighbours=3) == (0.0, 0.0, 0.0, 0.0)

    def test_precision_falls_with_fidelity_and_recall_with_variety(self):
        real = normal(0, 400, 4)
        noisy = evaluation.manifold_scores(real, normal(1, 400, 4) * 3)
        collapsed = evaluation.manifold_scores(real, normal(2, 400, 4) * 0.2)
        assert noisy.precision < 0.6 and noisy.density < 0.6 and noisy.recall > 0.9
        assert collapsed.precision > 0.95 and collapsed.density > 1.2
        assert collapsed.recall < 0.2 and collapsed.coverage < 0.6

    def test_equal_distributions_have_the_expected_density_and_coverage(self):
        k, n = 5, 200
        pairs = [(normal((s, 0), n, 8), normal((s, 1), n, 8)) for s in range(40)]
        scores = np.array([evaluation.manifold_scores(*p, neighbours=k) for p in pairs])
        j = np.arange(1, k + 1)
        coverage = 1 - np.prod((n - j) / (2 * n - j))
        assert scores[:, 2].mean() == pytest.approx(1.0, abs=0.03)
        assert scores[:, 3].mean() == pytest.approx(coverage, abs=0.005)

    def test_refuses_bad_input(self):
        x = normal(0, 10, 3)
        with pytest.raises(ValueError, match="fake has 5 samples and this metric needs at least 6"):
            evaluation.manifold_scores(x, x[:5], neighbours=5)
        with pytest.raises(ValueError, match="use 1 or more"):
            evaluation.manifold_scores(x, x, neighbours=0)


class TestKernel:
    def test_agrees_with_the_published_implementation(self, golden):
        count = min(len(golden["real"]), len(golden["fake"]))
        value = evaluation.kernel_distance(golden["real"][:count], golden["fake"][:count])
        assert value == pytest.approx(golden["kernel_distance_unbiased_first_min_n_m"], rel=1e-9)

    def test_blocks_do_not_change_the_distance(self, golden, tiny_blocks):
        value = evaluation.kernel_distance(golden["real"][:500], golden["fake"])
        assert value == pytest.approx(golden["kernel_distance_unbiased_first_min_n_m"], rel=1e-9)

    def test_two_points_each_worked_by_hand(self):
        # d = 1: k(x, y) = (xy + 1)^3. Real {0, 1}: k = 1. Fake {1, 2}: k = 27. Cross: 1, 1, 8, 27.
        value = evaluation.kernel_distance(np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]]))
        assert value == pytest.approx(1 + 27 - 2 * 37 / 4)

    def test_is_unbiased_at_unequal_sizes(self):
        values = [
            evaluation.kernel_distance(normal((s, 0), 30, 4), normal((s, 1), 50, 4))
            for s in range(300)
        ]
        assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)
        assert min(values) < 0

    def test_order_of_samples_does_not_matter(self):
        x, y = normal(0, 40, 3), normal(1, 40, 3) + 0.5
        expected = evaluation.kernel_distance(x, y)
        assert evaluation.kernel_distance(x[::-1], y) == pytest.approx(expected, rel=1e-12)

    def test_subsets_estimate_the_distance_within_their_error(self, golden):
        real, fake = golden["real"], golden["fake"]
        estimate = evaluation.kernel_distance_over_subsets(real, fake, subsets=50, size=200)
        whole = evaluation.kernel_distance(real, fake)
        assert abs(estimate.mean - whole) < 4 * estimate.standard_error
        again = evaluation.kernel_distance_over_subsets(real, fake, subsets=50, size=200)
        assert again == estimate

    def test_error_halves_with_four_times_the_subsets(self, golden):
        few, many = (
            evaluation.kernel_distance_over_subsets(
                golden["real"], golden["fake"], subsets=subsets, size=50
            )
            for subsets in (100, 400)
        )
        assert many.standard_error == pytest.approx(few.standard_error / 2, rel=0.25)

    def test_refuses_bad_input(self):
        x = normal(0, 10, 3)
        with pytest.raises(ValueError, match="needs at least 1000"):
            evaluation.kernel_distance_over_subsets(x, x)
        with pytest.raises(ValueError, match="2 or more"):
            evaluation.kernel_distance_over_subsets(x, x, subsets=1, size=5)


class TestScores:
    def test_inception_score_agrees_with_the_published_implementation(self, golden):
        value = evaluation.inception_score(golden["probs"])
        assert value == pytest.approx(golden["inception_score_one_split"], rel=1e-9)

    def test_inception_score_of_one_prediction_is_one_and_of_balanced_certainty_is_classes(self):
        constant = np.tile([0.5, 0.3, 0.2], (10, 1))
        assert evaluation.inception_score(constant) == pytest.approx(1.0)
        assert evaluation.inception_score(np.tile(np.eye(7), (4, 1))) == pytest.approx(7.0)

    def test_splits_are_not_fooled_by_samples_in_class_order(self):
        ordered = np.repeat(np.eye(5), 200, axis=0)
        assert evaluation.inception_score(ordered, splits=5) > 4.8

    def test_vendi_score_agrees_with_the_published_implementation(self, golden):
        value = evaluation.vendi_score(golden["fake"])
        assert value == pytest.approx(golden["vendi_q1"], rel=1e-9)

    def test_vendi_score_counts_different_samples(self):
        assert evaluation.vendi_score(np.tile([[3.0, 4.0]], (9, 1))) == pytest.approx(1.0)
        assert evaluation.vendi_score(np.diag([1.0, 2.0, 5.0])) == pytest.approx(3.0)
        # Two groups of 3 and 1: exp of the entropy of (3/4, 1/4).
        groups = np.eye(2)[[0, 0, 0, 1]]
        expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
        assert evaluation.vendi_score(groups) == pytest.approx(expected)

    def test_vendi_score_is_the_same_from_either_gram_matrix(self):
        x = normal(0, 12, 5)
        padded = np.hstack([x, np.zeros((12, 20))])
        assert evaluation.vendi_score(padded) == pytest.approx(evaluation.vendi_score(x))

    def test_refuses_bad_input(self):
        with pytest.raises(ValueError, match="apply softmax"):
            evaluation.inception_score(normal(0, 10, 3))
        with pytest.raises(ValueError, match="at least 11"):
            evaluation.inception_score(np.full((10, 2), 0.5), splits=11)
        with pytest.raises(ValueError, match="use 1 or more"):
            evaluation.inception_score(np.full((10, 2), 0.5), splits=0)
        with pytest.raises(ValueError, match="sample 1 are all 0"):
            evaluation.vendi_score([[1.0, 0.0], [0.0, 0.0]])


class TestAppearance:
    def test_saturation_of_known_colours(self):
        colours = np.array([[255, 0, 0], [128, 128, 128], [0, 0, 0], [200, 100, 150]], np.uint8)
        values = [evaluation.saturation(np.tile(c, (1, 2, 2, 1))) for c in colours]
        np.testing.assert_allclose(values, [1, 0, 0, 0.5])

    def test_contrast_of_known_images(self):
        stripes = np.tile(np.array([-1.0, 1.0]).reshape(1, 1, 2, 1), (3, 4, 4, 1))
        assert evaluation.contrast(stripes) == pytest.approx(0.5)
        assert evaluation.contrast(np.tile(stripes, 3) * 0.2) == pytest.approx(0.1)
        # Uniform images differ from each other but have no contrast inside.
        assert evaluation.contrast(np.full((2, 4, 4, 1), [[[[1]]], [[[-1]]]])) == 0

    def test_green_weighs_more_than_blue_in_contrast(self):
        def stripes(channel):
            image = -np.ones((1, 2, 2, 3))
            image[:, :, 1, channel] = 1
            return evaluation.contrast(image)

        values = [stripes(channel) for channel in range(3)]
        np.testing.assert_allclose(values, np.array([0.299, 0.587, 0.114]) / 2)

    @pytest.mark.parametrize("metric", [evaluation.saturation, evaluation.contrast])
    def test_bytes_and_floats_agree(self, metric):
        images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
        floats = (images / 127.5 - 1).astype(np.float32)
        assert metric(images) == pytest.approx(metric(floats), abs=1e-6)

    @pytest.mark.parametrize("metric", [evaluation.saturation, evaluation.contrast])
    def test_refuses_bad_input(self, metric):
        with pytest.raises(ValueError, match="clip them"):
            metric(np.full((1, 2, 2, 3), 1.01))
        with pytest.raises(ValueError, match="clip them"):
            metric(np.full((1, 2, 2, 3), np.nan))
        with pytest.raises(ValueError, match="1 or 3 channels"):
            metric(np.zeros((2, 2, 3)))


PAIRED = [
    frechet,
    evaluation.manifold_scores,
    evaluation.kernel_distance,
    lambda a, b: evaluation.kernel_distance_over_subsets(a, b, subsets=2, size=5),
]


@pytest.mark.parametrize("metric", PAIRED)
def test_every_paired_metric_refuses_mismatched_flat_and_non_finite_features(metric):
    x = normal(0, 10, 3)
    with pytest.raises(ValueError, match="compute both with the same network"):
        metric(x, x[:, :2])
    with pytest.raises(ValueError, match="one row of features per sample"):
        metric(x, x[:, 0])
    broken = x.copy()
    broken[4, 1] = np.nan
    with pytest.raises(ValueError, match=r"1 of 10 samples, the first at index 4"):
        metric(x, broken)
