"""Generators: a network at one noise level as a map from noise to samples.

``g(n, c) = f(sigma n; sigma, c)``: a denoiser's architecture, asked at one fixed sigma, begins as
the teacher's one-step prediction and is free to become any map. It says that it estimates
``consistency``, so that `samplers.consistency` samples it, with one level:

    samplers.sample(
        g, guidance.unguided(), samplers.consistency(), [sigma, 0.0], noise, labels, key
    )

One evaluation is the whole of it: more levels would ask it where it was never trained. (A sigma far
below the network's highest draws a warning of samplers, which is meant for denoisers.)
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ...core.errors import UserError
from ...core.random import fold_each, normal_like
from ...models.spec import Spec
from ..losses.loss import MAIN, Role
from ..noise.corruption import NOISE
from .fake import FAKE
from .teacher import require_alike


class Made(NamedTuple):
    """What a generator made of a batch of noise.

    Attributes:
        start: ``sigma n``, what it was given.
        samples: what it made of it.
    """

    start: Float[Array, " batch *shape"]
    samples: Float[Array, " batch *shape"]


@dataclasses.dataclass(frozen=True)
class Generator:
    """``g(n, c) = f(sigma n; sigma, c)``.

    Attributes:
        sigma: the one noise level.
    """

    sigma: float

    def __call__(
        self,
        main: Role,
        like: Float[Array, " batch *shape"],
        condition: Any,
        keys: Key[Array, " batch"],
        **inputs: Array,
    ) -> Made:
        """Return samples of the network's law.

        Args:
            main: the network.
            like: of the samples' shape and type.
            condition: of the batch.
            keys: one a sample.
            inputs: numbers that it takes, ``[batch]`` each.
        """
        start = self.sigma * normal_like(fold_each(keys, NOISE), like)
        level = jnp.full(len(like), self.sigma, jnp.float32)
        return Made(start, main.denoiser(start, level, condition, **inputs))


def generator_of(spec: Spec, sigma: float, name: str) -> Generator:
    """Return the generator that a network is, at one noise level.

    Args:
        spec: of the network.
        sigma: the level.
        name: of the loss, for messages.

    Raises:
        UserError: a network that says of itself that it is a denoiser, or does not know the level.
    """
    estimate = getattr(spec.preconditioner, "estimate", "x0")
    if estimate != "consistency":
        raise UserError(
            f"training.loss: {name} trains a generator, which is sampled in one jump: set "
            f"model.preconditioner to {{'name': 'consistency', 'sigma_data': ..., 'sigma_min': 0}}"
        )
    low, high = spec.preconditioner.sigma_min, spec.sigma_range[1]
    if not low < sigma <= high:
        raise UserError(
            f"training.loss.sigma is {sigma}: the generator is asked at one noise level above "
            f"{low:g}, and up to the {high:g} that the network knows"
        )
    return Generator(float(sigma))


def require_fake(specs: Mapping[str, Spec]) -> None:
    """Refuse a fake denoiser that could not be one of the generator's samples.

    Raises:
        UserError: it is none, of other samples or conditions, or takes other numbers as inputs.
    """
    main, fake = specs[MAIN], specs.get(FAKE)
    if fake is None:
        return  # Said by `recipes`, with the remedy.
    require_alike(main, fake, FAKE)
    if dict(fake.inputs) != dict(main.inputs):
        ours, theirs = (", ".join(dict(one.inputs)) or "none" for one in (main, fake))
        raise UserError(
            f"the generator takes the inputs {ours} and roles.{FAKE} {theirs}: the fake denoiser "
            f"learns the law of each of their values, so give roles.{FAKE}.model the same inputs"
        )
