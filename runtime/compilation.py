"""Where compiled programs are kept, so that a run that is started again compiles nothing anew."""

import os
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from ..core.files import cache_folder, home


def keep_programs(
    where: str = "auto", environment=os.environ, *, every: bool = False
) -> Path | None:
    """Keep compiled programs in a folder, so that another process loads them.

    A program is found again by its text (networks, rule, solver, shapes), by the versions of jax
    and XLA and by the kind of device. It is traced all the same, which needs no compiler.

    Args:
        where: a folder, ``"off"``, or ``"auto"`` for ``xla/`` in
            $GUIDESTAR_CACHE or ~/.cache/guidestar.
        environment: where $JAX_COMPILATION_CACHE_DIR stands, which goes before ``"auto"``.
        every: also keep programs that took less than a second, which jax leaves out.

    Returns:
        The folder; None where it is off, cannot be written, or is jax's own choice.
    """
    if every and where != "off":
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if where == "off" or (where == "auto" and environment.get("JAX_COMPILATION_CACHE_DIR")):
        return None
    path = cache_folder() / "xla" if where == "auto" else home(where).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None  # what could not be kept is compiled again
    if str(path) != jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(path))
        # jax stays with the folder that it first compiled for, until it is told to look again.
        compilation_cache.reset_cache()
    return path
