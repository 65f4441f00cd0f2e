"""What a training run is made of at one step, and the one function that advances it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from ..models.denoiser import Network
from . import ema


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a step changes; a pytree, and exactly what a checkpoint holds.

    ``ema`` holds one tree like ``params`` for each of the recipe's averages.
    """

    step: Int[Array, ""]
    params: Any
    ema: Any
    optimizer: Any


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained: what is minimised, by what, and how weights are averaged.

    Attributes:
        loss: ``loss(network, params, batch, keys) -> (scalar, metrics)``.
        optimizer: an optax transformation.
        averages: which averages of the weights are kept.
        project: applied to the parameters before every update's forward pass and after the
            last one (forced weight normalisation); the identity for most networks.
    """

    loss: Callable
    optimizer: optax.GradientTransformation
    averages: ema.Averages
    project: Callable


def initial_state(recipe: Recipe, params: Any) -> TrainState:
    """Return the state before the first step; the averages start as the parameters."""
    params = recipe.project(params)
    averages = recipe.averages.init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, averages, recipe.optimizer.init(params))


def make_step(recipe: Recipe, network: Network, seed: int):
    """Return the jitted ``(state, batch) -> (state, metrics)``; the old state is donated.

    The noise of one example depends on (seed, step, position in the global batch) alone, so a
    resumed run repeats an uninterrupted one bit for bit.
    """

    def step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        root = jax.random.fold_in(jax.random.key(seed), state.step)
        count = batch["label"].shape[0]
        keys = jax.vmap(jax.random.fold_in, (None, 0))(root, jnp.arange(count))
        objective = jax.value_and_grad(
            lambda params: recipe.loss(network, params, batch, keys), has_aux=True
        )
        (loss, metrics), gradients = objective(state.params)
        updates, optimizer = recipe.optimizer.update(gradients, state.optimizer, state.params)
        params = recipe.project(optax.apply_updates(state.params, updates))
        averages = recipe.averages.update(state.ema, params, state.step + 1)
        metrics = {"loss": loss, "gradient_norm": optax.tree.norm(gradients)} | metrics
        return TrainState(state.step + 1, params, averages, optimizer), metrics

    return jax.jit(step, donate_argnums=0)
