"""Train, sample, evaluate and more: one command, one config.

python main.py --config=configs/NAME.py --workdir=DIR --mode=train [--config.seed=1]
"""

import difflib
import importlib
import pkgutil
import re
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

import guidestar
from guidestar.commands.config import imports, outside, overrides, reading
from guidestar.configs import common
from guidestar.core.errors import UserError
from guidestar.core.files import home

ROOT = Path(guidestar.__file__).parent

# A mode is a file of commands/ or a folder of studies/, and is run by its `run(config, workdir)`.
FOLDERS = ("commands", "studies")
# What modes were called in earlier versions.
RENAMED = {"experiment": "fractal2d"}
CONFIG = config_flags.DEFINE_config_file("config", None, "path of the experiment's config")
WORKDIR = flags.DEFINE_string("workdir", None, "folder for everything the run writes")


def modes() -> dict[str, str]:
    """Return the module of every mode, by the mode's name; nothing is imported.

    A mode whose name is a word of Python's (``import``) has an underscore behind its file's name.
    """
    found = {}
    for folder in FOLDERS:
        for one in pkgutil.iter_modules([str(ROOT / folder)]):
            if one.ispkg == (folder == "studies"):
                found[one.name.rstrip("_")] = f"guidestar.{folder}.{one.name}"
    return found


MODE = flags.DEFINE_string("mode", "train", f"what to do: {', '.join(sorted(modes()))}")
GIVEN: list[overrides.Override] = []


def fail(message: str) -> None:
    """Print one line and leave with status 1."""
    print("error: " + " ".join(str(message).split()), file=sys.stderr)
    sys.exit(1)


def parse(arguments: list[str]) -> list[str]:
    """Parse flags; an unknown flag or a missing file is one line, not a traceback."""
    try:
        arguments, GIVEN[:] = overrides.split(arguments)
        arguments = [located(one) for one in arguments]
        # ml_collections looks at sys.argv, where it finds the config's path and nothing else.
        sys.argv = arguments
        rest = flags.FLAGS(arguments)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        if refused := refusal(error):
            fail(f"the file of --config cannot be loaded: {refused}")
        fail(f"{error.args[0] if error.args else error} (see python main.py --help)")
    except Exception as error:  # whatever the code of a config raises
        fail(f"the file of --config cannot be loaded: {type(error).__name__}: {error}")
    if rest[1:]:
        fail(f"unexpected argument {rest[1]!r}: options are written --config.name=value")
    for name in ("config", "workdir"):
        if getattr(flags.FLAGS, name) is None:
            fail(f"--{name} is missing: python main.py --config=configs/demo.py --workdir=out/demo")
    require_config(flags.FLAGS["config"].config_filename)
    return rest


def refusal(error: BaseException) -> str:
    """Return what a config's `get_config` has raised; empty where an error is of something else.

    ml_collections and absl make one of their own out of it, with the traceback for its text.
    """
    if "Error whilst parsing config file" not in str(error):
        return ""
    while error.__context__ is not None:
        error = error.__context__
    if missing := re.match(r"get_config\(\) missing .*?'(\w+)'", str(error)):
        name = missing[1].upper()
        return f"it takes an argument behind a colon, --config=FILE.py:{name}"
    known = isinstance(error, ValueError)
    return str(error) if known else f"{type(error).__name__}: {error}"


def require_config(named: str) -> None:
    """Refuse a file that is not there, with the nearest config of the package, or gives no config.

    Args:
        named: the flag's value, perhaps with an argument behind a colon.
    """
    path = named.partition(":")[0]
    if not home(path).is_file():
        known = sorted(one.stem for one in (ROOT / "configs").glob("[a-z]*.py"))
        near = difflib.get_close_matches(Path(path).stem, known)
        hint = f"; did you mean --config={near[0]}?" if near else f": {', '.join(known)}"
        fail(f"--config={path}: there is no such file, nor a config of the package{hint}")
    if not isinstance(CONFIG.value, ConfigDict):
        fail(f"--config={path}: its get_config() returned {CONFIG.value!r}, and no ConfigDict")


def located(argument: str) -> str:
    """Return ``--config=PATH`` with the path of a config of this package where it names one.

    ``configs/digits.py`` is found from any folder, and ``digits`` stands for it.
    """
    flag, equals, value = argument.partition("=")
    if flag not in ("--config", "-config") or not equals:
        return argument
    path, colon, given = value.partition(":")
    if home(path).exists():
        return f"{flag}={home(path)}{colon}{given}"
    inside = [ROOT / path, ROOT / "configs" / f"{path}.py"]
    found = next((str(one) for one in inside if path and one.is_file()), path)
    return f"{flag}={found}{colon}{given}"


def module_of(mode: str):
    """Return a mode's module.

    Raises:
        UserError: no such mode.
    """
    known = modes()
    if mode in RENAMED:
        raise UserError(f"--mode={mode} is called --mode={RENAMED[mode]} now")
    if mode not in known:
        raise UserError(f"--mode={mode} is not one of {', '.join(sorted(known))}")
    return importlib.import_module(known[mode])


def able(field: str) -> list[str]:
    """Return the modes that read a field of the config."""
    return [mode for mode in sorted(modes()) if reading.reads(module_of(mode).READS, field)]


def by_argument(path: str, config: ConfigDict) -> list[str]:
    """Return the fields that a config's argument sets, ``rows`` of ``configs/evidence.py:cfg_3``.

    Args:
        path: the flag's value.
        config: what it gives.
    """
    plain, colon, _ = path.partition(":")
    if not colon:
        return []
    values = flags.FlagValues()
    arguments = ["main.py", f"--config={plain}"]
    flag = config_flags.DEFINE_config_file(
        "config", None, "", flag_values=values, sys_argv=arguments
    )
    try:
        values(arguments)
        without = flag.value.to_dict()
    except Exception:  # a config that cannot do without an argument, whatever it raises
        return []
    return list(reading.differences(without, config.to_dict()))


def configured(module) -> ConfigDict:
    """Return the config with everything that the command line says of it.

    Raises:
        UserError: a module that cannot be imported, a field that there is not or that the mode
            does not read, a value of another type.
    """
    given = [one.text for one in GIVEN if one.name == "imports"]
    imports.import_modules(given[-1] if given else CONFIG.value.get("imports", ()))
    known = common.base().to_dict()
    reading.require_known(CONFIG.value.to_dict(), known, able)
    config = overrides.apply(CONFIG.value, GIVEN, flags.FLAGS["config"].config_filename)
    reading.require_read(MODE.value, module.READS, [one.name for one in GIVEN], able)
    changed = by_argument(flags.FLAGS["config"].config_filename, CONFIG.value)
    reading.require_argument_read(MODE.value, module.READS, changed, able)
    return config.lock()


def begin(config) -> None:
    """Do what comes before the first use of a device: meet other hosts, find compiled programs."""
    from guidestar.runtime import compilation, distributed

    distributed.initialise(config.hosts)
    compilation.keep_programs(config.compilation_cache)


def main(arguments: list[str]) -> None:
    """Run the chosen mode."""
    del arguments
    # Checkpointing logs every file it touches at INFO.
    logging.set_verbosity(logging.WARNING)
    try:
        module = module_of(MODE.value)
        config = configured(module)
        begin(config)
        from guidestar.runtime.run_folder import claimed

        with (
            claimed(WORKDIR.value, MODE.value, use=module.WORKDIR) as workdir,
            outside.named(workdir),
        ):
            module.run(config, workdir)
    except UserError as error:
        fail(str(error))
    except OSError as error:
        fail(
            f"{error.strerror or error} ({error.filename or WORKDIR.value}): mend that and run the "
            f"same command again; it goes on from what is on disk"
        )
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on from what is on disk")


def command_line() -> None:
    """Run as the console script ``guidestar``."""
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    command_line()
