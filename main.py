"""Train, sample, export, evaluate or report: one command, one config.

python main.py --config=configs/NAME.py --workdir=DIR --mode=train [--config.seed=1]
"""

import importlib
import os
import pkgutil
import re
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

import guidestar
from guidestar.core.errors import UserError

ROOT = Path(guidestar.__file__).parent

# A mode is a module of commands/ or a folder of studies/, and is run by its `run(config, workdir)`.
FOLDERS = ("commands", "studies")
CONFIG = config_flags.DEFINE_config_file("config", None, "path of the experiment's config")
WORKDIR = flags.DEFINE_string("workdir", None, "folder for everything the run writes")


def modes() -> dict[str, str]:
    """Return the module of every mode, by the mode's name; nothing is imported.

    A mode is a file of commands/ or a folder of studies/; one whose name is a word of Python's
    (``import``) has an underscore behind it.
    """
    found = {}
    for folder in FOLDERS:
        for one in pkgutil.iter_modules([str(ROOT / folder)]):
            if folder == "commands" or one.ispkg:
                found[one.name.rstrip("_")] = f"guidestar.{folder}.{one.name}"
    return found


MODE = flags.DEFINE_enum("mode", "train", sorted(modes()), "what to do")


def fail(message: str) -> None:
    """Print one line and leave with status 1."""
    print("error: " + " ".join(str(message).split()), file=sys.stderr)
    sys.exit(1)


def subscripted(argument: str) -> str:
    """Write the numbers in an override's name as ml_collections takes them.

    ``--config.guidance.push.1.eta=0.2`` becomes ``--config.guidance.push[1].eta=0.2``.
    """
    name, equals, value = argument.partition("=")
    if re.match(r"--?(no)?config\.", name):
        name = re.sub(r"\.(\d+)(?=[.\[]|$)", r"[\1]", name)
    return name + equals + value


def parse(arguments: list[str]) -> list[str]:
    """Parse flags; an unknown config key or a missing file is one line, not a traceback."""
    # ml_collections looks for the names of overrides in sys.argv, absl for their values here.
    sys.argv = arguments = [subscripted(argument) for argument in arguments]
    try:
        rest = flags.FLAGS(arguments)
    except IndexError:
        numbered = [one for one in arguments if re.match(r"--?(no)?config\..*\[", one)]
        fail(f"{', '.join(numbered)}: the config's list has fewer entries (they count from 0)")
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        fail(f"{error.args[0] if error.args else error} (see python main.py --help)")
    if rest[1:]:
        fail(f"unexpected argument {rest[1]!r}: options are written --config.name=value")
    for name in ("config", "workdir"):
        if getattr(flags.FLAGS, name) is None:
            fail(f"--{name} is missing: python main.py --config=configs/demo.py --workdir=out/demo")
    return rest


def writable(folder: str) -> Path:
    """Create the work folder and check that files can be written there."""
    path = Path(folder).absolute()
    probe = path / f".writable.{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"--workdir={folder} cannot be written ({error.strerror}): choose another folder"
        ) from error
    return path


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
        workdir = writable(WORKDIR.value)
        begin(CONFIG.value)
        importlib.import_module(modes()[MODE.value]).run(CONFIG.value, workdir)
    except UserError as error:
        fail(str(error))
    except OSError as error:
        fail(
            f"{error.strerror or error} ({error.filename or WORKDIR.value}): mend that and run the "
            f"same command again; it goes on from what is on disk"
        )
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on from what is on disk")


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
