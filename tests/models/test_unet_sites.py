"""Where modes step in, in EDM's UNets: each site shows what it promises, and refuses by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.edm_unets import ADM, CLASSES, DDPMPP, NETWORKS, denoiser, inputs, run
from tables.everyday import few

from guidestar.core.pytrees import pytree, static
from guidestar.core.sites import (
    ATTENTION,
    BLOCK,
    CONDITION_EMBEDDING,
    H_SPACE,
    SKIP,
    TIME_EMBEDDING,
)
from guidestar.guidance.references.attention import IdentityAttention
from guidestar.guidance.references.blocks import PermutedTokens, SkippedBlocks
from guidestar.models.features import Add

SITES = (TIME_EMBEDDING, CONDITION_EMBEDDING, ATTENTION, BLOCK, H_SPACE, SKIP)


class Watch:
    """Changes nothing and keeps what a site shows, within one trace."""

    name = "watch"

    def __init__(self, site, layers=None):
        self.site, self.layers, self.seen = site, layers, []

    def keep(self, value, *context):
        self.seen.append((value, *context))
        return value

    time_embedding = condition_embedding = h_space = skip = keep

    def attention(self, attend, query, key, value, grid):
        self.seen.append((query, key, value, grid))
        return attend(query, key, value)

    def block(self, run, x):
        self.seen.append((x, out := run(x)))
        return out


@pytree
class Put:
    """Put an embedding in the place of the network's own."""

    name = "put"
    layers = None
    embedding: jax.Array
    site: str = static(default=TIME_EMBEDDING)

    def time_embedding(self, embedding):
        return self.embedding


@pytree
class Row:
    """Put a row of the table in the place of the condition's embedding."""

    name, site, layers = "row", CONDITION_EMBEDDING, None
    number: int

    def condition_embedding(self, embedding, table):
        return jnp.broadcast_to(table[self.number], embedding.shape)


def watches(arrangement):
    """Return a watch at every site that has no layers, and in every layer of the others."""
    counts = {
        ATTENTION: arrangement.attentions,
        BLOCK: len(arrangement.blocks),
        SKIP: arrangement.connections,
    }
    return {
        site: [Watch(site, (n,)) for n in range(counts[site])] if site in counts else [Watch(site)]
        for site in SITES
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_every_site_shows_what_it_promises(name):
    one = denoiser(NETWORKS[name])
    module = one.network.module(one.params)
    arrangement = module.arrangement
    assert module.sites == SITES
    watching = watches(arrangement)
    modes = tuple((watch, None) for each in watching.values() for watch in each)
    jax.eval_shape(lambda: one.network(one.params, *inputs(), modes))
    shapes = {
        site: [jax.tree.map(jnp.shape, watch.seen) for watch in each]
        for site, each in watching.items()
    }
    width = {"DDPM++": 8, "NCSN++": 16, "ADM": 64}[name]
    assert shapes[TIME_EMBEDDING] == [[((3, width),)]]
    assert shapes[CONDITION_EMBEDDING] == [[((3, width), (CLASSES, width))]]

    def image(side, channels):
        return 3, side, side, channels

    wide, narrow = (64, 64) if name == "ADM" else (16, 8)
    attending = [stage for stage in arrangement.blocks if stage.attends]
    assert [stage.name[:3] for stage in attending] == ["4x4"] * len(attending)
    tokens = (3, 16, 1, wide)
    for (query, key, value, grid), *others in (watch.seen for watch in watching[ATTENTION]):
        assert not others and grid == (4, 4)
        assert query.shape == key.shape == value.shape == tokens
    assert shapes[H_SPACE] == [[(image(4, wide),)]]
    made = [image(8, narrow), image(8, narrow), image(4, narrow), image(4, wide)]
    assert shapes[SKIP] == [[(shape,)] for shape in made]
    for ((went, came),), stage in zip(shapes[BLOCK], arrangement.blocks, strict=True):
        side = int(stage.name[0])
        before = {"up": side // 2, "down": side * 2}.get(stage.resample, side)
        assert went == image(before, stage.fan_in) and came == image(side, stage.fan_out)


@pytest.mark.parametrize("model", [DDPMPP, ADM], ids=["DDPM++", "ADM"])
def test_features_are_what_the_blocks_make(model):
    one = denoiser(model)
    arrangement = one.network.module(one.params).arrangement
    watching = watches(arrangement)
    modes = tuple((watch, None) for each in watching.values() for watch in each)
    jax.eval_shape(lambda: one.network(one.params, *inputs(), modes))
    made = [watch.seen[0][1] for watch in watching[BLOCK]]
    (bottleneck,) = (s.block for s in arrangement.blocks if s.name == "4x4_in1")
    assert watching[H_SPACE][0].seen[0][0] is made[bottleneck]
    for connection, stage in zip(watching[SKIP][1:], arrangement.encoder, strict=True):
        assert connection.seen[0][0] is made[stage.block]


@pytest.mark.longer
def test_watching_changes_nothing():
    one = denoiser(DDPMPP)
    arrangement = one.network.module(one.params).arrangement
    modes = tuple((watch, None) for each in watches(arrangement).values() for watch in each)
    watched = jax.jit(lambda *a: one.network(one.params, *a, modes))(*inputs())
    np.testing.assert_array_equal(watched, run(one.network, one.params, *inputs()))


def blocks_of(one, keeps):
    blocks = one.network.module(one.params).arrangement.blocks
    return [stage for stage in blocks if stage.keeps_shape == keeps]


@pytest.mark.parametrize("model", few(1, [DDPMPP, ADM]), ids=["DDPM++", "ADM"])
def test_modes_change_the_samples_that_they_hold_for_and_those_alone(model):
    one = denoiser(model)
    kept = [stage.block for stage in blocks_of(one, True)]
    keys = jax.random.split(jax.random.key(0), 10)
    arrangement = one.network.module(one.params).arrangement
    modes = [
        *(IdentityAttention((n,)) for n in range(arrangement.attentions)[:3]),
        *(SkippedBlocks((n,)) for n in (kept[0], kept[-1])),
        PermutedTokens((kept[-1],), keys),
        Row(2),
        Add(jnp.ones(()), SKIP, (1,)),
        Add(jnp.ones(())),
    ]
    assert len(modes) == 9
    x, time, label = (jnp.repeat(a[1:2], 10, axis=0) for a in inputs())
    marked = [(mode, np.arange(10) == n + 1) for n, mode in enumerate(modes)]
    mixed = run(one.network, one.params, x, time, label, tuple(marked))
    plain = run(one.network, one.params, x, time, label)
    np.testing.assert_allclose(mixed[0], plain[0], atol=1e-5)
    # No two samples are alike: each mode does something of its own.
    apart = np.abs(np.asarray(mixed)[:, None] - np.asarray(mixed)).max(axis=(2, 3, 4))
    assert apart[~np.eye(10, dtype=bool)].min() > 1e-4
    for n in (0, 3):
        alone = run(one.network, one.params, x, time, label, ((modes[n], None),))
        np.testing.assert_allclose(alone[n + 1], mixed[n + 1], atol=1e-5)


@pytest.mark.longer
@pytest.mark.parametrize("model", few(1, [DDPMPP, ADM]), ids=["DDPM++", "ADM"])
def test_embeddings_put_in_place_act_as_the_time_and_the_class_they_are_of(model):
    one = denoiser(model)
    x, time, label = inputs()

    @jax.jit
    def both(time):
        watch = Watch(TIME_EMBEDDING)
        out = one.network(one.params, x, time, label, ((watch, None),))
        return out, watch.seen[0][0]

    expected, embedding = both(time + 0.5)
    put = (Put(embedding), None)
    found = run(one.network, one.params, x, time, label, (put,))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    row = run(one.network, one.params, x, time, label, ((Row(2), None),))
    second = run(one.network, one.params, x, time, np.full(3, 2))
    np.testing.assert_allclose(row, second, atol=1e-5)


@pytest.mark.longer
def test_blocks_that_change_the_shape_cannot_be_left_out_whatever_samples_ask_for_it():
    one = denoiser(DDPMPP)
    changing, some = blocks_of(one, False), np.arange(3) == 1
    assert [stage.name for stage in changing][:2] == ["4x4_down", "4x4_block0"]
    for stage in changing:
        for where in (None, some):
            with pytest.raises(ValueError, match=f"block {stage.block} .{stage.name}., which tur"):
                modes = ((SkippedBlocks((stage.block,)), where),)
                jax.eval_shape(one.network, one.params, *inputs(), modes)


@pytest.mark.parametrize(
    ("mode", "depth"),
    [
        (IdentityAttention((3,)), 3),
        (SkippedBlocks((10,)), 10),
        (Add(jnp.ones(()), SKIP, (4,)), 4),
    ],
)
def test_layers_beyond_a_site_are_refused(mode, depth):
    one = denoiser(DDPMPP)
    with pytest.raises(ValueError, match=f"depth {depth}: choose from 0 to {depth - 1}"):
        one.network(one.params, *inputs(), ((mode, None),))


def test_without_classes_there_is_no_condition_to_embed():
    one = denoiser(DDPMPP | dict(num_classes=0))
    assert CONDITION_EMBEDDING not in one.sites
    x, time, _ = inputs()
    with pytest.raises(ValueError, match="works on the 'condition_embedding'"):
        one.network(one.params, x, time, None, ((Row(0), None),))
