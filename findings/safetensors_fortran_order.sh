#!/usr/bin/env bash
# safetensors 0.8.0, numpy 2.4.6: `safetensors.numpy.save` writes an array's bytes as they lie in
# memory and its logical shape beside them. Of an array in column-major order (a transposed matrix,
# what scipy.linalg returns) other numbers come back, in the right shape and without a word;
# `save_file` does the same. `np.ascontiguousarray` before saving is the way out.
# Source: the output below.
# Seen: wrote [[0, 3], [1, 4], [2, 5]], read [[0, 1], [2, 3], [4, 5]]
source "$(dirname "$0")/common.sh"
python_with safetensors==0.8.0 numpy==2.4.6
"$python" - <<'PY'
import numpy as np
from safetensors.numpy import load, save

written = np.arange(6).reshape(2, 3).T
read = load(save({"a": written}))["a"]
print("wrote", written.tolist(), "read", read.tolist())
assert read.shape == written.shape
assert read.tolist() == [[0, 1], [2, 3], [4, 5]], "no longer as described"
PY
