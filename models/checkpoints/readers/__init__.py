"""Published weight files, read without running anything in them.

`open_weights` recognises a file by its first bytes: archives of `torch.save` (zip, and the format
before torch 1.6), pickles of EDM and EDM2, safetensors, and archives of numpy. No name in a file is
imported, no array is read before it is asked for, and whatever does not look like weights is
refused with the reason.
"""

from pathlib import Path

from .edm_pickle import read_edm_pickle
from .lazy_tensor import LazyTensor, require_finite
from .numpy_archive import ENDING, read_numpy_archive
from .safetensors_file import read_safetensors
from .torch_legacy import MAGIC, read_torch_legacy
from .torch_zip import read_torch_zip
from .weight_file import DOWNLOAD, RESAVE, OpenFile, WeightFile
from .weight_source import Description, ModuleInfo, WeightSource
from .zip_directory import END, LOCAL, read_directory

__all__ = [
    "Description",
    "LazyTensor",
    "ModuleInfo",
    "WeightSource",
    "open_weights",
    "require_finite",
]

PICKLE = b"\x80"
# What torch's magic number looks like as a pickle, a few bytes after its protocol.
LEGACY = b"\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."

ELSEWHERE = (
    (b"version https://git-lfs", "is a pointer of Git LFS and not the weights", "git lfs pull"),
    (b"<", "is a web page or XML and not weights", "download the file itself"),
    (b"\x1f\x8b", "is compressed with gzip", "decompress it first"),
    (b"\xfd7zXZ", "is compressed with xz", "decompress it first"),
    (b"(\xb5/\xfd", "is compressed with zstd", "decompress it first"),
    (b"\x89HDF", "is an HDF5 file (Keras)", "convert it to safetensors"),
    (b"\x93NUMPY", "is a single numpy array", "give the file with the whole state dict"),
    (b"GGUF", "is a GGUF file, quantised", "take the file in safetensors"),
    *(
        (start, "is a pickle of protocol 0 or 1", "write it again with protocol 4")
        for start in (b"(", b"}", b"]", b"c", b"L119547037146038801333356L")
    ),
)


def open_weights(path: str | Path, entry: str | None = None) -> WeightSource:
    """Look into a weight file; its format is found from its content, not its name.

    Args:
        path: a file of `torch.save`, a pickle of EDM or EDM2, a safetensors file, or an archive of
            `numpy.savez`.
        entry: key of the state dict to take from a file with several, such as ``"ema"`` or
            ``"model"``. None takes the averaged weights where there are any; the choice is in the
            result's ``description``.

    Returns:
        Its tensors, not yet read, with everything else in it as plain data.

    Raises:
        UserError: no such file or entry, damaged, of another format, or with anything in it but
            plain data; the message names the file and says what to do.
    """
    file = WeightFile.at(path)
    with file.opened() as opened:
        head = opened.read_at(0, min(file.size, 32))
        if head.startswith((LOCAL, END)):
            members = read_directory(opened)
            if members and all(name.endswith(ENDING) for name in members):
                return read_numpy_archive(opened, members, entry)
            return read_torch_zip(opened, members, entry)
        # The length of a safetensors header may begin with the byte of a pickle.
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < file.size:
            return read_safetensors(opened, entry)
        if head.startswith(PICKLE):
            if LEGACY in head:
                return read_torch_legacy(opened, entry)
            return read_edm_pickle(opened, entry)
        if len(head) > 8 and head[8:9] == b"{":
            return read_safetensors(opened, entry)
        raise _unknown(opened, head)


def _unknown(opened: OpenFile, head: bytes) -> Exception:
    for start, problem, advice in ELSEWHERE:
        if head.lstrip().startswith(start):
            return opened.file.refused(problem, advice)
    if opened.file.size > 262 and opened.read_at(257, 5) == b"ustar":
        return opened.file.refused("is a tar archive", f"unpack it, or {RESAVE}")
    return opened.file.refused(
        f"is none of: torch (.pt, .pth), pickle of EDM (.pkl), safetensors (it begins with "
        f"{head[:8]!r})",
        DOWNLOAD,
    )
