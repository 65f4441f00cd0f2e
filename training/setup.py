"""What a run starts from: networks, and the shapes and places of its state before any number."""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ..core.random import PARAMETERS, root_key
from ..models.checkpoints.files import flatten, unflatten
from ..models.denoiser import Network
from ..models.spec import Spec
from ..runtime.sharding import Layout
from ..runtime.speed import step_macs
from .gathering import gathered
from .gradients import rematerialised
from .losses.loss import MAIN
from .starts import Start
from .state import Recipe, RoleState, TrainState, initial_state, make_step


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run before its first number is computed.

    Attributes:
        recipe: how the networks are trained.
        layout: where everything lives.
        specs, networks: by role.
        abstract: the state's shapes, types and shardings.
        create: ``key -> state`` before the first step, each array made where it lives.
    """

    recipe: Recipe
    layout: Layout
    specs: Mapping[str, Spec]
    networks: Mapping[str, Network]
    abstract: TrainState
    create: Callable[[jax.Array], TrainState]

    @property
    def network(self) -> Network:
        """The network that is sampled from."""
        return self.networks[MAIN]

    def step(self, seed: int, *, accumulate: int = 1, remat: str = "none") -> Callable:
        """Return the compiled ``(state, batch) -> (state, metrics)``.

        Args:
            seed: of the noise.
            accumulate: number of micro-batches.
            remat: what the backward pass computes again (see `training.gradients.POLICIES`).

        Raises:
            UserError: a policy that is unknown or that the network cannot be trained under.
        """
        networks = dict(self.networks)
        if self.layout.cuts:
            for role, one in self.abstract.roles.items():
                networks[role] = gathered(networks[role], one.params, self.layout)
        # Backwards through the main network alone: others are small, or held fixed.
        networks[MAIN] = rematerialised(networks[MAIN], remat, gathered=self.layout.cuts)
        return make_step(
            self.recipe,
            networks,
            seed,
            preconditioners=self._preconditioners,
            layout=self.layout,
            shardings=jax.tree.map(lambda leaf: leaf.sharding, self.abstract),
            accumulate=accumulate,
        )

    def macs(self, batch_size: int) -> int:
        """Count the multiply-adds of one step over all devices, forward and backward.

        What rematerialisation computes again is left out, so that the share of a chip's peak says
        how much of it goes into what is needed.
        """
        batch = {
            "x": jax.ShapeDtypeStruct((batch_size, *self.network.shape), jnp.float32),
            "condition": self.network.condition_like(batch_size),
        }
        step = make_step(self.recipe, self.networks, 0, preconditioners=self._preconditioners)
        return step_macs(step, self.abstract, batch)

    @property
    def _preconditioners(self) -> dict:
        return {role: spec.preconditioner for role, spec in self.specs.items()}


def set_up(
    specs: Mapping[str, Spec],
    recipe: Recipe,
    layout: Layout,
    starts: Mapping[str, Start] | None = None,
) -> Setup:
    """Find the networks, and their state's shapes and places, without computing anything.

    Args:
        specs: specs, by role.
        recipe: how they are trained.
        layout: of the devices.
        starts: what of their parameters comes from weight files, by role.

    Raises:
        UserError: a rule of the layout that does not fit a parameter.
    """
    networks = {role: spec.network for role, spec in specs.items()}

    def begin(key, given):
        params = {
            role: _with(spec.initialise(_key_of(key, role)), given[role])
            for role, spec in specs.items()
        }
        return initial_state(recipe, params)

    none = {role: {} for role in specs}
    shapes = jax.eval_shape(begin, root_key(0), none)
    shardings = _places(layout, shapes)
    abstract = jax.tree.map(
        lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), shapes, shardings
    )
    create = jax.jit(begin, out_shardings=shardings)
    begun = starts or {}

    def created(key):
        return create(key, none | {role: one.read() for role, one in begun.items()})

    return Setup(recipe, layout, specs, networks, abstract, created)


def parameters_key(seed: int) -> jax.Array:
    """Return the key that a run's parameters are drawn from."""
    return jax.random.fold_in(root_key(seed), PARAMETERS)


def _key_of(key: jax.Array, role: str) -> jax.Array:
    return key if role == MAIN else jax.random.fold_in(key, zlib.crc32(role.encode()))


def _with(params: Any, given: Mapping[str, jax.Array]) -> Any:
    """Return parameters of which some are replaced, by path."""
    flat = flatten(params)
    return unflatten((flat | dict(given)).items()) if given else params


def _places(layout: Layout, shapes: TrainState) -> TrainState:
    """Return the sharding of every array of a state: of what is beside a parameter, as it."""
    whole = jax.tree.map(lambda _: layout.whole, shapes)
    roles: dict[str, RoleState] = {}
    for role, one in shapes.roles.items():
        roles[role] = layout.of_state(one, one.params, strict=role == MAIN)
    memory = layout.of_state(shapes.memory, shapes.main.params)
    return dataclasses.replace(whole, roles=roles, memory=memory)
