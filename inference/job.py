"""A sampling job: networks, rule, solver and schedule, spread over this process's devices."""

import dataclasses
import functools
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from .. import guidance, samplers
from ..core.constructors import name_of
from ..core.errors import NoResult, UserError
from ..core.macs import macs
from ..core.random import checked_seed, root_key
from ..guidance import MAIN
from ..models.checkpoints import resolve
from ..models.classifiers.trained import TrainedClassifier
from ..models.denoiser import Denoiser
from ..runtime.identity import described
from ..samplers.conditions import checked_condition
from ..samplers.evaluator import MODES
from ..samplers.loop import segments
from ..samplers.networks import check_estimates, check_networks, warn_of_a_low_start
from .networks import PLACE, Weights, read_weights, require_fitting, require_named

ALL, NONE = "all", "none"
# As many image numbers as a message shows.
NAMED = 5


class Start(NamedTuple):
    """What a batch of images begins from.

    Attributes:
        networks: by name.
        noise: of unit size.
        labels: None for a run without conditions.
        keys: one an image.
    """

    networks: dict[str, Denoiser | TrainedClassifier]
    noise: Float[Array, " batch *shape"]
    labels: Int[Array, " batch"] | None
    keys: Key[Array, " batch"]


@dataclasses.dataclass(frozen=True)
class Job:
    """What to sample: networks, rule, solver and schedule, ready to run.

    Attributes:
        networks: denoisers by name; under ``classifier`` a classifier.
        rule: as `samplers.sample` takes it.
        sampler: solver, schedule and prior.
        seed: root of every image's random streams.
        classes: labels that the images cycle through; None for a run without conditions.
        branches: ``fused`` or ``sequential``.
        weights: what the networks were made of, by name; empty where that is not known.
        notes: what a person should know before it runs.
        evaluated: its plan without multiply-adds, where that was found already.
    """

    networks: Mapping[str, Denoiser | TrainedClassifier]
    rule: guidance.Rule
    sampler: samplers.Sampler
    seed: int
    classes: tuple[int, ...] | None
    branches: str = "fused"
    weights: Mapping[str, Weights] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    evaluated: samplers.Plan | None = None

    @property
    def main(self) -> Denoiser:
        """The network that is sampled from."""
        return self.networks[MAIN]

    @property
    def group(self) -> int:
        """How many images are particles of one draw, of one class: consecutive indices."""
        return getattr(self.sampler.solver, "particles", None) or 1

    def labels(self, indices: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"] | None:
        """Return the class of each image by its global index."""
        if self.classes is None:
            return None
        draws = np.asarray(indices) // self.group
        return np.asarray(self.classes, np.int32)[draws % len(self.classes)]

    def made_of(self) -> dict[str, Any]:
        """Return as JSON data what decides the images: contents and numbers, no names or paths."""
        solver, sigmas, prior = self.sampler
        return {
            "seed": self.seed,
            "rule": described(self.rule),
            "solver": described(solver),
            "sigmas": sigmas.tolist(),
            "prior": described(prior),
            "classes": None if self.classes is None else list(self.classes),
            "weights": {name: dict(one.made_of) for name, one in self.weights.items()},
        } | ({"inputs": self._inputs} if self._inputs else {})

    @property
    def _inputs(self) -> dict[str, float]:
        """Values of the main network's own inputs."""
        return {name: float(value) for name, value in sorted(self.main.bound.items())}

    def cost(self) -> str:
        """Return what an image costs, for people."""
        plan = self.plan()
        evaluations = ", ".join(f"{name} {count}" for name, count in sorted(plan.totals.items()))
        return (
            f"network evaluations an image: {evaluations} ({plan.macs / 1e9:.3f} G multiply-adds)"
        )

    def plan(self) -> samplers.Plan:
        """Return what one image will evaluate; computed once."""
        return self._plan

    @functools.cached_property
    def _plan(self) -> samplers.Plan:
        solver, sigmas, _ = self.sampler
        plan = self.evaluated or samplers.plan(solver, sigmas, self.rule, self.main.shape)
        counted = {name: macs(network) for name, network in self.networks.items()}
        return dataclasses.replace(plan, network_macs=counted)

    def images(self, indices: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n *shape"]:
        """Sample the images with these global indices, float32 in the data's range.

        The batch is spread over this process's devices; an image depends on its index alone, since
        groups of particles are sampled whole, whichever of them are asked for.

        Raises:
            UserError: what `samplers.sample` refuses.
        """
        every, places = self._whole(indices)
        return np.asarray(jax.device_get(self._sampled(every)))[places]

    def _whole(
        self, indices: Int[np.ndarray, " n"]
    ) -> tuple[Int[np.ndarray, " every"], Int[np.ndarray, " n"]]:
        """Return all images of the groups that some belong to, and where those are among them."""
        indices = np.asarray(indices)
        if self.group == 1:
            return indices, np.arange(len(indices))
        groups = np.unique(indices // self.group)
        every = (groups[:, None] * self.group + np.arange(self.group)).reshape(-1)
        return every, np.searchsorted(every, indices)

    def start(self, indices: Int[np.ndarray, " n"]) -> Start:
        """Return what the images with these global indices begin from, on this process's devices.

        There is one more of the last until the devices have equal shares of whole groups.
        """
        devices = jax.local_devices()
        padding = -len(indices) % math.lcm(len(devices), self.group)
        padded = np.append(indices, np.repeat(indices[-1:], padding))
        auto = (AxisType.Auto,)  # the compiler places what happens inside networks
        mesh = jax.make_mesh((len(devices),), ("data",), axis_types=auto, devices=devices)
        spread = NamedSharding(mesh, PartitionSpec("data"))
        root = root_key(self.seed)
        place = jnp.asarray(padded)
        noise = samplers.unit_noise(
            samplers.sample_keys(root, samplers.NOISE, place), self.main.shape
        )
        labels = self.labels(padded)
        return Start(
            jax.device_put(dict(self.networks), NamedSharding(mesh, PartitionSpec())),
            jax.device_put(noise, spread),
            None if labels is None else jax.device_put(labels, spread),
            jax.device_put(samplers.sample_keys(root, samplers.STEPS, place), spread),
        )

    def _sampled(self, indices: np.ndarray, **options: Any) -> Any:
        start = self.start(indices)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # they are among the notes
            try:
                return samplers.sample(
                    start.networks,
                    self.rule,
                    self.sampler.solver,
                    self.sampler.sigmas,
                    start.noise,
                    start.labels,
                    start.keys,
                    prior=self.sampler.prior,
                    branches=self.branches,
                    **options,
                )
            except ValueError as error:
                raise UserError(str(error)) from error

    def finite_images(self, indices: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n *shape"]:
        """Return what `images` returns, where all of it is numbers.

        Raises:
            NoResult: some are not finite; with the images, the step and the likely causes.
        """
        images = self.images(indices)
        bad = not_finite(images)
        if not bad.size:
            return images
        every, places = self._whole(np.asarray(indices)[bad[:1]])
        _, kept = self._sampled(every, save="denoised")
        steps = np.asarray(jax.device_get(kept["denoised"]))[:, places]
        number = int(np.argmax(~np.isfinite(steps).all(axis=tuple(range(1, steps.ndim)))))
        lowest, highest = self.main.sigma_range
        raise NoResult(
            f"{numbered(indices, bad)} not finite, from step {number} of {len(steps)} on (sigma "
            f"{self.sampler.sigmas[number]:.4g}), and nothing was written: a guidance scale is too "
            f"large, a network's model.dtype too narrow for its numbers, or the schedule leaves "
            f"the noise levels that it knows ({lowest:g} to {highest:g})"
        )


def not_finite(images: Float[np.ndarray, " n *shape"]) -> Int[np.ndarray, " bad"]:
    """Return the positions of those images that hold NaN or infinity."""
    return np.flatnonzero(~np.isfinite(images).all(axis=tuple(range(1, np.ndim(images)))))


def numbered(indices: Int[np.ndarray, " n"], bad: Int[np.ndarray, " bad"]) -> str:
    """Return the beginning of a sentence about some images, ``images 3, 7 are``."""
    names = ", ".join(str(index) for index in np.unique(np.asarray(indices)[bad])[:NAMED])
    more = f" and {len(bad) - NAMED} more" * (len(bad) > NAMED)
    return f"image {names} is" if len(bad) == 1 else f"images {names}{more} are"


def build_job(
    weights: Mapping[str, str | Weights],
    rule: guidance.Rule,
    sampler: samplers.Sampler,
    *,
    seed: int,
    classes: str | Sequence[Integral] = ALL,
    branches: str = "fused",
    inputs: Mapping[str, float] = MappingProxyType({}),
) -> Job:
    """Load what a rule asks for, and refuse what cannot run before any image is made.

    Args:
        weights: by network name, a weight file, a shipped name, or weights that were read; those
            that are empty count as not given.
        rule: as `samplers.sample` takes it.
        sampler: solver, schedule and prior.
        seed: root of every image's random streams.
        classes: see `class_labels`.
        branches: ``fused`` or ``sequential``.
        inputs: numbers that the main network takes (a distilled guidance scale), by name.

    Raises:
        UserError: networks that are missing or do not fit, guidance that they cannot give,
            noise levels that they do not know, or an input that is missing or was not trained.
    """
    checked_seed(seed)
    if branches not in MODES:
        raise UserError(f"sampling.branches {branches!r} is not one of {', '.join(MODES)}")
    name = f"guidance.name {name_of(rule)!r}"
    require_named(weights, (), name)
    main = _read(MAIN, weights[MAIN])
    shape, (solver, sigmas, _) = main.network.shape, sampler
    try:
        parts = segments(rule, solver, sigmas)
        plan = samplers.plan(solver, sigmas, rule, shape)
        asked = sorted({*plan.networks, MAIN})
        require_named(weights, asked, name)
        unused = sorted(one for one, source in weights.items() if source and one not in asked)
        for one in unused:
            _require_there(weights[one])
        read = {one: main if one == MAIN else _read(one, weights[one]) for one in asked}
        networks = {one: each.network for one, each in read.items()}
        if inputs:
            networks[MAIN] = networks[MAIN].bind(**inputs)
        _require_inputs(networks[MAIN], solver)
        require_fitting(networks)
        known = main.network.num_classes, main.network.null_condition is not None
        labels = class_labels(classes, *known)
        given = None if labels is None else np.asarray(labels, np.int32)
        like = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            check_networks("sample", rule, parts, sigmas, networks, like)
            check_estimates("sample", parts, solver, networks, like)
            warn_of_a_low_start("sample", parts[0], float(sigmas[0]), networks, like)
        count = 1 if given is None else len(given)
        checked_condition(
            "sample", rule, parts, networks, given, like, batch=count, prior=sampler.prior
        )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error
    _require_clean_end(sigmas, main.network.sigma_range)
    notes = [
        *(
            f"the network {one!r} of {PLACE} is left out: the rule asks it nothing"
            for one in unused
        ),
        *(str(one.message) for one in told),
    ]
    return Job(networks, rule, sampler, seed, labels, branches, read, tuple(notes), plan)


def _read(name: str, source: str | Weights) -> Weights:
    return source if isinstance(source, Weights) else read_weights(name, str(source))


def _require_inputs(main: Denoiser, solver: samplers.Solver) -> None:
    """Refuse a network of whose inputs one is given by nobody."""
    given = {*main.bound, *(["scale"] if getattr(solver, "scale", None) is not None else [])}
    for name, one in main.inputs.items():
        if name not in given:
            raise UserError(
                f"{PLACE}.{MAIN} takes the input {name}, trained from {one.low:g} to "
                f"{one.high:g}: set sampling.inputs.{name}"
            )


def _require_there(source: str | Weights) -> None:
    """Refuse a misspelt name although nothing asks for it."""
    if not isinstance(source, Weights):
        resolve(source)


def _require_clean_end(sigmas: np.ndarray, known: tuple[float, float]) -> None:
    lowest, _ = known
    if sigmas[-1] > lowest * (1 + 1e-6):
        raise UserError(
            f"sampler.schedule ends at sigma {sigmas[-1]:g}, above the network's lowest noise "
            f"level {lowest:g}: images would keep that noise; set "
            f"sampler.schedule.final_zero=True, or sigma_min={lowest:g}"
        )


def class_labels(
    classes: str | Sequence[Integral] | Int[np.ndarray, " n"], count: int, null: bool
) -> tuple[int, ...] | None:
    """Return the labels that images cycle through; None for images without a condition.

    Args:
        classes: ``"all"``, every class of the network in turn; ``"none"``, no condition; or
            labels, ``"0,3,7"`` or a list of whole numbers, each once. The label after the last
            class is the null class, where the network has learnt one.
        count: classes that the network knows; 0 for one that takes no label.
        null: whether it has learnt the null class.

    Raises:
        UserError: labels that the network does not know, or one twice.
    """
    if isinstance(classes, str) and classes.strip() == NONE:
        if count and not null:
            raise UserError(
                "sampling.classes 'none': the network has learnt no prediction without a class: "
                "give classes, or leave it at 'all'"
            )
        return None
    if isinstance(classes, str) and classes.strip() == ALL:
        return tuple(range(count)) if count else None
    labels = _whole_numbers(classes)
    if not count:
        raise UserError(
            f"sampling.classes {classes!r}: the network knows no classes; leave it at 'all'"
        )
    highest = count if null else count - 1
    if not labels or any(not 0 <= label <= highest for label in labels):
        known = f" ({count} is the null class)" if null else ""
        raise UserError(
            f"sampling.classes {classes!r}: give 'all', 'none', or labels in 0..{count - 1} "
            f"separated by commas{known}"
        )
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise UserError(f"sampling.classes {classes!r} has {twice} more than once: give it once")
    return labels


def _whole_numbers(classes: Any) -> tuple[int, ...]:
    """Return labels; none where they are no whole numbers."""
    if isinstance(classes, str):
        words = [word.strip() for word in classes.split(",")]
        return (
            tuple(map(int, words)) if all(re.fullmatch("[0-9]{1,9}", one) for one in words) else ()
        )
    if not isinstance(classes, (Sequence, np.ndarray)) or np.ndim(classes) != 1:
        return ()
    whole = all(isinstance(one, Integral) and not isinstance(one, bool) for one in classes)
    return tuple(int(one) for one in classes) if whole else ()
