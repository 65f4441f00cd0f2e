"""Learning rates of published recipes, gradients that are not finite, constants that stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from guidestar.configs import common
from guidestar.core.errors import UserError
from guidestar.models import builders
from guidestar.models.spec import Spec
from guidestar.training.optimizers import learning_rate, optimizer, replace_nonfinite


def section(**fields) -> ConfigDict:
    optimizer = common.base().optimizer
    optimizer.update(warmup_steps=0, **fields)
    return optimizer


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (1e6, 1.0e-3),
        (1e7, 1.0e-2),
        (143e6, 1.0e-2),
        (1e9, 3.786e-3),
        (2147.5e6, 2.584e-3),
    ],
)
def test_edm2s_rate_at_published_places(images, expected):
    """EDM2-S on ImageNet-512: alpha 0.01, 70 000 batches of 2048, 10 million images of warm-up."""
    rate = learning_rate(
        learning_rate=0.01,
        schedule="inverse_sqrt",
        warmup_images=10_000_000,
        decay_images=70_000 * 2048,
        batch_size=2048,
    )
    assert float(rate(round(images / 2048))) == pytest.approx(expected, rel=3e-3)


def test_edms_rate_rises_over_ten_million_images_and_stays():
    rate = learning_rate(learning_rate=1e-3, warmup_images=10_000_000, batch_size=512)
    np.testing.assert_allclose(
        [rate(9765), rate(19531), rate(10**6)], [5e-4, 1e-3, 1e-3], rtol=1e-3
    )


def test_images_stand_for_steps_of_any_batch():
    rates = [
        float(
            learning_rate(
                learning_rate=1e-3, schedule="cosine", decay_images=10_000, batch_size=size
            )(2000 // size)
        )
        for size in (10, 50)
    ]
    assert rates[0] == pytest.approx(rates[1], rel=1e-6)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("keep", [1.0, np.nan, np.inf, -np.inf]),
        ("zero", [1.0, 0.0, 0.0, 0.0]),
        ("edm", [1.0, 0.0, 1e5, -1e5]),
    ],
)
def test_gradients_that_are_not_finite_are_replaced_as_asked(how, expected):
    gradient = {"w": jnp.array([1.0, np.nan, np.inf, -np.inf])}
    transformation = replace_nonfinite(how)
    found, _ = transformation.update(gradient, transformation.init(gradient))
    np.testing.assert_array_equal(found["w"], expected)


def test_another_word_is_refused():
    with pytest.raises(UserError, match="'skip' is not one of keep, edm, zero"):
        replace_nonfinite("skip")


@pytest.mark.longer
def test_constants_of_a_network_are_never_moved_and_do_not_count_in_the_clip():
    config = common.base()
    config.optimizer.update(weight_decay=0.1, clip_norm=1.0, warmup_steps=1)
    spec = Spec(None, 0, (1,), None, frozen=lambda path: path.startswith("fourier/"))
    transformation, _ = optimizer(spec, 128, **config.optimizer)
    params = {"fourier": {"freqs": jnp.ones(3)}, "w": jnp.ones(3)}
    huge = {"fourier": {"freqs": jnp.full(3, 1e6)}, "w": jnp.full(3, 0.1)}
    state = transformation.init(params)
    for _ in range(3):
        updates, state = transformation.update(huge, state, params)
    np.testing.assert_array_equal(updates["fourier"]["freqs"], 0)
    # Adam's step is -rate for a steady gradient, and weight decay adds its tenth.
    np.testing.assert_allclose(updates["w"], -1e-3 * 1.1, rtol=1e-4)
    alone = transformation.update(
        {"fourier": {"freqs": jnp.zeros(3)}, "w": huge["w"]}, state, params
    )[0]
    np.testing.assert_allclose(updates["w"], alone["w"], rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        (dict(name="dimr", size="XL/2R", depths=(3, 3)), ("slope", "offset")),
        (dict(name="umd", size="B/4", depth=2), ("bias", "summary", "hidden")),
        (dict(name="pixart", size="XL/2", depth=1), ("null_tokens",)),
    ],
)
def test_weight_decay_leaves_alone_what_the_authors_leave_alone(model, kept):
    spec = builders.build(model)
    shapes = nnx.eval_shape(lambda: spec.build(nnx.Rngs(params=0)))
    params = nnx.to_pure_dict(nnx.split(shapes, nnx.Param)[1])
    paths = [
        jax.tree_util.keystr(keys, simple=True, separator="/")
        for keys, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    left = [path for path in paths if spec.frozen(path) or spec.undecayed(path)]
    assert {path.rpartition("/")[2] for path in left} == set(kept)
    assert 0 < len(left) < len(paths)
