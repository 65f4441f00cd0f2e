"""Clusters of noise levels are the best there are; tasks are weighed as their papers say."""

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.loss_examples import MAIN, Role, Stub, images, keys, only
from tiny_configs.configs import tiny

from guidestar.commands import affinity
from guidestar.commands.train import run as train
from guidestar.core.errors import UserError
from guidestar.models.preconditioning import EDM
from guidestar.training.losses import Denoising
from guidestar.training.noise.corruption import Corruption
from guidestar.training.noise.levels import discrete, log_normal
from guidestar.training.objectives import clustering, multitask
from guidestar.training.objectives.multitask import Clusters
from guidestar.training.objectives.objective import Mean

KEY = jax.random.key(0)


def total(cost, edges):
    """Return the cost of a cut, from the definition."""
    return sum(cost[(a + b - 1) // 2, t] for a, b in itertools.pairwise(edges) for t in range(a, b))


COSTS = {
    "timestep": clustering.timestep_cost,
    "snr": lambda count: clustering.snr_cost(np.geomspace(0.05, 20, count)),
    "affinity": lambda count: -np.random.default_rng(count).uniform(-1, 1, (count, count)),
}


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize(("count", "clusters"), [(1, 1), (7, 3), (12, 1), (12, 4), (12, 12)])
def test_no_cut_costs_less(cost, count, clusters):
    pairs = COSTS[cost](count)
    found = clustering.intervals(pairs, clusters)
    cuts = itertools.combinations(range(1, count), clusters - 1)
    best = min(total(pairs, (0, *inner, count)) for inner in cuts)
    assert len(found) == clusters + 1 and (np.diff(found) > 0).all()
    assert total(pairs, found) == pytest.approx(best, abs=1e-12)


def test_steps_are_cut_evenly_and_snr_finely_where_it_is_high():
    ranks = clustering.timestep_cost(1000)
    even = (0, 200, 400, 600, 800, 1000)
    assert total(ranks, clustering.intervals(ranks, 5)) == total(ranks, even)
    edges = clustering.intervals(clustering.snr_cost(discrete().sigmas), 5)
    assert edges[0] == 0 and edges[-1] == 1000
    assert (np.diff(np.diff(edges)) >= 0).all() and edges[-2] < 500


def test_affinities_are_interpolated_between_the_levels_they_were_measured_at():
    measured = np.array([[1.0, 0.0], [0.0, 1.0]])
    cost = clustering.affinity_cost(measured, 8)
    assert cost.shape == (8, 8)
    np.testing.assert_allclose(cost, cost.T)
    np.testing.assert_allclose(cost[0, [0, -1]], [-1, 0], atol=1e-12)
    assert clustering.intervals(cost, 2) == (0, 4, 8)


@pytest.mark.longer
def test_affinities_of_gradients_are_cosines():
    """One parameter a part of the noise levels: orthogonal; one for all: parallel."""

    def network(params, x, time):
        low = (time < 0).astype(x.dtype).reshape(-1, 1, 1, 1)
        return params["low"] * low + params["high"] * (1 - low) + params["both"] * 0.0 * x

    # c_noise is below 0 in exactly the lower half of the noise levels.
    loss = Denoising(EDM(), Corruption(log_normal(0.0, 1.0)))
    params = {"low": jnp.ones(()), "high": jnp.ones(()), "both": jnp.ones(())}
    found = affinity.gradient_affinity(
        loss, Role(Stub(network), None), params, [images(8), images(8, seed=3)], KEY, grid=4
    )
    np.testing.assert_allclose(found, np.kron(np.eye(2), np.ones((2, 2))), atol=1e-5)


@pytest.mark.longer
def test_affinities_of_a_run_become_clusters(tmp_path):
    config = tiny(steps=4)
    config.ema.update(snapshot_images=16, snapshot_weights=True)
    train(config, tmp_path)
    config.affinity.update(grid=4, batches=1, batch_size=8)
    path = affinity.run(config, tmp_path)
    found = np.load(path)["affinity"]
    np.testing.assert_allclose(np.diagonal(found), 1, atol=1e-5)
    np.testing.assert_allclose(found, found.T, atol=1e-6)
    assert found.min() >= -1 and np.abs(found - 1).max() > 1e-3
    made = clustering.clusters(
        of(log_normal()),
        1.0,
        multitask.Equal(),
        count=3,
        cost="affinity",
        affinity=str(path),
    )
    assert made.tasks == 3


def test_affinities_need_stored_weights(tmp_path):
    with pytest.raises(UserError, match="holds no weights: train with"):
        affinity.run(tiny(), tmp_path)


def weigh(weights, gradients, losses=None, memory=None, key=KEY):
    gradients = jnp.asarray(gradients, jnp.float32)
    losses = jnp.ones(len(gradients)) if losses is None else jnp.asarray(losses)
    memory = weights.init(len(gradients)) if memory is None else memory
    return weights.weigh(losses, gradients @ gradients.T, memory, key)


def test_uncertainty_of_equal_losses_is_the_mean():
    weights, memory = multitask.UncertaintyWeights(), None
    for _ in range(50):
        found, memory = weigh(weights, np.eye(3), [2.0, 2.0, 2.0], memory)
        np.testing.assert_allclose(found / found.sum(), 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(weigh(weights, np.eye(3), [2.0, 2.0, 2.0])[0], 1 / 3)


def test_uncertainty_settles_where_every_weighted_loss_is_one():
    weights, memory, losses = multitask.UncertaintyWeights(0.05), None, np.array([0.1, 1.0, 5.0])
    step = jax.jit(lambda memory: weights.weigh(jnp.asarray(losses), jnp.eye(3), memory, KEY))
    memory = weights.init(3)
    for _ in range(400):
        found, memory = step(memory)
    np.testing.assert_allclose(found * losses * 3, 1, rtol=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_nash_weights_satisfy_the_bargaining_condition(seed):
    gradients = np.random.default_rng(seed).normal(size=(4, 50)) * [[1], [3], [0.1], [10]]
    found, _ = weigh(multitask.NashMTL(), gradients)
    assert (found > 0).all() and float(found.sum()) == pytest.approx(1, rel=1e-5)
    product = (gradients @ gradients.T @ found) * found
    np.testing.assert_allclose(product / product.mean(), 1, rtol=1e-2)


def test_nash_of_orthogonal_gradients_gives_each_the_same_length():
    gradients = np.diag([1.0, 2.0, 5.0])
    found, _ = weigh(multitask.NashMTL(), gradients)
    lengths = np.asarray(found) * [1, 2, 5]
    np.testing.assert_allclose(lengths / lengths[0], 1, rtol=1e-3)


def test_pcgrad_of_two_conflicting_gradients_drops_the_conflict_of_each():
    a, b = np.array([1.0, 0.0]), np.array([-1.0, 1.0])
    found, _ = weigh(multitask.PCGrad(), [a, b])
    expected = ((a - (a @ b) / (b @ b) * b) + (b - (a @ b) / (a @ a) * a)) / 2
    np.testing.assert_allclose(found @ np.stack([a, b]), expected, rtol=1e-6)


def test_pcgrad_leaves_gradients_that_agree_alone():
    gradients = np.abs(np.random.default_rng(0).normal(size=(4, 6)))
    np.testing.assert_allclose(weigh(multitask.PCGrad(), gradients)[0], 1 / 4, rtol=1e-6)


def test_pcgrad_follows_its_algorithm_in_some_order():
    gradients = np.random.default_rng(5).normal(size=(3, 3))

    def projected(task, order):
        g = gradients[task].copy()
        for other in order:
            along = g @ gradients[other]
            if other != task and along < 0:
                g = g - along / (gradients[other] @ gradients[other]) * gradients[other]
        return g

    orders = list(itertools.permutations(range(3)))
    results = [
        np.mean([projected(t, o) for t, o in enumerate(chosen)], axis=0)
        for chosen in itertools.product(orders, repeat=3)
    ]
    found = weigh(multitask.PCGrad(), gradients)[0] @ gradients
    assert min(np.abs(found - result).max() for result in results) < 1e-5


@pytest.mark.parametrize(
    "weights", [multitask.Equal, multitask.UncertaintyWeights, multitask.NashMTL, multitask.PCGrad]
)
def test_gradients_of_nothing_are_weighed_finitely(weights):
    assert np.isfinite(weigh(weights(), np.zeros((3, 4)))[0]).all()


def of(noise):
    """Return a loss as far as clusters ask for it."""
    return types.SimpleNamespace(corruption=types.SimpleNamespace(levels=noise))


class TestClusters:
    """The objective."""

    def network(self):
        return Stub(lambda params, x, time: params * jnp.sin(x + time.reshape(-1, 1, 1, 1)))

    @pytest.mark.longer
    def test_equal_weights_of_one_task_are_the_plain_mean(self):
        loss = Denoising(EDM(), Corruption(log_normal()))
        given = (only(self.network(), None), (), {MAIN: jnp.ones(())}, images(6), keys(6))
        plain, metrics = Mean(loss).gradient(*given)
        one = Clusters(loss, 1.0, (0.0, 1.0), multitask.Equal())
        gradient, found, _ = one.settle(*one.gradient(*given), (), KEY)
        assert float(gradient[MAIN]) == pytest.approx(float(plain[MAIN]), rel=1e-6)
        assert float(found["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-6)

    def test_each_task_is_an_equal_part_of_the_batch_in_its_own_noise_levels(self):
        loss = Denoising(EDM(), Corruption(log_normal(0.0, 1.0)))
        clusters = Clusters(loss, 1.0, (0.0, 0.5, 1.0), multitask.Equal())
        # The output is 1 below the median and 0 above, so that alone has a gradient there.
        network = Stub(
            lambda params, x, time: params * (time < 0).reshape(-1, 1, 1, 1) * jnp.ones_like(x)
        )
        roles = only(network, None)
        gradient, metrics = clusters.gradient(roles, (), {MAIN: jnp.ones(())}, images(8), keys(8))
        tasks = gradient[MAIN]
        assert abs(tasks[0]) > 1e-3 and tasks[1] == 0
        combined, report, _ = clusters.settle(gradient, metrics, (), KEY)
        assert float(combined[MAIN]) == pytest.approx(float(tasks[0]) / 2)
        mean = (report["loss_0"] + report["loss_1"]) / 2
        assert float(report["loss"]) == pytest.approx(float(mean), rel=1e-6)
        assert all(value.shape == () for value in report.values())

    def test_a_batch_that_cannot_be_shared_is_refused(self):
        loss = Denoising(EDM(), Corruption(log_normal()))
        clusters = Clusters(loss, 1.0, (0.0, 0.5, 1.0), multitask.Equal())
        with pytest.raises(ValueError, match="2 clusters of noise levels cannot share 5"):
            clusters.gradient(
                only(self.network(), None), (), {MAIN: jnp.ones(())}, images(5), keys(5)
            )

    def test_edges_are_those_of_the_best_cut_of_the_distribution(self):
        found = clustering.clusters(
            of(discrete()), 1.0, multitask.Equal(), count=5, cost="timestep"
        )
        np.testing.assert_allclose(found.edges, [0, 0.2, 0.4, 0.6, 0.8, 1], atol=2.1e-3)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"cost": "loss"}, "cost 'loss' is not one of timestep"),
            ({"cost": "affinity"}, "needs affinity=FILE"),
            ({"cost": "snr", "affinity": "x.npz"}, "it alone, needs"),
            ({"cost": "affinity", "affinity": "missing.npz"}, "missing.npz does not exist"),
            ({"count": 0}, "cannot be cut into 0"),
        ],
    )
    def test_clusters_that_cannot_be_are_refused(self, fields, message):
        with pytest.raises(ValueError, match=message):
            clustering.clusters(of(log_normal()), 1.0, multitask.Equal(), **fields)

    def test_edges_that_do_not_increase_are_refused(self):
        with pytest.raises(ValueError, match="must increase from 0 to 1"):
            Clusters(None, 1.0, (0.0, 0.6, 0.6, 1.0), multitask.Equal())
