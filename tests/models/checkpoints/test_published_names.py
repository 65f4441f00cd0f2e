"""What files say of themselves is believed or refused: wrappers' names, arguments, other state."""

import pickle

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from networks.published_dit import published_dit
from safetensors.numpy import save_file
from weight_files import writers as w

from guidestar.core.errors import UserError
from guidestar.models.checkpoints.loading import fit, load
from guidestar.models.preconditioning import Discrete, Flow

STATE = published_dit()
MARKED = "x_embedder.proj.bias"
HEADS = 2


def pushed(state, prefix="", value=None):
    """Push a state dict, its marked array filled with a number."""
    mark = {} if value is None else {MARKED: np.full_like(STATE[MARKED], value)}
    return {prefix + name: w.pickled_tensor(array) for name, array in (state | mark).items()}


def write(path, root):
    path.write_bytes(w.program(w.table(root), protocol=4))
    return path


def arguments(**fields):
    """Push an argparse.Namespace."""
    values = {
        name: w.text(value) if isinstance(value, str) else pickle.dumps(value, 2)[2:-1]
        for name, value in fields.items()
    }
    return w.call("argparse", "Namespace") + w.table(values) + pickle.BUILD


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net."),
        *("state.deeper.", "_fsdp_wrapped_module."),
    ],
)
def test_what_all_names_share_is_taken_off_and_said(prefix, tmp_path):
    path = write(tmp_path / "x.pt", {"ema": w.table(pushed(STATE, prefix))})
    found = fit(path, heads=HEADS)
    assert found.sidecar["model"]["name"] == "dit"
    off = found.sidecar["format"].partition("names without ")[2].strip("'").split(".")
    assert sorted(off) == sorted(prefix.split("."))
    np.testing.assert_array_equal(found.read("patch_in/bias"), STATE[MARKED])


@pytest.mark.parametrize(
    "word", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]
)
def test_wrappers_of_single_blocks_are_taken_off(word, tmp_path):
    state = {name.replace("blocks.0.", f"blocks.0.{word}."): v for name, v in STATE.items()}
    save_file(state, tmp_path / "x.safetensors")
    assert word in fit(tmp_path / "x.safetensors", heads=HEADS).sidecar["format"]


OTHER = w.pickled_tensor(np.ones(3, np.float32))
NUMBER = w.pickled_tensor(np.array(7, np.int64))
ADAM = w.table(
    {
        "state": pickle.EMPTY_DICT + w.whole(0) + w.table({"exp_avg": OTHER}) + pickle.SETITEM,
        "param_groups": pickle.EMPTY_LIST,
    }
)
STEPS = w.table({"milestones": w.call("collections", "Counter", pickle.EMPTY_DICT)})

# root -> which of the copies is taken, and what is said of it.
LAYOUTS = {
    "Lightning, with an average": (
        {
            "state_dict": w.table(pushed(STATE, "model.", 1) | pushed(STATE, "ema.", 2)),
            "optimizer_states": pickle.MARK + ADAM + pickle.LIST,
            "lr_schedulers": pickle.MARK + STEPS + pickle.LIST,
            "epoch": w.whole(3),
        },
        (2, "names without 'ema.', without model.*"),
    ),
    "Lightning, with a loss": (
        {"state_dict": w.table(pushed(STATE, "model.", 1) | {"loss.weight": OTHER})},
        (1, "names without 'model.', without loss.*"),
    ),
    "optimiser and schedule beside": (
        {"optimizer": ADAM, "scheduler": STEPS, "model": w.table(pushed(STATE, "", 1))},
        (1, "entry 'model'"),
    ),
    "optimiser among the weights": (
        pushed(STATE, "", 1) | {"optimizer": ADAM, "epoch": w.whole(3)},
        (1, "pickle"),
    ),
    "one deeper": (
        {
            "trainer": w.table(
                {"model": w.table(pushed(STATE, "", 1)), "ema": w.table(pushed(STATE, "", 2))}
            )
        },
        (2, "entry 'trainer.ema'"),
    ),
    "an average that holds both": (
        {
            "model": w.table(pushed(STATE, "", 1)),
            "ema": w.table(
                pushed(STATE, "online_model.", 1)
                | pushed(STATE, "ema_model.", 2)
                | {"initted": NUMBER, "step": NUMBER}
            ),
        },
        (2, "names without 'ema_model.', without online_model.*, initted, step"),
    ),
    "an averaged model": (
        {"state_dict": w.table(pushed(STATE, "module.", 1) | {"n_averaged": NUMBER})},
        (1, "names without 'module.', without n_averaged"),
    ),
    "an average without names": (
        {
            "model": w.table(pushed(STATE, "", 1)),
            "ema": w.table({"shadow_params": pickle.MARK + OTHER + OTHER + pickle.LIST}),
        },
        (1, "without ema, which has no names"),
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_weights_are_found_beside_what_trained_them(name, tmp_path):
    root, (value, said) = LAYOUTS[name]
    found = fit(write(tmp_path / "x.pt", root), heads=HEADS)
    assert said in found.sidecar["format"]
    np.testing.assert_array_equal(found.read("patch_in/bias"), value)


def test_several_networks_are_asked_about_and_chosen_by_name(tmp_path):
    root = {"state_dict": w.table(pushed(STATE, "teacher.", 1) | pushed(STATE, "student.", 2))}
    path = write(tmp_path / "x.pt", root)
    with pytest.raises(UserError, match=r"holds several networks \(teacher, student\): name one"):
        fit(path, heads=HEADS)
    assert fit(path, entry="student", heads=HEADS).read("patch_in/bias")[0] == 2
    with pytest.raises(UserError, match="no state dict under 'pupil'"):
        fit(path, entry="pupil", heads=HEADS)


def trained(tmp_path, state=STATE, **fields):
    root = {"ema": w.table(pushed(state)), "args": arguments(**fields)}
    return write(tmp_path / "0400000.pt", root)


@pytest.mark.parametrize(
    ("fields", "preconditioner"),
    [
        (dict(model="DiT-B/2"), Discrete()),
        (dict(model="DiT-B/2", prediction_type="v_prediction"), Discrete(predicts="velocity")),
        (dict(model="DiT-B/2", beta_schedule="scaled_linear"), Discrete(betas="scaled_linear")),
        (dict(model="DiT-B/2", diffusion_steps=500), Discrete(steps=500)),
        (dict(model="SiT-XL/2", path_type="Linear", prediction="velocity"), Flow()),
        (dict(model="SiT-XL/2", path_type="GVP"), Flow("gvp")),
        (dict(model="SiT-XL/2", path_type="VP", learn_sigma=True), Flow("vp")),
        # REPA's words.
        (
            dict(model="SiT-XL/2", path_type="cosine", prediction="v", proj_coeff=0.5),
            Flow("gvp", "to_noise"),
        ),
    ],
)
def test_arguments_say_what_is_predicted(fields, preconditioner, tmp_path):
    found = fit(trained(tmp_path, **fields), heads=HEADS)
    assert found.spec.preconditioner == preconditioner


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(model="DiT-B/2", predict_xstart=True), "the network predicts the image"),
        (dict(model="DiT-B/2", prediction_type="sample"), "predicts 'sample'"),
        (dict(model="DiT-B/2", noise_schedule="squaredcos_cap_v2"), "'squaredcos_cap_v2' schedule"),
        (dict(model="DiT-B/2", learn_sigma=False), "say learn_sigma=False and its last layer has"),
        (dict(model="SiT-B/2", path_type="spiral"), "follows the path 'spiral'"),
        (dict(model="SiT-B/2", prediction="score"), "predicts 'score', and not the velocity"),
        (dict(model="DiT-B/2", num_classes=1000), "has 4 rows and .* 1000 classes"),
    ],
)
def test_arguments_that_no_network_here_fits_are_refused(fields, message, tmp_path):
    with pytest.raises(UserError, match=message):
        fit(trained(tmp_path, **fields), heads=HEADS)


def test_the_caller_s_preconditioner_replaces_what_arguments_say(tmp_path):
    path = trained(tmp_path, model="SiT-B/2", prediction="score")
    assert fit(path, heads=HEADS, preconditioner="flow").spec.preconditioner == Flow()


def test_heads_that_arguments_say_are_believed(tmp_path):
    assert fit(trained(tmp_path, num_heads=4)).sidecar["model"]["heads"] == 4


def test_projections_for_training_are_left_behind(tmp_path):
    more = {"projectors.0.0.weight": np.ones((2, 2), np.float32)}
    path = trained(tmp_path, STATE | more, model="SiT-B/2", path_type="linear")
    assert fit(path, heads=HEADS).spec.preconditioner == Flow(time="to_noise")


@pytest.mark.longer
def test_a_table_without_a_row_for_no_class_makes_a_network_without_a_null(tmp_path):
    state = published_dit(null=False)
    loaded = load(trained(tmp_path, state, num_classes=3), heads=HEADS)
    assert loaded.spec.num_classes == 3 and loaded.denoiser.null_condition is None
    table = loaded.params["label_table"]["embedding"]
    np.testing.assert_array_equal(table[:3], state["y_embedder.embedding_table.weight"])
    assert not table[3].any() and loaded.sidecar["null_class"] is False
    undropped = fit(trained(tmp_path, state, class_dropout_prob=0.0), heads=HEADS)
    assert undropped.spec.num_classes == 3 and undropped.sidecar["null_class"] is False
    with_null = load(trained(tmp_path, num_classes=3), heads=HEADS)
    assert with_null.denoiser.null_condition == 3 and "null_class" not in with_null.sidecar
    # Nothing says so of a file without arguments: the last row is the null class, as published.
    unsaid = load(write(tmp_path / "x.pt", pushed(state)), heads=HEADS)
    assert unsaid.denoiser.null_condition == 2


@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_a_state_in_bfloat16_is_read(form, tmp_path):
    state = {name: array.astype(ml_dtypes.bfloat16) for name, array in STATE.items()}
    path = tmp_path / "x"
    w.write_torch_zip(path, state) if form == "torch" else save_file(state, path)
    found = load(path.rename(tmp_path / "x.pt"), heads=HEADS)
    kernel = found.params["blocks"][0]["mlp_in"]["kernel"]
    assert kernel.dtype == jnp.float32
    wanted = state["blocks.0.mlp.fc1.weight"].astype(np.float32).T
    np.testing.assert_array_equal(kernel, wanted)


@pytest.mark.parametrize(
    "gone", ["final_layer.linear.bias", "x_embedder.proj.weight", "blocks.0.mlp.fc2.weight"]
)
def test_what_is_missing_is_named(gone, tmp_path):
    state = {name: array for name, array in STATE.items() if name != gone}
    with pytest.raises(UserError, match=gone):
        fit(write(tmp_path / "x.pt", pushed(state)), name="dit", heads=HEADS)


@pytest.mark.parametrize(
    "names",
    [
        *(["encoder.conv_in.weight"], ["enc.8x8_block0.conv0.weight", "map_layer0.weight"]),
        *(["model.enc.8x8_block0.conv0.weight", "model.map_layer0.weight"], ["x"], ["a.b", "c.d"]),
        ["unet.enc.8x8_conv.weight", "unet.emb_fourier.freqs"],
        ["encoder.mid_block.attentions.0.to_q.weight", "encoder.conv_out.weight"],
        ["image_mask_embedding", "final_conv/kernel", "pos_embedding", "cls"],
        ["y_embedder.y_embedding", "t_block.1.weight", "blocks.0.cross_attn.kv_linear.weight"],
        [
            *("x_embedder.proj.weight", "latent.0.conv4.weight", "final_layer.out_proj.weight"),
            "up3_2.body.0.weight",
        ],
        [
            *("stages.0.blocks.0.block1.query_key_value.weight", "stages.0.output_layer.2.weight"),
            "stages.0.skip_denses.0.weight",
        ],
        ["Mixed_7c.branch3x3dbl_3b.conv.weight", "Conv2d_1a_3x3.conv.weight", "fc.bias"],
        ["patch_embed.proj.weight", "pos_embed", "cls_token", "blocks.0.ls1.gamma"],
        [
            *("embeddings.patch_embeddings.projection.weight", "layernorm.weight"),
            "encoder.layer.0.layer_scale1.lambda1",
        ],
        [
            "visual_projection.weight",
            *(f"vision_model.embeddings.{part}_embedding.weight" for part in ("patch", "position")),
            *(f"vision_model.encoder.layers.0.self_attn.{part}_proj.weight" for part in "qkv"),
        ],
    ],
)
@pytest.mark.parametrize("shape", [(2, 2), (), (0,), (4, 4, 1, 1)])
def test_the_unknown_is_named_whatever_is_in_the_file(names, shape, tmp_path):
    save_file({name: np.zeros(shape, np.float32) for name in names}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"x\.safetensors"):
        fit(tmp_path / "x.safetensors")
