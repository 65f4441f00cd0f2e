"""History-guided sampling, HiGS: a push away from the run's own past (arXiv 2509.22300)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.fft
from jaxtyping import Array, Bool, Float

from ...core.noise_levels import TIMES, checked_time
from ...core.pytrees import pytree, static
from ...core.registry import register
from ..protocol import Rule, per_sample, require_finite, single
from ..pushes import Context
from ..transforms.projection import Project
from .wrapper import Wrapper

# Steepness of the high-pass mask's edge.
SHARPNESS = 50.0


class History(NamedTuple):
    """The state of `higs`.

    Attributes:
        inner: the state of the rule inside.
        average: of its past predictions.
        started: whether there are any.
    """

    inner: Any
    average: Float[Array, " batch *shape"]
    started: Bool[Array, ""]


@pytree
class HistoryGuided(Wrapper):
    """A rule pushed away from the average of its own past predictions."""

    rule: Rule
    weight: float | Array
    alpha: float | Array
    eta: float | Array
    high_pass: float | Array | None
    low: float | Array
    high: float | Array
    time: str = static()

    def init(self, x):
        return History(self.rule.init(x), jnp.zeros_like(x), jnp.zeros((), bool))

    def apply(self, evaluate, x, sigma, state, key):
        guided, inner = self.rule.apply(evaluate, x, sigma, state.inner, key)
        current = guided.denoised
        average = jnp.where(state.started, state.average, current)
        push = Project(self.eta).push_of(current - average, Context(current, average, x, sigma))
        if self.high_pass is not None:
            push = high_pass(push, self.high_pass)
        weight = per_sample("weight", self.weight, current)
        denoised = current + weight * self._share(sigma).astype(current.dtype) * push
        alpha = per_sample("alpha", self.alpha, current)
        average = (1 - alpha) * average + alpha * current
        state = History(inner, average, jnp.ones((), bool))
        return guided._replace(denoised=denoised), state

    def holds_at(self, sigma: float) -> bool:
        """Return whether the window holds a noise level; true of traced windows."""
        ends = self.low, self.high
        plain = all(isinstance(end, (int, float)) for end in ends)
        return not plain or bool(self.low < TIMES[self.time](sigma) <= self.high)

    def _share(self, sigma):
        """Return the share of the weight that holds at a noise level."""
        t = TIMES[self.time](sigma)
        low, high = single("window", self.low, t.dtype), single("window", self.high, t.dtype)
        inside = (t > low) & (t <= high)
        return jnp.where(inside, jnp.sqrt(jnp.abs(t - low) / (high - low)), 0)


@register("rule", "2509.22300")
def higs(
    rule: Rule,
    weight: float | Array = 1.75,
    alpha: float | Array = 0.75,
    eta: float | Array = 1.0,
    high_pass: float | Array | None = None,
    window: tuple[float, float] = (0.4, 0.95),
    time: str = "vp",
) -> HistoryGuided:
    r"""Push what a rule predicts away from the average of its past predictions.

    ``D = g + w(t) P(g - h)`` with the rule's prediction g, its running average
    ``h <- (1 - alpha) h + alpha g``, a filter P and ``w(t) = weight sqrt((t - t_min) /
    (t_max - t_min))`` inside the window, 0 outside. No network is evaluated for it, and the first
    evaluation is left as it is. The average moves once an evaluation, so twice a step of a
    two-stage solver, and outside the window as well.

    Equation:
        D = G + w(t) (G - h), \quad h \leftarrow (1 - \alpha) h + \alpha G

    When to use: To sharpen what any rule gives at no further evaluation, most of all with few
    steps. Solvers that remember earlier steps themselves leave it less to do.

    Args:
        rule: any rule; its ``renoise_from`` stays as it is.
        weight: 0 is off; 1.75 to 2 in the paper.
        alpha: share of the newest prediction in the average.
        eta: share of the push along g that is kept (as in `project`); 1 keeps all of it.
        high_pass: radius below which the cosine transform's frequencies are damped, as a fraction
            of the band (the paper takes 0.05); None for no filter, needed where samples are no
            images.
        window: ``(t_min, t_max)``, half-open at ``t_min``, 1 being pure noise.
        time: which time t is, ``vp`` or ``flow``.

    Raises:
        ValueError: a number that is not finite, an alpha outside (0, 1], a negative radius, a
            window that is empty or outside [0, 1], an unknown time; when traced, a filter on
            samples that are no images.

    Source: Sadat et al., arXiv 2509.22300.
    """
    low, high = window
    require_finite("higs", weight=weight, alpha=alpha, eta=eta, window=(low, high))
    if isinstance(alpha, (int, float)) and not 0 < alpha <= 1:
        raise ValueError(f"guidance.higs: alpha must be in (0, 1], got {alpha}")
    if isinstance(high_pass, (int, float)) and not high_pass >= 0:
        raise ValueError(
            f"guidance.higs: high_pass must not be negative, got {high_pass}; None is no filter"
        )
    plain = isinstance(low, (int, float)) and isinstance(high, (int, float))
    if plain and not 0 <= low < high <= 1:
        raise ValueError(f"guidance.higs: window needs 0 <= t_min < t_max <= 1, got {window}")
    time = checked_time("higs", time)
    return HistoryGuided(rule, weight, alpha, eta, high_pass, low, high, time)


def high_pass(
    images: Float[Array, " batch *shape"], radius: float | Array
) -> Float[Array, " batch *shape"]:
    """Damp low spatial frequencies: multiply the cosine transform by a sigmoid of the radius.

    ``sigmoid(50 (R - radius))`` with ``R^2 = (row / height)^2 + (column / width)^2``.

    Raises:
        ValueError: no images.

    Source: arXiv 2509.22300, appendix.
    """
    if images.ndim != 4:
        raise ValueError(
            f"guidance.higs: high_pass filters images [batch, height, width, channel], got "
            f"samples of shape {images.shape[1:]}; give high_pass=None"
        )
    height, width = images.shape[1:3]
    rows, columns = jnp.arange(height) / height, jnp.arange(width) / width
    distance = jnp.hypot(rows[:, None], columns[None]).astype(images.dtype)
    mask = jax.nn.sigmoid(SHARPNESS * (distance - single("high_pass", radius, images.dtype)))
    spectrum = jax.scipy.fft.dctn(images, axes=(1, 2), norm="ortho")
    return jax.scipy.fft.idctn(spectrum * mask[:, :, None], axes=(1, 2), norm="ortho")
