# Sourced by the scripts: `python_with PACKAGE==VERSION ...` makes an environment and names its python.
set -euo pipefail
python_with() {
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  "${PYTHON:-python3}" -m venv "$folder/venv"
  "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
  python=$folder/venv/bin/python
}
