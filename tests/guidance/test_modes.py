"""Forward modes: what they do inside a network, and the references and rules made of them."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from oracles.analytic import keys
from oracles.held_modes import BATCH, CLASSES, DEPTH, NAMES, RULES, branch_of, held, permute

from guidestar import guidance, samplers
from guidestar.core import sites
from guidestar.core.pytrees import pytree, static
from guidestar.guidance.modes import Active
from guidestar.guidance.protocol import Branch
from guidestar.guidance.references import attention, blocks
from guidestar.models.denoiser import Denoiser, split
from guidestar.models.mlps.score_mlp import LAYERS, ScoreMLP
from guidestar.models.preconditioning import Direct
from guidestar.models.transformers.dit import DiT, time_features
from guidestar.samplers.evaluator import Evaluator

TINY = dict(image_size=8, channels=1, patch_size=2, width=16, heads=2, num_classes=CLASSES)


@pytree
class Shift:
    """Add a number at either embedding: a mode made by a caller."""

    name = "shift"
    layers = None
    by: float
    site: str = static(default=sites.TIME_EMBEDDING)

    def time_embedding(self, embedding):
        return embedding + self.by

    def condition_embedding(self, embedding, table):
        return embedding + self.by * table.mean(axis=0)


def make(depth=DEPTH, **changes):
    """Return a tiny transformer and parameters in which no layer is zero."""
    fields = TINY | changes
    build = nnx.eval_shape(lambda: DiT(**fields, depth=depth, rngs=nnx.Rngs(0)))
    network, shapes = split(build, num_classes=fields["num_classes"], shape=(8, 8, 1))
    random = np.random.default_rng(0)
    return network, jax.tree.map(lambda a: 0.3 * random.normal(size=a.shape).astype("f"), shapes)


NETWORK, PARAMS = make()
DENOISE = Denoiser(PARAMS, NETWORK, Direct())
SCANNED, _ = make(scan_layers=True)
LAYERS_OF = [PARAMS["blocks"][i] for i in range(DEPTH)]
STACKED = PARAMS | {"blocks": jax.tree.map(lambda *a: np.stack(a), *LAYERS_OF)}
SIGMA = 1.5
SOME = np.arange(BATCH) % 2 == 0


def inputs():
    x = jax.random.normal(jax.random.key(5), (BATCH, 8, 8, 1))
    return x, jnp.full(BATCH, SIGMA), jnp.full(BATCH, CLASSES)


@jax.jit(static_argnums=0)
def apply(network, params, x, time, label, modes):
    """Run the network: one program a structure of modes."""
    return network(params, x, time, label, modes)


# Every mode in a transformer.


@pytest.mark.parametrize("name", NAMES)
def test_a_mode_changes_the_output(name):
    plain = apply(NETWORK, PARAMS, *inputs(), ())
    changed = apply(NETWORK, PARAMS, *inputs(), held(branch_of(name)))
    assert np.abs(changed - plain).max(axis=(1, 2, 3)).min() > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_scanned_layers_hold_a_mode_for_the_samples_it_is_said_to_hold_for(name):
    branch = branch_of(name)
    plain = apply(NETWORK, PARAMS, *inputs(), ())
    everywhere = apply(NETWORK, PARAMS, *inputs(), held(branch))
    expected = np.where(SOME[:, None, None, None], everywhere, plain)
    found = apply(SCANNED, STACKED, *inputs(), held(branch, jnp.asarray(SOME)))
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_modes_of_several_branches_share_a_batch():
    modes = {name: branch_of(name) for name in NAMES}
    each = [held(one, jnp.arange(BATCH) == n) for n, one in enumerate(modes.values())]
    found = apply(NETWORK, PARAMS, *inputs(), sum(each, ()))
    for sample, branch in enumerate(modes.values()):
        alone = apply(NETWORK, PARAMS, *inputs(), held(branch))
        np.testing.assert_allclose(found[sample], alone[sample], atol=2e-4)


@pytest.mark.parametrize("where", [None, np.array([True, False, True])])
def test_modes_around_one_function_nest_the_later_outside(where):
    class Affine:
        site = sites.BLOCK

        def __init__(self, factor, offset):
            self.factor, self.offset = factor, offset

        def block(self, run, tokens):
            return self.factor * run(tokens + self.offset)

    x = jnp.arange(6.0).reshape(3, 2)
    inner, outer = Affine(2.0, 1.0), Affine(5.0, 10.0)
    calls = []

    def run(tokens):
        calls.append(tokens)
        return tokens**2

    found = sites.around(((inner, None), (outer, where)), sites.BLOCK, run)(x)
    new, old = 10 * (x + 11) ** 2, 2 * (x + 1) ** 2
    expected = new if where is None else np.where(where[:, None], new, old)
    np.testing.assert_array_equal(found, expected)
    assert len(calls) == 1


def products(modes):
    program = str(jax.make_jaxpr(NETWORK)(PARAMS, *inputs(), modes))
    return program.count("dot_general")


def test_a_mode_that_holds_for_all_samples_does_without_the_plain_computation():
    # A block has 4 products of its linear layers, 1 of its modulation and 2 of its attention.
    plain = products(())
    assert products(held(branch_of("skipped_blocks"))) == plain - 2 * 7
    assert products(held(branch_of("identity_attention"))) == plain - 2 * 2
    assert products(held(branch_of("permuted_tokens"))) == plain


@pytest.mark.parametrize("name", ["skipped_blocks", "permuted_tokens", "attention_temperature"])
def test_a_mode_of_some_samples_runs_the_layer_once(name):
    assert products(held(branch_of(name), SOME)) == products(())


def test_scanned_layers_are_cut_into_runs_only_where_modes_begin_and_end():
    scanned = nnx.eval_shape(lambda: DiT(**TINY, depth=9, scan_layers=True, rngs=nnx.Rngs(0)))
    network, params = split(scanned, num_classes=CLASSES, shape=(8, 8, 1))

    def lengths(*modes):
        program = jax.make_jaxpr(network)(params, *inputs(), modes)
        return [e.params["length"] for e in program.eqns if e.primitive.name == "scan"]

    assert lengths() == [9]
    assert lengths(Active(Shift(1.0), None)) == [9]
    (pag,) = held(branch_of("identity_attention", (2, 3, 7)))
    assert lengths(pag) == [2, 2, 3, 1, 1]
    assert lengths(pag, *held(branch_of("skipped_blocks", (3,)))) == [2, 1, 1, 3, 1, 1]


def test_modes_at_the_embeddings_see_what_they_are_promised():
    seen = {}

    class Recorder:
        name, layers = "recorder", None

        def __init__(self, site):
            self.site = site

        def time_embedding(self, embedding):
            seen["time"] = embedding
            return embedding

        def condition_embedding(self, embedding, table):
            seen["condition"], seen["table"] = embedding, table
            return embedding

    @jax.jit
    def run(x, time, label):
        both = (sites.TIME_EMBEDDING, sites.CONDITION_EMBEDDING)
        NETWORK(PARAMS, x, time, label, tuple((Recorder(site), None) for site in both))
        model = NETWORK.module(PARAMS)
        time = model.time_out(jax.nn.silu(model.time_in(time_features(time))))
        return dict(seen), time

    x, time, _ = inputs()
    label, rows = jnp.array([0, 2, CLASSES, 1, 0]), PARAMS["label_table"]["embedding"]
    found, expected = run(x, time, label)
    np.testing.assert_allclose(found["time"], expected, rtol=1e-5)
    np.testing.assert_array_equal(found["condition"], rows[np.asarray(label)])
    np.testing.assert_array_equal(found["table"], rows[:CLASSES])


@pytest.mark.parametrize("site", [sites.TIME_EMBEDDING, sites.CONDITION_EMBEDDING])
def test_embeddings_change_for_the_samples_a_mode_holds_for(site):
    plain = apply(NETWORK, PARAMS, *inputs(), ())
    changed = apply(NETWORK, PARAMS, *inputs(), (Active(Shift(0.5, site), jnp.asarray(SOME)),))
    moved = np.abs(changed - plain).max(axis=(1, 2, 3))
    assert moved[SOME].min() > 1e-3 and moved[~SOME].max() < 1e-4


def test_bfloat16_networks_hold_modes_in_their_own_type():
    half, _ = make(dtype=jnp.bfloat16, scan_layers=True)
    modes = sum((held(branch_of(name), SOME) for name in NAMES), ())
    out = jax.eval_shape(half, STACKED, *inputs(), modes)
    assert out.dtype == jnp.float32


# What is refused.


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_beyond_the_depth_is_refused(name):
    message = f"'{name}' asks for layer 3 of a network of depth 3"
    for network, params in ((NETWORK, PARAMS), (SCANNED, STACKED)):
        with pytest.raises(ValueError, match=message):
            network(params, *inputs(), held(branch_of(name, (1, 3))))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layers", [(), (-1,), (1.5,), (True,)])
def test_layers_that_are_no_block_numbers_are_refused_by_the_rule(name, layers):
    with pytest.raises(ValueError, match=rf"guidance.{RULES[name].__name__}: layers"):
        RULES[name](2.0, layers)


@pytest.mark.parametrize("name", NAMES)
def test_a_scale_that_is_not_finite_is_refused(name):
    with pytest.raises(ValueError, match=rf"guidance.{RULES[name].__name__}: scale"):
        RULES[name](math.nan, (1,))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: attention.seg(2.0, (1,), -1.0), "guidance.seg: sigma"),
        (lambda: attention.seg(2.0, (1,), math.nan), "guidance.seg: sigma"),
        (lambda: attention.seg(2.0, (1,), jnp.ones(3)), "guidance.seg: sigma must be one number"),
        (lambda: attention.blurred_queries((1,), -1.0), "guidance.blurred_queries: sigma"),
        (lambda: attention.erg(2.0, (1,), -0.5), "guidance.erg: temperature"),
        (lambda: attention.erg(2.0, (1,), math.inf), "guidance.erg: temperature"),
        (lambda: attention.attention_temperature((1,), math.nan), "attention_temperature: temp"),
    ],
)
def test_a_number_out_of_range_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def sampled(denoise, rule, condition, shape=(8, 8, 1), branches="fused", batch=2, key=None):
    noise = jax.random.normal(jax.random.key(0), (batch, *shape))
    key = keys(batch) if key is None else key
    sigmas = samplers.karras(2, 0.5, 5.0)
    return samplers.sample(
        denoise, rule, samplers.euler(), sigmas, noise, condition, key, branches=branches
    )


@functools.cache
def mlp():
    """Return the toy's denoiser, with a gain that is not the 0 it starts from."""
    build = nnx.eval_shape(lambda: ScoreMLP(8, rngs=nnx.Rngs(params=0)))
    network, shapes = split(build, num_classes=0, shape=(2,))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda a: random.normal(size=a.shape).astype("f"), shapes)
    return Denoiser(params | {"gain": np.float32(0.7)}, network, Direct())


@pytest.mark.parametrize("name", ["identity_attention", "blurred_queries", "attention_temperature"])
def test_a_network_without_attention_refuses(name):
    with pytest.raises(ValueError, match=f"'{name}', which works on the 'attention'"):
        sampled(mlp(), RULES[name](2.0, (1,)), None, (2,))
    modes = held(branch_of(name, (1,)))
    with pytest.raises(ValueError, match="offers time_embedding, block alone"):
        mlp()(jnp.zeros((3, 2)), 1.0, None, modes)


@pytest.mark.parametrize("name", NAMES)
def test_a_callable_without_modes_refuses(name):
    with pytest.raises(ValueError, match=f"'{name}'"):
        sampled(lambda x, sigma, condition: x, RULES[name](2.0, (1,)), None)


def test_a_network_without_classes_has_no_condition_embedding():
    network, params = make(num_classes=0)
    assert sites.CONDITION_EMBEDDING not in Denoiser(params, network, Direct()).sites
    mode = (Active(Shift(1.0, sites.CONDITION_EMBEDDING), None),)
    with pytest.raises(ValueError, match="'shift' works on the 'condition_embedding'"):
        network(params, inputs()[0], inputs()[1], None, mode)


def test_networks_and_guidance_call_the_sites_alike():
    called = {"time_embedding", "condition_embedding", "attention", "block"}
    assert {sites.TIME_EMBEDDING, sites.CONDITION_EMBEDDING, sites.ATTENTION, sites.BLOCK} == called
    assert set(DENOISE.sites) == called


# Blocks.


def test_a_network_with_skipped_blocks_is_the_network_without_them():
    found = apply(NETWORK, PARAMS, *inputs(), held(branch_of("skipped_blocks")))
    shorter, _ = make(depth=DEPTH - 2)
    kept = PARAMS | {"blocks": {0: PARAMS["blocks"][0]}}
    np.testing.assert_allclose(found, apply(shorter, kept, *inputs(), ()), atol=2e-4)


def permuted(layer=1, seed=0, samples=(0, 1, 2)):
    own = keys(3, seed)[np.asarray(samples)]
    (mode,) = blocks.permuted_tokens((layer,)).branch(None, None, own).modes
    number = jnp.broadcast_to(jnp.arange(16.0)[:, None], (len(samples), 16, 2))
    return np.asarray(permute(mode, number))[:, :, 0].astype(int)


@pytest.mark.longer
def test_every_sample_layer_and_evaluation_permutes_in_its_own_way():
    orders = np.concatenate([permuted(1, 0), permuted(2, 0), permuted(1, 1)])
    np.testing.assert_array_equal(np.sort(orders), np.broadcast_to(np.arange(16), orders.shape))
    assert len({tuple(order) for order in orders}) == len(orders)
    np.testing.assert_array_equal(permuted(1, 0, (2,))[0], permuted(1, 0)[2])


def test_permuted_tokens_keep_their_norms_whatever_the_shape_they_come_in():
    (mode,) = branch_of("permuted_tokens", (1,)).modes
    tokens = jax.random.normal(jax.random.key(0), (BATCH, 4, 4, 5))
    found = permute(mode, tokens)
    assert found.shape == tokens.shape
    norms = [np.sort(np.linalg.norm(t, axis=-1).reshape(BATCH, -1)) for t in (found, tokens)]
    np.testing.assert_array_equal(*norms)


def test_a_permuted_block_is_the_plain_block_of_permuted_tokens():
    # Which is why the order must not be restored after the block.
    block = jax.jit(NETWORK.module(PARAMS).blocks[0], static_argnums=2)
    order = np.array([5, 0, 3, 1, 4, 2])
    h, embedding = jax.random.normal(jax.random.key(0), (2, 6, 16)), jnp.ones((2, 16))
    found = block(h[:, order], embedding, (2, 3))
    np.testing.assert_allclose(found, block(h, embedding, (2, 3))[:, order], atol=1e-5)


def test_blocks_without_tokens_are_not_permuted():
    with pytest.raises(ValueError, match="guidance.permuted_tokens: .* no tokens"):
        sampled(mlp(), blocks.tpg(2.0, (1,)), None, (2,))


def test_permutations_need_keys():
    x = jnp.zeros((2, 3))
    arrays = {"given": x, "permuted_tokens": x}
    with pytest.raises(ValueError, match="guidance.permuted_tokens draws"):
        guidance.combine(blocks.tpg(2.0, (1,)), arrays)


# The score network of the toy.


def test_a_block_of_the_score_network_is_a_hidden_layer():
    denoise, modes = mlp(), held(branch_of("skipped_blocks", (1, 3)))
    x = jnp.asarray(np.random.RandomState(0).randn(3, 2), jnp.float32)

    def log_density(x):
        inside = x / jnp.sqrt(0.25 + 0.7**2)
        noise = jnp.full((3, 1), math.log(0.7) / 4)
        y = jnp.concatenate([inside, noise, jnp.ones((3, 1))], axis=1)
        layers = denoise.network.module(denoise.params).layers
        for number in (0, 1, 3):
            y = layers[number](y if number == 0 else jax.nn.silu(y) / 0.596)
        return (y**2).mean(axis=1) * 0.7 / 0.7 - 0.5 * (inside**2).sum(axis=1)

    score = jax.jit(jax.grad(lambda x: log_density(x).sum()))(x)
    found = jax.jit(lambda x: denoise(x, 0.7, None, modes))(x)
    np.testing.assert_allclose(found, x + 0.49 * score, atol=1e-5)
    with pytest.raises(ValueError, match=f"layer 4 of a network of depth {LAYERS}"):
        denoise(x, 0.7, None, held(branch_of("skipped_blocks", (4,))))


def test_the_noise_level_of_the_score_network_is_an_embedding():
    seen = []

    class Recorder:
        name, site, layers = "recorder", sites.TIME_EMBEDDING, None

        def time_embedding(self, embedding):
            seen.append(embedding)
            return embedding

    @jax.jit
    def run(x, sigma, by):
        modes = (Recorder(), None), (Shift(by), jnp.array([True, False, True]))
        return mlp()(x, sigma, None, modes), seen[-1]

    x = jnp.asarray(np.random.RandomState(0).randn(3, 2), jnp.float32)
    sigma = jnp.array([0.1, 0.7, 3.0])
    plain, embedding = run(x, sigma, 0.0)
    np.testing.assert_allclose(embedding, np.log(sigma)[:, None] / 4, rtol=1e-6)
    moved = np.abs(run(x, sigma, 0.25)[0] - plain)
    assert moved[[0, 2]].min() > 1e-6 and moved[1].max() == 0


# The rules.


def test_branches_in_one_batch_equal_branches_in_turn():
    pushes = (attention.seg(1.5, (0,)), blocks.tpg(1.5, (1, 2)))
    rule = guidance.together(guidance.cfg(2.0), *pushes)
    fused = sampled(DENOISE, rule, jnp.array([0, 2]))
    in_turn = sampled(DENOISE, rule, jnp.array([0, 2]), branches="sequential")
    np.testing.assert_allclose(fused, in_turn, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_pushes_away_from_its_modes_prediction_without_a_condition(name):
    @jax.jit
    def guided(rule, x, sigma):
        evaluate = Evaluator({"main": DENOISE}, x, sigma, None, "fused")
        return rule.apply(evaluate, x, sigma, (), keys(BATCH))[0].denoised

    main = apply(NETWORK, PARAMS, *inputs(), ())
    reference = apply(NETWORK, PARAMS, *inputs(), held(branch_of(name)))
    found = guided(RULES[name](3.0, (1, 2)), inputs()[0], jnp.asarray(SIGMA))
    np.testing.assert_allclose(found, reference + 3 * (main - reference), atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_combine_takes_the_prediction_by_the_modes_name(name):
    arrays = {"given": jnp.ones((2, 3)), name: jnp.zeros((2, 3))}
    rule = RULES[name](4.0, (1, 2))
    guided, _ = guidance.combine(rule, arrays, key=jax.random.key(0))
    np.testing.assert_array_equal(guided.denoised, jnp.full((2, 3), 4.0))
    assert guidance.cost(rule, [1.0]) == [{"main": 2}]


@pytest.mark.longer
def test_numbers_of_modes_compile_nothing(compilations):
    def run(sigma, temperature):
        seg, erg = attention.seg(2.0, (1,), sigma), attention.erg(2.0, (1,), temperature)
        return sampled(DENOISE, guidance.together(seg, erg), jnp.array([0, 2]))

    first = run(1.0, 0.5)
    with compilations() as compiled:
        others = [run(math.inf, 0.5), run(1.0, 0.1), run(0.0, 0.5)]
    assert not compiled
    assert min(np.abs(other - first).max() for other in others) > 1e-5


@pytest.mark.parametrize(
    "section",
    [
        {"name": "pag", "scale": 4.0, "layers": (1, 2)},
        {"name": "seg", "scale": 4.0, "layers": (1,), "sigma": math.inf},
        {"name": "erg", "scale": 2.0, "layers": (1,), "temperature": 0.5},
        {"name": "slg", "scale": 3.8, "layers": (7, 8, 9)},
        {"name": "tpg", "scale": 4.0, "layers": (0,)},
        {
            "name": "push",
            "reference": {"name": "blurred_queries", "layers": (2,), "sigma": 3.0},
            "push": ({"name": "clip_norm", "norm": 2.5}, {"name": "scale", "scale": 3.0}),
        },
    ],
)
def test_rules_of_modes_go_to_configs_and_back(section):
    rule = guidance.from_config(section)
    assert guidance.to_config(rule) == section
    assert guidance.from_config(guidance.to_config(rule)) == rule


def test_branches_say_what_they_are_and_keep_the_condition():
    for name in NAMES:
        branch = branch_of(name)
        assert branch.name == name and branch.condition == Branch().condition
        assert not branch.plain
