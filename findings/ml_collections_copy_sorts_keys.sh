#!/usr/bin/env bash
# ml_collections 1.1.0: a ConfigDict made with sort_keys=False keeps the order of its names, through
# iteration and to_dict. `copy_and_resolve_references` returns a copy whose names are sorted: rows of
# an experiment come out in another order than they were written in.
# Source: the output below (ml_collections/config_dict/config_dict.py).
# Seen: before ['b', 'a'], to_dict ['b', 'a'], copy ['a', 'b']
source "$(dirname "$0")/common.sh"
python_with ml_collections==1.1.0
"$python" - <<'PY'
from ml_collections import ConfigDict

config = ConfigDict({"b": 1, "a": 2}, sort_keys=False)
copy = config.copy_and_resolve_references()
print("before", list(config), "to_dict", list(config.to_dict()), "copy", list(copy))
assert list(config) == ["b", "a"] and list(config.to_dict()) == ["b", "a"]
assert list(copy) == ["a", "b"], "no longer as described"
PY
