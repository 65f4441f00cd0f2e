"""A function of one's own as a denoiser: flax.linen's ``apply``, an nnx module split, plain jax."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from ..core.errors import UserError
from ..core.pytrees import Constant
from ..core.sites import require_offered
from .conditions import Condition, Label, Values, described, like
from .denoiser import Denoiser
from .layers.labels import known
from .preconditioning import (
    VP,
    Direct,
    Discrete,
    Flow,
    Preconditioner,
    Predicted,
    Table,
)
from .preconditioning import (
    sigma_range as known_range,
)

PREDICTIONS = ("eps", "v", "x0", "flow")
STEPPED = ("linear", "scaled_linear", "cosine")
SCHEDULES = (*STEPPED, "vp", "flow", "sigma")


class _NotGiven:
    """Stands for an argument that was left out where None means something."""

    def __repr__(self) -> str:
        return "not given"


NOT_GIVEN = _NotGiven()


@dataclasses.dataclass(frozen=True)
class Function:
    """A network that is a function of its parameters; hashable as the function is.

    Attributes:
        apply: ``apply(params, x, t, condition)``.
        shape: one sample's shape, without the batch.
        condition: what it is conditioned on (see `models.conditions`).
        null: what stands for no condition, as `Constant` arrays; None where nothing does.
    """

    apply: Callable
    shape: tuple[int, ...]
    condition: Condition
    null: Any = None
    sites: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The function's own name."""
        return getattr(self.apply, "__qualname__", type(self.apply).__name__)

    @property
    def num_classes(self) -> int:
        """Real classes; 0 when it takes no label."""
        return getattr(self.condition, "num_classes", 0)

    def condition_like(self, batch: int) -> Any:
        """Return shapes and types of a batch of conditions; None for a function of none."""
        return like(self.condition, batch)

    def null_condition(self, params: Any) -> Any:
        """Return what stands for no condition, without the batch."""
        del params
        if isinstance(self.null, Mapping):
            return {name: null.value for name, null in self.null.items()}
        return getattr(self.null, "value", self.null)

    def __call__(
        self, params: Any, x: Array, time: Array, condition: Any, modes: tuple = (), **inputs: Any
    ) -> Array:
        """Return what the function does, which is of the shape of ``x``; see `wrap`."""
        require_offered(modes, self.sites, 0)
        if inputs:
            raise ValueError(f"{self.name} takes no {', '.join(inputs)}")
        output = jnp.asarray(self.apply(params, x, time, condition))
        if output.shape != x.shape:
            raise ValueError(
                f"models.wrap: {self.name} returns shape {output.shape} for samples of shape "
                f"{x.shape}: return one prediction a sample, of the samples' own shape and without "
                f"a learned variance"
            )
        if isinstance(self.condition, Label) and condition is not None:
            label = jnp.asarray(condition)
            fits = known(label, self.num_classes, False)
            fits = fits if self.null is None else fits | (label == self.null)
            column = fits.reshape((-1,) + (1,) * (x.ndim - 1))
            return jnp.where(column, output.astype(jnp.float32), jnp.nan)
        return output.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class _Nulls(Mapping):
    """A hashable dictionary."""

    pairs: tuple[tuple[str, Constant], ...]

    def __getitem__(self, name: str) -> Constant:
        return dict(self.pairs)[name]

    def __iter__(self):
        return (name for name, _ in self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)


def wrap(
    apply: Any,
    params: Any,
    *,
    prediction: str,
    schedule: str | Mapping[str, Any] | Any,
    shape: tuple[int, ...],
    num_classes: int = 0,
    condition: Any = None,
    null_condition: Any = NOT_GIVEN,
    sigma_range: tuple[float, float] | None = None,
    latent: bool = False,
) -> Denoiser:
    """Make a denoiser of a function ``apply(params, x, t, condition)``.

    The function is given ``x`` scaled as its schedule has it, ``t`` float32 ``[batch]`` and the
    condition, labels int32 ``[batch]`` (or what ``condition`` describes), and returns its
    prediction of ``x``'s shape. Samplers ask the denoiser in EDM coordinates; scale and time are
    converted exactly. A label that is unknown is answered with NaN.

    Of a flax.linen module, ``apply`` is ``module.apply`` and ``params`` its variables; of an nnx
    module, ``graph, params = nnx.split(module)`` and ``lambda params, *inputs:
    nnx.merge(graph, params)(*inputs)``.

    >>> import jax.numpy as jnp
    >>> from guidestar import models
    >>> denoise = models.wrap(
    ...     lambda params, x, t, condition: params["scale"] * x,
    ...     {"scale": jnp.float32(0.5)},
    ...     prediction="eps",
    ...     schedule="linear",
    ...     shape=(4,),
    ... )
    >>> denoise(jnp.ones((2, 4)), 1.0).shape
    (2, 4)

    Args:
        apply: pure and hashable; the same function never compiles anew, whatever its parameters.
        params: a pytree of all weights that it uses. They are the denoiser's leaves.
        prediction: "eps", the noise; "v", ``alpha noise - s x0`` for ``x_t = alpha x0 + s noise``
            (arXiv 2202.00512); "x0"; or "flow", the velocity ``d x_t / dt`` of a flow, whose
            time goes from 0 to 1 there whatever its ``time_scale``.
        schedule: its coordinates. "linear", "scaled_linear" or "cosine": steps of named betas,
            ``t`` from 0 to 999; or a list of ``alphas_cumprod``, one a step. "vp": continuous
            variance-preserving diffusion, ``t`` from 0 to 1. "flow": ``x_t = (1 - t) x0 + t
            noise``. "sigma": EDM's own, ``t`` being sigma. A mapping says more: ``{"name":
            "linear", "steps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "whole": True}`` (whole
            steps alone), ``{"name": "vp", "beta_min": 0.1, "beta_max": 20.0, "time_scale": 1.0}``,
            ``{"name": "flow", "time": "to_data", "path": "linear", "time_scale": 1000.0}``.
        shape: one sample's, without the batch.
        num_classes: real classes of a function whose condition is a label; 0 for others.
        condition: what another takes: `Values`, or a dictionary of `Label` and `Values`. Where
            ``null_condition`` is an array or a dictionary of arrays, its shapes say it.
        null_condition: what stands for no condition, without the batch: a label, an array, a
            dictionary. None for a function that knows none.
        sigma_range: lowest and highest noise level that it knows; None for the schedule's.
        latent: whether it denoises an autoencoder's latents.

    Raises:
        UserError: an unknown prediction or schedule, or two that do not go together; an output of
            another shape; a condition without its null; weights that are held by the function
            itself, where they would stay as they were at its first call.
    """
    _require_pure(apply, params)
    try:
        preconditioner = _coordinates(prediction, schedule)
        takes, null = _condition(num_classes, condition, null_condition)
        levels = _levels(sigma_range, preconditioner)
        sides = _sides(shape)
    except (TypeError, ValueError) as error:
        raise UserError(f"models.wrap: {error}") from error
    network = Function(apply, sides, takes, null)
    denoiser = Denoiser(params, network, preconditioner, levels, latent)
    _try_out(denoiser)
    return denoiser


def _sides(shape: Any) -> tuple[int, ...]:
    """Return a sample's shape as plain numbers."""
    sides = tuple(shape) if isinstance(shape, (tuple, list)) else (None,)
    if not all(_is_whole(side) and side > 0 for side in sides):
        raise ValueError(
            f"shape is one sample's without the batch, whole numbers such as (32, 32, 3), got "
            f"{shape!r}"
        )
    return tuple(map(int, sides))


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _require_pure(apply: Any, params: Any) -> None:
    """Refuse functions that cannot be static, or that hold their weights themselves."""
    if isinstance(apply, nnx.Module) or not callable(apply):
        raise UserError(
            f"models.wrap: apply is {type(apply).__name__}: give a function of (params, x, t, "
            f"condition); of an nnx module, graph, params = nnx.split(module) and lambda params, "
            f"*inputs: nnx.merge(graph, params)(*inputs)"
        )
    try:
        hash(apply)
    except TypeError as error:
        raise UserError(f"models.wrap: apply cannot be hashed ({error}): give a function") from None
    held = _held(apply)
    for name, value in held.items():
        if isinstance(value, nnx.Module):
            raise UserError(
                f"models.wrap: apply holds the module {name!r}, whose weights would stay as they "
                f"are at its first call: graph, params = nnx.split({name}), give params, and merge "
                f"them inside"
            )
    arrays = [name for name, value in held.items() if _has_arrays(value)]
    if arrays and not jax.tree.leaves(params):
        raise UserError(
            f"models.wrap: params holds no array and apply takes {arrays[0]!r} from around it, "
            f"which would stay as it is at its first call: give it as params"
        )


def _held(apply: Any) -> dict[str, Any]:
    """Return what a function takes from around it, by name."""
    held: dict[str, Any] = {}
    if isinstance(apply, functools.partial):
        held |= {f"argument {n}": value for n, value in enumerate(apply.args)} | apply.keywords
        apply = apply.func
    function = inspect.unwrap(apply)
    if inspect.ismethod(function):
        held["self"] = function.__self__
        function = function.__func__
    if not inspect.isfunction(function):
        return held | getattr(function, "__dict__", {})
    around = inspect.getclosurevars(function)
    return {**held, **around.globals, **around.nonlocals}


def _has_arrays(value: Any) -> bool:
    return any(isinstance(leaf, (jax.Array, np.ndarray)) for leaf in jax.tree.leaves(value))


def _coordinates(prediction: str, schedule: Any) -> Preconditioner:
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction {prediction!r} is not one of {', '.join(PREDICTIONS)}")
    process = _process(schedule)
    flows = isinstance(process, Flow)
    if prediction == "flow":
        if not flows:
            raise ValueError(
                "the prediction 'flow' is the velocity of a flow: its schedule is 'flow', or "
                "{'name': 'flow', 'path': 'vp'}"
            )
        return process
    if prediction == "v" and (isinstance(process, Direct) or (flows and process.path == "linear")):
        raise ValueError(
            "the prediction 'v' is alpha noise - s x0 of a variance-preserving schedule: that of a "
            "flow is called 'flow'"
        )
    return Predicted(process, prediction)


def _process(schedule: Any) -> Any:
    if isinstance(schedule, (str, Mapping)):
        fields: dict[str, Any] = {"name": schedule} if isinstance(schedule, str) else dict(schedule)
        name = fields.pop("name", None)
        if name not in SCHEDULES:
            raise ValueError(
                f"schedule {name!r} is not one of {', '.join(SCHEDULES)}, nor a list of "
                f"alphas_cumprod"
            )
        makes: dict[str, Callable] = {"vp": _vp, "flow": _flow, "sigma": Direct}
        make = functools.partial(Discrete, betas=name) if name in STEPPED else makes[name]
        takes = [one for one in inspect.signature(make).parameters if one != "betas"]
        if unknown := [field for field in fields if field not in takes]:
            raise ValueError(
                f"the schedule {name!r} has no field {unknown[0]!r}; it takes "
                f"{', '.join(takes) or 'none'}"
            )
        return make(**fields)
    if hasattr(schedule, "dtype") or isinstance(schedule, (list, tuple)):
        return Table(Constant(np.asarray(schedule, np.float64)))
    raise ValueError(
        f"schedule is one of {', '.join(SCHEDULES)}, a mapping with such a name, or a list of "
        f"alphas_cumprod, got {type(schedule).__name__}"
    )


def _vp(beta_min: float = 0.1, beta_max: float = 20.0, time_scale: float = 1.0) -> VP:
    if not 0 < beta_min < beta_max or not time_scale > 0:
        raise ValueError(
            f"the schedule vp needs 0 < beta_min < beta_max and a time_scale above 0, got "
            f"{beta_min}, {beta_max} and {time_scale}"
        )
    return VP(beta_max - beta_min, beta_min, time_scale + 1)


def _flow(time: str = "to_noise", path: str = "linear", time_scale: float = 1.0) -> Flow:
    return Flow(path, time, time_scale)


def _condition(num_classes: int, condition: Any, null: Any) -> tuple[Condition, Any]:
    """Return a description, and the null of it."""
    if not _is_whole(num_classes) or num_classes < 0:
        raise ValueError(f"num_classes is {num_classes!r}: give a whole number, 0 for no labels")
    if num_classes and condition is not None:
        raise ValueError("num_classes describes the condition: leave condition out")
    given = not isinstance(null, _NotGiven)
    if num_classes:
        if not given:
            raise ValueError(
                f"num_classes is {num_classes}: say what stands for no class, null_condition="
                f"{num_classes} for the label after the last, or None for a function that knows "
                f"none"
            )
        if null is not None and not isinstance(null, (int, np.integer)):
            raise ValueError(f"null_condition is {null!r}: it is a label, or None")
        return Label(num_classes, null=null is not None), null
    null = null if given else None
    if condition is not None and not given:
        raise ValueError(
            "condition is described: say what stands for none, null_condition={...}, or None for a "
            "function that knows none"
        )
    takes = described(condition)
    if isinstance(null, Mapping):
        nulls = {name: np.asarray(value) for name, value in null.items()}
        parts = {name: Values(one.shape, one.dtype.name) for name, one in nulls.items()}
        _require_same(takes, parts)
        fixed = tuple(sorted((name, Constant(one)) for name, one in nulls.items()))
        return takes or described(parts), _Nulls(fixed)
    if null is not None:
        if isinstance(null, (int, np.integer)):
            raise ValueError(f"null_condition is {null}: a label needs num_classes")
        one = np.asarray(null)
        return takes or Values(one.shape, one.dtype.name), Constant(one)
    return takes, None


def _require_same(takes: Any, parts: Mapping[str, Values]) -> None:
    if takes is None:
        return
    known_parts = takes if isinstance(takes, Mapping) else {}
    for name, part in parts.items():
        shape = getattr(known_parts.get(name), "shape", () if name in known_parts else None)
        if shape != part.shape:
            raise ValueError(
                f"null_condition has {name!r} of shape {part.shape}, and condition describes "
                f"{takes!r}"
            )


def _levels(given: Any, preconditioner: Preconditioner) -> tuple[float, float]:
    if given is None:
        process = getattr(preconditioner, "process", preconditioner)
        return known_range(process)
    low, high = (float(level) for level in given)
    if not 0 < low < high < math.inf:
        raise ValueError(f"sigma_range is two noise levels, 0 < lowest < highest, got {given}")
    return low, high


def _try_out(denoiser: Denoiser) -> None:
    """Trace a denoiser at a batch of two, so that what does not fit is refused at once."""
    x = jax.ShapeDtypeStruct((2, *denoiser.shape), jnp.float32)
    sigma = jax.ShapeDtypeStruct((), jnp.float32)
    condition = denoiser.network.condition_like(2)
    try:
        jax.eval_shape(lambda one, *inputs: one(*inputs), denoiser, x, sigma, condition)
    except ValueError as error:
        if str(error).startswith("models.wrap"):
            raise UserError(str(error)) from error
        raise _failed(denoiser, error) from error
    except Exception as error:
        raise _failed(denoiser, error) from error


def _failed(denoiser: Denoiser, error: Exception) -> UserError:
    network = denoiser.network
    takes = "None" if network.condition is None else repr(network.condition_like(2))
    return UserError(
        f"models.wrap: {network.name} fails on (params, x {(2, *network.shape)}, t (2,), condition "
        f"{takes}): {type(error).__name__}: {error}"
    )
