"""How particles are weighed and drawn anew, and that all that belongs to one follows it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.analytic import keys

from guidestar.samplers.particles.groups import SHARED, batch_axes, reindex, select
from guidestar.samplers.particles.weights import SCHEMES, drawn, effective, log_mean, worn

# Groups of eight: uneven weights, two with whole expected counts, one with all the weight.
WEIGHTS = np.array(
    [
        [0.31, 0.02, 0.17, 0.05, 0.2, 0.01, 0.11, 0.13],
        [0.25, 0.125, 0.125, 0.0, 0.25, 0.0, 0.125, 0.125],
        [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0],
    ]
)
DRAWS = 2000


def counts(scheme, weights, seed=0, draws=DRAWS):
    """Return how often each particle was drawn, ``[draw, group, particle]``."""
    every = jax.vmap(lambda key: jax.random.split(key, len(weights)))(keys(draws, seed))
    log_weights = jnp.log(jnp.asarray(weights, jnp.float32)) - 300
    many = np.asarray(jax.vmap(lambda key: drawn(scheme, key, log_weights))(every))
    assert many.shape == (draws, *weights.shape)
    return (many[..., None] == np.arange(weights.shape[1])).sum(axis=2)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_particle_is_drawn_as_often_as_it_weighs(scheme):
    found, expected = counts(scheme, WEIGHTS), 8 * WEIGHTS
    # The largest deviation that a count can have is that of independent draws.
    error = np.sqrt(8 * WEIGHTS * (1 - WEIGHTS) / DRAWS)
    assert (np.abs(found.mean(axis=0) - expected) <= 5 * error + 1e-9).all()
    if scheme in ("systematic", "ssp"):
        assert (np.abs(found - expected) < 1).all()
    if scheme == "residual":
        assert (found >= np.floor(expected)).all()
    # Whole counts are left to chance by independent draws alone.
    assert (found[:, 1] == expected[1]).all() == (scheme != "multinomial")


@pytest.mark.longer
@pytest.mark.parametrize("scheme", ["multinomial", "residual", "ssp"])
def test_the_order_of_particles_does_not_matter(scheme):
    order = np.array([5, 0, 3, 7, 1, 6, 2, 4])
    one = counts(scheme, WEIGHTS[:1])[:, 0, order]
    two = counts(scheme, WEIGHTS[:1, order], seed=1)[:, 0]
    np.testing.assert_allclose(one.mean(axis=0), two.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(one.var(axis=0), two.var(axis=0), atol=0.3)


@pytest.mark.parametrize("scheme", ["stratified", "systematic", "residual", "ssp"])
@pytest.mark.parametrize("count", [7, pytest.param(64, marks=pytest.mark.longer)])
def test_equal_weights_draw_each_particle_once(scheme, count):
    found = np.asarray(drawn(scheme, keys(20), jnp.full((20, count), -3.7)))
    np.testing.assert_array_equal(np.sort(found), np.tile(np.arange(count), (20, 1)))


@pytest.mark.longer
def test_ssp_does_not_draw_neighbours_together_as_a_comb_does():
    # Of expected counts of 1/2 each a comb draws every other particle.
    half = np.array([[1 / 32] * 8 + [0.0] * 7 + [0.75]])
    comb, pairs = (counts(scheme, half)[:, 0, :8] for scheme in ("systematic", "ssp"))
    # Up to rounding, of two ways the comb has no others.
    assert len(np.unique(comb, axis=0)) < 5 < 10 < len(np.unique(pairs, axis=0))


def test_effective_particles_are_counted():
    weights = np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    log_weights = jnp.log(weights) - 700
    np.testing.assert_allclose(effective(log_weights), [4, 1, 2], rtol=1e-6)
    np.testing.assert_allclose(log_mean(log_weights), np.log([1, 0.25, 0.5]) - 700, rtol=1e-6)
    np.testing.assert_array_equal(worn(log_weights, 0.5), [False, True, False])
    # Equal weights need no new draw, even at the end.
    np.testing.assert_array_equal(worn(log_weights, np.inf), [False, True, True])


def test_what_belongs_to_a_sample_follows_it_wherever_its_axis_is():
    def init(x):
        return {"mine": x, "rows": jnp.zeros((3, *x.shape)), "steps": jnp.zeros((2,))}

    axes = batch_axes(init, jnp.zeros((5, 2)))
    assert axes == {"mine": 0, "rows": 1, "steps": SHARED}
    tree = {
        "mine": np.arange(10.0).reshape(5, 2),
        "rows": np.arange(30.0).reshape(3, 5, 2),
        "steps": np.arange(2.0),
    }
    ancestors = np.array([4, 4, 0, 1, 3])
    moved = reindex(tree, ancestors, axes)
    np.testing.assert_array_equal(moved["mine"], tree["mine"][ancestors])
    np.testing.assert_array_equal(moved["rows"], tree["rows"][:, ancestors])
    np.testing.assert_array_equal(moved["steps"], tree["steps"])
    several = jax.tree.map(lambda leaf: np.stack([leaf, leaf + 100]), tree)
    chosen = np.array([0, 1, 1, 0, 1])
    picked = select(several, chosen, axes)
    np.testing.assert_array_equal(picked["mine"], tree["mine"] + 100 * chosen[:, None])
    np.testing.assert_array_equal(picked["rows"], tree["rows"] + 100 * chosen[None, :, None])
    np.testing.assert_array_equal(picked["steps"], tree["steps"])
