"""Consistency trajectory models: flow maps learnt along a teacher's trajectories, node to node.

Kim et al., arXiv 2310.02279. ``G(x, t -> s) = (s/t) x + (1 - s/t) g(x, t, s)``: the student's jump
from t to s is compared with the teacher's steps to a node between them and the student's jump from
there, both carried on to the lowest node, where distances are between samples of the data. The
student is sampled by `samplers.ctm`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ...core.checks import at_least_0, count, require_ranges, share
from ...core.random import fold_each, normal_like
from ...core.registry import register
from ...models.preconditioning import FlowMap
from ...models.scalar_inputs import ScalarInput
from ...models.spec import Spec
from ..averages.ema import constant
from ..losses.loss import MAIN, Batch, Role, Roles, column, over_elements
from ..noise.corruption import DROPOUT, NOISE, SIGMA, condition_of
from ..noise.levels import WHOLE, Noise, draw, shares
from .distances import Distance, distance_of
from .pairs import Grid
from .scales import NAME, OWN, drawn, scale_of
from .teacher import Field, Teacher, teacher_of
from .velocities import flow_map_of


class Nodes(NamedTuple):
    """Places on a grid, 0 the lowest, of each sample.

    Attributes:
        begin: t, where the student's jump begins.
        between: u, where the teacher's steps end.
        end: s, where both end.
    """

    begin: Int[Array, " batch"]
    between: Int[Array, " batch"]
    end: Int[Array, " batch"]


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectory:
    """``d(G'(G(x, t -> s), s -> 0), G'(sg G(steps(x), u -> s), s -> 0)) + w DSM``.

    Attributes:
        grid: of the noise levels; the lowest stands for the data.
        intervals: of the grid.
        longest: teacher's steps at most.
        distance: d.
        roles: the networks that take part.
        teacher: whose steps lead to u.
        levels: distribution of noise levels of the denoising part.
        denoising: its weight, w.
        of_teacher: whether its target is the teacher's prediction; the data otherwise.
        target_average: schedule of the average that G' is; None for the student itself.
        scale: an input of the network; None for none.
        dropout: give the network keys for its dropout.
    """

    grid: Grid
    intervals: int
    longest: int
    distance: Distance
    roles: tuple[str, ...]
    teacher: Teacher
    levels: Noise
    denoising: float
    of_teacher: bool
    target_average: Callable | None = None
    scale: ScalarInput | None = None
    dropout: bool = False

    def __call__(
        self,
        roles: Roles,
        batch: Batch,
        keys: Key[Array, " batch"],
        span: tuple = WHOLE,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's loss, and its two parts; see `losses.Loss`."""
        main, clean = roles[MAIN], batch["x"]
        nodes = self.nodes(keys, span)
        begin, between, end = (self.grid.level(one, self.intervals) for one in nodes)
        low = jnp.full_like(end, self.grid.low)
        noise = normal_like(fold_each(keys, NOISE), clean)
        noisy = clean + column(begin, clean) * noise
        condition = condition_of(main.network, batch)
        inputs: dict[str, Any] = drawn(self.scale, keys)
        field = self.teacher.field(roles, condition, scale=inputs.get(NAME))
        steps = jnp.maximum(nodes.begin - jnp.arange(self.longest + 1)[:, None], nodes.between)
        below = field.walk(noisy, self.grid.level(steps, self.intervals))
        if self.dropout:
            inputs["dropout_key"] = fold_each(keys, DROPOUT)

        def jump(role: Role, x: Array, level: Array, to: Array) -> Array:
            made = role.denoiser(x, level, condition, to=to, **inputs)
            ratio = column(to / level, x)
            return ratio * x + (1 - ratio) * made

        target = main.target_role
        made = jump(target, jump(main, noisy, begin, end), end, low)
        other = jump(target, jump(main, below, between, end), end, low)
        matching = self.distance(made, jax.lax.stop_gradient(other))
        denoising = self._denoising(main, field, clean, condition, inputs, keys)
        parts = {"matching": matching, "denoising_error": denoising}
        return matching + self.denoising * denoising, parts

    def nodes(self, keys: Key[Array, " batch"], span: tuple = WHOLE) -> Nodes:
        """Draw places: t evenly, the teacher's steps h by ``P(h) ~ h``, s evenly up to u."""
        first, second, third = (fold_each(fold_each(keys, OWN), n) for n in range(3))
        uniform = jax.vmap(jax.random.uniform)
        place = shares(first, span)
        begin = jnp.clip((place * self.intervals).astype(jnp.int32), 0, self.intervals - 1) + 1
        most = jnp.minimum(begin, self.longest)
        # The inverse of h (h + 1) / (m (m + 1)).
        inner = 1 + 4 * uniform(second) * most * (most + 1)
        steps = jnp.clip(jnp.ceil((jnp.sqrt(inner) - 1) / 2).astype(jnp.int32), 1, most)
        between = begin - steps
        end = jnp.floor(uniform(third) * (between + 1)).astype(jnp.int32)
        return Nodes(begin, between, jnp.clip(end, 0, between))

    def _denoising(
        self,
        main: Role,
        field: Field,
        clean: Array,
        condition: Any,
        inputs: Mapping[str, Any],
        keys: Array,
    ) -> Float[Array, " batch"]:
        """Return the error of g at ``s = t`` as a denoiser, weighed as EDM's."""
        if not self.denoising:
            return jnp.zeros(len(clean), clean.dtype)
        own = fold_each(fold_each(keys, OWN), 3)
        sigma = jnp.clip(draw(self.levels, fold_each(own, SIGMA)), self.grid.low, self.grid.high)
        noisy = clean + column(sigma, clean) * normal_like(fold_each(own, NOISE), clean)
        made = main.denoiser(noisy, sigma, condition, to=sigma, **inputs)
        assert isinstance(main.preconditioner, FlowMap), "a flow map"
        weight = main.preconditioner.base.loss_weight(column(sigma, clean))
        target = field.denoise(noisy, sigma) if self.of_teacher else clean
        return over_elements(jnp.mean, weight * (made - target) ** 2)


@register("loss", "2310.02279")
def ctm(
    spec: Spec,
    levels: Noise,
    specs: Mapping[str, Spec],
    /,
    nodes: int = 18,
    longest: int = 17,
    rule: Mapping[str, Any] = {"name": "unguided"},
    solver: Mapping[str, Any] = {"name": "heun"},
    distance: str | Mapping[str, Any] = "squared",
    denoising: float = 1.0,
    target_decay: float = 0.999,
) -> Trajectory:
    """Train a flow map along a frozen teacher's trajectories, with a denoising part.

    The network has the preconditioner ``flow_map``, ``network="edm"`` as published. The teacher is
    any denoiser under any rule that is a field; with ``model.inputs.scale`` the student takes the
    rule's scale as an input. Published: 18 nodes and at most 17 steps on CIFAR-10, 40 and 39 on
    ImageNet 64, perceptual distances, noise levels of the denoising part ``log_normal`` with mean
    -1.2 and std 1.2 for one half of the samples. There the denoising part is weighed anew in every
    step by the ratio of two gradients, here by one number; the adversarial part is not of this.

    Args:
        nodes: noise levels, Karras' with rho 7 between 0.002, or the network's lowest where that is
            higher, and the network's highest.
        longest: teacher's steps at most. Every sample pays for as many.
        rule: a guidance rule's section.
        solver: ``heun`` or ``euler``.
        distance: ``squared``, ``pseudo_huber``, ``norm`` or ``perceptual`` (see
            `distillation.distances`).
        denoising: weight of the part in which ``g(x, t, t)`` learns to denoise: the data where the
            rule is ``unguided``, what the rule predicts otherwise. 0 is none.
        target_decay: of the average that carries both ends on; 0 is the student itself.

    Raises:
        UserError: a network that is no flow map, a rule that is no field, a solver without a step
            of its own, a teacher that does not fit, or a number out of range.

    Source: Kim et al., arXiv 2310.02279, algorithm 1.
    """
    flow_map_of(spec, "ctm")
    given = dict(nodes=nodes, longest=longest, denoising=denoising, target_decay=target_decay)
    ranges = {
        "nodes": count(2),
        "longest": count(1),
        "denoising": at_least_0("0 is none"),
        "target_decay": share(open_high=True, hint="0 is the student"),
    }
    require_ranges("training.loss", given, ranges)
    low, high = spec.sigma_range
    scale = scale_of(spec)
    teacher = teacher_of(rule, solver, specs=specs, scaled=scale is not None)
    return Trajectory(
        Grid(max(low, Grid().low), high),
        nodes - 1,
        min(longest, nodes - 1),
        distance_of(distance, spec),
        (MAIN, *teacher.roles(spec.shape)),
        teacher,
        levels,
        float(denoising),
        rule.get("name") != "unguided",
        constant(target_decay) if target_decay else None,
        scale,
        spec.takes("dropout_key"),
    )
