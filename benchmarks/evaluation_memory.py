"""How much memory an evaluation of many rows takes, against one of a single row.

    python benchmarks/evaluation_memory.py --out=benchmarks/evaluation_memory.json

Every row has weights of its own, of a DiT that is far larger than its images, so that networks
held beyond their row would show. Each evaluation runs in a process of its own; its peak is that
of the resident set.
"""

import json
import pathlib
import resource
import subprocess
import sys
import tempfile

from absl import app, flags

ROWS = flags.DEFINE_integer("rows", 20, "rows of the larger evaluation", lower_bound=1)
OUT = flags.DEFINE_string("out", "", "JSON file for the results")
CHILD = flags.DEFINE_string("child", "", "a folder of weights: evaluate them and print the peak")
KINDS = flags.DEFINE_bool("kinds", True, "measure rows of different rules, too")
MODEL = dict(
    name="dit",
    image_size=8,
    channels=1,
    num_classes=10,
    patch_size=4,
    width=384,
    depth=8,
    heads=6,
    sigma_data=0.75,
)
CLASSIFIER = dict(name="classifier", image_size=8, channels=1, num_classes=10)
COUNT = 24
# Rules of different structure, each a program of its own.
RULES = (
    dict(name="unguided"),
    dict(name="cfg", scale=2.0),
    dict(name="apg", scale=4.0, eta=0.0, norm=2.5, momentum=0.0),
    dict(name="between", rule=dict(name="cfg", scale=3.0), low=0.5, high=5.0),
)


def write(folder: pathlib.Path, rows: int) -> None:
    """Write the weights of every row and of the classifier."""
    import jax

    from guidestar.models.builders import build
    from guidestar.models.checkpoints import save

    for number, model in enumerate([CLASSIFIER, *[MODEL] * rows]):
        spec = build(model)
        params = spec.initialise(jax.random.key(number))
        save(folder / f"{number}.safetensors", params, model, {"steps": 0})


def evaluate(folder: pathlib.Path, rows: int, kinds: bool) -> None:
    """Evaluate rows in this process and print its peak memory in bytes."""
    from ml_collections import ConfigDict

    from guidestar.commands import evaluate, statistics
    from guidestar.configs import evidence

    config = evidence.get_config("unguided")
    config.data.name, config.claims = "digits", ()
    config.evaluation.update(classifier=str(folder / "0.safetensors"), count=COUNT)
    config.evaluation.statistics = "real"
    config.sampler.schedule.steps = 3
    config.sampling.update(batch_size=COUNT, weights=dict(guide=""))
    rules = [RULES[i % len(RULES)] if kinds else RULES[1] for i in range(rows)]
    config.rows = ConfigDict(
        {
            f"row_{i}": dict(
                title=str(i),
                guidance=rule,
                sampling=dict(weights=dict(main=str(folder / f"{i + 1}.safetensors"))),
            )
            for i, rule in enumerate(rules)
        },
        sort_keys=False,
    )
    with tempfile.TemporaryDirectory() as work:
        statistics.run(config, pathlib.Path(work))
        evaluate.run(config, pathlib.Path(work))
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def peak(folder: pathlib.Path, rows: int, kinds: bool) -> int:
    """Return the peak memory of an evaluation in a new process, in bytes."""
    command = [sys.executable, __file__, f"--child={folder}", f"--rows={rows}"]
    done = subprocess.run(
        [*command, f"--kinds={kinds}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return int(done.stdout.split()[-1])


def main(arguments):
    """Measure and print."""
    del arguments
    if CHILD.value:
        evaluate(pathlib.Path(CHILD.value), ROWS.value, KINDS.value)
        return
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write(folder, ROWS.value)
        for kinds in (False, True) if KINDS.value else (False,):
            # As many rows as there are rules make every program that more rows use.
            several = len(RULES) if kinds else 1
            few, many = (peak(folder, rows, kinds) for rows in (several, ROWS.value))
            label = "rows of different rules" if kinds else "rows of one rule"
            results[label] = {f"{several}": few, f"{ROWS.value}": many, "ratio": many / few}
            print(
                f"{label}: {few / 2**20:.0f} MiB for {several}, {many / 2**20:.0f} MiB for "
                f"{ROWS.value}: {many / few:.3f} times",
                flush=True,
            )
    if OUT.value:
        pathlib.Path(OUT.value).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
