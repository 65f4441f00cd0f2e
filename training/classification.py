"""The classification loss: cross-entropy with label smoothing and light augmentation."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


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


def cross_entropy(*, flip: bool = False, shift: int = 0, label_smoothing: float = 0.0):
    """Return the loss ``-sum_c q_c log softmax(logits)_c``, mean over the batch.

    ``q = (1 - s) onehot(label) + s / classes`` with smoothing s (Szegedy et al., arXiv
    1512.00567, section 7).

    Args:
        flip, shift: augmentation, see `augment`; flip only where a mirrored image keeps its class.
        label_smoothing: s, in [0, 1).

    Returns:
        ``loss(network, params, batch, keys) -> (scalar, {"accuracy": ...})``: ``batch`` holds
        ``image`` [batch, h, w, c] and ``label`` [batch] in [0, classes), ``keys`` one key a
        sample. The accuracy is that on the augmented batch. A label outside the range makes the
        loss NaN rather than train on it.

    Raises:
        ValueError: a negative shift, or smoothing outside [0, 1).
    """
    if shift < 0:
        raise ValueError(f"shift is {shift} pixels; use 0 (none) or a positive number")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing is {label_smoothing}; use a number in [0, 1)")

    def loss(network, params, batch, keys):
        label = batch["label"]
        image = jax.vmap(lambda x, key: augment(x, key, flip=flip, shift=shift))(
            batch["image"], keys
        )
        logits = network.module(params)(image)
        log_probability = jax.nn.log_softmax(logits)
        # A negative index would count from the end; out of range on either side must be NaN.
        index = jnp.where(label < 0, logits.shape[-1], label)[:, None]
        chosen = jnp.take_along_axis(log_probability, index, axis=-1, mode="fill")[:, 0]
        uniform = jnp.mean(log_probability, axis=-1)
        value = -jnp.mean((1 - label_smoothing) * chosen + label_smoothing * uniform)
        accuracy = jnp.mean((jnp.argmax(logits, axis=-1) == label).astype(jnp.float32))
        return value, {"accuracy": accuracy}

    return loss
