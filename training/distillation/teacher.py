"""What a student learns from: any network under any guidance rule, moved by any solver's own step.

A `Teacher` is a rule and a solver, a `Field` these with the networks they ask. Noise levels and
scales are one a sample: every sample is asked as a batch of its own, under `jax.vmap`, so that
rules and solvers are those of sampling. No gradient comes out of a field to its networks'
parameters, nor to the points that it is asked at unless `Field.through` says so.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ... import guidance, samplers
from ...core.constructors import name_of
from ...core.errors import UserError
from ...core.registry import registry
from ...guidance.protocol import CLASSIFIER, Rule
from ...guidance.protocol import MAIN as RULES_MAIN
from ...guidance.structure import held_in, spans
from ...models.denoiser import Denoiser
from ...models.spec import Spec
from ...samplers.evaluator import Evaluator
from ...samplers.loop import Calls, GuidedDenoiser
from ...samplers.networks import asked
from ...samplers.solvers.solver import Interval, Solver, TooFewSteps
from ..losses.loss import MAIN, Roles, column

# The role of the network that a rule knows as the main one.
TEACHER = "teacher"
# What a teacher and its student must have in common.
SHARED = ("shape", "num_classes", "condition", "latent")


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A guidance rule and a solver, before any network.

    Attributes:
        rule: makes the rule of a scale; of None where the scale is the rule's own.
        scaled: whether the scale is given in every call, one a sample.
        solver: takes the steps.
    """

    rule: Callable[[Any], Rule]
    scaled: bool = False
    solver: Solver = dataclasses.field(default_factory=samplers.heun)

    @property
    def plain(self) -> Rule:
        """The rule at a scale of its own, or at one that stands for all."""
        return self.rule(2.0 if self.scaled else None)

    def networks(self, shape: tuple[int, ...]) -> tuple[str, ...]:
        """Return the names of the networks that the rule asks, for samples of a shape."""
        x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        found = {one.network for span in self.spans for one in asked(held_in(self.plain, span), x)}
        return tuple(sorted(found))

    @property
    def spans(self) -> list[tuple[float, float]]:
        """Noise levels ``(low, high]`` within which one rule holds; neighbours differ."""
        result: list[tuple[float, float]] = []
        before, rule = None, self.plain
        for low, high in spans(rule):
            leaves, structure = jax.tree.flatten(held_in(rule, (low, high)))
            now = structure, tuple(map(id, leaves))
            if now == before:
                result[-1] = (result[-1][0], high)
            else:
                result.append((low, high))
            before = now
        return result

    def roles(self, shape: tuple[int, ...]) -> tuple[str, ...]:
        """Return the roles of those networks: `TEACHER` for the rule's main one."""
        names = (name for name in self.networks(shape) if name != RULES_MAIN)
        return (TEACHER, *names)

    def field(
        self,
        roles: Roles,
        condition: Any,
        *,
        scale: Array | None = None,
        through: bool = False,
        **inputs: Array,
    ) -> "Field":
        """Return the field of a batch, of the networks that have these roles.

        Args:
            roles: as a loss sees them.
            condition: of the batch, ``[batch, ...]`` each, or None.
            scale: of each sample, where the rule takes it.
            through: as of `Field`.
            inputs: of the teacher's own network, ``[batch]`` each.
        """
        networks = {
            RULES_MAIN if name == TEACHER else name: role.held.denoiser
            for name, role in roles.items()
            if name != MAIN and role.preconditioner is not None
        }
        return Field(self, networks, condition, scale, inputs, through)


@dataclasses.dataclass(frozen=True, eq=False)
class Field:
    """A teacher with its networks: a denoiser and a step, of one batch.

    Attributes:
        teacher: its rule and solver.
        networks: by the names that the rule knows.
        condition: ``[batch, ...]`` each, or None.
        scale: ``[batch]``, of a rule that takes it; None otherwise.
        inputs: ``[batch]`` each, that the main network takes.
        through: whether a gradient passes through it to the points that it is asked at; never to
            its networks' parameters, which `Teacher.field` holds.
    """

    teacher: Teacher
    networks: Mapping[str, Denoiser]
    condition: Any
    scale: Float[Array, " batch"] | None = None
    inputs: Mapping[str, Float[Array, " batch"]] = dataclasses.field(default_factory=dict)
    through: bool = False

    def denoise(
        self, x: Float[Array, " batch *shape"], sigma: Float[Array, " batch"]
    ) -> Float[Array, " batch *shape"]:
        """Return the rule's prediction of x0 at each sample's own noise level."""

        def one(networks, rule, x, sigma, condition, key):
            del key
            evaluate = Evaluator(networks, x, sigma, condition, "fused")
            return rule.apply(evaluate, x, sigma, rule.init(x), None)[0].denoised

        return self._each(one, x, sigma, sigma, None)

    def step(
        self,
        x: Float[Array, " batch *shape"],
        sigma: Float[Array, " batch"],
        to: Float[Array, " batch"],
        keys: Key[Array, " batch"] | None = None,
    ) -> Float[Array, " batch *shape"]:
        """Return where the solver's step leads from ``sigma`` to ``to``, each sample's own.

        A step to 0 ends in the prediction, as it does in every sampler.

        Args:
            x: noisy samples.
            sigma, to: noise levels, ``to`` the lower.
            keys: of a solver that adds noise.
        """
        solver = self.teacher.solver

        def one(networks, rule, x, sigmas, condition, key):
            sigma, to = sigmas
            # Not to 0, where directions are 0 / 0: what is chosen there is the prediction.
            end = jnp.where(to > 0, to, sigma)
            tables = jax.tree.map(lambda t: t[0], solver.tables(jnp.stack([sigma, end])))
            denoise = GuidedDenoiser(networks, rule, rule.init(x), condition, key, Calls("fused"))
            after, guided, _ = solver.step(
                denoise, x, Interval(sigma, end, tables), solver.init(x), key
            )
            return jnp.where(to > 0, after, guided.denoised)

        if keys is None:
            keys = jax.vmap(_no_key)(sigma)
        # In the type of the samples: differences of levels lose no digits that these have.
        sigma, to = (level.astype(x.dtype) for level in (sigma, to))
        return self._each(one, x, (sigma, to), sigma, keys)

    def walk(
        self,
        x: Float[Array, " batch *shape"],
        levels: Float[Array, "nodes batch"],
        keys: Key[Array, " batch"] | None = None,
    ) -> Float[Array, " batch *shape"]:
        """Return where steps through decreasing noise levels lead; one compiled step.

        Args:
            x: noisy samples, of noise level ``levels[0]``.
            levels: each sample's own; equal neighbours are no step.
            keys: of a solver that adds noise.
        """

        def body(x, row):
            number, sigma, to = row
            own = None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            return self.step(x, sigma, to, own), None

        steps = (jnp.arange(len(levels) - 1), levels[:-1], levels[1:])
        return jax.lax.scan(body, x, steps)[0]

    def _each(self, one: Callable, x: Array, sigmas: Any, start: Array, keys: Any) -> Array:
        """Ask every sample as a batch of its own, under the rule that holds where it starts."""
        x = x if self.through else jax.lax.stop_gradient(x)
        teacher = self.teacher

        def single(span):
            def ask(x, sigmas, condition, scale, inputs, key):
                rule = held_in(teacher.rule(scale), span)
                networks = dict(self.networks)
                if inputs:
                    networks[RULES_MAIN] = networks[RULES_MAIN].bind(**inputs)
                row = jax.tree.map(lambda leaf: leaf[None], (x, condition, key))
                return one(networks, rule, row[0], sigmas, row[1], row[2])[0]

            return jax.vmap(ask)(x, sigmas, self.condition, self.scale, dict(self.inputs), keys)

        (_, end), *others = teacher.spans
        result = single((0.0, end))
        for low, high in others:
            result = jnp.where(column(start, x) > low, single((low, high)), result)
        return result if self.through else jax.lax.stop_gradient(result)


def _no_key(_: Array) -> Key[Array, ""]:
    """Return the key of a solver that draws nothing."""
    return samplers.root_key(0)


def teacher_of(
    rule: Mapping[str, Any],
    solver: Mapping[str, Any] | None = None,
    *,
    specs: Mapping[str, Spec],
    scaled: bool = False,
) -> Teacher:
    """Read a teacher's rule and solver of a loss's section, and refuse what cannot be one.

    Args:
        rule: a rule's section; where ``scaled``, its ``scale`` is left out, for the network takes
            it as an input.
        solver: a solver's section; None for `samplers.heun`.
        specs: specs of the networks, by role.
        scaled: whether the student takes the scale as an input.

    Raises:
        UserError: a rule that keeps a memory or draws numbers, so that it has no field; one without
            a scale where the student takes it; a solver whose steps are no function of two noise
            levels; a network that is missing, or that does not fit the student's.
    """
    sections = dict(rule)
    if scaled and not _scales(sections):
        raise UserError(
            f"training.loss.rule: the network takes the input scale, and the rule "
            f"{sections.get('name')!r} has none left open: take one with a scale (cfg, apg, "
            f"autoguidance), leave its number out, or leave model.inputs.scale out"
        )
    # Checked once, with all that a config may get wrong, before it is made while tracing.
    made = guidance.from_config(_filled(sections, 2.0) if scaled else sections)

    def of_scale(scale: Any) -> Rule:
        return guidance.from_config(_filled(sections, scale)) if scaled else made

    steps = samplers.heun() if solver is None else _solver(solver)
    teacher = Teacher(of_scale, scaled, steps)
    shape = specs[MAIN].shape
    for span in teacher.spans:
        _require_field(held_in(teacher.plain, span), shape)
    _require_step(steps)
    _require_networks(teacher, specs)
    return teacher


def _solver(section: Mapping[str, Any]) -> Solver:
    return registry("solver").build(dict(section), "training.loss.solver")


def _filled(section: Any, scale: Any) -> Any:
    """Return a rule's section with a scale wherever a constructor takes one and none is given."""
    if not isinstance(section, Mapping):
        return section
    filled = {key: _filled(value, scale) for key, value in section.items()}
    return filled | {"scale": scale} if _open(section) else filled


def _open(section: Mapping[str, Any]) -> bool:
    name = section.get("name")
    table = registry("rule")
    return name in table and "scale" in table[name].parameters and "scale" not in section


def _scales(section: Any) -> bool:
    if not isinstance(section, Mapping):
        return False
    return _open(section) or any(_scales(value) for value in section.values())


class _Answering:
    """An ``evaluate`` whose answers depend on all that it is asked by."""

    def __init__(self, x: Array):
        self.x, self.condition = x, jnp.zeros(x.shape[0], jnp.int32)

    def __call__(self, branches, x=None, sigma=None):
        like = self.x if x is None else x
        answers = []
        for branch in branches:
            extra = sum(
                jnp.sum(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
                for leaf in jax.tree.leaves((branch.modes, branch.condition))
                if hasattr(leaf, "dtype")
            )
            answers.append(like + jnp.asarray(extra, like.dtype))
        return tuple(answers)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _require_field(rule: Rule, shape: tuple[int, ...]) -> None:
    """Refuse a rule whose prediction is no function of the point and the noise level."""
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    if jax.tree.leaves(jax.eval_shape(rule.init, x)):
        raise UserError(
            f"training.loss.rule: {name_of(rule)} keeps a memory from step to step, so that it is "
            f"no field that could be distilled: leave out momentum, or take a rule without memory "
            f"(cfg, autoguidance, between)"
        )
    if CLASSIFIER in {one.network for one in asked(rule, x)}:
        raise UserError(
            f"training.loss.rule: {name_of(rule)} asks a classifier, which is no role of a "
            f"distillation: take a rule of denoisers (cfg, autoguidance)"
        )

    def predict(x, key):
        evaluate = _Answering(x)
        return rule.apply(evaluate, x, jnp.float32(1), rule.init(x), key)[0].denoised

    keys = jax.eval_shape(lambda: jax.vmap(_no_key)(jnp.zeros(1)))
    traced = jax.make_jaxpr(predict)(x, keys).jaxpr
    drawn = traced.invars[-1]
    if any(drawn is variable for equation in traced.eqns for variable in equation.invars):
        raise UserError(
            f"training.loss.rule: {name_of(rule)} draws numbers, so that it is no field that could "
            f"be distilled: take a rule that draws none (cfg, autoguidance, between)"
        )


def _require_step(solver: Solver) -> None:
    """Refuse a solver whose step is no function of two noise levels."""
    levels = jax.ShapeDtypeStruct((2,), jnp.float32)
    try:
        jax.eval_shape(solver.tables, levels)
        remembers = jax.tree.leaves(
            jax.eval_shape(solver.init, jax.ShapeDtypeStruct((1, 1), jnp.float32))
        )
    except (jax.errors.TracerArrayConversionError, TooFewSteps):
        remembers = True
    if remembers:
        raise UserError(
            f"training.loss.solver: {name_of(solver)} takes its steps from a whole schedule or "
            f"from earlier steps, and a teacher's step has two noise levels alone, each sample's "
            f"own: take euler or heun"
        )


def _require_networks(teacher: Teacher, specs: Mapping[str, Spec]) -> None:
    """Refuse networks that are no denoisers of the student's samples."""
    main = specs[MAIN]
    for role in teacher.roles(main.shape):
        spec = specs.get(role)
        if spec is None:
            continue  # Said by `recipes`, with the remedy.
        require_alike(main, spec, role)


def require_same_samples(main: Spec, other: Spec, role: str) -> None:
    """Refuse a network that is no denoiser of the student's samples and conditions.

    Raises:
        UserError: naming what differs.
    """
    if other.preconditioner is None:
        raise UserError(f"roles.{role} is no denoiser: name the weights of one")
    for what in SHARED:
        ours, theirs = getattr(main, what), getattr(other, what)
        if ours != theirs:
            raise UserError(
                f"the network has {what} {ours} and roles.{role} {theirs}: they must agree"
            )


def require_alike(main: Spec, other: Spec, role: str) -> None:
    """Refuse a network of other samples, conditions or noise levels than the student's.

    Raises:
        UserError: naming what differs.
    """
    require_same_samples(main, other, role)
    if (made := getattr(other.preconditioner, "estimate", "x0")) != "x0":
        raise UserError(
            f"roles.{role} estimates {made} rather than x0: a teacher is a denoiser, name the "
            f"weights of one"
        )
    if other.sigma_range[1] < main.sigma_range[1] * (1 - 1e-6):
        raise UserError(
            f"the network knows noise levels up to {main.sigma_range[1]:g} and roles.{role} up to "
            f"{other.sigma_range[1]:g}: a teacher knows all of its student's"
        )
