"""The classification loss: cross-entropy with label smoothing and light augmentation."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ...core.registry import register
from ..noise.levels import WHOLE
from .loss import MAIN, Batch, Roles


def augment(
    image: Float[Array, "h w c"], key: Key[Array, ""], *, flip: bool, shift: int
) -> Float[Array, "h w c"]:
    """Mirror one image with probability 1/2 and move it by up to ``shift`` pixels each way.

    Args:
        image: one image; its border pixels fill what a shift uncovers.
        key: one random key.
        flip: whether to mirror left to right.
        shift: largest displacement in pixels, 0 for none.
    """
    flip_key, shift_key = jax.random.split(key)
    if flip:
        image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
    if shift:
        padded = jnp.pad(image, ((shift, shift), (shift, shift), (0, 0)), mode="edge")
        row, column = jax.random.randint(shift_key, (2,), 0, 2 * shift + 1)
        image = jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)
    return image


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """``-sum_c q_c log softmax(logits)_c``, ``q = (1 - s) onehot(label) + s / classes``.

    Label smoothing s as in Szegedy et al., arXiv 1512.00567, section 7.

    Attributes:
        flip, shift: augmentation, see `augment`; flip only where a mirrored image keeps its class.
        label_smoothing: s, in [0, 1).

    Raises:
        ValueError: a negative shift, or smoothing outside [0, 1).
    """

    flip: bool = False
    shift: int = 0
    label_smoothing: float = 0.0

    def __post_init__(self):
        if self.shift < 0:
            raise ValueError(f"shift is {self.shift} pixels; use 0 (none) or a positive number")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; use a number in [0, 1)")

    def __call__(
        self,
        roles: Roles,
        batch: Batch,
        keys: Key[Array, " batch"],
        span: tuple = WHOLE,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's loss, and the accuracy on the augmented batch; see `losses.Loss`.

        A label outside [0, classes) makes the loss NaN rather than train on it.

        Raises:
            ValueError: a part of the noise levels; there are none.
        """
        if span is not WHOLE:
            raise ValueError("the cross-entropy has no noise levels to take a part of")
        label, main = batch["condition"], roles[MAIN]
        image = jax.vmap(lambda x, key: augment(x, key, flip=self.flip, shift=self.shift))(
            batch["x"], keys
        )
        logits = main.network.module(main.params)(image)
        log_probability = jax.nn.log_softmax(logits)
        # A negative index would count from the end; out of range on either side must be NaN.
        index = jnp.where(label < 0, logits.shape[-1], label)[:, None]
        chosen = jnp.take_along_axis(log_probability, index, axis=-1, mode="fill")[:, 0]
        uniform = jnp.mean(log_probability, axis=-1)
        value = -((1 - self.label_smoothing) * chosen + self.label_smoothing * uniform)
        correct = (jnp.argmax(logits, axis=-1) == label).astype(jnp.float32)
        return value, {"accuracy": correct}


@register("loss", "1512.00567")
def cross_entropy(flip: bool = False, shift: int = 0, label_smoothing: float = 0.0) -> CrossEntropy:
    """Minimise the cross-entropy of a classifier.

    Args:
        flip, shift, label_smoothing: as of `CrossEntropy`.
    """
    return CrossEntropy(flip, shift, label_smoothing)
