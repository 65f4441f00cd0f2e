"""Distribution matching: a generator's law becomes a teacher's, whatever it makes of which noise.

Two denoisers are compared at noised samples of the generator: the frozen teacher's, under any rule
that is a field, and the ``fake`` one, which is trained beside on the generator's samples. What the
generator descends along is what the methods differ in: `dmd`, `score_identity`. Only the law is
determined at the optimum. Under guidance it depends on which noise levels are judged: at low ones
it is the tilted density ``p_c^w p_u^(1-w)``, with higher ones narrower, and never the law of the
guided flow, which students of trajectories have.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ...core.checks import at_least_0, count, require_ranges
from ...core.errors import UserError
from ...core.random import fold_each
from ...core.registry import registry
from ...models.autoencoders.discriminator import ROLE as DISCRIMINATOR
from ...models.scalar_inputs import ScalarInput
from ...models.spec import Spec
from ..losses.autoencoding import discriminator, generator
from ..losses.loss import MAIN, Batch, Roles, over_elements
from ..noise.corruption import Corruption, condition_of
from ..noise.levels import WHOLE
from ..noise.weightings import Weighting
from .distances import Distance
from .fake import FAKE, denoising_of_made
from .generators import Generator, generator_of, require_fake
from .scales import NAME, OWN, drawn, scale_of
from .teacher import Teacher, teacher_of

# Streams of a sample's key: what judges a sample for the generator, and what the fake learns from.
JUDGED, OF_FAKE, OF_GENERATED, OF_DATA = range(OWN, OWN + 4)


@dataclasses.dataclass(frozen=True)
class Judged:
    """Generated samples and what two denoisers make of noised ones.

    Attributes:
        made: the samples, ``[batch, ...]``.
        noisy: ``made + sigma n``.
        sigma: in a shape that multiplies samples.
        fake, real: predictions of x0.
    """

    made: Array
    noisy: Array
    sigma: Array
    fake: Array
    real: Array


# What the generator minimises, one number a sample.
Pull = Callable[[Judged], Float[Array, " batch"]]


@dataclasses.dataclass(frozen=True, eq=False)
class Regression:
    """``weight d(g(n), x(n))``: where the teacher's flow leads from the same noise.

    Attributes:
        weight: of the distance.
        distance: d.
        levels: noise levels of the teacher's steps, from the generator's to 0.
    """

    weight: float
    distance: Distance
    levels: tuple[float, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class DistributionMatching:
    """A generator's ``pull`` and the fake denoiser's loss, in one number.

    The fake one learns ``turns`` times a step, the generator once; no gradient passes from one to
    the other or to the teacher.

    Attributes:
        generator: makes samples of the main network.
        teacher: whose law they are to have.
        corruption: noise levels and noise that the fake denoiser learns from.
        judges: the same of the generator's own loss.
        weighting: of the fake denoiser's error in x0.
        pull: what the generator minimises.
        roles: the networks that take part.
        turns: updates of the fake denoiser a step.
        through: whether ``pull``'s gradient passes through the denoisers to the samples.
        scale: an input of generator and fake denoiser; None for none.
        regression: a further term of the generator; None for none.
        adversarial: weight of a further term, the logistic loss of a discriminator that tells
            noised samples from noised data and learns as often as the fake denoiser; 0 for none.

    Raises:
        UserError: augmentation, or noise on the condition's embedding.
    """

    generator: Generator
    teacher: Teacher
    corruption: Corruption
    judges: Corruption
    weighting: Weighting
    pull: Pull
    roles: tuple[str, ...]
    turns: int = 1
    through: bool = False
    scale: ScalarInput | None = None
    regression: Regression | None = None
    adversarial: float = 0.0

    @property
    def trained(self) -> tuple[str, ...]:
        """The roles that learn beside the generator."""
        return (FAKE, DISCRIMINATOR) if self.adversarial else (FAKE,)

    def __post_init__(self):
        for name, part in (("augmentation", "augment"), ("perturbation", "perturbation")):
            if getattr(self.corruption, part) is not None:
                raise UserError(
                    f"training.{name}: a generator's samples are judged as they are: set "
                    f"{name}.name none"
                )

    def __call__(
        self,
        roles: Roles,
        batch: Batch,
        keys: Key[Array, " batch"],
        span: tuple = WHOLE,
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        """Return each sample's loss, its parts, and how far the denoisers differ; `losses.Loss`.

        ``batch["x"]`` says what shape samples have; the data themselves are seen by the
        discriminator alone.
        """
        main, fake = roles[MAIN], roles[FAKE]
        condition = condition_of(main.network, batch)
        inputs = drawn(self.scale, keys)
        source = main if main.learns else main.held
        start, made = self.generator(source, batch["x"], condition, keys, **inputs)
        own = denoising_of_made(
            fake,
            made,
            condition,
            fold_each(keys, OF_FAKE),
            self.corruption,
            self.weighting,
            span,
            **inputs,
        )
        beside = {"fake": own}
        if self.adversarial:
            fooled, beside["discriminator"] = self._judged(
                roles, batch, made, condition, keys, span
            )
            own = own + beside["discriminator"]
        if not main.learns:
            return own, beside
        field = self.teacher.field(roles, condition, scale=inputs.get(NAME), through=self.through)
        given = self.judges(
            main.network,
            {"x": made, "condition": condition},
            fold_each(keys, JUDGED),
            span,
        )
        at = given.noisy if self.through else jax.lax.stop_gradient(given.noisy)
        judged = Judged(
            made,
            at,
            given.column,
            fake.held.denoiser(at, given.sigma, condition, **inputs),
            field.denoise(at, given.sigma),
        )
        pulled = self.pull(judged)
        metrics = beside | {
            "matching": pulled,
            "gap": over_elements(jnp.mean, (judged.fake - judged.real) ** 2),
        }
        value = pulled
        if self.regression is not None:
            levels = jnp.asarray(self.regression.levels, jnp.float32)
            target = field.walk(start, jnp.broadcast_to(levels[:, None], (len(levels), len(made))))
            metrics["regression"] = self.regression.distance(made, jax.lax.stop_gradient(target))
            value = value + self.regression.weight * metrics["regression"]
        if self.adversarial:
            metrics["fooled"] = fooled
            value = value + self.adversarial * fooled
        return value + own, metrics

    def _judged(self, roles, batch, made, condition, keys, span) -> tuple[Array, Array]:
        """Return what the generator and what the discriminator minimise, of noised samples."""
        main, judge = roles[MAIN], roles[DISCRIMINATOR]

        def seen(x, stream):
            """Return what the discriminator is shown: of unit size at every noise level."""
            at = {"x": x, "condition": condition}
            given = self.corruption(main.network, at, fold_each(keys, stream), span)
            return main.preconditioner.coefficients(given.column).inside * given.noisy

        shown, real = seen(made, OF_GENERATED), seen(batch["x"], OF_DATA)
        fixed = judge.network.module(jax.lax.stop_gradient(judge.params))
        learns = judge.network.module(judge.params)
        return (
            generator("logistic", fixed(shown)),
            discriminator("logistic", learns(real), learns(jax.lax.stop_gradient(shown))),
        )


def along(
    made: Float[Array, " batch *shape"], way: Float[Array, " batch *shape"]
) -> Float[Array, " batch"]:
    """Return ``mean(way^2) / 2``, with the gradient ``way / dim`` in ``made``.

    It is what ``|made - sg(made - way)|^2 / 2`` is, without the digits that a difference loses.
    """
    way = jax.lax.stop_gradient(way)
    linear = over_elements(jnp.mean, way * made)
    return over_elements(jnp.mean, way**2) / 2 + linear - jax.lax.stop_gradient(linear)


def matching_of(
    name: str,
    specs: Mapping[str, Spec],
    corruption: Corruption,
    weighting: Weighting,
    pull: Pull,
    *,
    rule: Mapping[str, Any],
    solver: Mapping[str, Any] | None = None,
    levels: Mapping[str, Any],
    sigma: float,
    ratio: int,
    through: bool = False,
    regression: Callable[[Generator], Regression] | None = None,
    adversarial: float = 0.0,
) -> DistributionMatching:
    """Compose a loss of this family from what its constructors take.

    Args:
        name: of the loss.
        specs: specs of the networks, by role.
        corruption, weighting: of the fake denoiser's loss.
        pull: what the generator minimises.
        rule, solver: sections of the teacher's rule, and of its solver where it has one.
        levels: section of the distribution of noise levels that samples are judged at.
        sigma: the generator's noise level.
        ratio: updates of the fake denoiser for one of the generator.
        through: see `DistributionMatching`.
        regression: makes a further term.
        adversarial: weight of a further term.

    Raises:
        UserError: a network that is no generator, a rule that is no field, networks that do not
            fit one another, unknown noise levels, or a number out of range.
    """
    main = specs[MAIN]
    require_ranges("training.loss", {"ratio": ratio}, {"ratio": count(1)})
    made_by = generator_of(main, sigma, name)
    scale = scale_of(main)
    teacher = teacher_of(rule, solver, specs=specs, scaled=scale is not None)
    require_fake(specs)
    weight = checked_weight("adversarial", adversarial)
    judge = specs.get(DISCRIMINATOR)
    if weight and judge is not None and (judge.kind, judge.shape) != ("discriminator", main.shape):
        raise UserError(
            f"roles.{DISCRIMINATOR} is a {judge.kind} of samples of shape {judge.shape}: give it "
            f"the model unet_discriminator, for images of {main.shape}"
        )
    dropout = FAKE in specs and specs[FAKE].takes("dropout_key")
    made = registry("noise").build(dict(levels), "training.loss.levels")
    return DistributionMatching(
        made_by,
        teacher,
        dataclasses.replace(corruption, dropout=dropout),
        Corruption(made, corruption.kernel),
        weighting,
        pull,
        (MAIN, FAKE, *teacher.roles(main.shape), *((DISCRIMINATOR,) if weight else ())),
        ratio,
        through,
        scale,
        None if regression is None else regression(made_by),
        weight,
    )


def checked_weight(name: str, value: float) -> float:
    """Return a term's weight.

    Raises:
        UserError: one below 0.
    """
    require_ranges("training.loss", {name: value}, {name: at_least_0("0 is none")})
    return float(value)
