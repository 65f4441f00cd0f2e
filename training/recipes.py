"""From a config to a `Recipe`: what is minimised, by what optimiser, and which averages are kept.

A loss is composed of parts that a config names one by one, each a section ``{"name": ...,
argument: value}`` of ``config.training``:

    loss           losses/           what is measured
    noise          noise.py          how often each noise level is trained
    weighting      weightings.py     how much the error counts at each
    kernel         corruption.py     Gaussian noise, or that of PFGM++
    augmentation   augmentation.py   geometry that the network is told of
    perturbation   perturbation.py   noise on the condition's embedding
    objective      objective.py      how losses become a gradient: mean, curriculum, clusters
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from ..core.errors import UserError
from ..core.sites import CONDITION_EMBEDDING
from ..data.sources import fractal2d
from ..models.spec import Spec
from . import losses
from .averages import ema
from .noise import augmentation
from .noise.corruption import KERNELS, Corruption
from .noise.levels import NOISES
from .noise.perturbation import ConditionPerturbation
from .noise.weightings import WEIGHTINGS
from .objectives.clustering import clusters
from .objectives.curriculum import Curriculum
from .objectives.multitask import TASK_WEIGHTS
from .objectives.objective import Mean, Objective
from .optimizers import optimizer_from_config
from .state import Recipe

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


def _none() -> None:
    return None


AUGMENTATIONS: dict[str, Callable] = {"none": _none, "edm": augmentation.AugmentPipe}
PERTURBATIONS: dict[str, Callable] = {"none": _none, "cep": ConditionPerturbation}
# Losses of denoisers, built from a preconditioner, a corruption, a weighting and their own fields.
DENOISERS: dict[str, Callable] = {
    "denoising": losses.Denoising,
    "uncertainty": losses.Uncertainty,
    "hybrid": losses.Hybrid,
    "flow_matching": losses.FlowMatching,
    "masked": losses.Masked,
}


def _denoiser(kind: Callable) -> Callable:
    def build(config, spec: Spec, **fields):
        training = config.training
        if spec.preconditioner is None:
            raise ValueError(f"config.model {config.model.name!r} is no denoiser")
        if isinstance(spec.condition, Mapping):
            names = ", ".join(spec.condition)
            raise ValueError(
                f"config.model {config.model.name!r} is conditioned on {names}, and data sets hold "
                f"classes alone: train it with training.losses on batches of your own"
            )
        module = spec.module
        corruption = Corruption(
            levels=part(training, "noise", NOISES),
            kernel=part(training, "kernel", KERNELS),
            augment=part(training, "augmentation", AUGMENTATIONS),
            perturbation=part(training, "perturbation", PERTURBATIONS),
            dropout=_takes(module, "dropout_key"),
        )
        weighting = part(training, "weighting", WEIGHTINGS)
        loss = kind(spec.preconditioner, corruption, weighting, **fields)
        _check_network(module, loss)
        return loss

    return build


def _score_matching(config, spec: Spec):
    del spec
    mixture = fractal2d.mixture(fractal2d.SPLITS[config.data.split])
    return losses.ScoreMatching(mixture, part(config.training, "noise", NOISES))


def _cross_entropy(config, spec: Spec, **fields):
    del config, spec
    return losses.CrossEntropy(**fields)


def _autoencoding(config, spec: Spec, **fields):
    del config
    return losses.autoencoding(spec, **fields)


# name -> how it is built from (config, spec, its own fields), and the parts it makes use of.
ALL_PARTS = tuple(name for name in DEFAULTS if name != "loss")
LOSSES: dict[str, tuple[Callable, tuple[str, ...]]] = {
    **{name: (_denoiser(kind), ALL_PARTS) for name, kind in DENOISERS.items()},
    "score_matching": (_score_matching, ("noise", "objective")),
    "cross_entropy": (_cross_entropy, ()),
    "autoencoding": (_autoencoding, ()),
}


def _clusters(loss, scale: float, weights: Mapping = {"name": "uncertainty"}, **fields):
    if not hasattr(loss, "corruption"):
        raise ValueError("clusters of noise levels need the loss of a denoiser")
    weigh = part({"weights": weights}, "weights", TASK_WEIGHTS)
    return clusters(loss, scale, noise=loss.corruption.levels, weights=weigh, **fields)


OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "mean": Mean,
    "curriculum": Curriculum,
    "clusters": _clusters,
}


def section(training: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a section of a config's ``training``, or what it is by default."""
    given = training.get(name)
    return dict(DEFAULTS[name] if given is None else given)


def part(training: Mapping[str, Any], name: str, constructors: Mapping[str, Callable], *given):
    """Build what a section of ``config.training`` names.

    Args:
        training: the config's section.
        name: of the part.
        constructors: by the name in the part's section.
        given: arguments that come before those of the section.

    Raises:
        UserError: an unknown name or argument, or a value that the constructor refuses.
    """
    fields = section(training, name)
    chosen = fields.pop("name", None)
    if chosen not in constructors:
        raise UserError(
            f"config.training.{name}.name {chosen!r} is not one of {', '.join(constructors)}"
        )
    try:
        return constructors[chosen](*given, **fields)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"config.training.{name}, {chosen}: {error}") from error


def loss_from_config(config, spec: Spec) -> losses.Loss:
    """Compose the loss that ``config.training`` names.

    Raises:
        UserError: an unknown name or argument, a part that this loss makes no use of, or a
            network that lacks what a part needs.
    """
    name = section(config.training, "loss").get("name")
    _, used = LOSSES.get(name, (None, ALL_PARTS))
    for unused in set(ALL_PARTS) - set(used):
        if section(config.training, unused) != DEFAULTS[unused]:
            raise UserError(
                f"config.training.{unused} is {section(config.training, unused)}, and the loss "
                f"{name} makes no use of it: leave it at {DEFAULTS[unused]}"
            )
    builders = {key: build for key, (build, _) in LOSSES.items()}
    return part(config.training, "loss", builders, config, spec)


def _takes(module: nnx.Module, name: str) -> bool:
    """Say whether a network's call has an argument of that name."""
    return name in inspect.signature(type(module).__call__).parameters


def _check_network(module: nnx.Module, loss) -> None:
    """Refuse a network that lacks what the loss asks of it."""
    if loss.corruption.augment is not None:
        taken = getattr(module, "augment_dim", 0)
        if taken != augmentation.LABELS:
            raise ValueError(
                f"config.training.augmentation tells the network {augmentation.LABELS} numbers, "
                f"and this one takes {taken}: set model.augment_dim, or augmentation.name none"
            )
    sites = getattr(module, "sites", ())
    if loss.corruption.perturbation is not None and CONDITION_EMBEDDING not in sites:
        raise ValueError(
            "config.training.perturbation needs a network that embeds a condition, with the site "
            f"{CONDITION_EMBEDDING!r}: set perturbation.name none"
        )
    if isinstance(loss, losses.Uncertainty) and not hasattr(module, "log_variance"):
        raise ValueError("the network learns no log_variance(c_noise): use the loss denoising")
    if isinstance(loss, losses.Masked) and not _takes(module, "visible"):
        raise ValueError("the network cannot be shown a part of an image: use model.name umd")


def recipe_from_config(config, spec: Spec) -> Recipe:
    """Compose the recipe that ``config`` names.

    Raises:
        UserError: an unknown name or argument of a part, schedule or average.
    """
    training, loss = config.training, loss_from_config(config, spec)
    scale = training.get("loss_scale", 1.0)
    objective = part(training, "objective", OBJECTIVES, loss, scale)
    tasks = getattr(objective, "tasks", 1)
    if tasks > 1 and training.batch_size % (tasks * training.get("accumulate", 1)):
        raise UserError(
            f"config.training.objective: {tasks} clusters of noise levels cannot share a batch of "
            f"{training.batch_size} in {training.get('accumulate', 1)} micro-batches equally: make "
            f"training.batch_size a multiple"
        )
    return Recipe(
        objective=objective,
        optimizer=optimizer_from_config(config, spec),
        averages=averages_from_config(config),
        project=spec.project,
    )


def averages_from_config(config) -> ema.Averages:
    """Return the averages of ``config.ema``: the one of ``profile``, then those of ``tracked``.

    Raises:
        UserError: an unknown profile or a number out of range.
    """
    batch, section = config.training.batch_size, config.ema
    profiles = {
        "constant": lambda: ema.constant(section.decay),
        "half_life": lambda: ema.half_life(
            section.images, batch_size=batch, ramp_up=section.ramp_up or None
        ),
        "power": lambda: ema.power_function(section.std),
    }
    if section.profile not in profiles:
        raise UserError(
            f"config.ema.profile {section.profile!r} is not one of {', '.join(profiles)}"
        )
    main = section.std if section.profile == "power" else None
    more = tuple(float(std) for std in section.tracked if std != main)
    return ema.Averages(
        (profiles[section.profile](), *map(ema.power_function, more)), (main, *more)
    )
