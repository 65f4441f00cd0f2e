"""Checkpoints of DiT (facebookresearch/DiT), ``DiT-XL-2-256x256.pt`` and those of its training.

Files of diffusers' ``DiTTransformer2DModel`` are renamed first (see `diffusers_dit`).

SiT's have the same arrays under the same names. A training checkpoint says in its arguments whose
it is; of any other file, one called ``SiT...`` is taken for a SiT's. ``name="sit"`` in
`models.load` says so otherwise.
"""

from typing import Any

from ...preconditioning import Discrete
from ..readers import WeightSource
from . import said
from .diffusers_dit import renamed
from .layout import Entry, as_is
from .transformers import POSITIONS, Table, doubles, layers, require_positions, sizes, trunk

BLOCK = {
    "attn.qkv": "attention/qkv",
    "attn.proj": "attention/proj",
    "mlp.fc1": "mlp_in",
    "mlp.fc2": "mlp_out",
    "adaLN_modulation.1": "modulation",
}
LABELS = "y_embedder.embedding_table.weight"
# What tells a file of these, which has no normalisation with weights.
TELLTALES: tuple[str, ...] = (LABELS, "final_layer.adaLN_modulation.1.weight")
TELLTALES += tuple(
    f"blocks.0.{name}.weight" for name in ("attn.qkv", "mlp.fc1", "adaLN_modulation.1")
)
# The words of several trainers.
PREDICTIONS = {"epsilon": "noise", "eps": "noise", "noise": "noise"}
PREDICTIONS |= {"v_prediction": "velocity", "velocity": "velocity", "v": "velocity"}
FOREIGN = ("blocks.0.norm1.weight", "feat_rope.freqs_cos", "blocks.0.cross_attn.proj.weight")


def keys(depth: int) -> Table:
    """Return the place of every published array in a `DiT` of this depth."""

    def block(theirs: str, ours: str) -> Table:
        return layers({f"{theirs}.{a}": f"{ours}/{b}" for a, b in BLOCK.items()})

    table = trunk(depth, block) | layers({"final_layer.adaLN_modulation.1": "final_modulation"})
    return table | {LABELS: Entry("label_table/embedding", as_is)}


def recognise(weights: WeightSource) -> dict[str, Any] | None:
    """Return the ``model`` section of the DiT in a file; None where it is another network.

    Raises:
        UserError: its positions are not the fixed ones.
    """
    if is_sit(weights) or (fields := architecture(weights)) is None:
        return None
    return fields | dict(preconditioner=_preconditioner(weights))


def _preconditioner(weights: WeightSource) -> Any:
    """Return what the training's arguments say is predicted, on which table of steps."""
    kept = said.arguments(weights)
    found: dict[str, Any] = {}
    predicts = said.word(weights, "prediction_type", "prediction")
    betas = said.word(weights, "beta_schedule", "noise_schedule")
    steps = said.number(weights, "num_train_timesteps", "diffusion_steps")
    for field in ("trained_betas", "rescale_betas_zero_snr"):
        if kept.get(field):
            return said.unknown(weights, f"was trained with {field}={kept[field]!r:.40}")
    if kept.get("predict_xstart") is True or predicts not in (None, *PREDICTIONS):
        what = "the image" if kept.get("predict_xstart") is True else repr(predicts)
        return said.unknown(weights, f"predicts {what}, and not noise or velocity")
    if betas not in (None, "linear", "scaled_linear"):
        return said.unknown(weights, f"was trained on the {betas!r} schedule of noise levels")
    if predicts is not None and PREDICTIONS[predicts] != "noise":
        found["predicts"] = PREDICTIONS[predicts]
    if betas == "scaled_linear":
        found["betas"] = betas
    numbers = {"steps": steps, "beta_start": kept.get("beta_start")}
    for field, value in (numbers | {"beta_end": kept.get("beta_end")}).items():
        if type(value) in (int, float) and value != getattr(Discrete(), field):
            found[field] = value
    return {"name": "discrete"} | found if found else "discrete"


def architecture(weights: WeightSource) -> dict[str, Any] | None:
    """Return the fields of a DiT or a SiT; None where a file is of another network.

    Raises:
        UserError: its positions are not the fixed ones.
    """
    names = weights.tensors.keys()
    if any(name not in names for name in TELLTALES) or any(name in names for name in FOREIGN):
        return None
    fields: dict[str, Any] = sizes(weights)
    if POSITIONS in names or not weights.description.computed:
        require_positions(weights)
    if "image_size" not in fields and (side := said.number(weights, "sample_size")):
        fields["image_size"] = side
    if heads := said.number(weights, "num_heads", "num_attention_heads"):
        fields["heads"] = heads
    ratio = weights.tensors["blocks.0.mlp.fc1.weight"].shape[0] / fields["width"]
    return (
        fields
        | said.classes(weights, LABELS)
        | dict(
            mlp_ratio=ratio,
            learn_variance=said.variance(weights, doubles(weights, fields)),
            latent=fields["channels"] == 4,
        )
    )


def is_sit(weights: WeightSource) -> bool:
    """Say whether a file is of a SiT, as its training's arguments or its own name say."""
    if (model := said.word(weights, "model")) is not None:
        return model.startswith("sit")
    return weights.path.name.lower().startswith("sit")


__all__ = ["architecture", "is_sit", "keys", "recognise", "renamed"]
