"""From a config's ``model`` section to a network: every model by name, its fields checked."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from ..errors import UserError
from .classifier import Classifier
from .dit import DiT
from .preconditioning import EDM, Direct
from .score_mlp import ScoreMLP, normalise_weights

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def _unchanged(params: Any) -> Any:
    return params


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """What building a model needs to know.

    Attributes:
        build: callable from `nnx.Rngs` to the module.
        num_classes: real classes; 0 when the network takes no label.
        shape: one input's shape, without the batch.
        preconditioner: turns the network into a denoiser; None for a classifier.
        project: what training applies to the parameters after every update (forced weight
            normalisation); leaves them as they are for most networks.
    """

    build: Callable
    num_classes: int
    shape: tuple[int, ...]
    preconditioner: EDM | Direct | None
    project: Callable = _unchanged


def _dit(image_size, channels, num_classes, dtype="float32", sigma_data=0.5, **fields):
    if dtype not in DTYPES:
        raise UserError(f"model.dtype {dtype!r} is not one of {', '.join(DTYPES)}")

    def build(rngs):
        return DiT(
            image_size=image_size,
            channels=channels,
            num_classes=num_classes,
            dtype=DTYPES[dtype],
            rngs=rngs,
            **fields,
        )

    # 250 ln(sigma)/4 spans about 660 units over [0.002, 80], the range DiT's sinusoids expect.
    preconditioner = EDM(sigma_data, noise_scale=250.0)
    return Blueprint(build, num_classes, (image_size, image_size, channels), preconditioner)


def _score_mlp(**fields):
    def build(rngs):
        return ScoreMLP(rngs=rngs, **fields)

    return Blueprint(build, 0, (2,), Direct(), normalise_weights)


def _classifier(image_size, channels, num_classes, **fields):
    def build(rngs):
        return Classifier(
            image_size=image_size, channels=channels, num_classes=num_classes, rngs=rngs, **fields
        )

    return Blueprint(build, num_classes, (image_size, image_size, channels), None)


MODELS: dict[str, Callable[..., Blueprint]] = {
    "dit": _dit,
    "score_mlp": _score_mlp,
    "classifier": _classifier,
}


def blueprint(model: Mapping[str, Any]) -> Blueprint:
    """Read a config's ``model`` section.

    Args:
        model: ``name`` (dit, score_mlp, classifier) and the model's own fields.

    Raises:
        UserError: unknown name, or a field the model does not take.
    """
    fields = dict(model)
    name = fields.pop("name", None)
    if name not in MODELS:
        raise UserError(f"model.name {name!r} is not one of {', '.join(MODELS)}")
    try:
        plan = MODELS[name](**fields)
        # Shapes alone: a field that does not fit is found before anything is computed.
        nnx.eval_shape(lambda: plan.build(nnx.Rngs(params=0)))
    except (TypeError, ValueError) as error:
        raise UserError(f"config.model, {name}: {error}") from error
    return plan
