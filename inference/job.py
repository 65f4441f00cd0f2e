"""A sampling job: networks, rule, solver and schedule, spread over this process's devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from .. import guidance, samplers
from ..core.errors import UserError
from ..core.macs import macs
from ..models.denoiser import Denoiser
from ..samplers.loop import segments
from ..samplers.networks import check_networks
from .networks import Classifier, load_networks


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
    """

    networks: dict[str, Denoiser | Classifier]
    rule: guidance.Rule
    sampler: samplers.Sampler
    seed: int
    classes: tuple[int, ...] | None
    branches: str = "fused"

    def labels(self, indices: np.ndarray) -> np.ndarray | None:
        """Return the class of each image by its global index."""
        if self.classes is None:
            return None
        return np.asarray(self.classes, np.int32)[np.asarray(indices) % len(self.classes)]

    def plan(self) -> samplers.Plan:
        """Return what one image will evaluate."""
        counted = {name: macs(network) for name, network in self.networks.items()}
        solver, sigmas, _ = self.sampler
        return samplers.plan(solver, sigmas, self.rule, self.networks["main"].shape, macs=counted)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Sample the images with these global indices, float32 in the data's range.

        The batch is spread over this process's devices; an image depends on its index alone.
        """
        devices = jax.local_devices()
        padding = -len(indices) % len(devices)
        padded = np.append(indices, np.repeat(indices[-1:], padding))
        auto = (AxisType.Auto,)  # the compiler places what happens inside networks
        mesh = jax.make_mesh((len(devices),), ("data",), axis_types=auto, devices=devices)
        spread = NamedSharding(mesh, PartitionSpec("data"))
        root = jax.random.key(self.seed)
        place = jnp.asarray(padded)
        noise = samplers.unit_noise(
            samplers.sample_keys(root, samplers.NOISE, place), self.networks["main"].shape
        )
        labels = self.labels(padded)
        result = samplers.sample(
            jax.device_put(self.networks, NamedSharding(mesh, PartitionSpec())),
            self.rule,
            self.sampler.solver,
            self.sampler.sigmas,
            jax.device_put(noise, spread),
            None if labels is None else jax.device_put(labels, spread),
            jax.device_put(samplers.sample_keys(root, samplers.STEPS, place), spread),
            prior=self.sampler.prior,
            branches=self.branches,
        )
        return np.asarray(jax.device_get(result))[: len(indices)]


def job_from_config(config) -> Job:
    """Read a config's ``guidance``, ``sampler`` and ``sampling`` sections.

    Raises:
        UserError: anything in them that cannot run, before any image is made.
    """
    try:
        rule = guidance.from_config(config.guidance.to_dict())
        sampler = samplers.from_config(config.sampler.to_dict())
    except ValueError as error:
        raise UserError(str(error)) from error
    networks = load_networks(config.sampling.weights.to_dict())
    try:
        plan = samplers.plan(sampler.solver, sampler.sigmas, rule, networks["main"].shape)
    except ValueError as error:
        raise UserError(str(error)) from error
    if missing := sorted(plan.totals.keys() - networks.keys()):
        raise UserError(
            f"config.guidance.name {config.guidance.name!r} needs a network named "
            f"{missing[0]!r}: set config.sampling.weights.{missing[0]}"
        )
    main = networks["main"]
    like = jax.ShapeDtypeStruct((1, *main.shape), jnp.float32)
    parts = segments(rule, sampler.solver, sampler.sigmas)
    try:
        check_networks("sample", rule, parts, sampler.sigmas, networks, like)
    except ValueError as error:
        raise UserError(str(error)) from error
    _require_clean_end(sampler.sigmas, main.sigma_range)
    return Job(
        networks,
        rule,
        sampler,
        config.seed,
        _classes(config.sampling.classes, main.network.num_classes),
        config.sampling.branches,
    )


def _require_clean_end(sigmas: np.ndarray, known: tuple[float, float]) -> None:
    lowest, _ = known
    if sigmas[-1] > lowest * (1 + 1e-6):
        raise UserError(
            f"config.sampler.schedule ends at sigma {sigmas[-1]:g}, above the network's lowest "
            f"noise level {lowest:g}: images would keep that noise; set "
            f"config.sampler.schedule.final_zero=True, or sigma_min={lowest:g}"
        )


def _classes(wanted: str, count: int) -> tuple[int, ...] | None:
    if not count or wanted == "none":
        return None
    if wanted == "all":
        return tuple(range(count))
    try:
        classes = tuple(int(label) for label in wanted.split(","))
    except ValueError:
        classes = ()
    if not classes or any(not 0 <= label <= count for label in classes):
        raise UserError(
            f"config.sampling.classes {wanted!r}: give 'all', 'none', or labels in "
            f"0..{count - 1} separated by commas ({count} is the null class)"
        )
    return classes
