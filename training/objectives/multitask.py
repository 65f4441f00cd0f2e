"""Several ranges of noise levels as tasks of their own: how their gradients are weighed.

Each cluster of noise levels is a task with a loss and a gradient of its own, and the step's
gradient is a combination of the tasks', ``sum_k w_k g_k``. A weighting says which, from the losses
(uncertainty) or from the inner products of the gradients (NashMTL, PCGrad).
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from ...core.part_types import PART_TYPES, PartType
from ...core.registry import register
from ..losses.loss import Loss
from .objective import mean_gradient

NEWTON_STEPS = 40


@runtime_checkable
class TaskWeights(Protocol):
    """Weights of K tasks, with a memory that is part of the run's state."""

    def init(self, tasks: int) -> Any:
        """Return the memory before the first step."""

    def weigh(
        self,
        losses: Float[Array, " task"],
        gram: Float[Array, "task task"],
        memory: Any,
        key: Key[Array, ""],
    ) -> tuple[Float[Array, " task"], Any]:
        """Return the weights of this step and the memory of the next.

        Args:
            losses: of the tasks.
            gram: inner products of their gradients.
            memory: of this step.
            key: of this step.
        """


@dataclasses.dataclass(frozen=True)
class Equal:
    """The mean of the tasks' gradients."""

    def init(self, tasks):
        return ()

    def weigh(self, losses, gram, memory, key):
        return jnp.full(losses.shape, 1 / losses.size), memory


@dataclasses.dataclass(frozen=True)
class UncertaintyWeights:
    """Weights ``exp(-s_k) / K`` with s learned by Adam on ``sum_k (exp(-s_k) L_k + s_k) / K``.

    It starts as the mean of the tasks, and stays in proportion to it while their losses are equal;
    in the end ``exp(s_k)`` is the loss of its task, and all weighted losses are 1.

    Attributes:
        learning_rate: of s.

    Source: Kendall et al., arXiv 1705.07115; Go et al., arXiv 2306.00354.
    """

    learning_rate: float = 0.025

    def init(self, tasks):
        log_variance = jnp.zeros(tasks)
        return {"log_variance": log_variance, "optimizer": self._optimizer.init(log_variance)}

    def weigh(self, losses, gram, memory, key):
        del gram, key
        log_variance = memory["log_variance"]
        weights = jnp.exp(-log_variance) / losses.size
        slope = 1 / losses.size - weights * losses
        moved, optimizer = self._optimizer.update(slope, memory["optimizer"])
        following = {"log_variance": log_variance + moved, "optimizer": optimizer}
        return weights, following

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)


@dataclasses.dataclass(frozen=True)
class NashMTL:
    """The bargaining solution: weights w above 0 with ``(G w)_k = 1 / w_k``, scaled to sum 1.

    G are the inner products of the gradients: no task could gain a share by losing another a
    smaller one. The condition is that of the minimum of ``w G w / 2 - sum_k log w_k``, which
    Newton's method with damped steps finds from anywhere, the function being self-concordant.

    Source: Navon et al., arXiv 2202.01017, eq. 3 and claim 3.2.
    """

    def init(self, tasks):
        return ()

    def weigh(self, losses, gram, memory, key):
        del losses, key
        tasks = gram.shape[0]
        size = jnp.maximum(jnp.trace(gram) / tasks, jnp.finfo(gram.dtype).tiny)
        scaled = gram / size + 1e-6 * jnp.eye(tasks)

        def step(_, weights):
            slope = scaled @ weights - 1 / weights
            curvature = scaled + jnp.diag(1 / weights**2)
            direction = jnp.linalg.solve(curvature, slope)
            decrement = jnp.sqrt(jnp.maximum(slope @ direction, 0))
            return weights - direction / (1 + decrement)

        weights = jax.lax.fori_loop(0, NEWTON_STEPS, step, jnp.ones(tasks, gram.dtype))
        return weights / weights.sum(), memory


@dataclasses.dataclass(frozen=True)
class PCGrad:
    """The mean of the tasks' gradients, each without what conflicts with the others.

    From each gradient, the others in random order take away its component along themselves where
    that is negative.

    Source: Yu et al., arXiv 2001.06782, algorithm 1.
    """

    def init(self, tasks):
        return ()

    def weigh(self, losses, gram, memory, key):
        del losses
        tasks = gram.shape[0]
        squared = jnp.maximum(jnp.diagonal(gram), jnp.finfo(gram.dtype).tiny)

        def project(task, key):
            order = jax.random.permutation(key, tasks)

            def against(place, coefficients):
                other = order[place]
                # Of sum_i c_i g_i with g_other.
                along = coefficients @ gram[:, other] / squared[other]
                taken = jnp.where((other != task) & (along < 0), along, 0)
                return coefficients.at[other].add(-taken)

            return jax.lax.fori_loop(0, tasks, against, jnp.eye(tasks, dtype=gram.dtype)[task])

        projected = jax.vmap(project)(jnp.arange(tasks), jax.random.split(key, tasks))
        return projected.mean(axis=0), memory


PART_TYPES[TaskWeights] = PartType(
    "weights of tasks", lambda value: hasattr(value, "weigh"), "weights.name names some"
)
register("task_weights", name="equal")(Equal)
register("task_weights", "1705.07115", name="uncertainty")(UncertaintyWeights)
register("task_weights", "2202.01017", name="nash")(NashMTL)
register("task_weights", "2001.06782", name="pcgrad")(PCGrad)


@dataclasses.dataclass(frozen=True)
class Clusters:
    """An objective whose tasks are ranges of noise levels (ANT, arXiv 2306.00354).

    Every K-th example of a batch belongs to the same task, so each gets an equal part of the
    batch, in which noise levels are drawn from its range of the distribution.

    Attributes:
        loss: one of `training.losses`.
        scale: as of `objective.Mean`.
        edges: K + 1 increasing shares of the distribution, from 0 to 1: where ranges meet.
        weights: how the tasks are weighed.

    Raises:
        ValueError: edges that are none.
    """

    loss: Loss
    scale: float
    edges: tuple[float, ...]
    weights: TaskWeights

    def __post_init__(self):
        edges = np.asarray(self.edges)
        if edges.size < 2 or edges[0] != 0 or edges[-1] != 1 or (np.diff(edges) <= 0).any():
            raise ValueError(f"clusters: edges must increase from 0 to 1, got {self.edges}")

    @property
    def tasks(self) -> int:
        """Their number."""
        return len(self.edges) - 1

    def init(self):
        """Return the weights' memory."""
        return self.weights.init(self.tasks)

    def gradient(self, roles, memory, params, batch, keys):
        """Return the tasks' gradients, stacked, and their metrics with ``losses`` ``[task]``.

        Raises:
            ValueError: examples that the tasks cannot share equally.
        """
        del memory
        count = len(keys)
        if count % self.tasks:
            raise ValueError(
                f"{self.tasks} clusters of noise levels cannot share {count} examples equally: "
                f"make training.batch_size, over devices and micro-batches, a multiple"
            )
        shape = (count // self.tasks, self.tasks)
        shares = jax.tree.map(
            lambda a: jnp.moveaxis(a.reshape(*shape, *a.shape[1:]), 1, 0), (batch, keys)
        )

        def one(given):
            (batch, keys), low, high = given
            return mean_gradient(self, roles, params, batch, keys, (low, high))

        edges = jnp.asarray(self.edges, jnp.float32)
        gradients, metrics = jax.lax.map(one, (shares, edges[:-1], edges[1:]))
        losses = metrics["loss"]
        return gradients, jax.tree.map(jnp.mean, metrics) | {"losses": losses}

    def settle(self, gradient, metrics, memory, key):
        """Return the weighted gradient, the metrics with each task's loss, and the memory."""
        losses = metrics.pop("losses")
        flat = [g.reshape(self.tasks, -1) for g in jax.tree.leaves(gradient)]
        gram = sum(jnp.matmul(g, g.T, precision="highest") for g in flat)
        weights, memory = self.weights.weigh(losses, gram, memory, key)
        combined = jax.tree.map(lambda g: jnp.tensordot(weights, g, 1), gradient)
        each = {f"loss_{task}": losses[task] for task in range(self.tasks)}
        return combined, metrics | each, memory
