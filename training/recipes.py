"""From plain sections to a `Recipe`: what is minimised, by what, and which averages are kept.

A loss is composed of parts, each a section ``{"name": ..., argument: value}`` of ``training``:

    loss           losses/, distillation/   what is measured
    noise          noise/levels.py          how often each noise level is trained
    weighting      noise/weightings.py      how much the error counts at each
    kernel         noise/corruption.py      Gaussian noise, or that of PFGM++
    augmentation   noise/augmentation.py    geometry that the network is told of
    perturbation   noise/perturbation.py    noise on the condition's embedding
    objective      objectives/              how losses become a gradient: mean, curriculum, clusters

Each part is registered in its own file. What stands before the ``/`` of a loss's constructor it
gets from here, by name: `INGREDIENTS`. A part that the loss asks nothing of must be left alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ..core.checks import positive, require_ranges
from ..core.constructors import Constructor
from ..core.errors import UserError
from ..core.registry import registry
from ..core.sites import CONDITION_EMBEDDING
from ..models.exact.mixture import GaussianMixture
from ..models.spec import Spec
from . import distillation, losses
from .averages.ema import averages
from .losses.loss import MAIN, Loss, roles_of, turns_of
from .noise import augmentation
from .noise.corruption import Corruption
from .objectives import clustering, curriculum
from .objectives.objective import Objective
from .optimizers import optimizer
from .state import Recipe, Update

# Where parts register themselves.
PARTS = (distillation, losses, augmentation, clustering, curriculum)
# What a section is when a config does not name it.
DEFAULTS: dict[str, dict[str, Any]] = {
    "loss": {"name": "denoising"},
    "noise": {"name": "log_normal", "mean": -1.2, "std": 1.2},
    "weighting": {"name": "uniform", "target": "network"},
    "kernel": {"name": "gaussian"},
    "augmentation": {"name": "none"},
    "perturbation": {"name": "none"},
    "objective": {"name": "mean"},
}
# What a loss's constructor may ask for by name, and the sections that each is made of.
INGREDIENTS: dict[str, tuple[str, ...]] = {
    "spec": (),  # the main network's spec
    "specs": (),  # every network's, by role
    "preconditioner": (),
    "corruption": ("noise", "kernel", "augmentation", "perturbation"),
    "weighting": ("weighting",),
    "levels": ("noise",),
    "mixture": (),  # the exact density of the data, where there is one
}
# Losses that draw noise levels alone can be cut into tasks of them.
WITH_LEVELS = {"corruption", "levels"}


def section(training: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a section of ``training``, or what it is by default."""
    given = training.get(name)
    return dict(DEFAULTS[name] if given is None else given)


def part(training: Mapping[str, Any], name: str, **offered: Callable[[], Any]) -> Any:
    """Build what a section of ``training`` names.

    Args:
        training: the section.
        name: of the part, and of its kind.
        offered: by name, what makes the arguments that a constructor takes before its ``/``.

    Raises:
        UserError: an unknown name or argument, or a value that the constructor refuses.
    """
    fields, place = section(training, name), f"training.{name}"
    entry = registry(name).find(fields.get("name"), place)
    if entry.kind != name:
        raise UserError(f"{place}.name {entry.name!r} is no {name}: it goes into {place}.weights")
    try:
        given = [offered[key]() for key in asked(entry)]
    except UserError:
        raise  # of another section
    except ValueError as error:
        raise UserError(f"{place}: {error}") from error
    return registry(name).build(fields, place, *given)


def asked(entry: Constructor) -> tuple[str, ...]:
    """Return the names of what a constructor asks of the recipe: what stands before its ``/``."""
    found = entry.parameters.items()
    return tuple(name for name, one in found if one.kind is one.POSITIONAL_ONLY)


def loss_of(
    training: Mapping[str, Any],
    specs: Mapping[str, Spec],
    mixture: GaussianMixture | None = None,
) -> Loss:
    """Compose the loss that ``training`` names.

    Args:
        training: the section.
        specs: specs of the networks, by role.
        mixture: the exact density of the data, where there is one.

    Raises:
        UserError: an unknown name or argument, a part that this loss makes no use of, a network
            that lacks what a part needs, or roles other than those of the loss.
    """
    entry = registry("loss").find(section(training, "loss").get("name"), "training.loss")
    wanted = asked(entry)
    if unknown := [name for name in wanted if name not in INGREDIENTS]:
        raise UserError(
            f"training.loss: {entry.name} asks for {unknown[0]!r} before its /, and there are "
            f"{', '.join(INGREDIENTS)}"
        )
    used = {one for name in wanted for one in INGREDIENTS[name]}
    used |= {"objective"} if WITH_LEVELS & set(wanted) else set()
    for unused in sorted(DEFAULTS.keys() - used - {"loss"}):
        if section(training, unused) != DEFAULTS[unused]:
            raise UserError(
                f"training.{unused} is {section(training, unused)}, and the loss {entry.name} "
                f"makes no use of it: leave it at {DEFAULTS[unused]}"
            )
    spec = specs[MAIN]
    loss = part(
        training,
        "loss",
        spec=lambda: spec,
        specs=lambda: specs,
        preconditioner=lambda: _preconditioner(spec),
        corruption=lambda: _corruption(training, spec),
        weighting=lambda: part(training, "weighting"),
        levels=lambda: part(training, "noise"),
        mixture=lambda: _known(mixture),
    )
    if "corruption" in wanted:
        _check_network(spec, loss, entry.name)
    _check_roles(entry.name, loss, specs)
    return loss


def _preconditioner(spec: Spec):
    if spec.preconditioner is None:
        raise ValueError("the model is no denoiser: set another model.name, or another loss")
    return spec.preconditioner


def _known(mixture: GaussianMixture | None) -> GaussianMixture:
    if mixture is None:
        raise ValueError("it needs data whose density is known: set data.name fractal2d")
    return mixture


def _corruption(training: Mapping[str, Any], spec: Spec) -> Corruption:
    return Corruption(
        levels=part(training, "noise"),
        kernel=part(training, "kernel"),
        augment=part(training, "augmentation"),
        perturbation=part(training, "perturbation"),
        dropout=spec.takes("dropout_key"),
    )


def _check_network(spec: Spec, loss, name: str) -> None:
    """Refuse a network that lacks what the loss asks of it."""
    module, corruption = spec.module, getattr(loss, "corruption", None)
    if corruption is None:
        return
    if corruption.augment is not None:
        taken = getattr(module, "augment_dim", 0)
        if taken != augmentation.LABELS:
            raise UserError(
                f"training.augmentation tells the network {augmentation.LABELS} numbers, "
                f"and this one takes {taken}: set model.augment_dim, or augmentation.name none"
            )
    sites = getattr(module, "sites", ())
    if corruption.perturbation is not None and CONDITION_EMBEDDING not in sites:
        raise UserError(
            "training.perturbation needs a network that embeds a condition, with the site "
            f"{CONDITION_EMBEDDING!r}: set perturbation.name none"
        )
    if isinstance(loss, losses.Uncertainty) and not hasattr(module, "log_variance"):
        raise UserError(
            f"training.loss: {name}: the network learns no log_variance(c_noise): use the loss "
            f"denoising"
        )
    if isinstance(loss, losses.Masked) and not spec.takes("visible"):
        raise UserError(
            f"training.loss: {name}: the network cannot be shown a part of an image: use "
            f"model.name umd"
        )


def _check_roles(name: str, loss: Loss, specs: Mapping[str, Spec]) -> None:
    wanted = roles_of(loss)
    if missing := [role for role in wanted if role not in specs]:
        raise UserError(
            f"training.loss: {name} takes part of the networks {', '.join(wanted)}: add a section "
            f"roles.{missing[0]} with init_from, the weights that it starts from, or a model"
        )
    if unused := [role for role in specs if role not in wanted]:
        raise UserError(
            f"roles.{unused[0]} is a network that the loss {name} does not see: leave it out, or "
            f"choose another training.loss"
        )


def _check_trained(name: str, loss: Loss, optimizers: Mapping[str, Any]) -> None:
    """Refuse networks that a loss trains and a config holds, and the reverse."""
    wanted = getattr(loss, "trained", None)
    if wanted is None:
        return
    if frozen := [role for role in wanted if role not in optimizers]:
        raise UserError(
            f"roles.{frozen[0]} learns beside the main network in the loss {name}: set "
            f"roles.{frozen[0]}.frozen=False"
        )
    if moved := [role for role in optimizers if role not in (MAIN, *wanted)]:
        raise UserError(
            f"roles.{moved[0]} is what the loss {name} learns from, and receives no gradient: set "
            f"roles.{moved[0]}.frozen=True"
        )


def objective_of(
    training: Mapping[str, Any], loss: Loss, *, batch_size: int, accumulate: int = 1
) -> Objective:
    """Return how the loss becomes a gradient.

    Raises:
        UserError: an unknown name or argument, or tasks that cannot share a batch equally.
    """
    scale = training.get("loss_scale", 1.0)
    require_ranges("training", {"loss_scale": scale}, {"loss_scale": positive("1 is none")})
    objective = part(training, "objective", loss=lambda: loss, scale=lambda: scale)
    tasks = getattr(objective, "tasks", 1)
    if tasks > 1 and batch_size % (tasks * accumulate):
        raise UserError(
            f"training.objective: {tasks} clusters of noise levels cannot share a batch of "
            f"{batch_size} in {accumulate} micro-batches equally: make training.batch_size a "
            f"multiple"
        )
    return objective


def recipe_of(
    specs: Mapping[str, Spec],
    training: Mapping[str, Any],
    optimizers: Mapping[str, Mapping[str, Any]],
    ema: Mapping[str, Any],
    *,
    averaged: tuple[str, ...] = (MAIN,),
    mixture: GaussianMixture | None = None,
) -> Recipe:
    """Compose a recipe.

    Args:
        specs: specs of the networks, by role.
        training: the section.
        optimizers: of each trained role, the section; roles without one are frozen.
        ema: the section, of every averaged role.
        averaged: roles whose averages are kept.
        mixture: the exact density of the data, where there is one.

    Raises:
        UserError: an unknown name or argument of a part, schedule or average.
    """
    batch_size = training["batch_size"]
    loss = loss_of(training, specs, mixture)
    _check_trained(section(training, "loss")["name"], loss, optimizers)
    updates = {}
    for role, fields in optimizers.items():
        spec = specs[role]
        place = "optimizer" if role == MAIN else f"roles.{role}.optimizer"
        kept = averages(batch_size, **ema) if role in averaged else None
        target = getattr(loss, "target_average", None)
        if role == MAIN and kept is not None and target is not None:
            kept = kept.with_target(target)
        updates[role] = Update(
            *optimizer(spec, batch_size, place=place, **fields),
            averages=kept,
            project=spec.project,
        )
    objective = objective_of(
        training, loss, batch_size=batch_size, accumulate=training.get("accumulate", 1)
    )
    return Recipe(objective, updates, turns_of(loss))
