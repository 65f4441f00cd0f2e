"""Train, sample, export, evaluate or report: one command, one config.

python main.py --config=configs/NAME.py --workdir=DIR --mode=train [--config.seed=1]
"""

import importlib
import os
import re
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from guidestar.errors import UserError

# mode -> module and function (config, workdir); imported only when asked for.
MODES = {
    "train": "guidestar.training.loop:train",
    "export": "guidestar.training.export:export",
    "ema": "guidestar.training.posthoc_ema:reconstruct",
    "affinity": "guidestar.training.affinity:measure",
    "lcsc": "guidestar.training.lcsc:search",
    "sample": "guidestar.sampling.run:sample",
    "encode": "guidestar.encoding.encode:encode",
    "decode": "guidestar.encoding.decode:decode",
    "evaluate": "guidestar.evaluation.evidence:evaluate",
    "statistics": "guidestar.evaluation.classifier_features:write_statistics",
    "experiment": "guidestar.evaluation.fractal2d_experiment:experiment",
    "import": "guidestar.importing.run:import_weights",
    "prepare": "guidestar.preparing.run:prepare",
    "report": "guidestar.report.demo:report",
    "atlas": "guidestar.report.atlas:atlas",
    "solvers": "guidestar.evaluation.solver_study:study",
}
CONFIG = config_flags.DEFINE_config_file("config", None, "path of the experiment's config")
WORKDIR = flags.DEFINE_string("workdir", None, "folder for everything the run writes")
MODE = flags.DEFINE_enum("mode", "train", list(MODES), "what to do")


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
    from guidestar.training import compilation, hosts

    hosts.initialise(config.hosts)
    compilation.keep_programs(config.compilation_cache)


def main(arguments: list[str]) -> None:
    """Run the chosen mode."""
    del arguments
    # Checkpointing logs every file it touches at INFO.
    logging.set_verbosity(logging.WARNING)
    module, _, verb = MODES[MODE.value].partition(":")
    try:
        workdir = writable(WORKDIR.value)
        begin(CONFIG.value)
        getattr(importlib.import_module(module), verb)(CONFIG.value, workdir)
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
