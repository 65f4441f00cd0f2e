"""Labels as every network reads them: none is the null class, unknown ones are never another's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.filled import fill
from tables.everyday import few

from guidestar import models
from guidestar.core.errors import UserError
from guidestar.models import conditions
from guidestar.models.conditions import Label, Values

CLASSES = 3
TOKENS = dict(image_size=4, channels=2, patch_size=2, width=8, heads=2, num_classes=CLASSES)
UNET = dict(image_size=4, channels=2, model_channels=8, channel_mult=(1,), num_blocks=1)
UNET |= dict(attn_resolutions=(), num_classes=CLASSES)
NETWORKS = {
    "dit": dict(name="dit", depth=1, **TOKENS),
    "umd": dict(name="umd", depth=1, decoder_depth=1, **TOKENS),
    "dico": dict(name="dico", image_size=4, channels=2, num_classes=CLASSES, width=8)
    | dict(depths=(1, 1, 1, 1, 1)),
    "dimr": dict(name="dimr", image_size=4, channels=2, num_classes=CLASSES, heads=2)
    | dict(widths=(8, 8), depths=(3, 3)),
    "song_unet": dict(name="song_unet", **UNET),
    "dhariwal_unet": dict(name="dhariwal_unet", **(UNET | dict(model_channels=64))),
    "edm2_unet": dict(name="edm2_unet", channels_per_head=8, **UNET),
}
LABELS = np.array([0, CLASSES - 1, CLASSES, CLASSES + 1, -1], np.int32)


def answered(section, label):
    """Return which samples a network of random weights answers with finite numbers."""
    spec = models.build(section)
    params = fill(spec.shapes)
    x = jnp.ones((len(label), *spec.shape))
    run = jax.jit(lambda params, label: spec.network(params, x, jnp.ones(len(label)), label))
    return np.isfinite(np.asarray(run(params, label))).reshape(len(label), -1).all(axis=1)


@pytest.mark.parametrize("name", few(2, NETWORKS))
def test_a_label_that_the_network_does_not_know_is_nan_and_no_other_class(name):
    found = answered(NETWORKS[name], LABELS)
    assert found.tolist() == [True, True, True, False, False]


@pytest.mark.longer
@pytest.mark.parametrize("name", few(2, NETWORKS))
def test_a_network_without_a_null_class_has_no_row_and_no_condition_for_it(name):
    section = NETWORKS[name] | dict(null_class=False)
    assert answered(section, LABELS).tolist() == [True, True, False, False, False]
    spec = models.build(section)
    assert spec.condition == Label(CLASSES, null=False)
    denoise = spec.denoiser(spec.shapes)
    assert denoise.null_condition is None
    with pytest.raises(ValueError, match="knows no prediction without a condition"):
        denoise(jnp.ones((2, *spec.shape)), 1.0)
    with pytest.raises(ValueError, match="knows 3 classes and no null class"):
        jax.eval_shape(
            lambda p: spec.network(p, jnp.ones((2, *spec.shape)), jnp.ones(2), None), spec.shapes
        )


@pytest.mark.untyped
@pytest.mark.parametrize("name", ["dit", "song_unet"])
def test_labels_that_are_no_whole_numbers_are_refused_in_compiled_programs_too(name):
    with pytest.raises(ValueError, match="labels are whole numbers, got float32"):
        answered(NETWORKS[name], np.float32([0.5]))


PARTS = conditions.described({"label": Label(3), "text": Values((2,), null=0.0)})


@pytest.mark.parametrize(
    ("condition", "given", "message"),
    [
        (Label(3), [0, 4], "whole numbers from 0 to 2, or 3 for no class, got 4"),
        (Label(3), [0, -1], "whole numbers from 0 to 2, or 3 for no class, got -1"),
        (Label(3, null=False), [0, 3], "whole numbers from 0 to 2, got 3"),
        (Label(3), [0.5, 1.0], "whole numbers from 0 to 2, or 3 for no class, got float"),
        (Label(3), [True, False], "whole numbers .*, got bool"),
        (Label(3), [0, 1, 2], r"2 labels are needed, one a sample, got shape \(3,\)"),
        (None, [0, 1], "takes no condition"),
        (PARTS, [0, 1], "dictionary of label, text, got"),
        (PARTS, {}, "dictionary of label, text, got"),
        (PARTS, {"txet": np.ones((2, 2))}, "dictionary of label, text, got txet"),
        (PARTS, {"text": np.ones((2, 3))}, r"text: values of shape \(2, 2\) are needed"),
        (PARTS, {"label": np.array([0, 9])}, "label: labels are whole numbers"),
    ],
)
def test_conditions_that_a_network_cannot_take_are_refused_by_name(condition, given, message):
    given = given if isinstance(given, dict) else np.array(given)
    with pytest.raises(UserError, match=f"^here.*{message}"):
        conditions.require(condition, given, 2, "here")


def test_conditions_that_a_network_can_take_pass():
    for condition, given in (
        (Label(3), np.array([0, 3])),
        (Label(3), [0, 1]),
        (Label(3), np.int32(2)),
        (PARTS, {"text": np.ones((2, 2))}),
        (Label(3), None),
        (None, None),
    ):
        conditions.require(condition, given, 2, "here")
    jax.jit(lambda label: conditions.require(Label(3), label, 2, "here"))(np.array([0, 9]))


def test_parts_are_dropped_to_their_nulls_and_the_others_stay():
    condition = {"label": np.array([0, 1]), "text": np.ones((2, 2), "f"), "size": np.ones((2, 1))}
    null = conditions.null_of(PARTS, {})
    found = conditions.dropped(condition, null, np.array([True, False]))
    np.testing.assert_array_equal(found["label"], [3, 1])
    np.testing.assert_array_equal(found["text"], [[0, 0], [1, 1]])
    np.testing.assert_array_equal(found["size"], condition["size"])
    np.testing.assert_array_equal(
        conditions.dropped(np.array([0, 1]), 3, np.array([1, 0]) > 0), [3, 1]
    )
    np.testing.assert_array_equal(
        conditions.dropped(np.array([0, 1]), None, np.array([1, 0]) > 0), [0, 1]
    )


def test_a_description_is_hashable_whatever_the_order_of_its_parts():
    other = conditions.described({"text": Values((2,), null=0.0), "label": Label(3)})
    assert other == PARTS and hash(other) == hash(PARTS)
    assert conditions.described(0) is None and conditions.described({}) is None
    assert conditions.described(4) == Label(4)
    assert conditions.null_of(conditions.without_null(PARTS), {}) is None
    with pytest.raises(ValueError, match="described by a Label"):
        conditions.described({"text": (2,)})
