"""Sharding as data: a mesh of devices and rules from a parameter's path to the mesh's axes.

The mesh has three axes. ``data`` repeats the parameters and shares the batch; ``fsdp`` shares both
(each parameter is gathered where it is used); ``tensor`` shares parameters and, with them, the
products they are in. What is not a parameter follows one: averages and moments are cut like the
parameter they belong to. How a parameter is stored and how it is used are two things
(`Layout.of_parameters`, `Layout.of_use`): `training.gathering` brings it from one to the other.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ..core.checks import count, require_choice, require_ranges
from ..core.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
# Of an axis: 0 is the preset's own, -1 what the others leave.
SIZE = count(-1, "0: the preset's own, -1: what the other axes leave")
# What the presets may leave whole adds at most this share to a device's part of the parameters.
WHOLE_SHARE = 0.03
# A multilayer perceptron's way out of the residual stream and back into it.
OUT, BACK = r"(mlp_in|fc1)/(kernel|bias)$", r"(mlp_out|fc2)/kernel$"


@dataclasses.dataclass(frozen=True)
class Preset:
    """A mesh and the placement of parameters that no rule of the config names.

    Attributes:
        mesh: sizes of the axes; -1 is what the others leave.
        placements: (regex on the path, name of a placement), the first that matches.
        pmap: the step runs under `jax.pmap`.
    """

    mesh: Mapping[str, int]
    placements: tuple[tuple[str, str], ...] = ()
    pmap: bool = False


PRESETS = {
    "replicated": Preset(dict(data=-1, fsdp=1, tensor=1)),
    "fsdp": Preset(dict(data=1, fsdp=-1, tensor=1), ((".*", "largest"),)),
    "fsdp_tensor": Preset(
        dict(data=1, fsdp=-1, tensor=2), ((OUT, "columns"), (BACK, "rows"), (".*", "largest"))
    ),
    "pmap": Preset(dict(data=-1, fsdp=1, tensor=1), pmap=True),
}
# The dimension, from the last, that a placement cuts over `tensor` in the product itself;
# "largest" cuts what is stored alone.
PLACEMENTS = {"largest": None, "columns": 1, "rows": 2}


def path_of(keys: Sequence) -> str:
    """Return a leaf's path, ``"blocks/0/attention/qkv/kernel"``."""
    return jax.tree_util.keystr(tuple(keys), simple=True, separator="/")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where everything of a training run lives.

    Attributes:
        mesh: the devices, with axes `AXES`.
        preset: places what no rule names.
        rules: (regex on the parameter's path, axes of its last dimensions), the first that matches.
        whole_below: parameters of fewer numbers stay whole under a preset, while all of those
            together add no more than 3 % to a device's part.
    """

    mesh: Mesh
    preset: Preset = PRESETS["replicated"]
    rules: tuple[tuple[str, tuple], ...] = ()
    whole_below: int = 2**12

    @property
    def whole(self) -> NamedSharding:
        """Everything on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch(self) -> NamedSharding:
        """The first dimension over `data` and `fsdp`."""
        return NamedSharding(self.mesh, PartitionSpec(BATCH_AXES))

    def __str__(self) -> str:
        """Say how many devices there are, and how they are arranged where that says more."""
        devices = self.mesh.devices
        arranged = [f"{axis} {size}" for axis, size in self.mesh.shape.items() if size > 1]
        how = f" ({', '.join(arranged)})" if self.cuts else ""
        return f"{devices.size} {devices.flat[0].platform} device(s){how}"

    @property
    def cuts(self) -> bool:
        """Whether any parameter may be cut."""
        return bool(self.rules) or self.mesh.shape["fsdp"] * self.mesh.shape["tensor"] > 1

    @property
    def shares(self) -> int:
        """Into how many parts a batch is cut."""
        return math.prod(self.mesh.shape[axis] for axis in BATCH_AXES)

    def of_parameters(self, params: Any) -> Any:
        """Return the sharding in which every parameter is stored.

        Args:
            params: pytree of arrays or of their shapes.

        Raises:
            UserError: a rule that does not fit a parameter, or fits none.
        """
        return self._shardings(params, 0)

    def of_use(self, params: Any) -> Any:
        """Return the sharding in which every parameter is used: cut over `tensor` alone, if at all.

        Args:
            params: as in `of_parameters`.
        """
        return self._shardings(params, 1)

    def _shardings(self, params: Any, which: int, *, strict: bool = True) -> Any:
        leaves, structure = jax.tree_util.tree_flatten_with_path(params)
        shapes = {path_of(keys): tuple(leaf.shape) for keys, leaf in leaves}
        unused = [rule for rule, _ in self.rules if not any(re.search(rule, p) for p in shapes)]
        if unused and strict:
            raise UserError(
                f"sharding.rules: {unused[0]!r} is found in no parameter's path; paths are "
                f"{', '.join(list(shapes)[:4])}, ... ({len(shapes)} in all)"
            )
        whole = self._left_whole(shapes)
        specs = [self._specs(path, shape, path in whole)[which] for path, shape in shapes.items()]
        return structure.unflatten([NamedSharding(self.mesh, spec) for spec in specs])

    def of_state(self, state: Any, params: Any, *, strict: bool = True) -> Any:
        """Return a sharding for every array of a state.

        An array follows the parameter whose path its own path ends with; leading dimensions
        beyond the parameter's (several averages stacked) stay whole. One that belongs to no
        parameter is placed as the preset would, counters are whole.

        Args:
            state: pytree of arrays or of their shapes that contains parameters, averages and
                moments.
            params: the parameters, likewise.
            strict: refuse rules that no path has.
        """
        placed = {
            path_of(keys): (tuple(leaf.shape), sharding)
            for (keys, leaf), sharding in zip(
                jax.tree_util.tree_leaves_with_path(params),
                jax.tree.leaves(self._shardings(params, 0, strict=strict)),
                strict=True,
            )
        }

        def place(keys, leaf):
            parts = [path_of((key,)) for key in keys]
            for start in range(len(parts)):
                shape, sharding = placed.get("/".join(parts[start:]), (None, None))
                if shape is not None and leaf.shape[leaf.ndim - len(shape) :] == shape:
                    more = (None,) * (leaf.ndim - len(shape))
                    return NamedSharding(self.mesh, PartitionSpec(*more, *sharding.spec))
            small = math.prod(leaf.shape) < self.whole_below
            return NamedSharding(self.mesh, self._placed(path_of(keys), leaf.shape, small)[0])

        return jax.tree_util.tree_map_with_path(place, state)

    def rows(self, batch_size: int) -> np.ndarray:
        """Return which rows of a batch this process's devices hold, in increasing order."""
        slices = self.batch.addressable_devices_indices_map((batch_size,)).values()
        return np.unique(np.concatenate([np.arange(batch_size)[part] for part in slices]))

    def place(self, batch: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
        """Put this process's `rows` of a batch on its devices.

        Args:
            batch: a pytree of arrays ``[rows, ...]``.
            batch_size: rows over all processes.
        """
        rows = self.rows(batch_size)

        def put(value: np.ndarray) -> jax.Array:
            shape = (batch_size, *value.shape[1:])
            parts = self.batch.addressable_devices_indices_map(shape)
            first = {
                device: np.searchsorted(rows, part[0].indices(batch_size)[0])
                for device, part in parts.items()
            }
            share = batch_size // self.shares
            pieces = [
                jax.device_put(value[start : start + share], device)
                for device, start in first.items()
            ]
            return jax.make_array_from_single_device_arrays(shape, self.batch, pieces)

        return jax.tree.map(lambda value: put(np.asarray(value)), dict(batch))

    def mapped(self, step: Callable, axis: str) -> Callable:
        """Return ``step(state, batch)`` under `jax.pmap`, for arrays placed by this layout.

        Args:
            step: computes what every device holds from one device's share of the batch, with
                means over the axis of devices.
            axis: the name of that axis.
        """
        run = jax.pmap(
            step,
            axis_name=axis,
            in_axes=(None, 0),
            out_axes=None,
            devices=list(self.mesh.devices.flat),
            donate_argnums=0,
        )

        def split(batch):
            return jax.tree.map(lambda a: a.reshape(self.shares, -1, *a.shape[1:]), batch)

        cut = jax.jit(split, out_shardings=self.batch)
        return lambda state, batch: self._over_processes(run(state, cut(batch)))

    def _over_processes(self, tree: Any) -> Any:
        """Return what every device holds whole as arrays of all processes.

        Under `jax.pmap` each of several processes gets arrays of its own devices alone.
        """
        if jax.process_count() == 1:
            return tree
        return jax.tree.map(
            lambda leaf: jax.make_array_from_single_device_arrays(
                leaf.shape, self.whole, [shard.data for shard in leaf.addressable_shards]
            ),
            tree,
        )

    def _specs(
        self, path: str, shape: tuple[int, ...], whole: bool
    ) -> tuple[PartitionSpec, PartitionSpec]:
        """Return how a parameter is stored and how it is used."""
        for rule, axes in self.rules:
            if re.search(rule, path):
                stored = self._ruled(rule, axes, path, shape)
                return stored, _tensor_alone(stored)
        return self._placed(path, shape, whole)

    def _ruled(self, rule: str, axes: tuple, path: str, shape: tuple[int, ...]) -> PartitionSpec:
        if len(axes) > len(shape):
            raise UserError(
                f"sharding.rules: {rule!r} names axes for {len(axes)} dimensions and "
                f"{path} has shape {shape}: name at most {len(shape)}"
            )
        spec = (None,) * (len(shape) - len(axes)) + axes
        for dimension, axis in enumerate(spec):
            size = self._size(axis)
            if shape[dimension] % size:
                raise UserError(
                    f"sharding.rules: {rule!r} puts the axis {axis!r} of size {size} on "
                    f"dimension {dimension} of {path} with shape {shape}, and {shape[dimension]} "
                    f"is not divisible by {size}: name another dimension, or change the mesh"
                )
        return PartitionSpec(*spec)

    def _placed(
        self, path: str, shape: tuple[int, ...], whole: bool
    ) -> tuple[PartitionSpec, PartitionSpec]:
        """Place by the preset, on dimensions that divide, the largest first."""
        name = next((n for regex, n in self.preset.placements if re.search(regex, path)), None)
        if name is None or whole:
            return PartitionSpec(), PartitionSpec()
        axes: list[tuple[str, ...]] = [() for _ in shape]

        def give(axis, dimensions):
            left = {d: shape[d] // self._size(axes[d]) for d in dimensions if d >= 0}
            fits = [d for d, n in left.items() if n % self.mesh.shape[axis] == 0]
            if fits and self.mesh.shape[axis] > 1:
                chosen = max(fits, key=left.get)
                axes[chosen] = (*axes[chosen], axis)
            return bool(fits)

        rank = len(shape)
        from_last = PLACEMENTS[name]
        in_product = from_last is not None and give("tensor", [rank - from_last])
        # A stack of layers is cut inside its layers where possible: a scan takes them one by one.
        last, others = range(max(rank - 2, 0), rank), range(rank - 2)
        for axis in ("fsdp",) if in_product else ("fsdp", "tensor"):
            _ = give(axis, last) or give(axis, others)
        stored = PartitionSpec(*(None if not a else a[0] if len(a) == 1 else a for a in axes))
        return stored, _tensor_alone(stored) if in_product else PartitionSpec()

    def _left_whole(self, shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
        """Return the smallest parameters, as many as cost next to nothing when left whole."""
        sizes = {path: math.prod(shape) for path, shape in shapes.items()}
        copies = math.prod(self.mesh.shape[axis] for axis in ("fsdp", "tensor"))
        budget = WHOLE_SHARE * sum(sizes.values()) / max(copies - 1, 1)
        whole = set()
        for path in sorted(sizes, key=sizes.get):
            budget -= sizes[path]
            if sizes[path] >= self.whole_below or budget < 0:
                break
            whole.add(path)
        return whole

    def _size(self, axis: str | Sequence[str] | None) -> int:
        names = (axis,) if isinstance(axis, str) else axis or ()
        return math.prod(self.mesh.shape[name] for name in names)


def _tensor_alone(spec: PartitionSpec) -> PartitionSpec:
    """Return what is left of a placement when all axes but `tensor` are gathered."""

    def has_tensor(axes):
        return axes is not None and "tensor" in ((axes,) if isinstance(axes, str) else axes)

    return PartitionSpec(*("tensor" if has_tensor(axes) else None for axes in spec))


def on_one_device(device: jax.Device) -> Layout:
    """Return the layout of everything on one device."""
    return Layout(_mesh(dict.fromkeys(AXES, 1), [device]))


def layout(
    *,
    preset: str = "replicated",
    mesh: Mapping[str, int] = MappingProxyType({}),
    rules: Sequence = (),
    whole_below: int = 2**12,
    devices: Sequence | None = None,
) -> Layout:
    """Lay out parameters and batches over devices.

    Args:
        preset: one of `PRESETS`.
        mesh: sizes of ``data``, ``fsdp`` and ``tensor``, where 0 is the preset's own and -1 what
            the others leave.
        rules: pairs of a regex and the axes of a parameter's last dimensions, such as
            ``(("mlp_in/kernel", (None, "tensor")),)``.
        whole_below: see `Layout`.
        devices: all devices of the run when None.

    Raises:
        UserError: an unknown preset or axis, a mesh that does not use every device, a rule that
            cannot be read, or rules with ``pmap``; a number out of range.
    """
    require_choice("sharding.preset", preset, PRESETS)
    chosen = PRESETS[preset]
    for axis in mesh:
        require_choice("sharding.mesh: the axis", axis, AXES)
    require_ranges("sharding", {"whole_below": whole_below}, {"whole_below": count(0)})
    require_ranges("sharding.mesh", dict(mesh), dict.fromkeys(AXES, SIZE))
    read = tuple(_read_rule(rule) for rule in rules)
    sizes = {axis: mesh.get(axis, 0) or chosen.mesh[axis] for axis in AXES}
    if chosen.pmap and (read or {sizes["fsdp"], sizes["tensor"]} != {1}):
        raise UserError(
            "sharding.preset pmap keeps the parameters whole on every device: leave rules "
            "empty and mesh.fsdp and mesh.tensor at 0, or choose another preset"
        )
    return Layout(_mesh(sizes, devices), chosen, read, whole_below)


def _mesh(sizes: dict[str, int], devices: Sequence | None) -> Mesh:
    devices = jax.devices() if devices is None else list(devices)
    written = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    taken = math.prod(size for size in sizes.values() if size != -1)
    if len(open_axes) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise UserError(f"sharding.mesh {written}: give positive sizes, and -1 (what is left) once")
    if open_axes:
        sizes = sizes | {open_axes[0]: len(devices) // taken}
    if math.prod(sizes.values()) != len(devices):
        raise UserError(
            f"sharding.mesh {written} does not make use of exactly {len(devices)} "
            f"device(s): the sizes must multiply to that"
        )
    # The types are those of a mesh on which the compiler places what is in between.
    kinds = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=kinds, devices=devices)


def _read_rule(rule: Any) -> tuple[str, tuple]:
    """Check one rule, so that a mistake is found before anything is compiled."""
    try:
        regex, axes = rule
        re.compile(regex)
        axes = tuple(tuple(a) if isinstance(a, (list, tuple)) else a for a in axes)
    except (TypeError, ValueError, re.error) as error:
        raise UserError(
            f"sharding.rules: {rule!r} is not a pair of a regex on the parameter's path "
            f"and axes, such as ('mlp_in/kernel', (None, 'tensor')): {error}"
        ) from error
    named = [n for a in axes if a is not None for n in (a if isinstance(a, tuple) else (a,))]
    if set(named) - set(AXES) or len(named) != len(set(named)):
        raise UserError(
            f"sharding.rules: {regex!r} names the axes {axes!r}; they are "
            f"{', '.join(AXES)} or None, each at most once"
        )
    return regex, axes
