"""The network that benchmarks run: DiT-S/2 of random weights, its layers scanned."""

import jax

from guidestar.models.denoiser import Denoiser, initialise
from guidestar.models.preconditioning import EDM
from guidestar.models.transformers.dit import DiT

LATENTS, CLASSES = (32, 32, 4), 1000


def dit_s2(shape: tuple[int, int, int] = LATENTS) -> Denoiser:
    """Return the denoiser for square inputs of a shape."""
    structure, params = initialise(
        lambda rngs: DiT.from_name(
            "S/2",
            image_size=shape[0],
            channels=shape[2],
            scan_layers=True,
            learn_variance=False,
            rngs=rngs,
        ),
        jax.random.key(0),
        num_classes=CLASSES,
        shape=shape,
    )
    return Denoiser(params, structure, EDM(0.5, noise_scale=250.0))
