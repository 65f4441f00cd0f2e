"""What goes wrong in a part of the user's own: one line that names it, its traceback in a file."""

import contextlib
import inspect
import re
import sys
import sysconfig
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from ...core.constructors import KINDS, Constructor, origin
from ...core.errors import UserError
from ...core.registry import registered

REPORT = "error.txt"
PACKAGE = __name__.partition(".")[0]
LIBRARIES = {Path(one).resolve() for one in sysconfig.get_paths().values()}
INSTALLED = {"site-packages", "dist-packages"}
# How Python words a call that does not fit a function.
MISFIT = re.compile(r"(\w+)[\w.<>]*\(\) (takes|missing|got) ")
# Letters of an exception that the line shows.
SHOWN = 300


class Fault(NamedTuple):
    """Where an exception was raised outside of this package.

    Attributes:
        part: what is at fault, for messages.
        file, line: of it.
    """

    part: str
    file: Path
    line: int


@contextlib.contextmanager
def named(workdir: Path) -> Iterator[None]:
    """Say in one line which part from outside an exception was raised in, and where.

    Its traceback is added to ``error.txt`` in the work folder. What this package's own code
    raises passes as it is.

    Raises:
        UserError: in the place of an exception of a part from outside.
    """
    try:
        yield
    except Exception as error:
        raised = _cause(error)
        found = None if isinstance(raised, UserError) else fault(raised)
        if found is None:
            raise
        path = workdir / REPORT
        at = f"{found.part}, {found.file}, line {found.line}"
        said = f"{at}: {type(raised).__name__}: {_short(raised)}"
        if error is not raised:
            said = f"{error} ({at})"
        with contextlib.suppress(OSError), open(path, "a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {said}\n")
            file.write("".join(traceback.format_exception(error)) + "\n")
            said = f"{said}. The traceback is in {path}"
        raise UserError(said) from error


def _cause(error: BaseException) -> BaseException:
    """Return the exception that an error for the user was made of."""
    while isinstance(error, UserError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def fault(error: BaseException) -> Fault | None:
    """Return where outside of this package an exception was raised; None of one of our own.

    Of the frames that belong to this package or to code of the user's, and not to a library, the
    innermost decides. A call that does not fit a part, and an attribute that it lacks, are the
    part's.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    lines = [line for _, line in traceback.walk_tb(error.__traceback__)]
    files = {str(one.file) for one in registered() if one.file is not None}
    for number in range(len(frames) - 1, -1, -1):
        owner = _is_outside(frames[number], files)
        if owner:
            file = Path(frames[number].f_code.co_filename)
            return Fault(_named(frames[: number + 1], file), file, lines[number])
        if owner is False:
            break
    return _misfit(error)


def _is_outside(frame: FrameType, registered: set[str]) -> bool | None:
    """Say whether a frame is of code from outside; None of a library's."""
    name, file = frame.f_globals.get("__name__", ""), frame.f_code.co_filename
    if file in registered:
        return True
    if name.partition(".")[0] in (PACKAGE, "__main__"):
        return False
    path = Path(file)
    if not path.is_file():
        return None
    parents = {*path.parents, *path.resolve().parents}
    return None if LIBRARIES & parents or INSTALLED & {*path.parts} else True


def _named(frames: list[FrameType], file: Path) -> str:
    """Return what a message calls the part that the last of some frames is of."""
    for frame in reversed(frames):
        known = origin(frame.f_locals.get("self"))
        if known is not None and known.constructor.file is not None:
            return _words(known.constructor)
    return _part({frame.f_code.co_qualname.partition(".")[0] for frame in frames}, file)


def _part(names: set[str], file: Path) -> str:
    """Return what a message calls a part that functions or classes of a file are of."""
    here = [one for one in registered() if one.file == file]
    fitting = [one for one in here if inspect.unwrap(one.build).__qualname__ in names]
    if fitting or len(here) == 1:
        return " or ".join(map(_words, fitting or here))
    return f"a part of the module {file.stem}"


def _words(part: Constructor) -> str:
    return f"the {KINDS[part.kind].word.partition(' ')[2]} {part.name}"


def _misfit(error: BaseException) -> Fault | None:
    """Return the part that is called as it cannot be, or that lacks what it is asked for."""
    found = MISFIT.match(str(error)) if isinstance(error, TypeError) else None
    for part in (one for one in registered() if one.file is not None):
        module = sys.modules.get(inspect.unwrap(part.build).__module__)
        if isinstance(error, AttributeError):
            made = type(error.obj)
        else:
            made = getattr(module, found[1], None) if found else None
        if made is None or getattr(made, "__module__", None) != getattr(module, "__name__", ""):
            continue
        made = inspect.unwrap(made)
        with contextlib.suppress(OSError, TypeError):
            place = inspect.getsourcelines(made)[1]
            return Fault(_part({made.__qualname__}, part.file), part.file, place)
    return None
