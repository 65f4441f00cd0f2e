"""From a config to a `Recipe`: loss, optimiser and weight average by name."""

import jax.numpy as jnp
import optax

from ..data import fractal2d
from ..errors import UserError
from ..models.blueprint import Blueprint
from . import classification, denoising, ema, score_matching
from .state import Recipe


def _edm(config, plan: Blueprint):
    training = config.training
    return denoising.edm(
        plan.preconditioner, noise_mean=training.noise_mean, noise_std=training.noise_std
    )


def _cross_entropy(config, plan: Blueprint):
    del plan
    return classification.cross_entropy(**config.training.get("augmentation", {}))


def _score_matching(config, plan: Blueprint):
    del plan
    training = config.training
    return score_matching.score_matching(
        fractal2d.mixture(fractal2d.SPLITS[config.data.split]),
        noise_mean=training.noise_mean,
        noise_std=training.noise_std,
    )


LOSSES = {"edm": _edm, "cross_entropy": _cross_entropy, "score_matching": _score_matching}


def learning_rate(optimizer):
    """Return the schedule ``step -> rate``, all after a linear warm-up over ``warmup_steps``.

    ``constant``; ``cosine``: half a cosine, reaching 0 at ``decay_steps``; ``inverse_sqrt``:
    ``rate / sqrt(max(step / decay_steps, 1))`` (arXiv 2312.02696, eq. 67).
    """
    shapes = {
        "constant": lambda step: 1.0,
        "cosine": lambda step: (
            0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / optimizer.decay_steps, 1.0)))
        ),
        "inverse_sqrt": lambda step: 1 / jnp.sqrt(jnp.maximum(step / optimizer.decay_steps, 1.0)),
    }
    if optimizer.schedule not in shapes:
        raise UserError(
            f"config.optimizer.schedule {optimizer.schedule!r} is not one of {', '.join(shapes)}"
        )
    if optimizer.schedule != "constant" and optimizer.decay_steps <= 0:
        raise UserError(
            f"config.optimizer.decay_steps must be positive for {optimizer.schedule}, "
            f"got {optimizer.decay_steps}"
        )
    shape, warmup = shapes[optimizer.schedule], max(optimizer.warmup_steps, 1)

    def rate(step):
        ramp = jnp.minimum((step + 1) / warmup, 1.0)
        return optimizer.learning_rate * ramp * shape(step)

    return rate


def recipe_from_config(config, plan: Blueprint) -> Recipe:
    """Compose the recipe that ``config`` names.

    Raises:
        UserError: an unknown loss, schedule or average.
    """
    if config.training.loss not in LOSSES:
        raise UserError(
            f"config.training.loss {config.training.loss!r} is not one of {', '.join(LOSSES)}"
        )
    o = config.optimizer
    steps = [optax.clip_by_global_norm(o.clip_norm)] if o.clip_norm else []
    steps.append(optax.adamw(learning_rate(o), b1=o.b1, b2=o.b2, weight_decay=o.weight_decay))
    return Recipe(
        loss=LOSSES[config.training.loss](config, plan),
        optimizer=optax.chain(*steps),
        averages=averages_from_config(config),
        project=plan.project,
    )


def averages_from_config(config) -> ema.Averages:
    """Return the averages of ``config.ema``: the one of ``profile``, then those of ``tracked``.

    Raises:
        UserError: an unknown profile or a number out of range.
    """
    batch, section = config.training.batch_size, config.ema
    profiles = {
        "constant": lambda: ema.constant(section.decay),
        "half_life": lambda: ema.half_life(
            section.images, batch_size=batch, ramp_up=section.ramp_up or None
        ),
        "power": lambda: ema.power_function(section.std),
    }
    if section.profile not in profiles:
        raise UserError(
            f"config.ema.profile {section.profile!r} is not one of {', '.join(profiles)}"
        )
    main = section.std if section.profile == "power" else None
    more = tuple(float(std) for std in section.tracked if std != main)
    return ema.Averages(
        (profiles[section.profile](), *map(ema.power_function, more)), (main, *more)
    )
