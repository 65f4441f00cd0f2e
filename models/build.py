"""From a config's ``model`` section to a network: every model by name, its fields checked."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from ..core.errors import UserError
from .autoencoders import lite_vae, sd_vae
from .classifiers import residual
from .convnets import dico, dimr
from .mlps import score_mlp
from .spec import Blueprint
from .transformers import dit, lightning_dit, pixart, sit, umd
from .unets import dhariwal, edm2_ladder, song

# name -> what turns the model section's other fields into a blueprint, in the network's own file.
MODELS: dict[str, Callable[..., Blueprint]] = {
    "dit": dit.blueprint,
    "dico": dico.blueprint,
    "dimr": dimr.blueprint,
    "umd": umd.blueprint,
    "lightning_dit": lightning_dit.blueprint,
    "pixart": pixart.blueprint,
    "sit": sit.blueprint,
    "lite_vae": lite_vae.blueprint,
    "sd_vae": sd_vae.blueprint,
    "score_mlp": score_mlp.blueprint,
    "classifier": residual.blueprint,
    "dhariwal_unet": dhariwal.blueprint,
    "edm2_unet": edm2_ladder.blueprint,
    "song_unet": song.blueprint,
}


def blueprint(model: Mapping[str, Any]) -> Blueprint:
    """Read a config's ``model`` section.

    Args:
        model: ``name`` (one of `MODELS`) and the model's own fields.

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
