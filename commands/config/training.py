"""A training run as a config names it: what train, export, affinity and lcsc compose alike."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ... import input_pipeline
from ...core.checks import Range, at_least_0, count, positive, require_ranges, share
from ...core.errors import UserError
from ...data.source import Source
from ...data.sources import fractal2d
from ...data.splits import chosen_rows
from ...models.autoencoders.discriminator import ROLE
from ...models.builders import build
from ...models.checkpoints.files import sidecar_of
from ...models.spec import Spec
from ...runtime import distributed
from ...runtime.checkpointer import RANGES as CHECKPOINT_RANGES
from ...runtime.checkpointer import Checkpoints
from ...runtime.sharding import Layout
from ...training import identity
from ...training.averages.ema import WIDEST
from ...training.losses.loss import MAIN
from ...training.recipes import recipe_of
from ...training.setup import Setup, set_up
from ...training.starts import Start, start
from ...training.state import Inside, OneNetwork, Recipe, TrainState
from .overrides import is_given

# The form of the state in checkpoints: 1 had one network and no roles, and up to 2 an autoencoder's
# discriminator lay inside it.
FORM = 3
TRAINING = {
    "steps": count(0),
    "batch_size": count(1),
    "label_dropout": share(hint="0 drops none"),
    "loss_scale": positive("1 is none"),
    "accumulate": count(1),
}
LOG = {"every_steps": count(0, "0 is never"), "preview_every_steps": count(0, "0 is never")}
EMA = {
    "snapshot_images": count(0, "0 is never"),
    "at_images": at_least_0("0 is the last"),
    "reconstruct": Range(0, WIDEST, open_high=True, hint="0 makes none"),
}
# What of ``ema`` says which averages a run keeps.
KEPT = ("profile", "images", "ramp_up", "std", "decay", "tracked")
AVERAGES = tuple(f"ema.{name}" for name in KEPT)
# Fields of a section of ``roles``.
FIELDS = {"init_from": "", "model": None, "frozen": True, "average": False, "optimizer": {}}


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks of a run, by role.

    Attributes:
        specs: their specs.
        starts: what of their parameters comes from weight files.
        optimizers: sections of those that are trained.
        averaged: those whose averages are kept.
        identity: what is said of each beyond fresh parameters and the config's optimizer.
        models: their ``model`` sections, those that weight files give included.
    """

    specs: Mapping[str, Spec]
    starts: Mapping[str, Start]
    optimizers: Mapping[str, Mapping[str, Any]]
    averaged: tuple[str, ...]
    identity: Mapping[str, Mapping[str, Any]]
    models: Mapping[str, Any]


def require_numbers(config) -> None:
    """Refuse numbers of the sections of a run that are out of range.

    Raises:
        UserError: the first, by name.
    """
    training = plain(config.training)
    if isinstance(training["label_dropout"], Mapping):
        rates = training.pop("label_dropout")
        require_ranges(
            "training.label_dropout", rates, dict.fromkeys(rates, TRAINING["label_dropout"])
        )
    require_ranges("training", training, TRAINING)
    require_ranges("log", plain(config.log), LOG)
    require_ranges("ema", plain(config.ema), EMA)
    require_ranges("checkpoint", plain(config.checkpoint), CHECKPOINT_RANGES)


def require_effect(config) -> None:
    """Refuse fields that the command line sets and that have no effect beside others.

    Raises:
        UserError: the first, with what takes its effect away.
    """
    optimizer, ema = config.optimizer, config.ema
    profile = f"while ema.profile is {ema.profile}"
    constant = optimizer.schedule == "constant"
    cuts = config.sharding.preset in ("fsdp", "fsdp_tensor")
    without = {
        "optimizer.decay_steps": "while optimizer.schedule is constant" * constant
        or "beside optimizer.decay_images" * bool(optimizer.decay_images),
        "optimizer.decay_images": "while optimizer.schedule is constant" * constant,
        "optimizer.warmup_steps": "beside optimizer.warmup_images" * bool(optimizer.warmup_images),
        "ema.images": profile * (ema.profile != "half_life"),
        "ema.ramp_up": profile * (ema.profile != "half_life"),
        "ema.std": profile * (ema.profile != "power"),
        "ema.decay": profile * (ema.profile != "constant"),
        "ema.snapshot_weights": "while ema.snapshot_images is 0" * (not ema.snapshot_images),
        "sharding.whole_below": f"with the preset {config.sharding.preset}" * (not cuts),
    }
    for field, why in without.items():
        section, name = field.split(".")
        if why and is_given(config, field) and config[section][name]:
            raise UserError(
                f"{field} is {config[section][name]!r} and has no effect {why}: leave it out"
            )


def plain(section) -> Any:
    """Return a section as plain dictionaries."""
    return section.to_dict() if hasattr(section, "to_dict") else section


def readable(section) -> Any:
    """Return a section as JSON data; what JSON cannot keep is text."""
    return json.loads(json.dumps(plain(section), default=str))


def networks_of(config) -> Networks:
    """Read the sections ``model``, ``training.init_from`` and ``roles``.

    Raises:
        UserError: an unknown model, role or field, or weights that cannot be read.
    """
    main = build(config.model)
    begin, main = _start("training.init_from", main, config.training.get("init_from", ""))
    specs, starts = {MAIN: main}, {MAIN: begin}
    optimizers: dict[str, Mapping[str, Any]] = {MAIN: plain(config.optimizer)}
    averaged, found = [MAIN], {MAIN: {"start": dict(begin.identity)} if begin.identity else {}}
    models = {MAIN: plain(config.model)}
    for role, section in plain(config.get("roles", {})).items():
        place = f"roles.{role}"
        if role == MAIN:
            raise UserError(f"{place}: the main network is that of the sections model and training")
        if not isinstance(section, Mapping) or (unknown := sorted(section.keys() - FIELDS.keys())):
            wrong = repr(section) if not isinstance(section, Mapping) else unknown[0]
            raise UserError(f"{place} is a section of {', '.join(FIELDS)}, and {wrong} is none")
        fields = FIELDS | section
        own = None if fields["model"] is None else build(fields["model"])
        starts[role], specs[role] = _start(f"{place}.init_from", own, fields["init_from"])
        file = starts[role].file
        models[role] = file.sidecar["model"] if own is None and file else fields["model"]
        if not fields["frozen"]:
            optimizers[role] = optimizers[MAIN] | fields["optimizer"]
            averaged += [role] if fields["average"] else []
        elif fields["optimizer"] or fields["average"]:
            raise UserError(
                f"{place} is frozen: its optimizer and average have no effect; set frozen=False"
            )
        found[role] = fields | {"init_from": None, "start": dict(starts[role].identity)}
    return Networks(specs, starts, optimizers, tuple(averaged), found, models)


def _start(place: str, spec: Spec | None, given: Any) -> tuple[Start, Spec]:
    fields = {"weights": given} if isinstance(given, str) else dict(plain(given))
    known = ("weights", "take", "leave")
    if unknown := [key for key in fields if key not in known]:
        raise UserError(f"{place} has no field {unknown[0]!r}: it takes {', '.join(known)}")
    return start(place, spec, **{"weights": ""} | fields)


def recipe_of_config(config, networks: Networks) -> Recipe:
    """Compose the recipe of a run.

    Raises:
        UserError: a part, schedule or average that is unknown or cannot be.
    """
    exact = None
    if config.data.name == "fractal2d":
        sizes = dict.fromkeys(fractal2d.SPLITS, fractal2d.POINTS)
        base, _ = chosen_rows(config.data.split, sizes, config.data.name)
        exact = fractal2d.mixture(fractal2d.SPLITS[base])
    kept = {name: value for name, value in plain(config.ema).items() if name in KEPT}
    return recipe_of(
        networks.specs,
        plain(config.training),
        networks.optimizers,
        kept,
        averaged=networks.averaged,
        mixture=exact,
    )


def setup_of(config, layout: Layout, networks: Networks | None = None) -> Setup:
    """Return a run before its first number is computed.

    Raises:
        UserError: anything in its sections that cannot be.
    """
    require_numbers(config)
    found = networks or networks_of(config)
    return set_up(found.specs, recipe_of_config(config, found), layout, found.starts)


def source_of(config, **options: Any) -> Source:
    """Return the data set that ``data`` names; ``options`` replace its fields."""
    return input_pipeline.load_source(**(plain(config.data) | options))


def data_of(config, source: Source) -> dict[str, Any]:
    """Return what the data are, for a run's identity."""
    return identity.identity_of_data(
        source.identity(), split=config.data.split, flip=config.data.flip
    )


def identity_of(config, networks: Networks, data: Mapping[str, Any] | None = None) -> dict:
    """Return what tells a run from another; without ``data``, what of it needs no data at hand."""
    return identity.identity(
        seed=config.seed,
        model=plain(config.model),
        training=plain(config.training),
        optimizer=plain(config.optimizer),
        ema=plain(config.ema),
        roles=networks.identity,
        data=data,
    )


def checkpoints_of(
    config,
    workdir: Path,
    networks: Networks,
    data: Mapping[str, Any] | None = None,
    known: Mapping[str, Any] = MappingProxyType({}),
) -> Checkpoints:
    """Return the checkpoints of a run.

    Args:
        config: of the run.
        workdir: of the run.
        networks: of the run.
        data: what its data are; None where they are not at hand, and not compared.
        known: parts of the run's identity that the config does not say; None is not compared.

    Raises:
        UserError: they are another run's, or the section asks for what cannot be.
    """
    section = plain(config.checkpoint)
    require_ranges("checkpoint", section, CHECKPOINT_RANGES)
    del section["every_steps"]
    compared = identity_of(config, networks, data) | dict(known)
    return Checkpoints(
        workdir / "checkpoints",
        {name: part for name, part in compared.items() if part is not None},
        begun={"config": readable(config), "models": readable(networks.models)},
        form=FORM,
        upgraded=partial(
            identity.upgraded,
            name=config.data.name,
            data=data,
            training=plain(config.training),
            roles=networks.identity,
        ),
        say=distributed.say,
        **section,
    )


def restored(checkpoints: Checkpoints, setup: Setup) -> tuple[int, TrainState, dict] | None:
    """Return the newest checkpoint's step, state and position; None where nothing was saved.

    Raises:
        UserError: as `Checkpoints.restore`.
    """
    today = setup.abstract
    before, apart = today, lambda state: state
    if setup.specs[MAIN].kind == "autoencoder" and ROLE in today.roles:
        inside = Inside.of(ROLE, today)
        before, apart = inside.joined(today), inside.apart
    earlier = {2: (before, apart)}
    if set(before.roles) == {MAIN}:
        earlier[1] = OneNetwork.of(before), lambda state: apart(state.with_roles())
    return checkpoints.restore(today, earlier)


def require_own(path: Path, made: Callable[[Mapping[str, Any]], bool], mode: str) -> None:
    """Refuse to replace weights that another mode, or a person, put in a place.

    Args:
        path: of the weights that are to be written.
        made: says of a sidecar whether this mode wrote it.
        mode: its name.

    Raises:
        UserError: there is a file that it did not write.
    """
    if path.exists() and not made(sidecar_of(path) or {}):
        raise UserError(
            f"{path} exists and --mode={mode} did not write it: move it away, or set another name"
        )
