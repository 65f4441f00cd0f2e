"""Parts that register themselves from a file of their own, in one version after another."""

import importlib.util
import itertools
import sys

from guidestar.core.registry import registry

NUMBERS = itertools.count()


def registered(monkeypatch, folder, kind, name, text):
    """Return the module of a file of this text, which registers a part anew.

    Args:
        monkeypatch: undoes it.
        folder: gets the file, each time of another name.
        kind, name: of the part, as it is registered.
        text: of the file.
    """
    table = registry(kind)
    monkeypatch.setattr(table, "_constructors", dict(table._constructors))
    table._constructors.pop(name, None)
    path = folder / f"own_{next(NUMBERS)}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module
