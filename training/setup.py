"""What a run starts from: the network, and the shapes and places of its state before any number."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..models.denoiser import Network
from ..models.spec import Spec
from ..runtime.sharding import Layout
from ..runtime.speed import step_macs
from .gathering import gathered
from .gradients import rematerialised
from .state import Recipe, TrainState, initial_state, make_step


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run before its first number is computed.

    Attributes:
        recipe: how the network is trained.
        layout: where everything lives.
        network: as it is sampled from.
        abstract: the state's shapes, types and shardings.
        create: ``key -> state`` before the first step, each array made where it lives.
    """

    recipe: Recipe
    layout: Layout
    network: Network
    abstract: TrainState
    create: Callable[[jax.Array], TrainState]

    def step(self, seed: int, *, accumulate: int = 1, remat: str = "none") -> Callable:
        """Return the compiled ``(state, batch) -> (state, metrics)``.

        Args:
            seed: of the noise.
            accumulate: number of micro-batches.
            remat: what the backward pass computes again (see `training.gradients.POLICIES`).

        Raises:
            UserError: a policy that is unknown or that the network cannot be trained under.
        """
        network = self.network
        if self.layout.cuts:
            network = gathered(network, self.abstract.params, self.layout)
        return make_step(
            self.recipe,
            rematerialised(network, remat, gathered=self.layout.cuts),
            seed,
            layout=self.layout,
            shardings=jax.tree.map(lambda leaf: leaf.sharding, self.abstract),
            accumulate=accumulate,
        )

    def macs(self, batch_size: int) -> int:
        """Count the multiply-adds of one step over all devices, forward and backward.

        What rematerialisation computes again is left out, so that the share of a chip's peak says
        how much of it goes into what is needed.
        """
        x = jax.ShapeDtypeStruct((batch_size, *self.network.shape), jnp.float32)
        condition = self.network.condition_like(batch_size)
        step = make_step(self.recipe, self.network, 0)
        return step_macs(step, self.abstract, {"x": x, "condition": condition})


def set_up(spec: Spec, recipe: Recipe, layout: Layout) -> Setup:
    """Find the network, and its state's shapes and places, without computing anything.

    Raises:
        UserError: a rule of the layout that does not fit a parameter.
    """

    def create(key):
        return initial_state(recipe, spec.initialise(key))

    shapes = jax.eval_shape(create, jax.random.key(0))
    shardings = layout.of_state(shapes, shapes.params)
    abstract = jax.tree.map(
        lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), shapes, shardings
    )
    return Setup(recipe, layout, spec.network, abstract, jax.jit(create, out_shardings=shardings))
