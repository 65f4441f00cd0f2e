"""What a training run is made of at one step, and the one function that advances it."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from ..models.denoiser import Network
from ..runtime.sharding import Layout
from .averages import ema
from .gradients import gradients
from .objectives.objective import Objective


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a step changes; a pytree, and exactly what a checkpoint holds.

    ``ema`` holds one tree like ``params`` for each of the recipe's averages, ``memory`` what the
    recipe's objective remembers from step to step.
    """

    step: Int[Array, ""]
    params: Any
    ema: Any
    optimizer: Any
    memory: Any


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained: what is minimised, by what, and how weights are averaged.

    Attributes:
        objective: from a loss to a gradient.
        optimizer: an optax transformation.
        averages: which averages of the weights are kept.
        project: applied to the parameters before every update's forward pass and after the
            last one (forced weight normalisation); the identity for most networks.
    """

    objective: Objective
    optimizer: optax.GradientTransformation
    averages: ema.Averages
    project: Callable


def initial_state(recipe: Recipe, params: Any) -> TrainState:
    """Return the state before the first step; the averages start as the parameters."""
    params = recipe.project(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=recipe.averages.init(params),
        optimizer=recipe.optimizer.init(params),
        memory=recipe.objective.init(),
    )


def make_step(
    recipe: Recipe,
    network: Network,
    seed: int,
    *,
    layout: Layout | None = None,
    shardings: TrainState | None = None,
    accumulate: int = 1,
):
    """Return the compiled ``(state, batch) -> (state, metrics)``; the old state is donated.

    The noise of one example depends on (seed, step, position in the global batch) alone, so a
    resumed run repeats an uninterrupted one bit for bit.

    Args:
        recipe, network: what is trained, and how.
        seed: of the noise.
        layout: of the devices; None leaves every placement to the arguments.
        shardings: of the state's arrays, as they come in and go out.
        accumulate: number of micro-batches whose gradients are added up before the update.
    """
    axis = "batch" if layout is not None and layout.preset.pmap else None

    def step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        root = jax.random.fold_in(jax.random.key(seed), state.step)
        part = partial(recipe.objective.gradient, network, state.memory)
        gradient, metrics = gradients(
            part, state.params, batch, root, accumulate=accumulate, axis=axis
        )
        # Keys of examples are folded in from 0: this one is none of theirs.
        key = jax.random.fold_in(root, jnp.uint32(2**32 - 1))
        gradient, metrics, memory = recipe.objective.settle(gradient, metrics, state.memory, key)
        updates, optimizer = recipe.optimizer.update(gradient, state.optimizer, state.params)
        params = recipe.project(optax.apply_updates(state.params, updates))
        averages = recipe.averages.update(state.ema, params, state.step + 1)
        metrics = metrics | {"gradient_norm": optax.tree.norm(gradient)}
        return TrainState(state.step + 1, params, averages, optimizer, memory), metrics

    if layout is None:
        return jax.jit(step, donate_argnums=0)
    if axis is None:
        return jax.jit(step, donate_argnums=0, out_shardings=(shardings, layout.whole))
    return layout.mapped(step, axis)
