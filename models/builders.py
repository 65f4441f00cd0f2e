"""From the name of a network to the network: out of a config's ``model`` section, or by arguments.

Importing this registers every network of this package.
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Key

from ..core.registry import explained, registry
from .autoencoders import discriminator, lite_vae, sd_vae
from .classifiers import inception, residual
from .convnets import dico, dimr
from .denoiser import TO, Denoiser
from .mlps import score_mlp
from .preconditioning import FlowMap
from .scalar_inputs import inputs_of, with_inputs
from .spec import Spec
from .transformers import clip, dinov2, dit, lightning_dit, pixart, sit, umd
from .unets import dhariwal, edm2_ladder, song

# The files that register the networks of this package.
FILES = (
    discriminator,
    lite_vae,
    sd_vae,
    inception,
    residual,
    dico,
    dimr,
    score_mlp,
    clip,
    dinov2,
    dit,
    lightning_dit,
    pixart,
    sit,
    umd,
    dhariwal,
    edm2_ladder,
    song,
)


def build(section: Mapping[str, Any], where: str = "model") -> Spec:
    """Read a ``model`` section: a registered network and its fields.

    Args:
        section: ``name`` (``dit``, or another that was registered), the network's own fields, and
            with any network of a time embedding ``inputs``, numbers that it takes beside its
            time, each by the range that it is trained in: ``{"scale": (1.0, 5.0)}``.
        where: its place in a config, for messages.

    Raises:
        UserError: unknown name, a field that the network does not take or that is missing, or
            values that make no network.
    """
    spec = unchecked(section, where)
    with explained(where):
        # Shapes alone: a field that does not fit is found before anything is computed.
        spec.shapes  # noqa: B018
    return spec


def unchecked(section: Mapping[str, Any], where: str = "model") -> Spec:
    """Return what `build` does, without having traced the network: values may make none.

    Of sections that are known to be sound, this takes milliseconds where tracing takes a second.
    """
    plain = {name: _plain(value) for name, value in section.items()}
    inputs = plain.pop("inputs", None) or {}
    spec = registry("network").build(plain, where)
    with explained(where):
        found = inputs_of(inputs)
        if isinstance(spec.preconditioner, FlowMap):
            if TO in inputs:
                raise ValueError(
                    f"inputs.{TO} is the flow map's own, with preconditioner.interval_scale: leave "
                    f"it out"
                )
            found = ((TO, spec.preconditioner.interval_input), *found)
        return with_inputs(spec, found) if found else spec


def create(name: str, *, key: Key[Array, ""], size: str | None = None, **fields: Any) -> Denoiser:
    """Build a network by name, with fresh parameters, as a denoiser in EDM coordinates.

    >>> import jax
    >>> from guidestar import models
    >>> denoise = models.create(
    ...     "dit", key=jax.random.key(0), image_size=8, channels=1, num_classes=10,
    ...     patch_size=2, width=32, depth=2, heads=2,
    ... )
    >>> denoise(jax.numpy.ones((2, 8, 8, 1)), 1.0).shape
    (2, 8, 8, 1)

    Args:
        name: ``dit``, ``edm2_unet``, or another that is registered.
        key: random key of the parameters.
        size: a published one: ``"XL/2"`` of ``dit`` and ``sit``, ``"XS"`` or ``"img64-S"`` of
            ``edm2_unet``, ``"ddpmpp-cifar10"`` of ``song_unet``.
        fields: the network's own; they hold in the place of the size's.

    Raises:
        UserError: an unknown name or size, with those that there are; a field that the network
            does not take or that is missing; a classifier or an autoencoder.
    """
    chosen = {} if size is None else {"size": size}
    spec = build({"name": name, **chosen, **fields}, "models.create")
    with explained("models.create"):
        return spec.denoiser(spec.initialise(key))


def _plain(value: Any) -> Any:
    """Return a config's own kind of mapping as a dictionary, anything else as it is."""
    return value.to_dict() if hasattr(value, "to_dict") else value
