"""Optimisers: a learning rate for every step, and what is done to gradients before and after."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..core.checks import (
    at_least_0,
    positive,
    require_choice,
    require_ranges,
    share,
)
from ..core.errors import UserError
from ..models.spec import Spec

# EDM's stand-in for an infinite gradient.
LARGE = 1e5
NONFINITE = ("keep", "edm", "zero")
SCHEDULES = ("constant", "cosine", "inverse_sqrt")
RANGES = {
    "learning_rate": positive(),
    "warmup_steps": at_least_0("0 is none"),
    "decay_steps": at_least_0(),
    "warmup_images": at_least_0("0 leaves it to warmup_steps"),
    "decay_images": at_least_0("0 leaves it to decay_steps"),
    "b1": share(open_high=True),
    "b2": share(open_high=True),
    "eps": positive(),
    "weight_decay": at_least_0("0 is none"),
    "clip_norm": at_least_0("0 is off"),
}


def learning_rate(
    *,
    learning_rate: float,
    schedule: str = "constant",
    warmup_steps: float = 0,
    decay_steps: float = 0,
    warmup_images: float = 0,
    decay_images: float = 0,
    batch_size: int = 1,
    place: str = "optimizer",
) -> Callable:
    """Return the schedule ``step -> rate``, steps counted from 0.

    All rise linearly over ``warmup_steps`` first, then follow ``schedule``: ``constant``;
    ``cosine``, half a cosine that reaches 0 at ``decay_steps``; ``inverse_sqrt``, ``rate /
    sqrt(max(step / decay_steps, 1))`` (arXiv 2312.02696, eq. 67). ``warmup_images`` and
    ``decay_images``, where they are not 0, stand for as many steps as hold so many images.

    Args:
        learning_rate: the highest.
        schedule, warmup_steps, decay_steps, warmup_images, decay_images: as above.
        batch_size: images a step, over all hosts.
        place: the section, for messages.

    Raises:
        UserError: an unknown schedule, one without a length, or a number out of range.
    """
    given = dict(
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=decay_steps,
        warmup_images=warmup_images,
        decay_images=decay_images,
    )
    require_choice(f"{place}.schedule", schedule, SCHEDULES)
    require_ranges(place, given, RANGES)
    warmup = warmup_images / batch_size or warmup_steps
    decay = decay_images / batch_size or decay_steps
    if schedule != "constant" and decay <= 0:
        raise UserError(
            f"{place}.decay_steps must be positive (or decay_images) for {schedule}, got "
            f"{decay_steps}"
        )
    shapes = {
        "constant": lambda step: 1.0,
        "cosine": lambda step: 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / decay, 1.0))),
        "inverse_sqrt": lambda step: 1 / jnp.sqrt(jnp.maximum(step / decay, 1.0)),
    }
    shape = shapes[schedule]

    def rate(step):
        ramp = jnp.minimum((step + 1) / max(warmup, 1), 1.0)
        return learning_rate * ramp * shape(step)

    return rate


def runs_out(
    *, schedule: str, decay_steps: float, decay_images: float, batch_size: int
) -> float | None:
    """Return the step from which on the rate is 0; None for schedules that never end."""
    return (decay_images / batch_size or decay_steps) if schedule == "cosine" else None


def replace_nonfinite(how: str, place: str = "optimizer") -> optax.GradientTransformation:
    """Replace what is not finite in a gradient.

    Args:
        how: ``keep`` leaves it, so that the run stops at the next record; ``zero`` makes it 0, as
            EDM2 does; ``edm`` makes NaN 0 and an infinity plus or minus 1e5, as EDM does.
        place: the section, for messages.

    Raises:
        UserError: another word.
    """
    require_choice(f"{place}.nonfinite", how, NONFINITE)
    limit = LARGE if how == "edm" else 0.0
    return optax.stateless_with_tree_map(
        lambda g, _: g if how == "keep" else jnp.nan_to_num(g, nan=0.0, posinf=limit, neginf=-limit)
    )


def optimizer(
    spec: Spec,
    batch_size: int,
    *,
    b1: float = 0.9,
    b2: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float = 1.0,
    nonfinite: str = "keep",
    place: str = "optimizer",
    **schedule: Any,
) -> tuple[optax.GradientTransformation, Callable]:
    """Compose AdamW, which is Adam without weight decay; return it and its rate of every step.

    Parameters that the spec calls constants get no gradient and no decay, those it calls
    undecayed no decay.

    Args:
        spec: of the network.
        batch_size: images a step, over all hosts.
        b1, b2, eps, weight_decay: as of `optax.adamw`.
        clip_norm: bound of the gradient's norm; 0 for none.
        nonfinite: see `replace_nonfinite`.
        place: the section, for messages.
        schedule: as of `learning_rate`.

    Raises:
        UserError: as `learning_rate` and `replace_nonfinite`; a number out of range.
    """
    given = dict(b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, clip_norm=clip_norm)
    require_ranges(place, given, RANGES)
    steps = [
        replace_nonfinite(nonfinite, place),
        optax.masked(optax.set_to_zero(), partial(_where, spec.frozen)),
    ]
    if clip_norm:
        steps.append(optax.clip_by_global_norm(clip_norm))
    rate = learning_rate(**schedule, batch_size=batch_size, place=place)
    steps.append(
        optax.adamw(
            rate,
            b1=b1,
            b2=b2,
            eps=eps,
            weight_decay=weight_decay,
            mask=partial(_where, lambda path: not (spec.frozen(path) or spec.undecayed(path))),
        )
    )
    return optax.chain(*steps), rate


def _where(says: Callable[[str], bool], params: Any) -> Any:
    """Return for every parameter what a function says of its path."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, _: says(jax.tree_util.keystr(keys, simple=True, separator="/")), params
    )
