"""Data sets to batches: every example once an epoch, the same order on any number of hosts.

The examples of a run form one endless stream, the epochs one after another, each in an order
that depends on (seed, epoch) alone. A batch is the next stretch of that stream, so the position
in it is all there is to store. Flips and dropped conditions are decided by (seed, position).
"""

import functools
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import grain
import jax
import numpy as np
from jaxtyping import Float, Int

from .core.errors import UserError
from .core.files import home
from .core.registry import registry
from .data import record_folder
from .data.images import from_uint8
from .data.source import Source
from .data.sources import digits, folders, fractal2d, tfds_arrays  # noqa: F401  (registered)

# Streams of a seed, so that decisions about one example never share bits.
FLIP, DROP, DRAW = 0, 1, 2
# Longer than any run; a list of batches must have a length.
ENDLESS = 2**40


def load_source(
    name: str,
    split: str = "train",
    dir: str | os.PathLike | None = None,
    *,
    most_damaged: float = record_folder.MOST_DAMAGED,
    flip: bool = False,
    **fields: Any,
) -> Source:
    """Return a data set by name; a whole ``data`` section is taken: ``load_source(**data)``.

    Args:
        name: that of a registered source: "digits" or "fractal2d", which need nothing on disk, or
            one of the user's own; a folder that `--mode=prepare` or `--mode=encode` made; or the
            name of any TFDS image-classification set prepared in ``dir``: "cifar10", "set/config".
        split: "train", "test", or a part such as "train[:90%]"; for fractal2d "train", or "A" or
            "B" for one class of it.
        dir: where TFDS sets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if None.
        most_damaged: share of a prepared folder's records that may be damaged; they are named and
            passed over.
        flip: the `Pipeline`'s, and nothing to a source.
        fields: further arguments of the source (of TFDS sets memory_limit, cache_dir).

    Raises:
        UserError: unknown or not prepared (with the command that prepares it), no such split, or
            a field that has no effect on this data set.
    """
    del flip
    if not isinstance(name, str):
        raise UserError(f"data.name {name!r} is not the name of a data set: give a string")
    sources = registry("source")
    if name in sources:
        section = {"name": name}
    elif name and record_folder.is_one(home(name)):
        section = {"name": "folder", "path": name}
    else:
        record_folder.require_there(name, "data.name")
        section = {"name": "tfds", "set": name}
    taken = sources[section["name"]].parameters
    common = {
        "split": (split, "train"),
        "dir": (dir or None, None),
        "most_damaged": (most_damaged, record_folder.MOST_DAMAGED),
    }
    for key, (value, default) in common.items():
        if key in taken:
            section[key] = value
        elif value != default:
            raise UserError(
                f"data.{key} {value!r} has no effect on {name}, which takes "
                f"{', '.join(one for one in taken if one not in ('path', 'set')) or 'nothing'}: "
                f"leave it out"
            )
    return sources.build(section | fields, "data")


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, count: int) -> Int[np.ndarray, " count"]:
    """Return the order in which an epoch visits its examples.

    Sorting the raw words of a counter-based generator, which no release of numpy may change,
    keeps a stored position valid; numpy's own shuffle carries no such promise.
    """
    order = np.argsort(
        np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(count), kind="stable"
    )
    order.flags.writeable = False
    return order


def uniform(
    seed: int, stream: int, positions: Int[np.ndarray, " *shape"]
) -> Float[np.ndarray, " *shape"]:
    """Return one number in [0, 1) for each position, by SplitMix64 (Steele et al., OOPSLA 2014).

    The n-th output of that generator is a function of n, so any position is reached at once.
    """
    golden, word = 0x9E3779B97F4A7C15, 2**64 - 1
    start = _mix(np.array([(seed + golden * (stream + 1)) & word], np.uint64))
    bits = _mix(start + (np.asarray(positions).astype(np.uint64) + np.uint64(1)) * golden)
    return (bits >> np.uint64(11)) * 2.0**-53


def normal(
    seed: int, stream: int, positions: Int[np.ndarray, " batch"], shape: tuple[int, ...]
) -> Float[np.ndarray, " batch *shape"]:
    """Return unit normal numbers of ``shape`` for each position, that of `uniform` inverted."""
    from scipy.special import ndtri  # a third of a second of imports that only latents need

    size = math.prod(shape)
    places = np.asarray(positions)[:, None] * size + np.arange(size)
    # Half a step up, so that none is 0, whose normal is infinite.
    return ndtri(uniform(seed, stream, places) + 2.0**-54).reshape(-1, *shape)


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def drop_condition(
    condition: Any,
    positions: Int[np.ndarray, " batch"],
    *,
    seed: int,
    rate: float | Mapping[str, float],
    null: Any,
) -> Any:
    """Replace a share of the conditions by the null condition, chosen by (seed, position) alone.

    Args:
        condition: a pytree of arrays ``[batch, ...]``: int32 labels, a dictionary, or None.
        positions: place of each example in the stream, a batch's "index".
        seed: the pipeline's.
        rate: the share to replace, in [0, 1]. A mapping from parts of a dictionary to shares drops
            each part by a decision of its own; parts that it lacks are kept.
        null: what stands for no condition, without the batch: usually the number of classes. Of a
            dictionary, parts that it lacks are kept.

    Raises:
        UserError: a rate outside [0, 1], or rates or nulls of parts that the condition lacks.
    """
    if isinstance(rate, Mapping):
        _require_parts("dropout rates", rate, condition)
        return {
            name: drop_condition(
                part,
                positions,
                # Decisions of parts are independent: each has a seed of its own.
                seed=(seed + (zlib.crc32(name.encode()) << 32)) % 2**64,
                rate=rate.get(name, 0.0),
                null=null[name],
            )
            if name in rate and name in null
            else part
            for name, part in condition.items()
        }
    if not 0 <= rate <= 1:
        raise UserError(f"label dropout rate {rate} is not in [0, 1]")
    if condition is None or not rate:
        return condition
    if null is None:
        raise UserError(
            f"label dropout rate {rate} of a network without null condition: set it to 0"
        )
    if isinstance(null, Mapping):
        _require_parts("null conditions", null, condition)
        parts = {
            name: drop_condition(condition[name], positions, seed=seed, rate=rate, null=part)
            for name, part in null.items()
        }
        return {**condition, **parts}
    dropped = uniform(seed, DROP, positions) < rate

    def drop(part, nothing):
        column = dropped.reshape((-1,) + (1,) * (part.ndim - 1))
        return np.where(column, np.asarray(nothing, part.dtype), part)

    return jax.tree.map(drop, condition, null)


def _require_parts(what: str, given: Mapping[str, Any], condition: Any) -> None:
    known = condition if isinstance(condition, Mapping) else {}
    if unknown := [name for name in given if name not in known]:
        parts = f"its parts are {', '.join(known)}" if known else "it has no parts"
        raise UserError(f"{what} name {unknown[0]!r}, which the condition lacks: {parts}")


class _Batches:
    """Every batch from one position of the stream on, as a list that is computed when read."""

    def __init__(
        self,
        source: Source,
        seed: int,
        flip: bool,
        first: int,
        stride: int,
        within: Int[np.ndarray, " share"],
    ):
        self.source, self.seed, self.flip = source, seed, flip
        self.first, self.stride, self.within = first, stride, within

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        positions = self.first + number * self.stride + self.within
        count = self.source.num_examples
        epochs, offsets = np.divmod(positions, count)
        rows = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = epoch_order(self.seed, int(epoch), count)[offsets[here]]
        x, condition = self.source.read(rows)
        self._require_labels(condition, rows)
        if self.source.draw is not None:
            noise = normal(self.seed, DRAW, positions, self.source.shape)
            x = self.source.draw(x, noise)
        if self.flip:
            flipped = uniform(self.seed, FLIP, positions) < 0.5
            x = np.where(flipped[:, None, None, None], x[:, :, ::-1], x)
        if x.dtype == np.uint8:
            x = from_uint8(x)
        return {"x": x, "condition": condition, "index": positions}

    def _require_labels(self, condition: Any, rows: Int[np.ndarray, " share"]) -> None:
        """Refuse labels outside of the classes; conditions of other kinds pass."""
        classes = self.source.num_classes
        if not classes or not isinstance(condition, np.ndarray) or condition.ndim != 1:
            return
        wrong = np.flatnonzero((condition < 0) | (condition >= classes))
        if wrong.size:
            raise UserError(
                f"example {rows[wrong[0]]} of {self.source.name} has the label "
                f"{condition[wrong[0]]}, and its classes are 0 to {classes - 1}: choose a split "
                f"with labels, or make the data set again"
            )


class Pipeline(Iterator):
    """Batches of one host, made ahead of time by threads, from a position that can be stored.

    Each item is a dict of this host's share of the next ``batch_size`` examples:
        x: float32 [share, height, width, channels] in [-1, 1], or points as they are
        condition: int32 labels [share], another pytree of arrays [share, ...], or None
        index: int64 [share], the position of each example in the stream

    Args:
        source: see `load_source`.
        batch_size: examples over all hosts; host ``p`` gets the ``p``-th equal block of them.
        seed: of the order and the flips.
        flip: mirror half of the images, left to right.
        process_index: this host.
        process_count: number of hosts.
        rows: which examples of a batch this host reads, where that is not the equal block
            (devices may be in another order than hosts, or share rows between hosts).
        state: where in the stream to begin, see `restore`; its beginning if None.

    Raises:
        UserError: a batch size that hosts cannot share equally, a host or seed out of range, an
            empty source, or flips of what is not an image.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        *,
        seed: int,
        flip: bool = False,
        process_index: int = 0,
        process_count: int = 1,
        rows: Int[np.ndarray, " share"] | None = None,
        state: Mapping[str, int] | None = None,
    ):
        if not 0 <= process_index < process_count:
            raise UserError(
                f"process_index {process_index} is not below process_count {process_count}"
            )
        if batch_size < 1 or (rows is None and batch_size % process_count):
            raise UserError(
                f"batch size {batch_size} is not a positive multiple of {process_count} hosts: "
                f"change it"
            )
        if not 0 <= seed < 2**64:
            raise UserError(f"seed {seed} is not in 0 to 2**64 - 1")
        if flip and len(source.shape) != 3:
            raise UserError(f"examples of {source.name} are not images: set flip to False")
        if flip and source.draw is not None:
            raise UserError(
                f"a mirrored latent is not that of the mirrored image: set flip to False, and make "
                f"{source.name} with encoding.mirror=True"
            )
        if not source.num_examples:
            raise UserError(f"the chosen split of {source.name} is empty")
        self._source, self._seed, self._flip = source, seed, flip
        if rows is None:
            rows = np.split(np.arange(batch_size), process_count)[process_index]
        self._batch_size, self._rows = batch_size, rows
        self._batches = None
        self.restore({"examples_seen": 0} if state is None else state)

    def __next__(self) -> dict[str, np.ndarray]:
        """Return the next batch.

        Raises:
            UserError: the pipeline is closed.
        """
        if self._closed:
            raise UserError("the input pipeline is closed: call restore(state) to go on")
        if self._batches is None:
            self._batches = self._start()
        batch = next(self._batches)
        self._examples_seen += self._batch_size
        return batch

    def state(self) -> dict[str, int]:
        """Return the position after the last batch handed out; batches made ahead don't count."""
        return {"examples_seen": self._examples_seen}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go to a stored position; the batch size and the number of hosts may have changed.

        Nothing is read before the next batch is asked for.

        Raises:
            UserError: not a state of this class.
        """
        seen = state.get("examples_seen", -1)
        if seen < 0:
            raise UserError(f"{state} is no pipeline state: it needs examples_seen, 0 or more")
        self.close()
        self._examples_seen, self._closed = int(seen), False

    def _start(self) -> Iterator:
        """Return the batches from here on, with threads that make them ahead of time."""
        batches = _Batches(
            self._source,
            self._seed,
            self._flip,
            self._examples_seen,
            self._batch_size,
            self._rows,
        )
        in_memory = self._source.x is not None
        options = grain.ReadOptions(
            num_threads=1 if in_memory else 16, prefetch_buffer_size=4 if in_memory else 32
        )
        return iter(grain.MapDataset.source(batches).to_iter_dataset(options))

    def close(self) -> None:
        """Stop making batches ahead; `restore` starts again."""
        self._closed = True
        if self._batches is not None:
            self._batches.close()
            self._batches = None
