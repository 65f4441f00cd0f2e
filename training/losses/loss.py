"""What every loss is: a function of network, parameters, batch and keys, one number a sample."""

from collections.abc import Callable
from typing import Any, Protocol

from jaxtyping import Array, Float, Key

from ...models.denoiser import Network
from ..noise.levels import WHOLE


class Loss(Protocol):
    """A loss; how its samples become one gradient is the `training.objective`."""

    def __call__(
        self,
        network: Network,
        params: Any,
        batch: dict[str, Array],
        keys: Key[Array, " batch"],
        span: tuple = WHOLE,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's loss, and metrics.

        Args:
            network, params: what is trained.
            batch: ``image`` ``[batch, ...]`` and ``label`` ``[batch]``, null where dropped.
            keys: one a sample.
            span: the part of the distribution of noise levels that is drawn from, as shares of
                it; each end one number, or one a sample. A loss that draws none refuses another
                span than all.

        Returns:
            Losses ``[batch]``, and metrics by name whose means over a batch are reported.
        """


def over_elements(reduce: Callable, values: Float[Array, " batch *shape"]) -> Array:
    """Reduce everything but the batch."""
    return reduce(values.reshape(values.shape[0], -1), axis=1)
