"""Work folders of sweeps as they lie on disk, without anything having been sampled."""

import json
from pathlib import Path

import numpy as np

from guidestar.runtime.store import Store

SCALES = (1.5, 2.0, 3.0)
RULES = {
    "cfg": lambda scale: dict(name="cfg", scale=scale),
    "autoguidance": lambda scale: dict(name="autoguidance", scale=scale),
    "interval": lambda scale: dict(
        name="between", rule=dict(name="cfg", scale=scale), low=0.5, high=5.0
    ),
}
SEEDS, SIZE = 20, 8


def row(rule: str, scale: float, number: int, **more) -> dict:
    """Return a row of a sweep over rules and scales; numbers follow from its place in it."""
    guidance = RULES[rule](scale)
    place = "guidance.rule.scale" if rule == "interval" else "guidance.scale"
    return (
        dict(
            title=f"{rule} {scale:g}",
            guidance=guidance,
            parameters={"guidance.name": guidance["name"], place: scale},
            command=f"python main.py --config.guidance.scale={scale}",
            folder=f"trials/{number}",
            trial=number,
            state="COMPLETE",
            evaluations={"main": 20 if rule == "autoguidance" else 10 * (number % 3 + 1)},
            multiply_adds=1e9 * (number % 3 + 1),
            seconds=1.5,
            frechet_distance=10.0 - number,
            precision=0.5 + number / 100,
            recall=0.9 - number / 100,
            agreement=None,
        )
        | more
    )


def sweep() -> dict:
    """Return the record of a sweep of three rules at three scales."""
    places = [(rule, scale) for rule in RULES for scale in SCALES]
    return dict(
        name="tiny",
        date="2026-12-01",
        device="1 x cpu",
        images=SEEDS,
        real=dict(data="digits", split="train", images=1442),
        metrics=["frechet_distance", "precision", "recall", "agreement"],
        rows={f"t{n}": row(rule, scale, n) for n, (rule, scale) in enumerate(places)},
        claims=[],
    )


def pictures(number: int, count: int = SEEDS, size: int = SIZE) -> np.ndarray:
    """Return images that tell which trial and which seed they are of."""
    images = np.zeros((count, size, size, 1), np.uint8)
    images[:, : size // 2] = 20 * number + 40
    images[:, size // 2 :] = (np.arange(count) * 12 % 256).astype(np.uint8)[:, None, None, None]
    return images


def write_sweep(folder: Path, record: dict | None = None, **images) -> Path:
    """Write a record, and images of those of its rows that have a folder."""
    record = sweep() if record is None else record
    folder.mkdir(parents=True, exist_ok=True)
    for name, one in record["rows"].items():
        if one.get("folder"):
            found = pictures(int(name[1:]), **images)
            store = Store.claimed(
                folder / one["folder"], "npz", len(found), made_of={"row": name}, said={}
            )
            store.write(np.arange(len(found)), found, None)
    (folder / "sweep.json").write_text(json.dumps(record))
    return folder
