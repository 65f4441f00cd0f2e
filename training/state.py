"""What a training run is made of at one step, and the one function that advances it."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from ..core.random import root_key
from ..models.denoiser import Network
from ..models.preconditioning import Preconditioner
from ..runtime.sharding import Layout
from .averages import ema
from .gradients import gradients
from .losses.loss import MAIN, Role
from .objectives.objective import Objective


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RoleState:
    """One network's part of a run.

    ``ema`` holds one tree like ``params`` for each average that is kept; a frozen network has
    neither averages nor an optimiser's memory.
    """

    params: Any
    ema: Any = ()
    optimizer: Any = ()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a step changes; a pytree, and exactly what a checkpoint holds.

    ``roles`` holds the networks by role, ``memory`` what the recipe's objective remembers from
    step to step.
    """

    step: Int[Array, ""]
    roles: dict[str, RoleState]
    memory: Any

    @property
    def main(self) -> RoleState:
        """The network that is exported and sampled from."""
        return self.roles[MAIN]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OneNetwork:
    """A `TrainState` as runs of one network stored it before there were roles."""

    step: Any
    params: Any
    ema: Any
    optimizer: Any
    memory: Any

    @classmethod
    def of(cls, state: TrainState) -> "OneNetwork":
        """Return a state, or its shapes, in that form."""
        main = state.main
        return cls(state.step, main.params, main.ema, main.optimizer, state.memory)

    def with_roles(self) -> TrainState:
        """Return it as a state of today."""
        roles = {MAIN: RoleState(self.params, self.ema, self.optimizer)}
        return TrainState(self.step, roles, self.memory)


@dataclasses.dataclass(frozen=True)
class Inside:
    """Where a role's parameters lay before it was one: inside the main network's, under its name.

    Attributes:
        role: that network.
        params: structures of the main network's parameters, and of the role's.
    """

    role: str
    params: tuple[Any, Any]

    @classmethod
    def of(cls, role: str, state: TrainState) -> "Inside":
        """Return it for a state of today."""
        params = state.main.params, state.roles[role].params
        return cls(role, tuple(map(jax.tree.structure, params)))

    def joined(self, state: TrainState) -> TrainState:
        """Return a state of today, or its shapes, in that form."""
        roles = dict(state.roles)
        inner = roles.pop(self.role)
        main = roles[MAIN]
        averages = tuple(self._joined(one, inner.params) for one in main.ema)
        roles[MAIN] = RoleState(
            self._joined(main.params, inner.params),
            type(main.ema)(averages),
            self._joined(main.optimizer, inner.optimizer),
        )
        return dataclasses.replace(state, roles=roles)

    def apart(self, state: TrainState) -> TrainState:
        """Return a state of that form as one of today; the role's averages are left out."""
        main = state.main
        outer, inner = (
            RoleState(part(main.params), part(main.ema), part(main.optimizer))
            for part in (self._outer, self._inner)
        )
        inner = dataclasses.replace(inner, ema=())
        return dataclasses.replace(state, roles={**state.roles, MAIN: outer, self.role: inner})

    def _joined(self, outer: Any, inner: Any) -> Any:
        wholes, parts = self.params
        leaves, structure = _cut(outer, lambda node: jax.tree.structure(node) == wholes)
        others, _ = _cut(inner, lambda node: jax.tree.structure(node) == parts)
        pairs = zip(leaves, others, strict=True)
        joined = [{**a, self.role: b} if isinstance(a, Mapping) else a for a, b in pairs]
        return jax.tree.unflatten(structure, joined)

    def _outer(self, tree: Any) -> Any:
        leaves, structure = _cut(tree, self._holds)
        kept = [
            {name: one for name, one in leaf.items() if name != self.role}
            if self._holds(leaf)
            else leaf
            for leaf in leaves
        ]
        return jax.tree.unflatten(structure, kept)

    def _inner(self, tree: Any) -> Any:
        leaves, structure = _cut(tree, self._holds)
        # Numbers that both networks have are two arrays, as each of them is given away.
        kept = [leaf[self.role] if self._holds(leaf) else jnp.copy(leaf) for leaf in leaves]
        return jax.tree.unflatten(structure, kept)

    def _holds(self, node: Any) -> bool:
        return isinstance(node, Mapping) and self.role in node


def _cut(tree: Any, is_leaf: Callable[[Any], bool]) -> tuple[list, Any]:
    return jax.tree.flatten(tree, is_leaf=is_leaf)


@dataclasses.dataclass(frozen=True)
class Update:
    """How the parameters of one network change.

    Attributes:
        optimizer: an optax transformation.
        rate: its learning rate, ``step -> rate``, steps counted from 0.
        averages: which averages of the weights are kept; None for none.
        project: applied to the parameters before every update's forward pass and after the
            last one (forced weight normalisation); the identity for most networks.
    """

    optimizer: optax.GradientTransformation
    rate: Callable[[Any], Float[Array, ""] | float]
    averages: ema.Averages | None
    project: Callable


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How networks are trained: what is minimised, and how each of them changes.

    Attributes:
        objective: from a loss to a gradient.
        updates: by role; a role without one is frozen.
        turns: updates in a step of every network but the main one, which has one; their schedules
            count their own.
    """

    objective: Objective
    updates: Mapping[str, Update]
    turns: int = 1

    @property
    def main(self) -> Update:
        """How the network changes that is exported and sampled from."""
        return self.updates[MAIN]


def initial_state(recipe: Recipe, params: Mapping[str, Any]) -> TrainState:
    """Return the state before the first step; averages start as the parameters.

    Args:
        recipe: of the run.
        params: by role.
    """
    roles = {}
    for role, values in params.items():
        update = recipe.updates.get(role)
        if update is None:
            roles[role] = RoleState(values)
            continue
        values = update.project(values)
        kept = update.averages.init(values) if update.averages else ()
        roles[role] = RoleState(values, kept, update.optimizer.init(values))
    return TrainState(jnp.zeros((), jnp.int32), roles, recipe.objective.init())


def make_step(
    recipe: Recipe,
    networks: Mapping[str, Network],
    seed: int,
    *,
    preconditioners: Mapping[str, Preconditioner | None] | None = None,
    layout: Layout | None = None,
    shardings: TrainState | None = None,
    accumulate: int = 1,
):
    """Return the compiled ``(state, batch) -> (state, metrics)``; the old state is donated.

    The noise of one example depends on (seed, step, position in the global batch) alone, so a
    resumed run repeats an uninterrupted one bit for bit. With `Recipe.turns`, the networks beside
    the main one first learn alone, turn by turn, from the same batch with noise of their own;
    their last turn is the main network's.

    Args:
        recipe: how the networks are trained.
        networks: by role.
        seed: of the noise.
        preconditioners: by role, of those that are denoisers.
        layout: of the devices; None leaves every placement to the arguments.
        shardings: of the state's arrays, as they come in and go out.
        accumulate: number of micro-batches whose gradients are added up before the update.
    """
    axis = "batch" if layout is not None and layout.preset.pmap else None
    found = preconditioners or {}
    beside = {role: update for role, update in recipe.updates.items() if role != MAIN}

    def learnt(state: TrainState, batch: dict, updates: Mapping[str, Update], root: Key[Array, ""]):
        """Return the gradient by the networks with updates, metrics and the objective's memory."""
        seen = {
            role: Role(
                networks[role],
                one.params,
                tuple(one.ema),
                found.get(role),
                _target(recipe.updates.get(role), one),
                state.step,
                role in updates,
            )
            for role, one in state.roles.items()
        }
        params = {role: state.roles[role].params for role in updates}
        part = partial(recipe.objective.gradient, seen, state.memory)
        gradient, metrics = gradients(part, params, batch, root, accumulate=accumulate, axis=axis)
        # Keys of examples are folded in from 0: this one is none of theirs.
        key = jax.random.fold_in(root, jnp.uint32(2**32 - 1))
        return recipe.objective.settle(gradient, metrics, state.memory, key)

    def turn(state: TrainState, batch: dict, root: Key[Array, ""], number: Array) -> dict:
        """Return the networks after one turn of those beside the main one."""
        own = jax.random.fold_in(jax.random.fold_in(root, jnp.uint32(2**32 - 2)), number)
        gradient, _, _ = learnt(state, batch, beside, own)
        count = state.step * recipe.turns + number
        return state.roles | {
            role: _updated(update, state.roles[role], gradient[role], count)
            for role, update in beside.items()
        }

    def step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        root = jax.random.fold_in(root_key(seed), state.step)
        if beside and recipe.turns > 1:

            def again(roles, number):
                before = dataclasses.replace(state, roles=roles)
                return turn(before, batch, root, number), None

            roles, _ = jax.lax.scan(again, state.roles, jnp.arange(recipe.turns - 1))
            state = dataclasses.replace(state, roles=roles)
        gradient, metrics, memory = learnt(state, batch, recipe.updates, root)
        roles = dict(state.roles)
        for role, update in recipe.updates.items():
            main = role == MAIN
            count = state.step if main else (state.step + 1) * recipe.turns - 1
            roles[role] = _updated(update, roles[role], gradient[role], count)
            of = "" if main else f"_{role}"
            metrics |= {
                f"gradient_norm{of}": optax.tree.norm(gradient[role]),
                f"learning_rate{of}": jnp.asarray(update.rate(count), jnp.float32),
            }
        return TrainState(state.step + 1, roles, memory), metrics

    if layout is None:
        return jax.jit(step, donate_argnums=0)
    if axis is None:
        return jax.jit(step, donate_argnums=0, out_shardings=(shardings, layout.whole))
    return layout.mapped(step, axis)


def _target(update: Update | None, one: RoleState) -> Any:
    if update is None or update.averages is None:
        return None
    return update.averages.target(tuple(one.ema))


def _updated(update: Update, before: RoleState, gradient: Any, step: Array) -> RoleState:
    changes, optimizer = update.optimizer.update(gradient, before.optimizer, before.params)
    params = update.project(optax.apply_updates(before.params, changes))
    kept = update.averages.update(before.ema, params, step + 1) if update.averages else ()
    return RoleState(params, kept, optimizer)
