"""Operators: adjoints, Moore-Penrose pseudo-inverses, functions of singular values, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.everyday import rows
from tables.operator_table import COLOUR, IMAGE, OPERATORS

from guidestar import guidance
from guidestar.guidance import operators

# Other operators of classes that are there.
VARIANTS = ("mask of channels", "mask of rows", "blur, gaussian", "fourier_mask of rows")
VARIANTS += ("matrix of channels", "matrix of rows", "compose, dense")
EACH = pytest.mark.parametrize("name", rows(OPERATORS, lambda name: name not in VARIANTS))


def dense(function, shape):
    """Return a linear function of samples as a matrix, float64."""
    size = int(np.prod(shape))
    columns = function(jnp.eye(size).reshape(size, *shape))
    return np.asarray(columns, np.float64).reshape(size, -1).T


def both(name):
    """Return an operator's A and A^+ as matrices."""
    operator, shape, _ = OPERATORS[name]
    return dense(operator.forward, shape), dense(operator.pinv, operator.observed(shape))


@EACH
def test_measurements_have_the_shape_that_is_said(name):
    operator, shape, _ = OPERATORS[name]
    x = jax.random.normal(jax.random.key(0), (3, *shape))
    u = operator.forward(x)
    assert u.shape == (3, *operator.observed(shape)) and u.dtype == x.dtype
    for back in (operator.adjoint(u), operator.pinv(u), operator.projected(x)):
        assert back.shape == x.shape and back.dtype == x.dtype


@EACH
def test_the_adjoint_is_the_transpose(name):
    operator, shape, _ = OPERATORS[name]
    transpose = dense(operator.adjoint, operator.observed(shape))
    np.testing.assert_allclose(transpose, dense(operator.forward, shape).T, atol=2e-6)


@EACH
def test_the_pseudo_inverse_meets_the_four_conditions_of_penrose(name, x64):
    a, inverse = both(name)
    np.testing.assert_allclose(a @ inverse @ a, a, atol=1e-7)
    np.testing.assert_allclose(inverse @ a @ inverse, inverse, atol=1e-6)
    np.testing.assert_allclose(a @ inverse, (a @ inverse).T, atol=1e-7)
    np.testing.assert_allclose(inverse @ a, (inverse @ a).T, atol=1e-7)
    # Not the inverse of nothing: all that is measured comes back.
    assert np.linalg.matrix_rank(inverse) == np.linalg.matrix_rank(a, tol=1e-6) > 0


@EACH
def test_functions_of_the_singular_values_are_those_of_a_decomposition(name, x64):
    operator, shape, _ = OPERATORS[name]
    a, inverse = both(name)

    def gain(s):
        return s**2 / (1 + s) + 0.25

    values, vectors = np.linalg.eigh(a.T @ a)
    expected = (vectors * gain(np.sqrt(np.maximum(values, 0)))) @ vectors.T
    found = dense(lambda x: operator.filtered(x, gain), shape)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(dense(operator.projected, shape), inverse @ a, atol=1e-6)


@EACH
def test_samples_of_another_shape_are_refused_by_name(name):
    operator, shape, message = OPERATORS[name]
    wrong = (*(1 for _ in shape[:-1]), shape[-1] + 1)
    with pytest.raises(ValueError, match=message):
        operator.forward(jnp.zeros((2, *wrong)))
    with pytest.raises(ValueError, match=message.partition(":")[0]):
        operator.observed((5,))


@EACH
def test_operators_are_pytrees_that_compare_by_content(name):
    operator, shape, _ = OPERATORS[name]
    copy = jax.tree.map(lambda leaf: leaf, operator)
    other = jax.tree.map(lambda leaf: leaf + 1, operator)
    assert copy == operator and (other != operator or not jax.tree.leaves(operator))
    x = jax.random.normal(jax.random.key(0), (2, *shape))
    inside = jax.jit(lambda operator, x: operator.forward(x))(operator, x)
    np.testing.assert_allclose(inside, operator.forward(x), atol=1e-6)


def test_the_lowest_frequency_of_a_blur_is_its_sum_and_its_centre_stays():
    flat = jnp.ones((1, *IMAGE))
    kernel = operators.gaussian_kernel(1.0, 5)
    np.testing.assert_allclose(operators.blur(2 * kernel).forward(flat), 2 * flat, atol=1e-5)
    delta = jnp.zeros((1, 9, 9, 1)).at[0, 4, 4, 0].set(1)
    spread = operators.blur(kernel, 0.0).forward(delta)[0, 2:7, 2:7, 0]
    np.testing.assert_allclose(spread, kernel, atol=1e-6)


def test_a_product_with_structure_is_not_written_out():
    large = operators.compose((operators.gray(), operators.average_pool(4)), (64, 64, 3))
    assert not hasattr(large, "product")
    mask = operators.mask(np.triu(np.ones((64, 64))))
    with pytest.raises(ValueError, match="more than 4096 entries"):
        operators.compose((mask, operators.average_pool(4)), (64, 64, 3))


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: operators.mask(np.full((4, 4), 0.5)), "mask is 1 where a value is known"),
        (lambda: operators.mask(np.zeros((4, 4))), "nothing is measured"),
        (lambda: operators.mask("half"), "mask must be an array of numbers"),
        (lambda: operators.average_pool(0), "whole number of pixels from 1"),
        (lambda: operators.gray((0.0, 0.0)), "nothing is measured"),
        (lambda: operators.blur(np.zeros((3, 3))), "nothing is measured"),
        (lambda: operators.blur(np.ones(3)), "kernel must be an array of numbers with 2 axes"),
        (lambda: operators.blur(np.ones((3, 3)), 1.0), "cutoff is a share"),
        (lambda: operators.gaussian_kernel(0.0), "std above 0"),
        (lambda: operators.fourier_mask(np.full((4, 4), 2.0)), "other values than 0 and 1"),
        (lambda: operators.observe((1, 1), 4), "different times"),
        (lambda: operators.observe((4,), 4), "different times"),
        (lambda: operators.matrix(np.zeros((2, 2))), "nothing is measured"),
        (lambda: operators.matrix(np.ones((2, 3)), shape=(2, 2)), "4 entries, and the matrix 3"),
        (lambda: operators.matrix(np.ones((2, 3)), axis=0, shape=(3,)), "beside axis"),
        (lambda: operators.compose((), COLOUR), "operators is empty"),
        (lambda: operators.compose((operators.gray(),), IMAGE), "guidance.gray: 3 weights"),
    ],
)
def test_operators_of_nothing_and_of_wrong_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.longer
def test_operators_are_built_from_dictionaries():
    built = guidance.config.CONSTRUCTORS.build({"name": "average_pool", "size": 2}, "operator")
    assert built == operators.average_pool(2)
