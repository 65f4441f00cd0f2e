"""Files that are not weights: unknown names in every container, absurd pickles, broken files.

Each entry of `FILES` writes one and says what the refusal has to mention.
"""

from weight_files import writers as w
from weight_files.refused_containers import CONTAINERS
from weight_files.refused_names import NAMED
from weight_files.refused_pickles import PICKLES
from weight_files.refused_writers import Refused, archive, writes

FILES: dict[str, Refused] = {}
for _name, _content in NAMED.items():
    FILES |= {
        _name: Refused(writes(_content), "asks to load"),
        f"{_name}_in_zip": Refused(archive(*w.zip_members(_content, {})), "asks to load"),
        f"{_name}_in_legacy": Refused(writes(w.legacy(_content, {})), "asks to load"),
    }
FILES |= PICKLES | CONTAINERS
