"""The space of training-free guidance (TFG, arXiv 2409.15761), of which published rules are points.

A prediction D is moved up a reward ``l`` in two ways: through the network, by
``strength(sigma) J^T grad l(D)``, and directly, by steps ``delta <- delta + mu grad l(D + delta)``;
``l`` may be smoothed, ``log mean_i exp l(D + spread sigma / sqrt(1 + sigma^2) z_i)``.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..core.pytrees import pytree, static
from ..core.random import MEASUREMENT_NOISE, SMOOTHING, folded, normal_like, require_keys
from ..core.rewards import Reward, values_of
from .gradients import GRADIENT, REWARD, end_of_step, note, pull
from .measurements import Misfit
from .protocol import Guided, Rule, per_sample, single
from .pushes import norm, ratio
from .wrappers.wrapper import Wrapper

# What multiplies J^T grad l(D), beside a rule's own scale.
TILT, STEP, RESIDUAL, SHARE, NOISE = "tilt", "step", "residual", "share", "noise"
STRENGTHS = (TILT, STEP, RESIDUAL, SHARE, NOISE)
# Those that are added to x after the solver's step: x and D move, and the noise direction stays.
AFTER = (STEP, RESIDUAL)
SCHEDULES = ("constant", "increase", "decrease")


@pytree
class Ascent(Wrapper):
    """A rule's prediction moved up a reward.

    Attributes:
        rule: whose prediction is moved, and differentiated.
        reward: climbed.
        scale: of what goes through the network; None leaves the network undifferentiated.
        size: of the steps of the prediction itself, mu; None for none.
        spread: of the draws that smooth the reward, in standard deviations of a unit Gaussian's
            posterior; None for no draws.
        mean: of the schedule's weight, which it is divided by; None for a constant weight.
        owner: in whose name messages are.
        strength: one of `STRENGTHS`.
        schedule: one of `SCHEDULES`.
        draws, steps: how many.
        remat: see `pull`.
    """

    rule: Rule
    reward: Reward
    scale: float | Array | None
    size: float | Array | None = None
    spread: float | Array | None = None
    mean: float | Array | None = None
    owner: str = static(default="tfg")
    strength: str = static(default=TILT)
    schedule: str = static(default="constant")
    draws: int = static(default=1)
    steps: int = static(default=1)
    remat: bool = static(default=False)

    def init(self, x):
        return self.rule.init(x)

    def apply(self, evaluate, x, sigma, state, key):
        if self.scale is None:
            guided, state = self.rule.apply(evaluate, x, sigma, state, key)
        else:
            guided, state, back = pull(evaluate, self.rule, x, sigma, state, key, remat=self.remat)
        start = guided.denoised
        climb = self._climb(evaluate, sigma, start, key)
        weight = self._weight(evaluate, sigma)
        values, gradient = climb(start)
        moved = start
        if self.scale is not None:
            moved = moved + weight * self._through(evaluate, x, sigma, start, back(gradient))
        if self.size is not None:
            size = weight * per_sample("size", self.size, start)
            delta = size * gradient
            if self.steps > 1:

                def once(delta, _):
                    return delta + size * climb(start + delta)[1], None

                delta, _ = jax.lax.scan(once, delta, None, self.steps - 1)
            moved = moved + delta
        if not isinstance(self.reward, Misfit):  # a linear map is no cost to speak of
            # Told once: a scan traces its body once, however long it is.
            times = self.draws * (self.steps if self.size is not None else 1)
            note(evaluate, {REWARD: times, REWARD + GRADIENT: times})
        after = self.strength in AFTER if self.scale is not None else True
        source = start if guided.renoise_from is None else guided.renoise_from
        info = guided.info | {"reward": values}
        return Guided(moved, source if after else None, info), state

    def _climb(self, evaluate, sigma, like, key):
        """Return a function from predictions to their rewards and gradients."""
        condition = evaluate.condition
        noise = None
        if self.spread is not None:
            keys = require_keys(self.owner, key)
            one = [
                normal_like(folded(folded(keys, SMOOTHING), draw), like)
                for draw in range(self.draws)
            ]
            width = single("spread", self.spread, like.dtype) * sigma / jnp.sqrt(1 + sigma**2)
            noise = width * jnp.stack(one)
        own = folded(key, MEASUREMENT_NOISE)

        def total(at):
            if noise is None:
                values = values_of(self.reward, at, condition, own)
            else:

                def drawn(_, noise):
                    return None, values_of(self.reward, at + noise, condition, own)

                _, each = jax.lax.scan(drawn, None, noise)
                values = jax.nn.logsumexp(each, axis=0) - jnp.log(self.draws).astype(at.dtype)
            return jnp.sum(values), values

        def climb(at):
            (_, values), gradient = jax.value_and_grad(total, has_aux=True)(at)
            return values, gradient

        return climb

    def _weight(self, evaluate, sigma):
        """Return the schedule's weight of this step."""
        if self.schedule == "constant":
            return jnp.ones((), sigma.dtype)
        end = end_of_step(self.owner, evaluate)
        weight = weight_of(self.schedule, sigma, end)
        return weight / single("mean", self.mean, sigma.dtype)

    def _through(self, evaluate, x, sigma, start, gradient) -> Float[Array, " batch *shape"]:
        """Return how far the gradient in x moves the prediction."""
        scale = per_sample("scale", self.scale, start)
        if self.strength == TILT:
            return scale * sigma**2 * gradient
        if self.strength == STEP:
            return scale * (1 + sigma**2) * gradient
        if self.strength == SHARE:
            return scale * ratio(norm(x - start), norm(gradient)) * gradient
        end = end_of_step(self.owner, evaluate)
        if self.strength == RESIDUAL:
            return scale * jnp.sqrt((1 + sigma**2) * (1 + end**2)) * gradient
        return scale * end / jnp.sqrt(1 + end**2) * jnp.sqrt(1 + sigma**2) * gradient


def weight_of(schedule: str, sigma, end):
    """Return TFG's weight of a step, ``abar_t / abar_t'`` or 1 less that; not normalised."""
    share = (1 + end**2) / (1 + sigma**2)
    return share if schedule == "increase" else 1 - share
