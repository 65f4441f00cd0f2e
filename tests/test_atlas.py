"""The atlas: every rule has an entry, and the committed page is what its generator writes."""

from pathlib import Path

import pytest
from configs_for_tests import tiny, write_untrained
from ml_collections import ConfigDict
from PIL import Image
from rule_examples import example

from guidestar import guidance
from guidestar.configs import atlas as atlas_config
from guidestar.errors import UserError
from guidestar.guidance.registry import CONSTRUCTORS
from guidestar.report import atlas

DOCS = Path(__file__).resolve().parent.parent / "docs"
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


def test_every_entry_builds_the_rule_that_it_names(config, sides):
    for name, (base, shown) in sides.items():
        assert guidance.to_config(shown.rule)["name"] == name
        assert base.rule != shown.rule
        entry = config.atlas.entries[name]
        assert entry.equation and entry.title
        assert entry.when.endswith(".") and len(entry.when.split(". ")) <= 3
        assert bool(entry.subject) != bool(entry.why)
        assert bool(CONSTRUCTORS[name].sources) != bool(entry.source)


def test_the_calls_on_the_page_make_the_rules_of_the_pictures(sides):
    for both in sides.values():
        for side in both:
            made = eval(atlas.call(side.config), vars(guidance).copy())
            assert made == side.rule


def test_the_committed_page_is_current(config, sides):
    assert (DOCS / "atlas.md").read_text() == atlas.render(config, sides), "run make atlas"


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


@pytest.fixture
def small(config, tmp_path):
    """Three entries on tiny untrained networks."""
    entries = config.atlas.entries
    small = ConfigDict(config.to_dict())
    chosen = {name: entries[name] for name in ("cfg", "classifier", "instruct")}
    small.atlas.entries = ConfigDict(chosen, sort_keys=False)
    model = tiny().model.to_dict()
    main = str(write_untrained(tmp_path / "main.safetensors", model))
    small.sampling.weights.update(main=main, guide="", classifier="")
    mlp = dict(name="score_mlp", hidden=4)
    small.fractal.weights.uncond = str(write_untrained(tmp_path / "uncond.safetensors", mlp))
    small.fractal.points = 40
    small.sampler.schedule.steps = small.fractal.sampler.schedule.steps = 2
    return small


def test_the_generator_writes_a_page_and_its_pictures(small, tmp_path):
    atlas.atlas(small, tmp_path)
    page = (tmp_path / "atlas.md").read_text()
    assert all(f"(atlas/{name}.png)" in page for name in ("cfg", "classifier"))
    assert "### `instruct(" in page and "instruct.png" not in page
    assert {path.name for path in (tmp_path / "atlas").iterdir()} == {"cfg.png", "classifier.png"}
    # Ten classes of 8 pixels and two seeds, twice.
    with Image.open(tmp_path / "atlas/cfg.png") as image:
        assert image.size == (2 * (10 * 8 + 9 * 2) + atlas.GAP, 2 * 8 + 2)


def test_current_pictures_are_kept_and_others_made_again(small, tmp_path):
    atlas.atlas(small, tmp_path)
    pictures = [tmp_path / "atlas/cfg.png", tmp_path / "atlas/classifier.png"]
    first = [path.stat().st_mtime_ns for path in pictures]
    atlas.atlas(small, tmp_path)
    assert [path.stat().st_mtime_ns for path in pictures] == first
    small.atlas.entries.cfg.guidance.scale = 5.0
    write_untrained(Path(small.fractal.weights.uncond), dict(name="score_mlp", hidden=6))
    atlas._digest.cache_clear()
    atlas.atlas(small, tmp_path)
    assert all(path.stat().st_mtime_ns > time for path, time in zip(pictures, first, strict=True))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("guidance.scale", float("nan"), "entries.cfg: guidance.cfg: scale"),
        ("solver", "heum", "entries.cfg: sampler.solver.name 'heum'"),
        ("guidance.network", "other", "entries.cfg needs a network 'other'"),
    ],
)
def test_an_entry_that_cannot_run_is_named_before_anything_is_sampled(
    small, tmp_path, path, value, message
):
    with small.unlocked():
        small.atlas.entries.cfg.update_from_flattened_dict({path: value})
    with pytest.raises(UserError, match=message):
        atlas.atlas(small, tmp_path)
    assert not (tmp_path / "atlas").exists()
