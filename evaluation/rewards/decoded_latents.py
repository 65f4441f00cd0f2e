"""Rewards of images, for networks of latents."""

from ...core.pytrees import pytree, static
from ...core.registry import register
from ...core.rewards import Reward, values_of
from ...models.autoencoders.loading import Autoencoder
from ...models.autoencoders.scaling import LatentScaling


@pytree
class Decoded:
    """A reward of the images that latents are decoded to.

    Attributes:
        reward: of images.
        autoencoder: whose decoder is used.
        scaling: of the latents.
    """

    reward: Reward
    autoencoder: Autoencoder
    scaling: LatentScaling = static()

    @property
    def differentiable(self) -> bool:
        """Whether the reward of images is: decoders are."""
        return self.reward.differentiable

    def __call__(self, x0, condition, key):
        return values_of(self.reward, self.autoencoder.decode(x0, self.scaling), condition, key)


@register("reward")
def decoded(reward: Reward, autoencoder: Autoencoder, scaling: LatentScaling) -> Decoded:
    """Return a reward of images as one of latents.

    A decoder may cost several evaluations of the network; it is called as often as the reward is,
    which plans count apart.

    Args:
        reward: of images in [-1, 1].
        autoencoder: as `models.autoencoders.loading.load_autoencoder` reads it.
        scaling: of the latents, as the network has them.
    """
    return Decoded(reward, autoencoder, scaling)
