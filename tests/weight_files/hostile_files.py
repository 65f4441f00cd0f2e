"""Files that are not weights: what attackers, broken downloads and broken writers make.

Each entry of `FILES` writes one and says what the refusal has to mention.
"""

from weight_files import writers as w
from weight_files.hostile_containers import CONTAINERS
from weight_files.hostile_names import ARMED
from weight_files.hostile_pickles import PICKLES
from weight_files.hostile_writers import Hostile

FILES: dict[str, Hostile] = {
    name: Hostile(lambda path, build=build: path.write_bytes(build(path)), "asks to load")
    for name, build in ARMED.items()
}
FILES |= {
    f"{name}_in_zip": Hostile(
        lambda path, build=build: w.write_zip(path, w.zip_members(build(path), {})), "asks to load"
    )
    for name, build in ARMED.items()
}
FILES |= {
    f"{name}_in_legacy": Hostile(
        lambda path, build=build: path.write_bytes(w.legacy(build(path), {})), "asks to load"
    )
    for name, build in ARMED.items()
}
FILES |= PICKLES | CONTAINERS
