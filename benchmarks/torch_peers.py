"""Sampling, training, the first image and memory, beside plain PyTorch on the same cores, in turn.

    python benchmarks/torch_peers.py --table=sampling --out=benchmarks/torch_peers.json
    python benchmarks/torch_peers.py --table=training --out=benchmarks/torch_peers.json
    python benchmarks/torch_peers.py --table=first --out=benchmarks/torch_peers.json

The peer is `torch_networks.py`, loops and networks as their authors' code has them, in float32, in
a virtual environment of its own that is made where ``--torch`` names no python. It draws the
weights, we read the file it writes, and what both sample from one noise is compared before
anything is timed. Ratios are the peer's time over ours, above 1 where we are faster.

``first`` times whole processes from their start to the first image: ours with nothing compiled
before (cold), and again with the programs that the first one kept (second); weights are drawn.
Beside the seconds stand those of all cores, which other work on the machine disturbs less, and the
peak of memory.

``--one-core`` holds both to one core and counts the seconds that each had it: where other work runs
on the machine, such ratios are steady and those of the clock are not.
"""

import argparse
import datetime
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
import venv

import numpy as np

TORCH = "2.13.0"
# name -> sampler, steps, batch sizes.
SAMPLED = {
    "ddpmpp": ("heun", 2, (2, 16)),
    "edm2": ("heun", 2, (1, 4)),
    "dit": ("guided_euler", 4, (1,)),
    "dit-1024": ("guided_euler", 2, (1,)),
}
SHAPES = {"ddpmpp": (32, 32, 3), "edm2": (64, 64, 4), "dit": (32, 32, 4), "dit-1024": (64, 64, 4)}
CLASSES = {"ddpmpp": 0, "edm2": 1000, "dit": 1000, "dit-1024": 1000}
TRAINED = {"dit": (False, True), "ddpmpp": (False,)}
TRAINING_BATCH = 8
# Largest difference of samples, over the largest number in them.
SAME = 1e-3
SCALE = 3.0


def section(name: str, scanned: bool = True) -> dict:
    """Return the ``model`` section of a network, as it is when nothing is read from a file."""
    if name == "ddpmpp":
        return dict(name="song_unet", size="ddpmpp-cifar10")
    if name == "edm2":
        return dict(name="edm2_unet", size="XS")
    side = SHAPES[name][0]
    return dict(name="dit", size="S/2", image_size=side, scan_layers=scanned)


def clock() -> float:
    """Return seconds: of this process where it has one core alone, else of the clock."""
    return time.process_time() if len(os.sched_getaffinity(0)) == 1 else time.perf_counter()


def given(name: str, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noise and labels."""
    random = np.random.default_rng(batch)
    noise = random.standard_normal((batch, *SHAPES[name]), dtype=np.float32)
    return noise, random.integers(0, CLASSES[name] or 1, batch)


# --- the peer's process


def serve() -> None:
    """Answer one request a line: the seconds that a run took."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    import torch_networks as peers

    state: dict = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "build":
            torch.manual_seed(0)
            state["network"] = network = peers.build(asked["name"])
            if asked.get("path"):
                import safetensors.torch

                inside = network if asked["name"] in ("ddpmpp", "edm2") else network.net
                safetensors.torch.save_file(inside.state_dict(), asked["path"])
            state["trainer"] = peers.Trainer(network, CLASSES[asked["name"]])
        seconds = 0.0
        if asked["do"] in ("sample", "train"):
            noise, label = given(asked["name"], asked["batch"])
            x = torch.from_numpy(noise.transpose(0, 3, 1, 2).copy())
            label = torch.from_numpy(label)
            started = clock()
            if asked["do"] == "sample":
                loop = getattr(peers, asked["loop"])
                done = loop(state["network"], x, label, asked["steps"])
                seconds = clock() - started
                if asked.get("path"):
                    np.save(asked["path"], done.numpy().transpose(0, 2, 3, 1))
            else:
                state["trainer"].step(x, label)
                seconds = clock() - started
        print(json.dumps({"seconds": seconds, "threads": torch.get_num_threads()}), flush=True)


class Peer:
    """A process of PyTorch that runs what it is asked to."""

    def __init__(self, python: str):
        self._process = subprocess.Popen(
            [python, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, do: str, **asked) -> dict:
        """Run one thing and return what the process says of it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **asked}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"PyTorch's process ended while it was asked to {do}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def environment(folder: pathlib.Path) -> str:
    """Return the python of an environment with PyTorch, made where there is none."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        needed = [f"torch=={TORCH}", "numpy", "safetensors"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *needed], check=True)
    return str(python)


# --- ours


def loaded(name: str, path: pathlib.Path, prepare: bool):
    """Return our denoiser with the weights in a peer's file, prepared for many calls or not."""
    from guidestar import models

    if name in ("ddpmpp", "edm2"):
        denoiser = models.load(path)
        return denoiser.prepared() if prepare else denoiser
    own = dict(preconditioner="edm", sigma_data=0.5, scan_layers=True)
    return models.load(path, name="dit", **own)


def sampler(name: str, denoiser, batch: int, steps: int):
    """Return a function that samples as the peer does, and waits."""
    import jax

    from guidestar import guidance, samplers

    noise, label = given(name, batch)
    condition = label if CLASSES[name] else None
    rule = guidance.cfg(SCALE) if "dit" in name else guidance.unguided()
    solver = samplers.euler() if "dit" in name else samplers.heun()
    sigmas, key = samplers.karras(steps), jax.random.key(0)

    def run():
        done = samplers.sample(denoiser, rule, solver, sigmas, noise, condition, key)
        return jax.block_until_ready(done)

    return run


def trainer(name: str, scanned: bool):
    """Return a function that takes one training step, and waits."""
    import jax

    from guidestar import models
    from guidestar.training.recipes import recipe_of
    from guidestar.training.state import initial_state, make_step

    spec = models.build(section(name, scanned) if "dit" in name else section(name))
    rate = dict(learning_rate=1e-4)
    recipe = recipe_of({"main": spec}, dict(batch_size=TRAINING_BATCH), {"main": rate}, {})
    networks, preconditioners = {"main": spec.network}, {"main": spec.preconditioner}
    step = make_step(recipe, networks, 0, preconditioners=preconditioners)
    state = [initial_state(recipe, {"main": spec.initialise(jax.random.key(0))})]
    x, label = given(name, TRAINING_BATCH)
    batch = {"x": x, "condition": label if CLASSES[name] else None}

    def run():
        state[0], metrics = step(state[0], batch)
        jax.block_until_ready(metrics)

    return run


# --- tables


def sampling(peer: Peer, pairs: int, only: list[str], prepare: bool) -> dict:
    """Compare samples, then time both in turn."""
    from guidestar.core.macs import macs

    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in only or SAMPLED:
            loop, steps, batches = SAMPLED[name]
            path = pathlib.Path(folder) / f"{name}.safetensors"
            peer.ask("build", name=name, path=str(path))
            denoiser = loaded(name, path, prepare)
            work = macs(loaded(name, path, False))
            for batch in batches:
                run = sampler(name, denoiser, batch, steps)
                out = str(pathlib.Path(folder) / "samples.npy")
                asked = dict(name=name, batch=batch, steps=steps, loop=loop)
                peer.ask("sample", path=out, **asked)
                theirs, ours = np.load(out), np.asarray(run())
                apart = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
                if not apart < SAME:
                    raise RuntimeError(f"{name}: samples are {apart:.2g} apart")
                calls = steps * 2 if "dit" in name else 2 * steps - 1
                title = f"{name}, batch {batch}" + (", prepared" if prepare else "")
                results[title] = timed(
                    run,
                    lambda asked=asked: peer.ask("sample", **asked),
                    pairs,
                    work=calls * batch * work,
                    apart=apart,
                )
                shown(title, results[title])
    return results


def training(peer: Peer, pairs: int, only: list[str]) -> dict:
    """Time training steps in turn: forward, backward, AdamW, the average."""
    from guidestar import models
    from guidestar.core.macs import macs

    results = {}
    for name in only or TRAINED:
        peer.ask("build", name=name)
        spec = models.build(section(name))
        work = 3 * TRAINING_BATCH * macs(spec.denoiser(spec.shapes))
        for scanned in TRAINED[name]:
            title = f"{name}, batch {TRAINING_BATCH}" + (", scanned" if scanned else "")
            asked = dict(name=name, batch=TRAINING_BATCH)
            results[title] = timed(
                trainer(name, scanned),
                lambda asked=asked: peer.ask("train", **asked),
                pairs,
                work=work,
            )
            shown(title, results[title])
    return results


def timed(ours, theirs, pairs: int, *, work: int, **more) -> dict:
    """Return ratios of pairs, seconds of ours, and its multiply-adds a second."""
    from pairs import summary

    def once():
        started = clock()
        ours()
        return clock() - started

    once(), theirs()
    seconds, ratios = [], []
    for pair in range(pairs):
        # In an order that alternates.
        first = theirs()["seconds"] if pair % 2 else None
        seconds.append(once())
        ratios.append((theirs()["seconds"] if first is None else first) / seconds[-1])
    middle = float(np.median(seconds))
    rate = dict(seconds=middle, macs=work, macs_per_second=work / middle)
    return {"ratio": summary(np.array(ratios)), "pairs": pairs, **rate, **more}


def shown(title: str, row: dict) -> None:
    """Print a row."""
    ratio = row["ratio"]
    print(
        f"{title:28s} {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}), "
        f"{row['seconds']:.2f} s, {row['macs_per_second'] / 1e9:.1f} G multiply-adds/s",
        flush=True,
    )


def first(python: str, pairs: int, only: list[str]) -> dict:
    """Time processes from their start to the first image."""
    results = {}
    for name in only or SAMPLED:
        runs: dict[str, list[dict]] = {"cold": [], "second": [], "torch": []}
        for _ in range(pairs):
            with tempfile.TemporaryDirectory() as cache:
                runs["cold"].append(measured(sys.executable, name, cache))
                runs["torch"].append(measured(python, name, cache))
                runs["second"].append(measured(sys.executable, name, cache))
        middles = {
            who: {what: float(np.median([row[what] for row in rows])) for what in rows[0]}
            for who, rows in runs.items()
        }
        results[name] = middles | {"pairs": pairs}
        for who, row in middles.items():
            print(
                f"{name:10s} {who:7s} {row['seconds']:.1f} s, {row['cpu_seconds']:.1f} s of all "
                f"cores, peak {row['peak_bytes'] / 2**20:.0f} MiB",
                flush=True,
            )
    return results


def measured(python: str, name: str, cache: str) -> dict:
    """Run one first image in a new process; return its seconds and its peak of memory."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [python, __file__, f"--image={name}", f"--cache={cache}"]
    if python != sys.executable:
        command += ["--serve"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = sum(getattr(after, t) - getattr(before, t) for t in ("ru_utime", "ru_stime"))
    return dict(seconds=seconds, cpu_seconds=spent, peak_bytes=int(done.stdout.split()[-1]))


def our_image(name: str, cache: str) -> None:
    """Make one image in this process, from weights that are drawn."""
    import jax

    from guidestar import models
    from guidestar.runtime.compilation import keep_programs

    keep_programs(cache)
    fields = section(name)
    denoiser = models.create(fields.pop("name"), key=jax.random.key(0), **fields)
    sampler(name, denoiser, 1, SAMPLED[name][1])()


def their_image(name: str) -> None:
    """Make one image in this process, with PyTorch."""
    import torch
    import torch_networks as peers

    torch.manual_seed(0)
    noise, label = given(name, 1)
    x = torch.from_numpy(noise.transpose(0, 3, 1, 2).copy())
    loop, steps, _ = SAMPLED[name]
    getattr(peers, loop)(peers.build(name), x, torch.from_numpy(label), steps)


def floor() -> dict:
    """Return the machine's own speed: products of square matrices of 2 048, and copies."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((2048, 2048))
    multiply = jax.jit(lambda a, b: a @ b)
    copy = jax.jit(lambda a: a + 1)
    rates = {}
    for name, run, amount in (
        ("matmul_macs_per_second", lambda: multiply(x, x), 2048**3),
        ("copy_bytes_per_second", lambda: copy(x), 2 * x.nbytes),
    ):
        jax.block_until_ready(run())
        seconds = []
        for _ in range(9):
            started = clock()
            jax.block_until_ready(run())
            seconds.append(clock() - started)
        rates[name] = amount / min(seconds)
    return rates


def versions() -> dict:
    """Return what was measured: versions, the commit, the machine."""
    import jax
    import jaxlib

    here = pathlib.Path(__file__).parent
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "torch": TORCH,
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores",
        "cores_used": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
    }


def main() -> None:
    """Measure one table, print it, and write or update the results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", choices=("sampling", "training", "first"))
    parser.add_argument("--torch", default="")
    parser.add_argument("--only", action="append", default=[], choices=list(SAMPLED))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", default="")
    parser.add_argument("--one-core", action="store_true")
    parser.add_argument("--prepared", action="store_true", help="UNets as Denoiser.prepared()")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--image", default="", help=argparse.SUPPRESS)
    parser.add_argument("--cache", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one_core:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if asked.image:
        their_image(asked.image) if asked.serve else our_image(asked.image, asked.cache)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    if asked.serve:
        serve()
        return
    if not asked.table:
        parser.error("give --table=sampling, training or first")
    temporary = pathlib.Path(tempfile.gettempdir()) / f"guidestar-torch-{TORCH}"
    python = asked.torch or environment(temporary)
    if asked.table == "first":
        rows = first(python, asked.pairs, asked.only)
    else:
        peer = Peer(python)
        if asked.table == "sampling":
            rows = sampling(peer, asked.pairs, asked.only, asked.prepared)
        else:
            rows = training(peer, asked.pairs, asked.only)
        peer.close()
    if asked.out:
        path = pathlib.Path(asked.out)
        record = json.loads(path.read_text()) if path.exists() else {}
        command = f"python benchmarks/torch_peers.py --table={asked.table}"
        command += " --one-core" if asked.one_core else ""
        command += " --prepared" if asked.prepared else ""
        about = versions() | {"floor": floor(), "command": command}
        place = asked.table + (", one core" if asked.one_core else "")
        record[place] = {**about, "rows": record.get(place, {}).get("rows", {}) | rows}
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
