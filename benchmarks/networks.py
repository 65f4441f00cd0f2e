"""The networks that benchmarks run, of random weights: DiT-S/2, its layers scanned, and DDPM++."""

import jax

from guidestar import models

LATENTS, CLASSES = (32, 32, 4), 1000


def dit_s2(shape: tuple[int, int, int] = LATENTS) -> models.Denoiser:
    """Return the denoiser for square inputs of a shape."""
    fields = dict(name="dit", size="S/2", image_size=shape[0], channels=shape[2])
    spec = models.build(fields | dict(scan_layers=True, learn_variance=False))
    return spec.denoiser(spec.initialise(jax.random.key(0)))


def ddpmpp() -> models.Denoiser:
    """Return the denoiser of CIFAR-10's DDPM++, whose blocks differ and are not scanned."""
    spec = models.build({"name": "song_unet", "size": "ddpmpp-cifar10"})
    return spec.denoiser(spec.initialise(jax.random.key(0)))
