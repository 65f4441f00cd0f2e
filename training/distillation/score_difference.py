"""Score-difference flow: samples move along the difference of two denoisers, one a kernel's.

Weber, arXiv 2304.12906. Particles y move along ``D_p(x) - D_q(x)`` at ``x = y + sigma n``, which is
``sigma^2`` times the difference of the scores of p and of the particles' own law q, both with
noise. D_q needs no network: of finitely many samples the exact denoiser is a mean, weighted by a
Gaussian kernel of width sigma. A particle is left out of its own mean, which it would pull to
itself.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from ...core.errors import UserError
from ...core.random import fold_each, keys_per_sample, normal_like
from ...core.registry import register, registry
from ...models.conditions import Label
from ...models.spec import Spec
from ..losses.loss import MAIN, Batch, Roles, over_elements
from ..noise.corruption import Corruption, condition_of
from ..noise.levels import WHOLE
from .generators import Generator, generator_of
from .matching import JUDGED, along
from .scales import scale_of
from .teacher import Teacher, teacher_of


def kernel_denoise(
    x: Float[Array, " batch *shape"],
    sigma: Float[Array, "..."],
    samples: Float[Array, " batch *shape"],
    among: Bool[Array, "batch batch"] | None = None,
) -> Float[Array, " batch *shape"]:
    """Return ``E[x0 | x]`` where x0 is one of the other samples, each equally likely.

    Args:
        x: the samples with noise, in their order.
        sigma: standard deviation of the noise, a scalar or ``[batch]``.
        samples: at least two.
        among: which samples count for which; None for all. A sample itself never counts, and where
            none is left the answer is the sample itself.
    """
    count = len(samples)
    flat, points = x.reshape(count, -1), samples.reshape(count, -1)
    width = jnp.broadcast_to(jnp.asarray(sigma, x.dtype), (count,))[:, None]
    apart = jnp.sum((flat[:, None] - points[None]) ** 2, axis=-1)
    others = ~jnp.eye(count, dtype=bool)
    others = others if among is None else others & among
    weight = jax.nn.softmax(-apart / (2 * width**2), axis=1, where=others)
    mean = jnp.where(jnp.any(others, axis=1)[:, None], weight @ points, points)
    return mean.reshape(samples.shape)


def score_difference_flow(
    particles: Float[Array, " batch *shape"],
    denoise: Callable[[Array, Array], Array],
    sigmas: Float[Array, " steps"],
    key: Key[Array, ""],
    *,
    step: float = 0.5,
) -> Float[Array, " batch *shape"]:
    """Move particles until their law is that of a denoiser's data; nothing is trained.

    Every step takes noise of its own at one noise level, and moves each particle by ``step`` times
    ``D_p - D_q``. It stops moving, on average, where the laws agree. Only few dimensions suit it:
    the kernel knows no more of q than its particles do.

    Args:
        particles: at least two, of any law.
        denoise: ``(x, sigma) -> E_p[x0 | x]``, sigma a scalar.
        sigmas: a noise level for each step; in decreasing order, large ones find far modes first.
            Below the distance of neighbours lone particles are driven away.
        key: of the noise.
        step: share of the difference that a particle moves.

    Raises:
        ValueError: fewer than two particles, or a step that is not above 0.

    Source: Weber, arXiv 2304.12906.
    """
    if len(particles) < 2:
        raise ValueError("score_difference_flow: a particle is compared with others: give two")
    if not step > 0:
        raise ValueError(f"score_difference_flow: step is above 0, got {step}")
    keys = keys_per_sample("score_difference_flow", key, len(particles))

    def move(y, row):
        number, sigma = row
        x = y + sigma * normal_like(fold_each(keys, number), y)
        return y + step * (denoise(x, sigma) - kernel_denoise(x, sigma, y)), None

    levels = jnp.asarray(sigmas, particles.dtype)
    return jax.lax.scan(move, particles, (jnp.arange(len(levels)), levels))[0]


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreDifference:
    """``|g(n) - sg(g(n) + D_p - D_q)|^2 / 2``, mean of elements; D_q the batch's own kernel.

    Attributes:
        generator: makes samples of the main network.
        teacher: whose law they are to have.
        judges: noise levels and noise.
        roles: the networks that take part.
    """

    generator: Generator
    teacher: Teacher
    judges: Corruption
    roles: tuple[str, ...]

    trained = ()

    def __call__(
        self,
        roles: Roles,
        batch: Batch,
        keys: Key[Array, " batch"],
        span: tuple = WHOLE,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's loss, and how far the denoisers differ; see `losses.Loss`."""
        main = roles[MAIN]
        condition = condition_of(main.network, batch)
        made = self.generator(main, batch["x"], condition, keys).samples
        held = jax.lax.stop_gradient(made)
        at = {"x": held, "condition": condition}
        given = self.judges(main.network, at, fold_each(keys, JUDGED), span)
        real = self.teacher.field(roles, condition).denoise(given.noisy, given.sigma)
        among = None if condition is None else condition[:, None] == condition[None]
        way = kernel_denoise(given.noisy, given.sigma, held, among) - real
        return along(made, way), {"gap": over_elements(jnp.mean, way**2)}


@register("loss", "2304.12906")
def score_difference(
    spec: Spec,
    specs: Mapping[str, Spec],
    /,
    rule: Mapping[str, Any] = {"name": "unguided"},
    levels: Mapping[str, Any] = {"name": "log_uniform", "low": 0.3, "high": 5.0},
    sigma: float = 80.0,
) -> ScoreDifference:
    """Train a one-step generator by the flow of score differences, without a fake denoiser.

    In the place of the fake denoiser of `dmd` is a kernel over the samples of the same class in
    the batch (in one micro-batch, with ``training.accumulate``): one network to train, for data of
    few dimensions and large batches.

    Args:
        rule, levels, sigma: as of `dmd`. Below the distance of neighbours in a batch, noise levels
            drive lone samples away.

    Raises:
        UserError: as `dmd`; a condition that is no label; a scale as an input, whose values no
            two samples share.

    Source: Weber, arXiv 2304.12906.
    """
    generator = generator_of(spec, sigma, "score_difference")
    if spec.condition is not None and not isinstance(spec.condition, Label):
        raise UserError(
            "training.loss: score_difference compares samples of one class: take a network of "
            "class labels or of none"
        )
    if scale_of(spec) is not None:
        raise UserError(
            "training.loss: score_difference compares samples of one scale, and as an input each "
            "has its own: leave model.inputs.scale out, or take dmd"
        )
    teacher = teacher_of(rule, specs=specs)
    made = registry("noise").build(dict(levels), "training.loss.levels")
    roles = (MAIN, *teacher.roles(spec.shape))
    return ScoreDifference(generator, teacher, Corruption(made), roles)
