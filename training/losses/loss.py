"""What every loss is: a function of networks by role, a batch and keys, one number a sample."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Int, Key

from ...models.denoiser import Denoiser, Network
from ...models.preconditioning import Preconditioner
from ..noise.levels import WHOLE

# The role of the network that is trained, exported and sampled from.
MAIN = "main"
Batch = Mapping[str, Any]


class Role(NamedTuple):
    """A network as a loss sees it.

    Attributes:
        network: its structure.
        params: its parameters.
        averages: of its parameters, before this step, in the order of the recipe's; empty where
            none are kept.
        preconditioner: what makes it a denoiser; None for other networks.
        target: the average of its parameters, before this step, that a loss asks for by its
            ``target_average``; None where none does.
        step: updates of the run before this one, for what changes while training.
        learns: whether the gradient that the loss is asked for is of these parameters, too; what
            only they would learn from may be left out where not.
    """

    network: Network
    params: Any
    averages: tuple = ()
    preconditioner: Preconditioner | None = None
    target: Any = None
    step: Int[Array, ""] | int = 0
    learns: bool = True

    @property
    def held(self) -> "Role":
        """The network as another's teacher: no gradient reaches its parameters."""
        return self._replace(params=jax.lax.stop_gradient(self.params))

    @property
    def target_role(self) -> "Role":
        """The network with its target's parameters, held: the average, or its own of this step."""
        return self.held if self.target is None else self._replace(params=self.target).held

    @property
    def denoiser(self) -> Denoiser:
        """The network as a denoiser in EDM coordinates."""
        assert self.preconditioner is not None, "a network without noise levels"
        return Denoiser(self.params, self.network, self.preconditioner)


Roles = Mapping[str, Role]


@runtime_checkable
class Loss(Protocol):
    """A loss; how its samples become one gradient is the `training.objectives`.

    An attribute ``roles`` names the networks that it takes part of; those without it see ``main``
    alone. An attribute ``target_average``, a function from the step counted from 1 to the weight
    that an average keeps, asks for an average of the main network to be kept as `Role.target`.
    Every trained network receives the gradient of the one number: what a network is to
    another is held fixed by `jax.lax.stop_gradient`.

    An attribute ``trained`` names the roles beside ``main`` that the loss trains, all others being
    held. An attribute ``turns``, a number, says how often they are updated in a step; the main
    network is updated once, after them.
    """

    def __call__(
        self,
        roles: Roles,
        batch: Batch,
        keys: Key[Array, " batch"],
        span: tuple = WHOLE,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's loss, and metrics.

        Args:
            roles: the networks, by role; ``main`` is always there.
            batch: ``x`` ``[batch, ...]`` and ``condition``, a pytree of arrays ``[batch, ...]``
                with the null where it was dropped.
            keys: one a sample.
            span: the part of the distribution of noise levels that is drawn from, as shares of
                it; each end one number, or one a sample. A loss that draws none refuses another
                span than all.

        Returns:
            Losses ``[batch]``, and metrics by name whose means over a batch are reported.
        """
        ...


def roles_of(loss: Loss) -> tuple[str, ...]:
    """Return the roles that a loss takes part of."""
    return tuple(getattr(loss, "roles", (MAIN,)))


def turns_of(loss: Loss) -> int:
    """Return how often the networks beside the main one are updated in a step."""
    return getattr(loss, "turns", 1)


def over_elements(reduce: Callable, values: Float[Array, " batch *shape"]) -> Array:
    """Reduce everything but the batch."""
    return reduce(values.reshape(values.shape[0], -1), axis=1)


def column(
    values: Float[Array, " batch"], like: Float[Array, " batch *shape"]
) -> Float[Array, " batch *ones"]:
    """Return one number a sample as an array that broadcasts against samples."""
    return values.reshape((-1,) + (1,) * (like.ndim - 1))
