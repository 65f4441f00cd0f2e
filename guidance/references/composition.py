"""Guidance by several conditions: negative ones, AND, NOT, Perp-Neg, image and instruction.

A condition is ``given``, ``null``, a label for every sample, or an array of one per sample.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Array

from ...core.pytrees import pytree, static
from ...core.registry import register
from ..protocol import GIVEN, NULL, Branch, per_sample, require_finite
from ..pushes import Perturbed, Push, Scale, inner, ratio


@pytree
class Conditions:
    """Conditions in order: names are structure, labels and arrays are leaves."""

    values: tuple[Any, ...]
    names: tuple[str | None, ...] = static()

    def branches(self, kind: str) -> tuple[Branch, ...]:
        """Return a branch for each, called ``kind_0``, ``kind_1``, ... unless it has a name."""

        def branch(number, name, value):
            if name is not None:
                return Branch(condition=name)
            return Branch(condition=value, name=f"{kind}_{number}")

        pairs = zip(self.names, self.values, strict=True)
        return tuple(branch(number, *pair) for number, pair in enumerate(pairs))


def _conditions(owner: str, conditions: Sequence[Any], argument: str = "conditions") -> Conditions:
    if isinstance(conditions, str) or not len(conditions):
        raise ValueError(
            f"guidance.{owner}: {argument} must be a list such as ['given', 3], got {conditions!r}"
        )
    names = tuple(one if isinstance(one, str) else None for one in conditions)
    if unknown := {name for name in names if name is not None} - {GIVEN, NULL}:
        raise ValueError(
            f"guidance.{owner}: {argument} are 'given', 'null', labels or arrays, got "
            f"{sorted(unknown)[0]!r}"
        )
    values = tuple(None if isinstance(one, str) else one for one in conditions)
    return Conditions(values, names)


def _weights(
    owner: str, weights: Sequence[float | Array], count: int, argument: str = "weights"
) -> tuple:
    if len(weights) != count:
        raise ValueError(
            f"guidance.{owner}: {argument} must be one number a condition, got {len(weights)} for "
            f"{count}"
        )
    require_finite(owner, **{f"{argument}[{i}]": weight for i, weight in enumerate(weights)})
    return tuple(weights)


@pytree
class Negative(Perturbed):
    """Another condition's prediction as the reference."""

    condition: Any

    def branch(self, x, sigma, key):
        del x, sigma, key
        return Branch(condition=self.condition, name="negative")


@register("reference", "2206.01714")
def negative_condition(condition: int | Array) -> Negative:
    """Return the reference of negative prompts: the prediction for a condition to move away from.

    Args:
        condition: a label, or an array of one per sample.
    """
    return Negative(condition)


@register("rule", "2206.01714")
def negative(scale: float | Array, condition: int | Array) -> Push:
    r"""Return guidance away from a negative condition, ``D_neg + scale * (D_given - D_neg)``.

    Equation:
        D = D_n + w (D_y - D_n)

    When to use: To move away from something that can be named. Where the two conditions agree,
    it pushes nothing.

    Args:
        scale: 1 is off.
        condition: a label, or an array of one per sample; the null one makes this CFG.

    Raises:
        ValueError: scale not finite.

    Source: Liu et al., arXiv 2206.01714, in the form common for negative prompts.
    """
    require_finite("negative", scale=scale)
    return Push(Scale(scale), negative_condition(condition))


@pytree
class Conjunction:
    """From the null condition towards a weighted sum of conditions."""

    conditions: Conditions
    weights: tuple[float | Array, ...]

    def predictions(self, evaluate, x, sigma, key):
        del x, sigma, key
        null, *each = evaluate((Branch(condition=NULL), *self.conditions.branches("and")))
        pushes = (
            per_sample("scales", weight, null) * (one - null)
            for weight, one in zip(self.weights, each, strict=True)
        )
        return null + sum(pushes), null


@register("rule", "2206.01714")
def compose_and(
    conditions: Sequence[str | int | Array],
    scales: Sequence[float | Array],
    scale: float | Array = 1.0,
) -> Push:
    r"""Return the conjunction of conditions, ``D_null + scale sum_i scales_i (D_i - D_null)``.

    Equation:
        D = D_\varnothing + w \sum_i w_i (D_{y_i} - D_\varnothing)

    When to use: For samples that satisfy several conditions at once. It multiplies densities:
    conditions that exclude each other give something in between.

    Args:
        conditions: ``given``, labels or arrays; one of them alone is CFG.
        scales: one a condition; a negative one moves away from it.
        scale: multiplies all of them, for transforms that go by one scale.

    Raises:
        ValueError: no conditions, another number of scales, a number that is not finite.

    Source: Liu et al., arXiv 2206.01714, eq. 11.
    """
    require_finite("compose_and", scale=scale)
    chosen = _conditions("compose_and", conditions)
    weights = _weights("compose_and", scales, len(conditions), "scales")
    return Push(Scale(scale), Conjunction(chosen, weights))


@pytree
class Negation:
    """From the null condition along what the given condition has and another has not."""

    conditions: Conditions

    def predictions(self, evaluate, x, sigma, key):
        del x, sigma, key
        branches = (Branch(), Branch(condition=NULL), *self.conditions.branches("not"))
        main, null, *others = evaluate(branches)
        return null + main - sum(others) / len(others), null


@register("rule", "2206.01714")
def compose_not(scale: float | Array, condition: int | Array) -> Push:
    r"""Return the given condition and not another, ``D_null + scale * (D_given - D_not)``.

    Starts from the null prediction, where `negative` starts from the negative one: scale 1 is
    therefore not the plain prediction, scale 0 is the null one.

    Equation:
        D = D_\varnothing + w (D_y - D_\text{not})

    When to use: For the condition given and not another, started from the null prediction. For
    the class that is negated itself it leaves the null prediction.

    Raises:
        ValueError: scale not finite.

    Source: Liu et al., arXiv 2206.01714, eq. 13.
    """
    require_finite("compose_not", scale=scale)
    return Push(Scale(scale), Negation(_conditions("compose_not", [condition])))


@pytree
class PerpendicularNegatives:
    """The null condition's prediction, and one that leaves out what negatives add across it."""

    conditions: Conditions
    weights: tuple[float | Array, ...]

    def predictions(self, evaluate, x, sigma, key):
        del x, sigma, key
        branches = (Branch(), Branch(condition=NULL), *self.conditions.branches("negative"))
        main, null, *others = evaluate(branches)
        positive = main - null
        for weight, other in zip(self.weights, others, strict=True):
            away = other - null
            along = ratio(inner(away, positive), inner(positive, positive)) * positive
            main = main - per_sample("weights", weight, main) * (away - along)
        return main, null


@register("rule", "2304.04968")
def perp_neg(
    scale: float | Array,
    negatives: Sequence[str | int | Array],
    weights: Sequence[float | Array] | None = None,
) -> Push:
    r"""Return Perp-Neg: ``D_null + scale * (push - sum_i weight_i perpendicular_i)``.

    ``push = D_given - D_null``, and ``perpendicular_i`` is the part of ``D_i - D_null`` across
    it: what a negative condition shares with the positive one is left alone. Without weights
    (all 0) this is CFG.

    Equation:
        D = D_\varnothing + w \left(\Delta - \sum_i w_i \Delta_i^\perp\right), \quad
        \Delta_i^\perp = \Delta_i - \frac{\langle \Delta_i, \Delta \rangle}{\langle \Delta,
        \Delta \rangle} \Delta

    When to use: For negatives that overlap with what is wanted: the part that they share with
    the condition given is kept.

    Args:
        scale: 0 is the null prediction; 1 is the given one less the perpendicular parts.
        negatives: labels or arrays.
        weights: one a negative; 1 each when not given.

    Raises:
        ValueError: no negatives, another number of weights, a number that is not finite.

    Source: Armandpour et al., arXiv 2304.04968, eq. 8.
    """
    require_finite("perp_neg", scale=scale)
    chosen = _conditions("perp_neg", negatives, "negatives")
    given = (1.0,) * len(negatives) if weights is None else weights
    return Push(
        Scale(scale), PerpendicularNegatives(chosen, _weights("perp_neg", given, len(negatives)))
    )


@pytree
class ImageThenText:
    """The two-step reference of instructions on images, with the image's own scale inside."""

    image_scale: float | Array
    image: str = static()
    text: str = static()

    def predictions(self, evaluate, x, sigma, key):
        del x, sigma, key
        without = Branch(condition={self.text: NULL}, name=f"null_{self.text}")
        both, image, null = evaluate((Branch(), without, Branch(condition=NULL)))
        reference = null + per_sample("image_scale", self.image_scale, null) * (image - null)
        return reference + (both - image), reference


@register("rule", "2211.09800")
def instruct(
    scale: float | Array = 7.5,
    image_scale: float | Array = 1.5,
    *,
    image: str = "image",
    text: str = "text",
) -> Push:
    r"""Return guidance with two scales, by an image and by an instruction.

    ``D(0, 0) + image_scale (D(image, 0) - D(0, 0)) + scale (D(image, text) - D(image, 0))``; both
    at one value are CFG against ``D(0, 0)``.

    Equation:
        D = D_{\varnothing\varnothing} + w_I (D_{I\varnothing} - D_{\varnothing\varnothing}) + w
        (D_{IT} - D_{I\varnothing})

    When to use: For editing networks conditioned on an image and on a text, each with its own
    scale.

    Args:
        scale: of the instruction.
        image_scale: of the image.
        image, text: the two parts' names in the condition, which is a mapping; so is the
            denoiser's ``null_condition``.

    Raises:
        ValueError: a scale that is not finite.

    Source: Brooks et al., arXiv 2211.09800, eq. 3.
    """
    require_finite("instruct", scale=scale, image_scale=image_scale)
    return Push(Scale(scale), ImageThenText(image_scale, image, text))
