"""Where compiled programs are kept, so that a run that is started again compiles nothing anew."""

import os
from pathlib import Path

import jax

from ..core.files import cache_folder, home


def keep_programs(where: str, environment=os.environ) -> Path | None:
    """Keep compiled programs in a folder; called before anything is compiled.

    Args:
        where: a folder, ``"off"``, or ``"auto"`` for ``xla/`` in
            $GUIDESTAR_CACHE or ~/.cache/guidestar.
        environment: where $JAX_COMPILATION_CACHE_DIR stands, which goes before ``"auto"``.

    Returns:
        The folder; None where it is off, cannot be written, or is jax's own choice.
    """
    if where == "off" or (where == "auto" and environment.get("JAX_COMPILATION_CACHE_DIR")):
        return None
    path = cache_folder() / "xla" if where == "auto" else home(where).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None  # what could not be kept is compiled again
    jax.config.update("jax_compilation_cache_dir", str(path))
    return path
