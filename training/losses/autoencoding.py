"""The loss of an autoencoder: reconstruction in several ways, a bounded latent, an adversary.

Sadat et al., arXiv 2405.14477. One objective trains autoencoder and discriminator, a role of its
own, at once: what one is to the other is held fixed, so each receives the gradient of its own loss.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ...core.random import normal_like
from ...core.registry import register
from ...models.autoencoders.discriminator import ROLE
from ...models.autoencoders.haar import analysis
from ...models.autoencoders.posterior import draw, kl_to_unit
from ...models.checkpoints import resolve
from ...models.spec import Spec
from ..noise.levels import WHOLE
from .loss import MAIN, Batch, Roles, over_elements
from .lpips import is_vgg, read_lpips
from .perceptual import from_weights

CHARBONNIER = 1e-3
BLUR, RADIUS = 1.0, 3
WEIGHTS = ("l1", "l2", "perceptual", "kl", "wavelet", "high_pass", "adversarial")
ADVERSARIES = ("hinge", "logistic")


@dataclasses.dataclass(frozen=True, eq=False)
class Autoencoding:
    """Weighted sum of an autoencoder's losses, each a mean over a sample's elements.

    Which losses there are is the paper's; it gives no weights, and these are ours.

    Attributes:
        l1, l2: weights of ``|e|`` and ``e^2``, e the difference of an image and what is made of it.
        perceptual: weight of ``distance``.
        kl: weight of the latent's divergence from N(0, 1), mean over its elements.
        wavelet: weight of the Charbonnier loss ``sqrt(e^2 + 1e-6)`` of the three high bands of a
            Haar transform.
        high_pass: weight of ``|e - blur(e)|``, a Gaussian blur of one pixel.
        adversarial: weight of the generator's loss, constant.
        adversary: ``hinge`` or ``logistic``.
        distance: from images and reconstructions to ``[batch]``; needed if ``perceptual``.

    Raises:
        ValueError: a negative weight, no distance where one is needed, an unknown adversary.
    """

    l1: float = 1.0
    l2: float = 0.0
    perceptual: float = 1.0
    kl: float = 1e-4
    wavelet: float = 0.1
    high_pass: float = 0.1
    adversarial: float = 0.1
    adversary: str = "hinge"
    distance: Callable | None = None

    def __post_init__(self):
        for name in WEIGHTS:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: give 0 (none) or more")
        if self.adversary not in ADVERSARIES:
            raise ValueError(f"adversary {self.adversary!r} is not one of {', '.join(ADVERSARIES)}")
        if self.perceptual and self.distance is None:
            raise ValueError(
                "a perceptual loss needs features: name a classifier's weights, or set perceptual=0"
            )

    @property
    def roles(self) -> tuple[str, ...]:
        """The networks that take part: a discriminator where there is an adversarial loss."""
        return (MAIN, ROLE) if self.adversarial else (MAIN,)

    def __call__(
        self,
        roles: Roles,
        batch: Batch,
        keys: Key[Array, " batch"],
        span: tuple = WHOLE,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's loss, its parts and the peak signal-to-noise ratio; `losses.Loss`.

        ``batch["x"]`` is in [-1, 1], and the network's module has ``encode`` and ``decode``.

        Raises:
            ValueError: a part of the noise levels; there are none.
        """
        if span is not WHOLE:
            raise ValueError("an autoencoder has no noise levels to take a part of")
        main = roles[MAIN]
        module, image = main.network.module(main.params), batch["x"]
        mean, log_variance = module.encode(image)
        made = module.decode(draw(mean, log_variance, normal_like(keys, mean)))
        error = image - made
        parts = {
            "l1": over_elements(jnp.mean, jnp.abs(error)),
            "l2": over_elements(jnp.mean, error**2),
            "kl": over_elements(jnp.mean, kl_to_unit(mean, log_variance)),
            "wavelet": charbonnier(high_bands(error)),
            "high_pass": over_elements(jnp.mean, jnp.abs(high_pass(error))),
        }
        if self.perceptual:
            parts["perceptual"] = self.distance(image, made)
        own = 0.0
        if self.adversarial:
            role = roles[ROLE]
            fixed = role.network.module(jax.lax.stop_gradient(role.params))
            judge = role.network.module(role.params)
            parts["adversarial"] = generator(self.adversary, fixed(made))
            own = discriminator(self.adversary, judge(image), judge(jax.lax.stop_gradient(made)))
        value = sum(getattr(self, name) * part for name, part in parts.items())
        metrics = parts | {"psnr": psnr(error)}
        if self.adversarial:
            metrics["discriminator"] = own
        return value + own, metrics


@register("loss", "2405.14477")
def autoencoding(
    spec: Spec, specs: Mapping[str, Spec], /, features: str = "", lpips: str = "", **fields
) -> Autoencoding:
    """Build the loss of an autoencoder.

    Args:
        spec: the autoencoder's spec.
        specs: of every network, by role.
        features: weights of what the perceptual loss compares features of: a classifier of this
            project, shipped or not, or VGG-16, which makes it LPIPS.
        lpips: weights of VGG-16's features, where they are in a file of their own.
        fields: of `Autoencoding`.

    Raises:
        UserError: weights that are not of a classifier of such images, or not LPIPS's.
        ValueError: a network that is no autoencoder; a discriminator that is none, or of other
            images; what `Autoencoding` refuses.
    """
    module = spec.module
    if not (hasattr(module, "encode") and hasattr(module, "decode")):
        raise ValueError(f"a {type(module).__name__} is no autoencoder: set model.name lite_vae")
    distance = None
    if features:
        path = resolve(features)
        vgg = lpips or is_vgg(path)
        distance = read_lpips(path, lpips) if vgg else from_weights(features, spec.shape)
    loss = Autoencoding(distance=distance, **fields)
    judge = specs.get(ROLE)
    fits = judge is None or (judge.kind, judge.shape) == ("discriminator", spec.shape)
    if loss.adversarial and judge is not None and not fits:
        raise ValueError(
            f"roles.{ROLE} is a {judge.kind} of images of shape {judge.shape}: give it the model "
            f"unet_discriminator, for images of {spec.shape}"
        )
    return loss


def psnr(error: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
    """Return the peak signal-to-noise ratio in decibels, of errors of images in [-1, 1]."""
    return 10 * jnp.log10(4 / over_elements(jnp.mean, error**2))


def high_bands(x: Float[Array, "batch h w c"]) -> Array:
    """Return the three high bands of a Haar transform; an odd size is first mirrored to an even."""
    odd = [(0, size % 2) for size in x.shape[1:3]]
    x = jnp.pad(x, ((0, 0), *odd, (0, 0)), mode="symmetric")
    return analysis(x)[..., x.shape[-1] :]


def charbonnier(x: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
    """Return the mean of ``sqrt(x^2 + 1e-6)``, smooth where ``|x|`` is not."""
    return over_elements(jnp.mean, jnp.sqrt(x**2 + CHARBONNIER**2))


def high_pass(x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w c"]:
    """Return ``x - blur(x)``, a Gaussian blur with a standard deviation of one pixel."""
    taps = jnp.exp(-0.5 * (jnp.arange(-RADIUS, RADIUS + 1) / BLUR) ** 2)
    taps = taps / jnp.sum(taps)
    blurred = jnp.pad(x, ((0, 0), (RADIUS, RADIUS), (RADIUS, RADIUS), (0, 0)), mode="edge")
    height, width = x.shape[1:3]
    blurred = sum(tap * blurred[:, i : i + height] for i, tap in enumerate(taps))
    blurred = sum(tap * blurred[:, :, i : i + width] for i, tap in enumerate(taps))
    return x - blurred


def generator(adversary: str, logits: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
    """Return what the autoencoder minimises, given the discriminator's logits of what it made."""
    value = -logits if adversary == "hinge" else jax.nn.softplus(-logits)
    return over_elements(jnp.mean, value)


def discriminator(
    adversary: str, real: Float[Array, "batch ..."], made: Float[Array, "batch ..."]
) -> Float[Array, " batch"]:
    """Return what the discriminator minimises: half the loss of either kind of image."""
    loss = jax.nn.softplus if adversary == "logistic" else lambda x: jax.nn.relu(1 + x)
    return over_elements(jnp.mean, loss(-real) + loss(made)) / 2
