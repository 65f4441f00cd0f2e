"""Modules of the user's own, whose parts register themselves when they are imported."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from ...core.errors import UserError
from ...core.files import home


def import_modules(names: str | Sequence[str]) -> None:
    """Import what ``config.imports`` names, before anything is built.

    Args:
        names: of modules on Python's path or in the working folder, or paths of .py files; one
            string with commas, or several.

    Raises:
        UserError: no such module, or one that fails while it is imported (with its own error).
    """
    several = names.split(",") if isinstance(names, str) else names
    for name in filter(None, (str(one).strip() for one in several)):
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        try:
            _import_file(home(name)) if name.endswith(".py") else importlib.import_module(name)
        except UserError:
            raise
        except ModuleNotFoundError as error:
            if error.name and not name.startswith(error.name):
                raise UserError(
                    f"imports {name}: it imports {error.name}, which is not installed"
                ) from error
            raise UserError(
                f"imports names {name!r}, and there is no such module in {Path.cwd()} or on "
                f"PYTHONPATH: give a module's name or the path of a .py file"
            ) from error
        except (Exception, SystemExit) as error:
            raise UserError(
                f"imports {name}: importing it failed with {type(error).__name__}: {error}"
            ) from error


def _import_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"imports names {str(path)!r}, and there is no such file")
    name = path.stem
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
