"""Guidance for diffusion models in JAX: rules, samplers and networks that work with each other.

Packages are imported when they are first asked for: ``guidestar.guidance`` needs jax alone.
"""

import importlib
from importlib import metadata
from typing import TYPE_CHECKING

from .core.errors import UserError
from .core.registry import register

if TYPE_CHECKING:
    from . import evaluation, guidance, models, samplers
    from .runtime.compilation import keep_programs

PACKAGES = ("evaluation", "guidance", "models", "samplers")

__all__ = [
    "UserError",
    "__version__",
    "evaluation",
    "guidance",
    "keep_programs",
    "models",
    "register",
    "samplers",
]


def __getattr__(name: str):
    if name in PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name == "keep_programs":
        return importlib.import_module(f"{__name__}.runtime.compilation").keep_programs
    if name == "__version__":
        return metadata.version("guidestar")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
