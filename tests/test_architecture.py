"""The rules of the tree: arrows between packages, where configs go, what an import costs."""

import ast
import importlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from places import ROOT

# What each package may import; `configs` and `main` are read by commands alone.
ARROWS = {
    "core": (),
    "guidance": ("core",),
    "models": ("core",),
    "runtime": ("core",),
    "samplers": ("core", "guidance"),
    "data": ("core", "models"),
    "input_pipeline": ("core", "data"),
    "evaluation": ("core", "models", "data"),
    "training": (*("core", "guidance", "samplers", "models", "runtime", "data", "input_pipeline"),),
    "inference": ("core", "guidance", "samplers", "models", "runtime", "data"),
    "weights": (),
}
EVERYTHING = (*ARROWS, "configs")
ARROWS["configs"] = EVERYTHING
ARROWS["commands"] = EVERYTHING
ARROWS["studies"] = (*EVERYTHING, "commands")
LAYERS = tuple(name for name in ARROWS if name not in ("configs", "commands", "studies", "weights"))


@cache
def modules(package: str) -> tuple[tuple[str, ast.Module], ...]:
    """Return the modules of a package, by dotted name, as syntax trees."""
    root = ROOT / package
    files = sorted(root.rglob("*.py")) if root.is_dir() else [root.with_suffix(".py")]
    found = []
    for path in files:
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append((name, ast.parse(path.read_text())))
    return tuple(found)


def imported(name: str, tree: ast.Module) -> set[str]:
    """Return the packages of this project that a module imports, by their first name."""
    is_package = (ROOT / Path(*name.split("."))).is_dir()
    here = name.split(".") if is_package else name.split(".")[:-1]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            full = [*base, *(node.module.split(".") if node.module else [])]
            if full:
                found.add(full[0])
            else:
                found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "guidestar":
                found.update(parts[1:2] or [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "guidestar" and parts[1:]:
                    found.add(parts[1])
    return {one for one in found if one in ARROWS}


@pytest.mark.parametrize("package", ARROWS)
def test_packages_import_along_the_arrows(package):
    for name, tree in modules(package):
        wrong = imported(name, tree) - {*ARROWS[package], package}
        assert not wrong, f"{name} imports {', '.join(sorted(wrong))}"


def test_the_arrows_lead_one_way():
    """No package reaches itself."""
    for package in LAYERS:
        reached, waiting = set(), list(ARROWS[package])
        while waiting:
            one = waiting.pop()
            if one not in reached:
                reached.add(one)
                waiting += ARROWS[one]
        assert package not in reached


def docstrings(tree: ast.Module):
    """Yield the docstrings in a syntax tree, as its nodes."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            yield node.body[0].value


@pytest.mark.parametrize("package", LAYERS)
def test_a_config_and_what_is_said_stop_at_the_commands(package):
    for name, tree in modules(package):
        docs = set(docstrings(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.arguments):
                given = [*node.posonlyargs, *node.args, *node.kwonlyargs]
                assert "config" not in {one.arg for one in given} or name.startswith(
                    "models.unets.edm2"  # the paper's own word for a rung of its ladder
                ), f"{name} takes a config (line {given[0].lineno})"
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                said = re.search(r"\bconfig\.(?!json)[a-z]", node.value)
                told = said is None or node in docs
                assert told, f"{name} line {node.lineno} says {node.value[:60]!r}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                # `distributed.say` is what commands hand down for others to say things by.
                prints = node.func.id == "print" and name != "runtime.distributed"
                assert not prints, f"{name} prints (line {node.lineno})"
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                text = ast.unparse(node)
                assert "ml_collections" not in text, f"{name} knows ml_collections"


def packages():
    """Return the dotted names of all packages."""
    found = {name for one in ARROWS for name, _ in modules(one)}
    return sorted(name for name in found if (ROOT / Path(*name.split("."))).is_dir())


@pytest.mark.parametrize("package", [one for one in packages() if one != "weights"])
def test_no_module_has_the_name_of_a_public_function_of_its_package(package):
    folder = ROOT / Path(*package.split("."))
    inside = {one.stem for one in folder.glob("*.py")} | {
        one.name for one in folder.iterdir() if (one / "__init__.py").exists()
    }
    found = importlib.import_module(f"guidestar.{package}")
    for name in getattr(found, "__all__", ()):
        if name in inside:
            kind = type(getattr(found, name)).__name__
            assert kind == "module", f"guidestar.{package}.{name} is a {kind} and a module"


def test_no_module_is_called_utils():
    names = {name.rpartition(".")[2] for one in ARROWS for name, _ in modules(one)}
    assert not names & {"utils", "util", "helpers", "misc", "common_utils"}


def loaded(statement: str) -> set[str]:
    """Return the top-level names of the modules that a statement loads, in a new interpreter."""
    code = f"{statement}; import sys; print(' '.join({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import guidestar", {"flax", "optax", "scipy", "orbax", "optuna", "sklearn"}),
        (
            "import guidestar.guidance",
            {"flax", "optax", "orbax", "optuna", "ml_collections", "matplotlib", "sklearn", "PIL"},
        ),
        ("import guidestar.samplers", {"flax", "optax", "orbax", "optuna", "matplotlib", "PIL"}),
        (
            "import guidestar.models",
            {"flax", "optax", "optuna", "matplotlib", "sklearn", "ml_collections"},
        ),
    ],
)
def test_importing_a_package_loads_what_it_needs_alone(statement, absent):
    assert not loaded(statement) & absent


def test_guidance_adds_nothing_to_what_jax_loads():
    own = {"guidestar", "jaxtyping", "wadler_lindig", "__main__", "difflib", "graphlib"}
    more = loaded("import guidestar.guidance") - loaded("import jax, jax.numpy") - own
    assert {name for name in more if name not in sys.stdlib_module_names} <= {"typing_extensions"}


def test_the_drawing_of_the_packages_is_true():
    """Arrows that are drawn are allowed, and together they reach all that is allowed."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    drawing = text.partition("```mermaid")[2].partition("```")[0]
    drawn = [line.split(" --> ") for line in map(str.strip, drawing.splitlines()) if "-->" in line]
    reached: dict[str, set[str]] = {name: set() for name in ARROWS}
    for _ in drawn:
        for one, other in drawn:
            assert other in ARROWS[one], f"{one} --> {other} is drawn"
            reached[one] |= {other} | reached[other]
    for name in LAYERS:
        assert reached[name] >= {*ARROWS[name]}, f"arrows of {name} are missing in the drawing"
