"""The atlas: every rule has an entry, and the committed page is what its generator writes."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from places import ROOT
from tables.rule_examples import example
from tiny_configs.configs import tiny, write_untrained

from guidestar import guidance
from guidestar.configs import atlas as atlas_config
from guidestar.core.errors import UserError
from guidestar.data.sources import fractal2d
from guidestar.guidance.config import CONSTRUCTORS
from guidestar.samplers.evaluator import Evaluator
from guidestar.studies.atlas import atlas, texts

DOCS = ROOT / "docs"
# Rules that are put together by hand, and the one that guides nothing.
BY_HAND = {"push", "chain", "unguided"}
SMALL, SMALL_POINTS = 20_000, 120_000


@pytest.fixture(scope="module")
def config():
    return atlas_config.get_config()


@pytest.fixture(scope="module")
def sides(config):
    return atlas.prepared(config)


def makes_a_rule(name):
    try:
        return hasattr(guidance.from_config(example(name)), "at")
    except ValueError:
        return False  # a part of one


def test_every_rule_has_an_entry(config):
    rules = {name for name in CONSTRUCTORS if makes_a_rule(name)}
    assert set(config.atlas.entries) == rules - BY_HAND


@pytest.mark.longer
def test_every_entry_builds_the_rule_that_it_names(config, sides):
    for name, (base, shown) in sides.items():
        assert guidance.to_config(shown.rule)["name"] == name
        assert base.rule != shown.rule
        entry = config.atlas.entries[name]
        assert texts.equation(name) and entry.title
        assert texts.when(name).endswith(".") and len(texts.when(name).split(". ")) <= 3
        assert bool(entry.subject) != bool(entry.why)
        assert bool(CONSTRUCTORS[name].sources) != bool(entry.source)


@pytest.mark.longer
def test_the_calls_on_the_page_make_the_rules_of_the_pictures(sides):
    for both in sides.values():
        for side in both:
            made = eval(atlas.call(side.rule_config), vars(guidance) | vars(guidance.operators))
            assert made == side.rule


@pytest.mark.longer
def test_the_committed_page_is_current(config, sides):
    assert (DOCS / "atlas.md").read_text() == atlas.render(config, sides), "run make atlas"


def test_every_rule_and_part_is_in_the_tables_of_the_page_of_rules():
    tables = texts.rules_tables()
    elsewhere = {"unguided", "push", "scale", "chain"}  # what they are all made of
    assert set(re.findall(r"`(\w+)`", tables)) == set(CONSTRUCTORS) - elsewhere
    page = (DOCS / "rules.md").read_text()
    assert page == texts.with_tables(page), "run make atlas"


def test_tables_replace_what_is_between_the_markers_alone(tmp_path):
    page = tmp_path / "rules.md"
    page.write_text(f"before {texts.BEGIN} stale {texts.END} after")
    assert texts.write_tables(page)
    text = page.read_text()
    assert text.startswith("before ") and text.endswith(" after") and "stale" not in text
    assert text == texts.with_tables(text) and "| `apg` |" in text
    page.write_text("no markers")
    assert not texts.write_tables(page) and page.read_text() == "no markers"
    with pytest.raises(ValueError, match="put <!-- rules:begin --> and"):
        texts.with_tables("no markers")


def test_a_stale_text_makes_a_stale_page(config, sides, monkeypatch):
    monkeypatch.setattr(atlas, "when", lambda name: "Never.")
    assert (DOCS / "atlas.md").read_text() != atlas.render(config, sides)


def test_the_committed_pictures_are_current_and_small(config, sides):
    pictured = {name: entry for name, entry in config.atlas.entries.items() if entry.subject}
    assert {path.stem for path in (DOCS / "atlas").iterdir()} == set(pictured)
    for name, entry in pictured.items():
        path = DOCS / "atlas" / f"{name}.png"
        identity = atlas.identity(config, name, sides[name])
        assert atlas.made_from(path) == identity, f"{name}: run make atlas"
        assert path.stat().st_size < (SMALL if entry.subject == atlas.IMAGES else SMALL_POINTS)


def test_costs_are_those_of_the_rule_and_of_what_it_is_compared_with(config, sides):
    page = atlas.render(config, sides)
    assert "2 main a prediction at sigma 1; a sample takes 46 main, on the left 23 main." in page
    assert "5 main a prediction at sigma 1" in page  # four windows and the whole


@pytest.fixture(scope="module")
def small(config, tmp_path_factory):
    """Three entries on tiny untrained networks."""
    folder = tmp_path_factory.mktemp("weights")
    small, entries = ConfigDict(config.to_dict()), config.atlas.entries
    chosen = {name: entries[name].to_dict() for name in ("cfg", "autoguidance", "instruct")}
    small.atlas.entries = ConfigDict(chosen, sort_keys=False)
    main = write_untrained(folder / "main.safetensors", tiny().model.to_dict())
    small.sampling.weights.update(main=str(main), guide="", classifier="")
    for name in small.fractal.weights:
        mlp = dict(name="score_mlp", hidden=4)
        small.fractal.weights[name] = str(write_untrained(folder / f"mlp_{name}.safetensors", mlp))
    small.fractal.points = 40
    small.sampler.schedule.steps = small.fractal.sampler.schedule.steps = 2
    return small


@pytest.fixture(scope="module")
def written(small, tmp_path_factory):
    """What the generator writes from them."""
    folder = tmp_path_factory.mktemp("atlas")
    atlas.atlas(small, folder)
    return folder


@pytest.mark.longer
def test_the_generator_writes_a_page_and_its_pictures(written):
    page = (written / "atlas.md").read_text()
    assert all(f"(atlas/{name}.png)" in page for name in ("cfg", "autoguidance"))
    assert "### `instruct(" in page and "instruct.png" not in page
    pictures = {path.name for path in (written / "atlas").iterdir()}
    assert pictures == {"cfg.png", "autoguidance.png"}
    # Ten classes of 8 pixels and two seeds, twice.
    with Image.open(written / "atlas/cfg.png") as image:
        assert image.size == (2 * (10 * 8 + 9 * 2) + atlas.GAP, 2 * 8 + 2)


@pytest.mark.longer
def test_pictures_that_are_current_are_kept(small, written):
    times = {path: path.stat().st_mtime_ns for path in (written / "atlas").iterdir()}
    atlas.atlas(small, written)
    assert {path: path.stat().st_mtime_ns for path in (written / "atlas").iterdir()} == times


@pytest.mark.longer
def test_pictures_of_other_settings_or_weights_are_not_current(small, written, tmp_path):
    def current(config):
        made = atlas.made_from(written / "atlas/cfg.png")
        return made == atlas.identity(config, "cfg", atlas.prepared(config)["cfg"])

    assert current(small)
    scaled, trained = ConfigDict(small.to_dict()), ConfigDict(small.to_dict())
    scaled.atlas.entries.cfg.guidance.scale = 5.0
    model = tiny().model.to_dict() | {"width": 8}
    trained.sampling.weights.main = str(write_untrained(tmp_path / "main.safetensors", model))
    assert not current(scaled) and not current(trained)


@pytest.mark.longer
def test_a_change_of_weights_in_place_is_noticed(tmp_path):
    mlp = dict(name="score_mlp", hidden=4)
    path = write_untrained(tmp_path / "main.safetensors", mlp)
    before = atlas.digest(str(path))
    write_untrained(path, mlp | {"hidden": 6})
    assert atlas.digest(str(path)) != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(guidance=dict(scale=float("nan"))), "entries.cfg: guidance.cfg: scale"),
        (dict(solver="heum"), "entries.cfg: sampler.solver.name 'heum'"),
        (dict(guidance=dict(network="other")), "entries.cfg needs a network 'other'"),
    ],
)
def test_an_entry_that_cannot_run_is_named_before_anything_is_sampled(
    small, tmp_path, changes, message
):
    wrong = ConfigDict(small.to_dict())
    with wrong.unlocked():
        wrong.atlas.entries.cfg.update(changes)
    with pytest.raises(UserError, match=message):
        atlas.atlas(wrong, tmp_path)
    assert not (tmp_path / "atlas").exists()


@pytest.mark.longer
def test_the_exact_posterior_turns_both_classes_into_the_one_asked_for():
    x = jnp.array([[0.2, 0.3], [-0.4, 0.1], [0.9, -0.7]])
    both, posterior, sigma = fractal2d.mixture(), atlas.posterior(), jnp.float32(0.5)

    def denoise(x, sigma, condition):
        return both.denoise(x, sigma)

    networks = {"main": denoise, "classifier": posterior}
    evaluate = Evaluator(networks, x, sigma, jnp.zeros(3, jnp.int32), "sequential")
    guided, _ = guidance.classifier(1.0).apply(evaluate, x, sigma, (), None)
    expected = fractal2d.mixture(("A",)).denoise(x, sigma)
    np.testing.assert_allclose(guided.denoised, expected, atol=1e-4)
