"""The registry of constructors: what is found, what is refused and in whose name."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import guidestar
from guidestar import guidance, samplers
from guidestar.core.constructors import KINDS, name_of, origin
from guidestar.core.errors import UserError, WrongType
from guidestar.core.part_types import PART_TYPES, PartType, mismatch
from guidestar.core.registry import Registry, register, registry, written_in

NAN = float("nan")


@dataclasses.dataclass
class Loaf:
    """A part that tests make."""

    weight: float = 1.0
    crumbs: tuple = ()


@pytest.fixture(autouse=True)
def loaves(monkeypatch):
    """Make `Loaf` a type of part, and a table for it that the library does not see."""
    monkeypatch.setitem(PART_TYPES, Loaf, PartType("a loaf", lambda one: isinstance(one, Loaf)))
    for kind in dict.fromkeys(one.table for one in KINDS.values()):
        known = registry(kind if kind in KINDS else "rule")
        monkeypatch.setattr(known, "_constructors", dict(known._constructors))


@pytest.fixture
def bakery():
    """Register constructors of every shape of signature."""

    @register("source", "2401.00001")
    def loaf(weight: float, *, sliced: bool = False, label: str = "", number: int = 1):
        if weight <= 0:
            raise ValueError("source.loaf: weight must be more than 0")
        return Loaf(weight)

    @register("source")
    def basket(first: Loaf, *others: Loaf, size: float | None = None):
        return Loaf(size or 0.0, (first, *others))

    @register("source")
    def weighed(weights: tuple[float, ...] = (), pair: tuple[int, int] = (0, 0), **more: float):
        return Loaf(sum(weights), tuple(sorted(more)))

    @register("source", name="class_of_it")
    @dataclasses.dataclass
    class Made:
        height: float
        array: Array | None = None

    return loaf, basket, weighed, Made


def test_a_name_leads_to_what_was_registered(bakery):
    assert registry("source").build({"name": "loaf", "weight": 2.0}, "data") == Loaf(2.0)
    assert {"loaf", "basket", "weighed", "class_of_it"} <= set(registry("source"))
    assert registry("source")["loaf"].sources == ("2401.00001",)
    made = registry("source").build({"name": "class_of_it", "height": 2}, "data")
    assert made.height == 2 and name_of(made) == "class_of_it"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "loav"}, r"data\.name 'loav' is not one of .*loaf.*did you mean loaf\?"),
        ({"name": None}, r"data\.name None is not one of"),
        ({"name": 3}, r"data\.name 3 is not one of"),
        ({}, r"data\.name None is not one of"),
        ("loaf", r"data must be a dictionary with the name of a data set .* got 'loaf'"),
        ({"name": "loaf"}, "data: loaf needs the argument 'weight'"),
        ({"name": "loaf", "weight": 1, "wait": 2}, "loaf has no argument 'wait'; it takes we"),
        ({"name": "loaf", "weight": 1, 5: 2}, "loaf has no argument 5"),
        ({"name": "loaf", "weight": "1"}, r"data\.weight: loaf takes a number here, got '1'"),
        ({"name": "loaf", "weight": True}, r"data\.weight: loaf takes a number here, got True"),
        ({"name": "loaf", "weight": None}, r"data\.weight: loaf takes a number here, got None"),
        ({"name": "loaf", "weight": NAN}, r"data\.loaf: weight must be a number, got nan"),
        ({"name": "loaf", "weight": -1.0}, "data: source.loaf: weight must be more than 0"),
        ({"name": "loaf", "weight": 1, "sliced": 1}, r"data\.sliced: loaf takes true or false"),
        ({"name": "loaf", "weight": 1, "label": 7}, r"data\.label: loaf takes a string here"),
        ({"name": "loaf", "weight": 1, "number": 1.5}, r"data\.number: loaf takes a whole number"),
        (
            {"name": "basket", "first": 3, "others": ()},
            r"data\.first: basket takes a loaf here, got 3",
        ),
        (
            {"name": "basket", "first": {"name": "loaf", "weight": 1.0}, "others": 3},
            r"data\.others: basket takes a list here, got 3",
        ),
        (
            {"name": "basket", "first": {"name": "loaf", "weight": 1.0}, "others": (1,)},
            r"data\.others\.0: basket takes a loaf here, got 1",
        ),
        (
            {"name": "basket", "first": {"name": "loaf", "weight": "x"}, "others": ()},
            r"data\.first\.weight: loaf takes a number",
        ),
        ({"name": "basket", "others": ()}, "basket needs the argument 'first'"),
        ({"name": "weighed", "weights": (1, "2")}, r"data\.weights\.1: weighed takes a number"),
        ({"name": "weighed", "weights": "12"}, r"data\.weights: weighed takes a list here"),
        ({"name": "weighed", "weights": (NAN,)}, "weights must be a number, got"),
        ({"name": "weighed", "pair": (1,)}, r"data\.pair: weighed takes 2 values here"),
        ({"name": "class_of_it", "height": "2"}, r"data\.height: class_of_it takes a number"),
    ],
)
def test_a_wrong_section_is_refused_by_place(bakery, section, message):
    with pytest.raises(UserError, match=message):
        registry("source").build(section, "data")


def test_parts_nest_and_lists_of_parts_are_variadic(bakery):
    one, two = ({"name": "loaf", "weight": float(n)} for n in (1, 2))
    section = {"name": "basket", "first": one, "others": [two, one], "size": 3}
    made = registry("source").build(section, "data")
    assert made.crumbs == (Loaf(1.0), Loaf(2.0), Loaf(1.0)) and made.weight == 3
    assert origin(made).arguments["others"] == (Loaf(2.0), Loaf(1.0))
    open_ended = {"name": "weighed", "flour": 2.0}
    assert registry("source").build(open_ended, "data").crumbs == ("flour",)


def test_a_part_of_another_table_is_named_where_its_type_is_asked_for():
    class Praise:
        """A reward."""

        differentiable = False

        def __call__(self, x0, condition, key):
            return x0[:, 0]

    @register("reward", name="praise")
    def praise(loud: bool = False) -> Praise:
        del loud
        return Praise()

    section = {"name": "steer", "reward": {"name": "praise"}, "particles": 2}
    solver = registry("solver").build(section, "sampler.solver")
    assert name_of(solver.tilt.reward) == "praise" and solver.particles == 2
    section["reward"] = {"name": "praise", "quiet": True}
    with pytest.raises(UserError, match="sampler.solver.reward: praise has no argument 'quiet'"):
        registry("solver").build(section, "sampler.solver")
    section["reward"] = {"name": "euler"}
    with pytest.raises(UserError, match="solver.reward.name 'euler' is not one of.*praise"):
        registry("solver").build(section, "sampler.solver")
    # Of either table where either type is taken, and the code of parts from outside is known.
    mask = {"name": "gray", "weights": [1.0]}
    twisted = {"name": "twisted", "reward": mask, "measurement": [[[1.0]]], "noise": 0.1}
    assert registry("solver").build(twisted, "sampler.solver").twist.rewards == 0
    section["reward"] = {"name": "praise"}
    assert set(written_in({"sampler": {"solver": section}})) == {"praise"}


def test_arguments_may_be_given_before_those_of_the_section(bakery):
    assert registry("source").build({"name": "loaf"}, "data", 2.0) == Loaf(2.0)
    with pytest.raises(UserError, match="loaf has no argument 'weight'"):
        registry("source").build({"name": "loaf", "weight": 1.0}, "data", 2.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda loaf, basket: basket(3), "data.basket: first takes a loaf here, got 3"),
        (lambda loaf, basket: basket(loaf(1.0), "x"), "data.basket: others takes a loaf here"),
        (lambda loaf, basket: basket(loaf), "got the function loaf itself: call it"),
        (lambda loaf, basket: loaf(weight="3"), "data.loaf: weight takes a number here, got '3'"),
        (lambda loaf, basket: loaf(1.0, sliced=None), "data.loaf: sliced takes true or false"),
        (lambda loaf, basket: loaf(np.array([1.0, 2.0])), r"got float64\[2\]"),
    ],
)
def test_a_call_with_a_part_of_another_kind_is_refused_by_name(bakery, call, message):
    with pytest.raises(TypeError, match=message) as raised:
        call(*bakery[:2])
    assert isinstance(raised.value, UserError)


def test_scalars_of_arrays_and_traced_numbers_are_numbers(bakery):
    for weight in (2, np.float32(2), np.array(2.0), jnp.float32(2)):
        assert bakery[0](weight, number=np.int64(3)).weight == 2
    assert jax.jit(lambda scale: guidance.cfg(scale).transform.scale)(2.0) == 2


def test_a_wrong_call_still_says_what_python_says(bakery):
    with pytest.raises(TypeError, match=r"\w+\.\w+: missing a required argument: 'weight'"):
        bakery[0]()


def test_what_is_made_remembers_the_call_and_copies_do_not(bakery):
    made = bakery[0](2.0, number=4)
    known = origin(made)
    assert known.constructor.name == "loaf" and known.arguments == {"weight": 2.0, "number": 4}
    assert origin(dataclasses.replace(made)) is None and name_of(Loaf()) == "Loaf"


def test_a_taken_name_is_refused_and_the_same_function_may_come_again(bakery):
    @register("rule", name="of_mine")
    def first():
        return guidance.unguided()

    def second():
        return guidance.unguided()

    with pytest.raises(UserError, match=r"'of_mine' of .* a rule of that name is registered by"):
        register("rule", name="of_mine")(second)
    with pytest.raises(UserError, match="'cfg' of .* a rule of that name is registered by guide"):
        register("transform", name="cfg")(second)
    register("rule", name="of_mine")(first)


def test_an_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"'rul' is not one of rule, .*did you mean rule"):
        register("rul")


@pytest.mark.untyped
def test_a_decorator_without_a_kind_says_how_it_is_written():
    with pytest.raises(UserError, match=r'write @register\("rule"\), or another of rule, tr'):
        register(lambda scale: None)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_registered_from_outside(kind):
    @guidestar.register(kind, name="from_outside")
    def build(amount: float = 1.0):
        return Loaf(amount)

    made = registry(kind).build({"name": "from_outside", "amount": 3.0}, KINDS[kind].place)
    assert made == Loaf(3.0) and origin(made).constructor.kind == kind
    with pytest.raises(UserError, match=f"{KINDS[kind].place}.amount: from_outside takes a number"):
        registry(kind).build({"name": "from_outside", "amount": "3"}, KINDS[kind].place)


def test_tables_are_apart_and_kinds_of_one_table_share_it():
    assert registry("rule") is registry("reference") is registry("transform")
    assert registry("solver") is not registry("schedule")
    assert isinstance(registry("loss"), Registry)
    assert {"cfg", "null", "scale"} <= set(registry("rule"))
    assert samplers.euler.__name__ in registry("solver")


@pytest.mark.parametrize(
    ("value", "wanted", "found"),
    [
        (1.0, float, None),
        (math.inf, float, None),
        (1, float | None, None),
        (None, float | None, None),
        ("a", float | str, None),
        ([1, 2], tuple[int, ...], None),
        (np.arange(3), tuple[int, ...], None),
        (np.array(["a"]), tuple[float, ...], ("", "numbers here")),
        ((1, (2, "x")), tuple[int, tuple[int, ...]], (".1.1", "a whole number here, got 'x'")),
        (jnp.ones(2, bool), float | jax.Array, ("", "a number or an array of numbers here")),
        (np.ones(3), float, ("", "a number here, got float64[3]")),
        (object, "anything", None),
    ],
)
def test_types_are_told_apart(value, wanted, found):
    result = mismatch(value, wanted)
    if found is None:
        assert result is None
    else:
        assert result[0] == found[0] and result[1].startswith(found[1])


def test_a_wrong_type_is_both_kinds_of_error():
    assert issubclass(WrongType, UserError) and issubclass(WrongType, TypeError)
