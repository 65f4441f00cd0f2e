"""Metrics: published implementations' numbers, closed forms, and refusals of bad input."""

import warnings

import numpy as np
import places
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import gaussian_kde

from guidestar import evaluation
from guidestar.evaluation.metrics import attributes, feature_sets, neighbours

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


frechet = evaluation.frechet_distance


def both(real, fake, k=3):
    """Return precision, recall, density and coverage."""
    return (
        *evaluation.precision_recall(real, fake, k=k),
        *evaluation.density_coverage(real, fake, k=k),
    )


MANIFOLD = ("precision", "recall", "density", "coverage")


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

    def test_moments_are_taken_in_blocks(self, monkeypatch):
        x = (normal(0, 500, 6) * 1e-3 + 1e3).astype(np.float32)
        whole = evaluation.moments(x)
        monkeypatch.setattr(feature_sets, "BLOCK_NUMBERS", 7 * 6)
        np.testing.assert_allclose(evaluation.moments(x).scatter, whole.scatter, rtol=1e-9)

    @pytest.mark.parametrize("count", [12, 40])
    def test_singular_sets_have_the_distance_of_their_directions(self, count):
        """Those of features that are copies of others: twice the distance of a half."""
        x, y = normal(0, count, 10), normal(1, count, 10) * 1.5 + 0.3
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = frechet(np.hstack([x, x]), np.hstack([y, y]))
        assert found == pytest.approx(2 * frechet(x, y), rel=1e-9)

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
        real = normal(0, 100, 8)
        frechet(real, normal(1, count, 8))
        bias = evaluation.frechet_bias(evaluation.moments(real), count)
        said = [
            f"fake has {count} samples" in str(w.message) and f"some {bias:.3g};" in str(w.message)
            for w in recwarn
        ]
        assert said == [True] * singular

    def test_refuses_one_sample_no_batch_and_other_networks_features(self):
        with pytest.raises(ValueError, match="fake has 1 sample"):
            frechet(normal(0, 10, 2), normal(0, 1, 2))
        with pytest.raises(ValueError, match="no batch"):
            evaluation.moments_of_batches([])
        with pytest.raises(ValueError, match="3 features and the other 2"):
            frechet(normal(0, 10, 3), normal(0, 10, 2))
        with pytest.raises(ValueError, match="3 features and the other 2"):
            evaluation.moments_of_batches([normal(0, 10, 3), normal(0, 10, 2)])


class TestFrechetOfFewSamples:
    @pytest.mark.parametrize("counts", [(60, 60), (100, 400), (300, np.inf)])
    def test_bias_is_that_of_simulated_sets(self, counts):
        """Of correlated features of unequal variances, one set known exactly or neither."""
        n, m = counts
        scales = np.sqrt(np.linspace(0.1, 4, 8))
        mix = np.linalg.qr(normal(7, 8, 8))[0] * scales
        exact = evaluation.Gaussian(np.zeros(8), mix.T @ mix)
        distances = [
            frechet(
                exact if np.isinf(m) else normal((s, 1), m, 8) @ mix,
                normal((s, 0), n, 8) @ mix,
            )
            for s in range(150)
        ]
        if not np.isinf(m):
            exact = evaluation.Moments(m, exact.mean, exact.covariance * (m - 1))
        error = np.std(distances) / np.sqrt(len(distances))
        assert evaluation.frechet_bias(exact, n) == pytest.approx(
            np.mean(distances), rel=0.02, abs=3 * error
        )

    @pytest.mark.parametrize("d, n, published", [(64, 1000, 2.208), (64, 4000, 0.552)])
    def test_bias_of_unit_normals_is_the_published_formula(self, d, n, published):
        unit = evaluation.Moments(n, np.zeros(d), np.eye(d) * (n - 1))
        expected = 2 * d / n + d * (d + 1) / (2 * n)
        assert expected == pytest.approx(published, abs=5e-4)
        assert evaluation.frechet_bias(unit, n) == pytest.approx(expected, rel=2 / n)

    def test_the_extrapolation_loses_the_bias(self):
        """Of equal distributions it is near 0, where the distance of all samples is not."""
        exact, few = evaluation.Gaussian(np.zeros(16), np.eye(16)), normal(3, 2000, 16)
        found = evaluation.frechet_infinity(exact, few, fewest=200, seed=1)
        bias = evaluation.frechet_bias(exact, 2000)
        assert frechet(exact, few) == pytest.approx(bias, rel=0.2)
        assert abs(found.distance) < 0.3 * bias and found.standard_error < 0.2 * bias
        shifted = evaluation.frechet_infinity(exact, few + 1, fewest=200, seed=1)
        assert shifted.distance == pytest.approx(16, rel=0.03)

    def test_the_extrapolation_is_the_intercept_of_its_points(self, monkeypatch):
        from guidestar.evaluation.metrics import frechet as module

        monkeypatch.setattr(module, "frechet_distance", lambda real, fake: 3 + 700 / fake.count)
        found = evaluation.frechet_infinity(normal(0, 9, 2), normal(0, 500, 2), fewest=50)
        assert found.distance == pytest.approx(3) and found.standard_error < 1e-9

    def test_refuses_bad_input(self):
        x = normal(0, 30, 2)
        with pytest.raises(ValueError, match="30 samples and this metric needs at least 5001"):
            evaluation.frechet_infinity(x, x)
        with pytest.raises(ValueError, match="3 points or more"):
            evaluation.frechet_infinity(x, x, fewest=10, points=2)
        with pytest.raises(ValueError, match="2 or more samples, not 1"):
            evaluation.frechet_bias(evaluation.moments(x), 1)


class TestManifold:
    @pytest.mark.parametrize("k", [3, 5])
    @pytest.mark.parametrize("blocks", ["whole", "tiny"])
    @pytest.mark.parametrize("open_pairs", ["few", "all"])
    def test_agrees_with_the_published_implementation(
        self, golden, k, blocks, open_pairs, request, monkeypatch
    ):
        """In blocks or not, and whichever pairs are left to be computed."""
        if blocks == "tiny":
            request.getfixturevalue("tiny_blocks")
        if open_pairs == "all":
            monkeypatch.setattr(neighbours, "MANY", -1)
        scores = both(golden["real"], golden["fake"], k=k)
        for name, value in zip(MANIFOLD, scores, strict=True):
            assert value == pytest.approx(float(golden[f"{name}_k{k}"]), abs=1e-12), name

    def test_one_dimensional_example_worked_by_hand(self):
        # k = 1: real balls (-1, 1), (0, 2), (1, 7) around 0, 1, 4; fake radius 4 around 3 and 7.
        real, fake = np.array([[0.0], [1.0], [4.0]]), np.array([[3.0], [7.0]])
        # 7 lies on the surface of the last ball: precise, but neither dense nor covering.
        assert both(real, fake, k=1) == pytest.approx((1.0, 1.0, 0.5, 1 / 3))

    def test_identical_sets_score_exactly_one(self):
        x = normal(0, 200, 6)
        assert both(x, x, k=5) == (1.0, 1.0, 1.0, 1.0)

    def test_far_sets_score_zero(self):
        x = normal(0, 100, 4)
        assert both(x, x + 1e3) == (0.0, 0.0, 0.0, 0.0)

    @pytest.mark.parametrize("scale, offset", [(1, 0), (1e-3, 5e3), (1e6, 0)])
    def test_ties_and_near_ties_are_decided_exactly(self, scale, offset):
        """Copies of real samples, and fakes a hair inside or outside of a ball."""
        x = (normal(0, 150, 40) * scale + offset).astype(np.float32).astype(np.float64)
        distance = cdist(x, x)
        order = np.argsort(distance, axis=1)
        radii = np.take_along_axis(distance, order, axis=1)[:, 3]
        np.testing.assert_array_equal(neighbours.nearest_radii(x, 3), radii)
        hair = np.repeat([1 - 1e-7, 1 + 1e-7], 75)[:, None]
        third = x[order[:, 3]]
        fake = np.concatenate([x[::3], x + (third - x) * hair, third])
        expected = cdist(x, fake)
        pair = neighbours.Pair(x, fake)
        for closed, compare in ((True, np.less_equal), (False, np.less)):
            for block, rough in pair.blocks():
                found = neighbours.within(pair, block, rough, radii[block, None], closed)
                np.testing.assert_array_equal(found, compare(expected, radii[:, None])[block])

    def test_copies_have_balls_without_a_radius(self):
        x = np.repeat(normal(0, 5, 3), 40, axis=0)
        np.testing.assert_array_equal(neighbours.nearest_radii(x, 3), 0)
        assert both(x, x) == (1.0, 1.0, 0.0, 0.0)

    def test_single_precision_is_enough(self, golden):
        halves = [golden[name].astype(np.float32) for name in ("real", "fake")]
        assert both(*halves) == both(*(half.astype(np.float64) for half in halves))

    def test_precision_falls_with_fidelity_and_recall_with_variety(self):
        real = normal(0, 400, 4)
        noisy = evaluation.precision_recall(real, normal(1, 400, 4) * 3, k=5)
        narrow = normal(2, 400, 4) * 0.2
        assert noisy.precision < 0.6 and noisy.recall > 0.9
        assert evaluation.density_coverage(real, normal(1, 400, 4) * 3, k=5).density < 0.6
        collapsed = evaluation.precision_recall(real, narrow, k=5)
        assert collapsed.precision > 0.95 and collapsed.recall < 0.2
        collapsed = evaluation.density_coverage(real, narrow, k=5)
        assert collapsed.density > 1.2 and collapsed.coverage < 0.6

    def test_equal_distributions_have_the_expected_density_and_coverage(self):
        k, n = 5, 200
        pairs = [(normal((s, 0), n, 8), normal((s, 1), n, 8)) for s in range(40)]
        scores = np.array([evaluation.density_coverage(*p, k=k) for p in pairs])
        j = np.arange(1, k + 1)
        coverage = 1 - np.prod((n - j) / (2 * n - j))
        assert scores[:, 0].mean() == pytest.approx(1.0, abs=0.03)
        assert scores[:, 1].mean() == pytest.approx(coverage, abs=0.005)

    def test_realism_is_above_one_inside_the_balls(self):
        # Radii 1, 1, 3 around 0, 1, 4: the median lets the first two in.
        real, fake = np.array([[0.0], [1.0], [4.0]]), np.array([[0.5], [3.0], [1.0]])
        np.testing.assert_allclose(evaluation.realism(real, fake, k=1), [2, 0.5, np.inf])

    def test_copies_and_near_copies_are_not_authentic(self):
        real = np.array([[0.0], [1.0], [4.0]])
        # Nearest to 0 and 1, whose own neighbours are 1 away, and to 4, whose is 3 away.
        fake = np.array([[0.0], [2.2], [-1.5], [6.0]])
        assert evaluation.authenticity(real, fake) == 0.5

    def test_refuses_bad_input(self):
        x = normal(0, 10, 3)
        for metric in (evaluation.precision_recall, evaluation.density_coverage):
            with pytest.raises(
                ValueError, match="fake has 5 samples and this metric needs at least 6"
            ):
                metric(x, x[:5], k=5)
            with pytest.raises(ValueError, match="use 1 or more"):
                metric(x, x, k=0)


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

    @pytest.mark.longer
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

    @pytest.mark.parametrize("q", [0, 0.1, 0.5, 1, 1 + 1e-7, 2, 40, np.inf])
    def test_orders_of_the_vendi_score(self, q):
        """Equal rows are one sample and orthogonal ones n, of every order; groups have a sum."""
        assert evaluation.vendi_score(np.tile([[3.0, 4.0]], (9, 1)), q=q) == pytest.approx(1)
        assert evaluation.vendi_score(np.diag([1.0, 2.0, 5.0]), q=q) == pytest.approx(3)
        weights = np.array([0.75, 0.25])
        expected = {0: 2, np.inf: 4 / 3}.get(q) or (
            np.exp(-np.sum(weights * np.log(weights)))
            if abs(q - 1) < 1e-6
            else np.sum(weights**q) ** (1 / (1 - q))
        )
        groups = np.eye(3)[[0, 0, 0, 1]]
        assert evaluation.vendi_score(groups, q=q) == pytest.approx(expected, rel=1e-6)

    def test_vendi_scores_fall_with_the_order(self, golden):
        found = [evaluation.vendi_score(golden["fake"], q=q) for q in (0, 0.5, 1, 2, 9, np.inf)]
        assert found[0] == pytest.approx(16) and found == sorted(found, reverse=True)

    def test_diversity_is_the_mean_distance_within_a_class(self):
        features = np.array([[0.0], [2.0], [10.0], [11.0], [13.0], [99.0]])
        # Class 0: 2. Class 1: 1, 2 and 3. Class 2 has no pair.
        assert evaluation.class_diversity(features, np.array([0, 0, 1, 1, 1, 2])) == 2
        with pytest.raises(ValueError, match="no class has two samples"):
            evaluation.class_diversity(features, np.arange(6))

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (np.zeros(3, int), r"shape \(3,\), and there are 4 samples"),
            (np.zeros(4), "a whole number"),
            (np.array([0, 1, 2, 5]), "labels go from 0 to 5 and the classifier knows 3 classes"),
        ],
    )
    def test_labels_that_do_not_match_are_refused(self, labels, message):
        with pytest.raises(ValueError, match=message):
            evaluation.agreement(np.full((4, 3), 1 / 3), labels)

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
        for q in (-1, np.nan):
            with pytest.raises(ValueError, match="use 0 or more"):
                evaluation.vendi_score(np.eye(2), q=q)


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


class TestResampling:
    """Two classes at 0 and 10 on a line: what a distance owes to how often each comes."""

    @staticmethod
    def drawn(seed, counts, centres=(0.0, 10.0)):
        labels = np.repeat(np.arange(len(counts)), counts)
        features = normal(seed, len(labels), 3) + np.array(centres)[labels, None]
        return features, np.eye(len(counts))[labels]

    def test_a_wrong_histogram_alone_costs_nothing_once_it_is_matched(self):
        real, of_real = self.drawn(0, (500, 500))
        fake, of_fake = self.drawn(1, (800, 200))
        found = evaluation.resampled_frechet_distance(
            real, fake, real_ranks=evaluation.class_ranks(of_real), probabilities=of_fake
        )
        assert frechet(real, fake) > 5 and found.distance < 0.3
        # 800 at 1/1600 and 200 at 1/400: 1 / (1/3200 + 1/800) of 1000.
        assert found.effective_share == pytest.approx(0.64)
        assert found.matched == 1

    def test_worse_images_stay_worse(self):
        real, of_real = self.drawn(0, (500, 500))
        fake, of_fake = self.drawn(1, (800, 200), (1.0, 11.0))
        found = evaluation.resampled_frechet_distance(
            real, fake, real_ranks=evaluation.class_ranks(of_real), probabilities=of_fake
        )
        assert found.distance == pytest.approx(3, rel=0.2)

    def test_equal_weights_give_the_frechet_distance(self, golden):
        real, fake = golden["real"], golden["fake"]
        equal = evaluation.weighted_gaussian(fake, np.ones(500))
        assert frechet(real, equal) == pytest.approx(golden["frechet_distance"], rel=1e-9)
        probabilities = np.random.default_rng(0).dirichlet(np.ones(4), size=500)
        found = evaluation.resampled_frechet_distance(
            real,
            fake,
            real_ranks=evaluation.class_ranks(probabilities),
            probabilities=probabilities,
            top=2,
        )
        assert found.distance == pytest.approx(golden["frechet_distance"], rel=1e-7)
        assert found.effective_share == pytest.approx(1)

    @pytest.mark.parametrize("top", [1, 2, 3])
    def test_weights_match_the_histogram_of_the_first_classes(self, top):
        draw = np.random.default_rng(0)
        real, fake = draw.dirichlet(np.ones(6), 900), draw.dirichlet(np.arange(1, 7), 700)
        ranks = evaluation.class_ranks(real)
        weights = evaluation.matching_weights(fake, ranks, top=top)
        first = np.argsort(-fake, axis=1)[:, :top]
        found = np.bincount(first.ravel(), np.repeat(weights, top), minlength=6) / top
        np.testing.assert_allclose(found, ranks[:top].sum(axis=0) / (900 * top), atol=1e-9)
        assert (weights >= 0).all() and weights.sum() == pytest.approx(1)
        # Whatever the order of images, and adding up over batches.
        turned = evaluation.matching_weights(fake[::-1], ranks, top=top)
        np.testing.assert_allclose(turned[::-1], weights, atol=1e-9)
        parts = [evaluation.class_ranks(part) for part in np.array_split(real, 4)]
        np.testing.assert_array_equal(sum(parts), ranks)

    def test_classes_that_one_set_lacks_are_said(self):
        real, of_real = self.drawn(0, (300, 100, 0), (0.0, 10.0, 20.0))
        fake, of_fake = self.drawn(1, (300, 0, 100), (0.0, 10.0, 20.0))
        ranks = evaluation.class_ranks(of_real)
        found = evaluation.resampled_frechet_distance(
            real, fake, real_ranks=ranks, probabilities=of_fake
        )
        assert (found.matched, found.effective_share) == pytest.approx((0.75, 0.75))
        with pytest.raises(ValueError, match="no image has classes of real images"):
            evaluation.matching_weights(of_fake[-100:], ranks)
        with pytest.raises(ValueError, match="3 classes and the images into 2"):
            evaluation.matching_weights(of_fake[:, :2], ranks)
        with pytest.raises(ValueError, match="top is 4; 3 ranks"):
            evaluation.matching_weights(of_fake, ranks, top=4)


class TestAttributes:
    def test_a_shifted_normal_score_diverges_by_its_closed_form(self):
        """``delta^2 / (2 s^2)``, s the standard deviation with the kernel's width in it."""
        real, delta = normal(0, 20_000, 1) * 3, 1.5
        wide = 9 * (1 + 20_000 ** (-2 / 5))
        found = evaluation.single_attribute_divergence(real, real + delta)
        assert found == pytest.approx(delta**2 / (2 * wide), rel=0.03)
        pair = np.hstack([real, normal(1, 20_000, 1)])
        wide = 9 * (1 + 20_000 ** (-2 / 6))
        found = evaluation.paired_attribute_divergence(pair, pair + np.array([delta, 0]))
        # Single scores far out weigh more in two dimensions.
        assert found == pytest.approx(delta**2 / (2 * wide), rel=0.1)

    @pytest.mark.longer
    def test_densities_are_those_of_scipy(self):
        """On the grid's cells, of correlated scores, which have a slanted kernel."""
        scores = normal(0, 400, 2) @ np.array([[2.0, 1.0], [0.0, 0.5]])
        edges = [np.linspace(-9, 9, 401)] * 2
        shares = attributes._density(scores, attributes._bandwidth(scores, (0, 1)), edges)
        middles = np.stack(np.meshgrid(*[(e[1:] + e[:-1]) / 2 for e in edges], indexing="ij"))
        exact = gaussian_kde(scores.T)(middles.reshape(2, -1)).reshape(400, 400)
        assert np.abs(shares - exact / exact.sum()).sum() < 0.012

    def test_pairs_see_what_single_attributes_do_not(self):
        turned = normal(0, 4000, 2) @ np.array([[1.0, 0.8], [0.0, 0.6]])
        plain = np.stack([turned[:, 0], np.random.default_rng(1).permutation(turned[:, 1])], 1)
        assert evaluation.single_attribute_divergence(turned, plain) < 1e-9
        # -ln(1 - r^2) / 2 for normals of correlation r, less what the kernels blur.
        found = evaluation.paired_attribute_divergence(turned, plain)
        assert found == pytest.approx(-np.log(1 - 0.64) / 2, rel=0.15)

    @pytest.mark.parametrize(
        "metric", [evaluation.single_attribute_divergence, evaluation.paired_attribute_divergence]
    )
    def test_equal_sets_diverge_by_nothing_and_others_by_more(self, metric):
        real, fake = normal(0, 300, 3), normal(1, 200, 3) * 1.5
        assert metric(real, real) == 0
        one, other = metric(real, fake), metric(fake, real)
        assert min(one, other) > 0.01
        assert metric(real, fake, symmetric=True) == pytest.approx((one + other) / 2, rel=0.02)
        with pytest.raises(ValueError, match="lie in one place or on one line"):
            metric(real * [1, 0, 1], fake)


class TestSeeds:
    def test_the_spread_of_three_seeds(self):
        found = evaluation.spread([2.0, 3.0, 7.0])
        assert found == (4.0, pytest.approx(np.sqrt(7)), 2.0, 3)
        assert evaluation.spread([2.5]) == (2.5, None, 2.5, 1)
        for values in ([], [1.0, np.nan], [[1.0]]):
            with pytest.raises(ValueError, match="finite number"):
                evaluation.spread(values)


PAIRED = [
    frechet,
    evaluation.precision_recall,
    evaluation.density_coverage,
    evaluation.realism,
    evaluation.authenticity,
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
