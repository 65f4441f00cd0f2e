"""Optimisers: a learning rate for every step, and what is done to gradients before and after."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..core.errors import UserError
from ..models.spec import Spec

# EDM's stand-in for an infinite gradient.
LARGE = 1e5
NONFINITE = ("keep", "edm", "zero")


def learning_rate(optimizer, batch_size: int = 1) -> Callable:
    """Return the schedule ``step -> rate`` (steps counted from 0) of a config's optimizer section.

    All rise linearly over ``warmup_steps`` first, then follow ``schedule``: ``constant``;
    ``cosine``, half a cosine that reaches 0 at ``decay_steps``; ``inverse_sqrt``, ``rate /
    sqrt(max(step / decay_steps, 1))`` (arXiv 2312.02696, eq. 67). ``warmup_images`` and
    ``decay_images``, where they are not 0, stand for as many steps as hold so many images.

    Args:
        optimizer: the section.
        batch_size: images a step, over all hosts.

    Raises:
        UserError: an unknown schedule, or one without a length.
    """
    warmup = optimizer.get("warmup_images", 0) / batch_size or optimizer.warmup_steps
    decay = optimizer.get("decay_images", 0) / batch_size or optimizer.decay_steps
    shapes = {
        "constant": lambda step: 1.0,
        "cosine": lambda step: 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / decay, 1.0))),
        "inverse_sqrt": lambda step: 1 / jnp.sqrt(jnp.maximum(step / decay, 1.0)),
    }
    if optimizer.schedule not in shapes:
        raise UserError(
            f"config.optimizer.schedule {optimizer.schedule!r} is not one of {', '.join(shapes)}"
        )
    if optimizer.schedule != "constant" and decay <= 0:
        raise UserError(
            f"config.optimizer.decay_steps must be positive (or decay_images) for "
            f"{optimizer.schedule}, got {optimizer.decay_steps}"
        )
    shape = shapes[optimizer.schedule]

    def rate(step):
        ramp = jnp.minimum((step + 1) / max(warmup, 1), 1.0)
        return optimizer.learning_rate * ramp * shape(step)

    return rate


def replace_nonfinite(how: str) -> optax.GradientTransformation:
    """Replace what is not finite in a gradient.

    Args:
        how: ``keep`` leaves it, so that the run stops at the next record; ``zero`` makes it 0, as
            EDM2 does; ``edm`` makes NaN 0 and an infinity plus or minus 1e5, as EDM does.

    Raises:
        UserError: another word.
    """
    if how not in NONFINITE:
        raise UserError(f"config.optimizer.nonfinite {how!r} is not one of {', '.join(NONFINITE)}")
    limit = LARGE if how == "edm" else 0.0
    return optax.stateless_with_tree_map(
        lambda g, _: g if how == "keep" else jnp.nan_to_num(g, nan=0.0, posinf=limit, neginf=-limit)
    )


def optimizer_from_config(config, spec: Spec) -> optax.GradientTransformation:
    """Compose the optimiser of ``config.optimizer``: AdamW, which is Adam without weight decay.

    Parameters that the spec calls constants get no gradient and no decay, those it calls
    undecayed no decay.

    Raises:
        UserError: as `learning_rate` and `replace_nonfinite`.
    """
    o = config.optimizer
    steps = [
        replace_nonfinite(o.nonfinite),
        optax.masked(optax.set_to_zero(), partial(_where, spec.frozen)),
    ]
    if o.clip_norm:
        steps.append(optax.clip_by_global_norm(o.clip_norm))
    rate = learning_rate(o, config.training.batch_size)
    steps.append(
        optax.adamw(
            rate,
            b1=o.b1,
            b2=o.b2,
            eps=o.eps,
            weight_decay=o.weight_decay,
            mask=partial(_where, lambda path: not (spec.frozen(path) or spec.undecayed(path))),
        )
    )
    return optax.chain(*steps)


def _where(says: Callable[[str], bool], params: Any) -> Any:
    """Return for every parameter what a function says of its path."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, _: says(jax.tree_util.keystr(keys, simple=True, separator="/")), params
    )
