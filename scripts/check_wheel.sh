#!/usr/bin/env bash
# Build the wheel, install it in environments of its own, and use it from another folder: rules and
# solvers with jax alone, then sampling and the examples with everything.
#
#     bash scripts/check_wheel.sh
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=${PYTHON:-$root/.venv/bin/python}
"$python" -m pip wheel --quiet --no-deps -w "$folder" "$root"
rm -rf "$root/build"
wheel=$(echo "$folder"/guidestar-*.whl)

"$python" -m venv "$folder/plain"
"$folder/plain/bin/python" -m pip install --quiet "$wheel"
cd "$folder"
"$folder/plain/bin/python" "$root/examples/own_sampler.py"
echo "rules and solvers: jax alone"

"$python" -m venv "$folder/whole"
"$folder/whole/bin/python" -m pip install --quiet "$wheel[lab]"
"$folder/whole/bin/python" - <<'PY'
from guidestar import models

print(models.load("digits"))
PY
options=(--config.sampling.count=4 --config.sampling.batch_size=4 --config.sampler.schedule.steps=4)
"$folder/whole/bin/guidestar" --config=digits --workdir="$folder/samples" --mode=sample "${options[@]}"
test -s "$folder/samples/images/00000003.png"
for example in "$root"/examples/*.py; do
  echo "$(basename "$example")"
  "$folder/whole/bin/python" "$example" > "$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
done
"$folder/whole/bin/guidestar" --config=digits --workdir="$folder/own" --mode=sample "${options[@]}" \
  --config.imports="$root/examples/own_rule.py" --config.guidance.name=mirrored
test -s "$folder/own/images/00000003.png"
echo "the wheel works"
