"""The names that weight files may use, and how each is read.

Nothing here imports what it is named after: `torch._utils._rebuild_tensor_v2` is a function of this
file that notes where a tensor lies, and a module of EDM is its class name beside its state.
"""

from typing import Any

import numpy as np

from .lazy_tensor import BFLOAT16, geometry_problem
from .pickle_machine import Allowed, Machine
from .records import ArrayRecord, Attributes, DtypeRecord, ObjectRecord, Storage, TensorRecord
from .weight_file import RESAVE, Span

TENSOR_COST = 600
LONGEST_PATH = 4096


def _tensor(machine: Machine, arguments: tuple) -> TensorRecord:
    match arguments:
        case (Storage() as storage, offset, tuple() as shape, tuple() as strides, *rest):
            _require_no_marks(machine, rest[2:])
            return _view(machine, storage, storage.dtype, offset, shape, strides)
    raise machine.wrong("torch._utils._rebuild_tensor_v2")


def _typed_tensor(machine: Machine, arguments: tuple) -> TensorRecord:
    match arguments:
        case (
            Storage() as storage,
            offset,
            tuple() as shape,
            tuple() as strides,
            _,
            _,
            kind,
            *rest,
        ):
            _require_no_marks(machine, rest)
            if isinstance(kind, Allowed) and isinstance(kind.value, np.dtype):
                return _view(machine, storage, kind.value, offset, shape, strides)
            if isinstance(kind, Allowed) and kind.name.startswith("torch."):
                raise machine.file.refused(
                    f"has a tensor of {kind.name}, which is not read",
                    "convert it to a floating-point type of 16 bits or more and save it again",
                )
    raise machine.wrong("torch._utils._rebuild_tensor_v3")


def _require_no_marks(machine: Machine, rest: list) -> None:
    """Refuse lazily conjugated or negated tensors: their stored bytes are not their values."""
    if rest and rest[0] is not None and (type(rest[0]) is not dict or rest[0]):
        raise machine.file.refused("has a tensor that is a conjugate or negative view", RESAVE)


def _view(
    machine: Machine, storage: Storage, dtype: np.dtype, offset: Any, shape: tuple, strides: tuple
) -> TensorRecord:
    machine.charge(TENSOR_COST)
    elements = storage.elements * storage.dtype.itemsize // dtype.itemsize
    problem = geometry_problem(elements, offset, shape, strides)
    if problem:
        raise machine.malformed(f"a tensor with {problem:.400}")
    return TensorRecord(storage, dtype, offset, shape, strides)


def _parameter(machine: Machine, arguments: tuple) -> TensorRecord:
    match arguments:
        case (TensorRecord() as data, _, _, *_):
            return data
    raise machine.wrong("torch._utils._rebuild_parameter")


def _tensor_with_state(machine: Machine, arguments: tuple) -> Any:
    match arguments:
        case (Allowed() as function, Allowed(), tuple() as inner, _):
            if function.build in (_tensor, _typed_tensor, _parameter):
                return function.build(machine, inner)
    raise machine.wrong("torch._tensor._rebuild_from_type_v2")


def _size(machine: Machine, arguments: tuple) -> tuple:
    match arguments:
        case (tuple() | list() as shape,) if len(shape) <= 64:
            return tuple(shape)
    raise machine.wrong("torch.Size")


def _device(machine: Machine, arguments: tuple) -> str:
    match arguments:
        case (str() as kind,):
            return kind
        case (str() as kind, int() as index):
            machine.charge(len(kind))
            return f"{kind}:{index}"
    raise machine.wrong("torch.device")


def _dtype(machine: Machine, arguments: tuple) -> DtypeRecord:
    match arguments:
        case (str() as code, *_) if code in NUMPY_CODES:
            return DtypeRecord(np.dtype(code))
        case (str() as code, *_):
            raise machine.file.refused(f"has a numpy array of dtype {code[:40]!r}", RESAVE)
    raise machine.wrong("numpy.dtype")


def _array(machine: Machine, arguments: tuple) -> ArrayRecord:
    match arguments:
        case (Allowed(name="numpy.ndarray"), tuple(), _):
            machine.charge(TENSOR_COST)
            return ArrayRecord()
    raise machine.wrong("numpy.ndarray")


def _buffer_array(machine: Machine, arguments: tuple) -> ArrayRecord:
    match arguments:
        case (data, DtypeRecord() as kind, tuple() as shape, "C" | "F" as order):
            machine.charge(TENSOR_COST)
            array = ArrayRecord()
            array.fill(machine, shape, kind, order == "F", data)
            return array
    raise machine.wrong("numpy.ndarray")


def _scalar(machine: Machine, arguments: tuple) -> Any:
    match arguments:
        case (DtypeRecord(dtype=dtype, swapped=swapped), Span() | bytes() as data):
            if isinstance(data, Span) and data.size == dtype.itemsize:
                data = machine.cursor.opened.read_at(data.start, data.size)
            if isinstance(data, bytes) and len(data) == dtype.itemsize:
                order = dtype.newbyteorder(">") if swapped else dtype
                return np.frombuffer(data, order)[0].item()
    raise machine.wrong("numpy scalar")


def _encode(machine: Machine, arguments: tuple) -> bytes:
    match arguments:
        case (str() as text, "latin1" | "latin-1"):
            machine.charge(len(text))
            try:
                return text.encode("latin-1")
            except UnicodeEncodeError as error:
                raise machine.wrong("_codecs.encode") from error
    raise machine.wrong("_codecs.encode")


def _no_bytes(machine: Machine, arguments: tuple) -> bytes:
    if arguments:
        raise machine.wrong("bytes")
    return b""


def _mapping(machine: Machine, arguments: tuple) -> dict:
    result: dict = {}
    match arguments:
        case ():
            pass
        case (dict() as other,):
            machine.charge(100 * len(other))
            result.update(other)
        case (list() | tuple() as pairs,):
            for pair in pairs:
                if type(pair) not in (list, tuple) or len(pair) != 2:
                    raise machine.wrong("a dictionary")
                machine.fill(result, list(pair))
        case _:
            raise machine.wrong("a dictionary")
    return result


def _default_mapping(machine: Machine, arguments: tuple) -> dict:
    return _mapping(machine, arguments[1:])


def _namespace(machine: Machine, arguments: tuple) -> Attributes:
    if arguments:
        raise machine.wrong("argparse.Namespace")
    return Attributes()


def _members(machine: Machine, arguments: tuple) -> list:
    match arguments:
        case ():
            return []
        case (list() | tuple() | set() as items,):
            machine.charge(16 * len(items))
            return list(items)
    raise machine.wrong("a list")


def _set(machine: Machine, arguments: tuple) -> set:
    result: set = set()
    machine.charge(216)
    machine.add(result, _members(machine, arguments))
    return result


def _complex(machine: Machine, arguments: tuple) -> complex:
    match arguments:
        case (float() as real, float() as imaginary):
            return complex(real, imaginary)
    raise machine.wrong("complex")


def _path(machine: Machine, arguments: tuple) -> str:
    if all(type(part) is str for part in arguments):
        machine.charge(sum(len(part) for part in arguments))
        if sum(len(part) for part in arguments) < LONGEST_PATH:
            return "/".join(arguments).replace("//", "/")
    raise machine.wrong("a path")


def _persistent_object(machine: Machine, arguments: tuple) -> ObjectRecord:
    # The source text beside the class name is not kept: it is there to be executed.
    match arguments:
        case (
            {"type": "class", "class_name": str() as class_name, "state": dict() | None as state},
        ):
            return ObjectRecord(class_name, state or {})
    raise machine.wrong("torch_utils.persistence._reconstruct_persistent_obj")


def _nn_object(class_name: str) -> Allowed:
    def build(machine: Machine, arguments: tuple) -> ObjectRecord:
        if arguments:
            raise machine.wrong(class_name)
        machine.charge(TENSOR_COST)
        return ObjectRecord(class_name)

    return Allowed(class_name, build)


# Numbers: neither objects, which would be pickles again, nor text and records.
NUMPY_CODES = ("b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)))
NUMPY_CODES += ("f2", "f4", "f8", "c8", "c16")

STORAGES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": BFLOAT16,
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
    "ComplexFloatStorage": np.dtype(np.complex64),
    "ComplexDoubleStorage": np.dtype(np.complex128),
    "UntypedStorage": np.dtype(np.uint8),
}

DTYPES: dict[str, np.dtype | None] = {
    **{f"float{bits}": np.dtype(f"f{bits // 8}") for bits in (16, 32, 64)},
    **{f"complex{bits}": np.dtype(f"c{bits // 8}") for bits in (64, 128)},
    **{f"int{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
    "bfloat16": BFLOAT16,
    "bool": np.dtype(np.bool_),
    **dict.fromkeys(["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]),
}

NN_CLASSES = {
    "container": "Module Sequential ModuleList ModuleDict ParameterList ParameterDict",
    "module": "Module",
    "linear": "Identity Linear",
    "conv": "Conv1d Conv2d Conv3d ConvTranspose2d",
    "sparse": "Embedding",
    "activation": "SiLU GELU ReLU LeakyReLU Sigmoid Tanh Softplus Softmax MultiheadAttention",
    "normalization": "GroupNorm LayerNorm RMSNorm",
    "batchnorm": "BatchNorm1d BatchNorm2d",
    "dropout": "Dropout Dropout2d",
    "pooling": "AvgPool2d MaxPool2d AdaptiveAvgPool2d",
    "upsampling": "Upsample",
    "flatten": "Flatten",
}

BUILDERS = {
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,  # milestones of a schedule
    "collections.defaultdict": _default_mapping,
    "dnnlib.util.EasyDict": _mapping,
    "argparse.Namespace": _namespace,
    "pathlib.Path": _path,
    "pathlib.PosixPath": _path,
    "pathlib.PurePosixPath": _path,
    "pathlib._local.PosixPath": _path,
    "_codecs.encode": _encode,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _tensor_with_state,
    "torch.Size": _size,
    "torch.device": _device,
    "numpy.dtype": _dtype,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
}

BUILTINS = {
    "dict": _mapping,
    "list": _members,
    "tuple": lambda machine, arguments: tuple(_members(machine, arguments)),
    "set": _set,
    "frozenset": _set,
    "complex": _complex,
    "bytes": _no_bytes,  # how protocol 2 writes an empty one
}

MENTIONED = (
    "numpy.ndarray",
    "torch.Tensor",
    "torch._tensor.Tensor",
    "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer",
)


def _split(dotted: str) -> tuple[str, str]:
    module, _, name = dotted.rpartition(".")
    return module, name


def _table() -> dict[tuple[str, str], Allowed]:
    table = {_split(name): Allowed(name, build) for name, build in BUILDERS.items()}
    table |= {_split(name): Allowed(name) for name in MENTIONED}
    for core in ("numpy.core", "numpy._core"):  # renamed in numpy 2
        table[f"{core}.multiarray", "_reconstruct"] = Allowed("numpy _reconstruct", _array)
        table[f"{core}.multiarray", "scalar"] = Allowed("numpy scalar", _scalar)
        table[f"{core}.numeric", "_frombuffer"] = Allowed("numpy _frombuffer", _buffer_array)
    for module in ("builtins", "__builtin__"):  # renamed in Python 3
        table |= {(module, name): Allowed(name, build) for name, build in BUILTINS.items()}
        for name in ("int", "float", "bool", "str"):
            table[module, name] = Allowed(name)
    for name, dtype in STORAGES.items():
        for module in ("torch", "torch.storage"):
            table[module, name] = Allowed(f"torch.{name}", value=dtype)
    for name, dtype in DTYPES.items():
        table["torch", name] = Allowed(f"torch.{name}", value=dtype)
    for file, names in NN_CLASSES.items():
        for name in names.split():
            table[f"torch.nn.modules.{file}", name] = _nn_object(f"torch.nn.{name}")
    return table


NAMES = _table()
