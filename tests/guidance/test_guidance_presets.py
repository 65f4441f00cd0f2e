"""Presets: every published setting is a rule, with its figure and its cost."""

import math
import re

import jax
import numpy as np
import pytest

from guidestar import guidance, samplers
from guidestar.guidance import presets
from guidestar.guidance.presets import PRESETS

GRID = samplers.karras(32, 0.002, 80.0, 7.0)[:-1]
CFG, GUIDED = {"main": 2}, {"main": 1, "guide": 1}


def cost_of(name):
    """Return what the method costs at a noise level of about 1, inside every interval."""
    own_null_class = name.startswith(("dit", "sd")) or "-apg" in name
    return CFG if own_null_class else GUIDED


def numbers(config):
    """Yield the numbers in a nested dictionary."""
    if isinstance(config, dict):
        config = tuple(config.values())
    if isinstance(config, tuple):
        for one in config:
            yield from numbers(one)
    elif isinstance(config, (int, float)) and not isinstance(config, bool):
        yield config


@pytest.mark.parametrize("name", PRESETS)
def test_the_table_of_the_documentation_has_its_numbers(name):
    preset = presets.get(name)
    (row,) = [line for line in presets.__doc__.splitlines() if line.split()[:1] == [name]]
    shown = [float(number) for number in re.findall(r"-?\d+\.?\d*", row.removeprefix(name))]
    section = guidance.to_config(preset.rule)
    if section["name"] == "cads":
        section = {"rule": section["rule"], **{k: section[k] for k in section if k != "rule"}}
    figures = [value for value in (preset.value, preset.baseline) if value is not None]
    assert shown == [*numbers(section), *figures]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_rule_that_says_where_it_is_from(name):
    preset = presets.get(name)
    predictions = {
        branch: np.random.default_rng(i).normal(size=(2, 4, 4, 4)).astype(np.float32)
        for i, branch in enumerate(("given", "null", "guide", "guide_null"))
    }
    predictions["given_annealed_condition"] = predictions["given"]
    guided, _ = guidance.combine(preset.rule, predictions, sigma=1.0, key=jax.random.key(0))
    assert np.abs(guided.denoised - predictions["given"]).max() > 0.01
    assert preset.source and name in presets.names(preset.model)
    assert (preset.value is None) == (preset.metric is None)
    assert preset.value is None or preset.baseline is None or preset.value < preset.baseline
    assert (preset.baseline is None) == (not preset.against)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_costs_what_its_method_costs(name):
    assert guidance.cost(presets.get(name).rule, [1.0]) == [cost_of(name)]


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("edm2-img512-xxl-interval-fid", 17, 22),
        ("edm2-img512-xxl-interval-dino", 13, 19),
        ("edm2-img512-s-interval-fid", 15, 21),
        ("edm2-img512-s-interval-dino", 13, 19),
    ],
)
def test_intervals_cover_the_published_steps_of_the_schedule(name, first, last):
    guided = [
        i
        for i, counts in enumerate(guidance.cost(presets.get(name).rule, GRID))
        if counts == GUIDED
    ]
    assert guided == list(range(first, last + 1))


def test_three_of_four_channels_are_guided_in_the_published_dit_setting():
    rule = presets.get("dit-xl2-img256-cfg-fid").rule
    given, null = np.ones((1, 2, 2, 4), np.float32), np.zeros((1, 2, 2, 4), np.float32)
    guided, _ = guidance.combine(rule, {"given": given, "null": null})
    np.testing.assert_allclose(np.asarray(guided.denoised)[0, 0, 0], [1.5, 1.5, 1.5, 1.0])


def test_settings_read_at_second_hand_are_marked():
    secondary = {name for name, preset in PRESETS.items() if preset.secondary}
    assert {"edm2-img512-s-apg-fid", "sd-cads", "edm2-img512-s-interval-fid"} <= secondary
    assert not secondary & {"edm2-img512-s-autog-fid", "edm2-img512-xxl-interval-fid"}


def test_an_unknown_name_lists_near_ones():
    with pytest.raises(ValueError, match="did you mean .*edm2-img512-s-autog-fid"):
        presets.get("edm2-s-autog-fid")
    with pytest.raises(ValueError, match="sd-cads"):
        presets.get("?")


def test_presets_are_found_by_model():
    assert presets.names() == list(PRESETS)
    assert presets.names("edm2-xxl") == [n for n in PRESETS if "-xxl-" in n]
    with pytest.raises(ValueError, match=r"only EDM2-XS, EDM2-S, "):
        presets.names("EDM3")


def test_a_scale_is_plain_and_finite_in_every_preset():
    for preset in PRESETS.values():
        assert all(math.isfinite(leaf) for leaf in jax.tree.leaves(preset.rule))
