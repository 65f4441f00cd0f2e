"""A page that shows every rule once, beside what it improves on."""

import dataclasses
import inspect
import io
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from ... import guidance, samplers
from ...commands.config.sections import section
from ...core.errors import UserError
from ...core.files import sha256, write_bytes, write_text
from ...core.random import root_key
from ...data.images import grid, to_uint8
from ...data.sources import fractal2d
from ...guidance.citations import PAPERS
from ...guidance.config import CONSTRUCTORS
from ...guidance.evaluations import counts_text
from ...inference.job import Job
from ...inference.networks import load_networks
from ...models.checkpoints import resolve
from .. import point_cloud_plot
from .texts import equation, when, write_tables

EXAMPLE = "configs/atlas.py"
IMAGES, FRACTAL, BOTH = "images", "fractal", "both classes"
GAP = 14  # pixels between the two halves
COLOURS = 48
DPI = 110
SHAPE = (28, 28, 1)  # of the samples that costs are counted for
MADE_FROM = "made from"  # the text chunk of a picture that says so

INTRO = """\
# Atlas of rules

Made by `{command}`, which samples the shipped weights: the same noise in both halves of a picture
and in all pictures, {steps} Heun steps unless an entry says otherwise. A column is a Fashion-MNIST
class, a row is a seed; on the left what the rule is compared with, on the right the rule. Where the
class is left out, in both halves, columns mean nothing. Two seeds are no evidence, only a picture:
some rules show little on a network as small as this one.

Predictions $D$ are of the clean image, in $x = x_0 + \\sigma n$; $D_y$ is for the condition given,
$D_\\varnothing$ for the null one, and $\\Delta = D_y - D_\\varnothing$ or whatever pair is pushed.
The scale $w$ is 1 where nothing is guided and 0 at the reference, in every rule whose entry does
not say otherwise; a paper's own scale is often $w - 1$.
"""


@dataclasses.dataclass(frozen=True)
class Side:
    """One half of a picture.

    Attributes:
        rule_config, sampler_config: as configs write them.
        rule, sampler: what they stand for.
        plan: what one sample evaluates.
    """

    rule_config: dict
    sampler_config: dict
    rule: guidance.Rule
    sampler: samplers.Sampler
    plan: samplers.Plan


def atlas(config, workdir: Path) -> None:
    """Write ``atlas.md``, and a picture an entry below ``atlas`` unless it is current.

    The tables of rules in a ``rules.md`` of the working directory are made anew as well.

    Args:
        config: has ``atlas`` (entries, seeds, the noise level of the costs) and ``fractal``.
        workdir: gets the page and the folder of pictures.

    Raises:
        UserError: anything in any entry that cannot run, before the first image.
    """
    section(config, "atlas", fields=("command", "entries", "seeds", "sigma"), example=EXAMPLE)
    section(config, "fractal", fields=("weights", "sampler", "points", "seed"), example=EXAMPLE)
    sides = prepared(config)
    pictured = {name: entry for name, entry in config.atlas.entries.items() if entry.subject}
    subjects = {entry.subject for entry in pictured.values()}
    networks = {subject: _networks(config, subject) for subject in subjects}
    for name, entry in pictured.items():
        for side in sides[name]:
            if missing := sorted(set(side.plan.networks) - networks[entry.subject].keys()):
                raise UserError(f"atlas.entries.{name} needs a network {missing[0]!r}")
    folder = workdir / "atlas"
    folder.mkdir(parents=True, exist_ok=True)
    identities = {name: identity(config, name, sides[name]) for name in pictured}
    todo = [name for name in pictured if made_from(folder / f"{name}.png") != identities[name]]
    sampled: dict[str, np.ndarray] = {}
    with tqdm(todo, unit="entry", dynamic_ncols=True) as bar:
        for name in bar:
            bar.set_description(name)
            entry, halves = pictured[name], []
            for side in sides[name]:
                record = _record(config, entry, side)
                if record not in sampled:
                    sample = _images if entry.subject == IMAGES else _points
                    sampled[record] = sample(config, entry, side, networks[entry.subject])
                halves.append(sampled[record])
            draw = _draw_images if entry.subject == IMAGES else _draw_points
            draw(folder / f"{name}.png", config, sides[name], halves, identities[name])
    write_text(workdir / "atlas.md", render(config, sides))
    tables = workdir / "rules.md"
    also = f"; the tables of {tables} are current" if write_tables(tables) else ""
    print(f"wrote {workdir / 'atlas.md'}: {len(sides)} rules, {len(todo)} new pictures{also}")


def prepared(config) -> dict[str, tuple[Side, Side]]:
    """Build every entry's two sides, what it is compared with first.

    Raises:
        UserError: naming the entry that cannot be built.
    """
    sides = {}
    for name, entry in config.atlas.entries.items():
        try:
            base = _side(config, entry, entry.base.to_dict(), entry.base_solver)
            sides[name] = base, _side(config, entry, entry.guidance.to_dict(), entry.solver)
        except ValueError as error:
            raise UserError(f"atlas.entries.{name}: {error}") from error
    return sides


def _side(config, entry, rule: dict, solver: str) -> Side:
    chosen = config.sampler if entry.subject in (IMAGES, "") else config.fractal.sampler
    sampler = chosen.to_dict()
    if solver:
        sampler["solver"] = {"name": solver}
    if entry.steps:
        sampler["schedule"]["steps"] = entry.steps
    built, made = guidance.from_config(rule), samplers.from_config(sampler)
    plan = samplers.plan(made.solver, made.sigmas, built, SHAPE)
    return Side(rule, sampler, built, made, plan)


def identity(config, name: str, sides: tuple[Side, Side]) -> str:
    """Return what a picture is made from, as text: rules, samplers, weights, seeds."""
    entry = config.atlas.entries[name]
    return json.dumps([json.loads(_record(config, entry, side)) for side in sides])


def made_from(picture: Path) -> str | None:
    """Return the text that `identity` gave when a picture was made; None where there is none."""
    if not picture.exists():
        return None
    with Image.open(picture) as image:
        return image.text.get(MADE_FROM)


def _record(config, entry, side: Side) -> str:
    weights = _weights(config, entry.subject)
    used = {name: digest(weights[name]) for name in side.plan.networks if name in weights}
    amount = config.atlas.seeds if entry.subject == IMAGES else config.fractal.points
    made = dict(guidance=side.rule_config, sampler=side.sampler_config, subject=entry.subject)
    made |= dict(classes=entry.classes, amount=amount, weights=used)
    return json.dumps(made)


def digest(source: str) -> str:
    """Return the beginning of the SHA-256 of a weight file."""
    return sha256(resolve(source))[:12]


def _weights(config, subject: str) -> dict[str, str]:
    """Return the weights of a subject's networks, by the names that rules use."""
    if subject == IMAGES:
        return config.sampling.weights.to_dict()
    weights = config.fractal.weights.to_dict()
    return {"main": weights["uncond"]} if subject == BOTH else weights


def _networks(config, subject: str) -> dict:
    networks = load_networks(_weights(config, subject))
    return networks | {guidance.CLASSIFIER: posterior()} if subject == BOTH else networks


def posterior() -> Callable:
    """Return the exact classifier of the fractal at every noise level."""
    # What a class weighs in the data that has both.
    joint = fractal2d.mixture().log_weights.reshape(len(fractal2d.CLASSES), -1)
    prior = jax.nn.logsumexp(joint, axis=1)
    classes = [fractal2d.mixture((name,)) for name in fractal2d.CLASSES]

    def logits(x, sigma):
        return jnp.stack([one.log_density(x, sigma) for one in classes], axis=-1) + prior

    return logits


def _images(config, entry, side: Side, networks) -> np.ndarray:
    main = networks["main"]
    count = main.network.num_classes
    classes = None if entry.classes == "none" else tuple(range(count))
    asked = {name: networks[name] for name in side.plan.networks}
    job = Job(asked, side.rule, side.sampler, config.seed, classes)
    return to_uint8(job.images(np.arange(config.atlas.seeds * count)))


def _points(config, entry, side: Side, networks) -> np.ndarray:
    fractal = config.fractal
    root, indices = root_key(fractal.seed), jnp.arange(fractal.points)
    classes = fractal2d.CLASSES if entry.subject == BOTH else fractal2d.CLASSES[:1]
    clean, _ = fractal2d.sample(root, fractal.points, classes)
    noise = samplers.unit_noise(samplers.sample_keys(root, samplers.NOISE, indices), (2,))
    with warnings.catch_warnings():
        # That the schedule starts below the networks' highest level: so does what is given.
        warnings.filterwarnings("ignore", "samplers.sample: the schedule starts at", UserWarning)
        points = samplers.sample(
            {name: networks[name] for name in side.plan.networks},
            side.rule,
            side.sampler.solver,
            side.sampler.sigmas,
            clean / np.float32(side.sampler.sigmas[0]) + noise,
            # Class A, for the classifier: no network of the fractal takes a condition.
            jnp.zeros(fractal.points, jnp.int32) if entry.subject == BOTH else None,
            samplers.sample_keys(root, samplers.STEPS, indices),
        )
    return np.asarray(points)


def _draw_images(path: Path, config, sides, halves: list[np.ndarray], made: str) -> None:
    del sides
    columns = len(halves[0]) // config.atlas.seeds
    left, right = (grid(half, columns=columns) for half in halves)
    between = np.full((left.shape[0], GAP, left.shape[2]), 255, np.uint8)
    canvas = np.concatenate([left, between, right], axis=1)
    grey = canvas.shape[2] == 1
    _save(path, Image.fromarray(canvas[..., 0] if grey else canvas), made)


def _draw_points(path: Path, config, sides, halves: list[np.ndarray], made: str) -> None:
    del config
    titles = (_shown(side, sides) for side in sides)
    panels = {title.replace("`", ""): half for title, half in zip(titles, halves, strict=True)}
    drawn = io.BytesIO()
    point_cloud_plot.save(panels, drawn, dpi=DPI)
    with Image.open(drawn) as image:
        _save(path, image.convert("RGB"), made)


def _save(path: Path, image: Image.Image, made: str) -> None:
    text = PngInfo()
    text.add_text(MADE_FROM, made)
    # Few colours make a small file.
    buffer = io.BytesIO()
    image.quantize(COLOURS).save(buffer, "PNG", pnginfo=text, optimize=True)
    write_bytes(path, buffer.getvalue())


def _section(config, name: str, base: Side, shown: Side) -> str:
    entry = config.atlas.entries[name]
    parts = [f'<a id="{name}"></a>', f"### `{call(shown.rule_config)}`", f"{entry.title}."]
    parts.append(f"```math\n{equation(name)}\n```")
    if entry.subject:
        sides = (base, shown)
        left, right = _shown(base, sides), _shown(shown, sides)
        subject = "" if entry.subject == IMAGES else "; points over the density of class A"
        caption = f"Left {left}, right {right}{subject}."
        if entry.steps:
            caption += f" {entry.steps} steps."
        if entry.classes == "none":
            caption += " Without the class."
        parts += [f"![{entry.title}](atlas/{name}.png)", caption]
    facts = [
        f"**Cost**: {_cost(config, entry, base, shown)}",
        f"**Arguments**: {_defaults(name)}",
        f"**Source**: {_source(name, entry)}",
        f"**When**: {when(name)}",
    ]
    if entry.note:
        facts.append(f"**Here**: {entry.note}")
    if entry.why:
        facts.append(entry.why)
    return "\n\n".join([*parts, "\n".join(f"- {fact}" for fact in facts)]) + "\n"


def _shown(side: Side, sides: tuple[Side, Side]) -> str:
    """Return a side's rule, and its solver where the two differ."""
    solvers = [one.sampler_config["solver"]["name"] for one in sides]
    with_solver = f" with {side.sampler_config['solver']['name']}" if len(set(solvers)) > 1 else ""
    return f"`{call(side.rule_config)}`{with_solver}"


def _cost(config, entry, base: Side, shown: Side) -> str:
    sigma = config.atlas.sigma
    (once,) = guidance.cost(shown.rule, [sigma], SHAPE)
    text = f"{counts_text(once)} a prediction at sigma {sigma:g}"
    if entry.subject:
        text += f"; a sample takes {counts_text(shown.plan.totals)}, on the left "
        text += counts_text(base.plan.totals)
    return text + (f"; besides {entry.also}" if entry.also else "") + "."


def _defaults(name: str) -> str:
    def shown(parameter: inspect.Parameter) -> str:
        if parameter.kind is parameter.VAR_POSITIONAL:
            return f"`*{parameter.name}`"
        if parameter.default is parameter.empty:
            return f"`{parameter.name}`"
        return f"`{parameter.name}={parameter.default!r}`"

    return ", ".join(map(shown, inspect.signature(CONSTRUCTORS[name].build).parameters.values()))


def _source(name: str, entry) -> str:
    papers = [
        f"[{PAPERS[number].title.replace('*', chr(92) + '*')}]"
        f"(https://arxiv.org/abs/{number}), {PAPERS[number].year}"
        for number in CONSTRUCTORS[name].sources
    ]
    return "; ".join(papers + ([entry.source] if entry.source else []))


def render(config, sides: Mapping[str, tuple[Side, Side]]) -> str:
    """Return the page in Markdown."""
    entries = config.atlas.entries
    groups: dict[str, list[str]] = {}
    for name, entry in entries.items():
        groups.setdefault(entry.group, []).append(name)
    steps = config.sampler.schedule.steps
    parts = [INTRO.format(command=config.atlas.command, steps=steps)]
    for group, names in groups.items():
        links = " · ".join(f"[`{name}`](#{name})" for name in names)
        parts.append(f"**{group}**: {links}\n")
    for group, names in groups.items():
        parts.append(f"## {group}\n")
        parts += [_section(config, name, *sides[name]) for name in names]
    return "\n".join(parts)


def call(config: Mapping) -> str:
    """Return the Python call that makes the rule of a config.

    >>> call({"name": "between", "rule": {"name": "cfg", "scale": 3.0}, "low": 0.3, "high": 3.0})
    'between(cfg(3.0), low=0.3, high=3.0)'
    """
    return repr(guidance.from_config(config))
