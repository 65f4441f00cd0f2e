#!/usr/bin/env bash
# Run a sweep on several Cloud TPU slices, one worker a slice.
#
#   scripts/tpu_sweep.sh --names=TPU1,TPU2 --zone=ZONE [--project=ID] [--folder=guidestar] \
#     [--setup=yes] [--dry-run] -- --config=configs/sweeps/digits.py --workdir=/mnt/shared/sweep \
#     --config.sweep.storage=postgresql://user@host/sweeps
#
# Each slice is what scripts/cloud_tpu.sh starts. The workdir is a folder that all hosts share, and
# the storage one that they reach: PostgreSQL, or journal:PATH in that folder. A slice that is taken
# away leaves its trial to the others; run the same command again to go on.

set -euo pipefail
cd "$(dirname "$0")/.."
OPTIONS="names zone project folder setup"
. scripts/common.sh
OPTION_folder=guidestar OPTION_setup=no OPTION_project=""
parse "$@"
need names zone
need_shared_storage

options=(--zone="$OPTION_zone" --folder="$OPTION_folder" --setup="$OPTION_setup")
[ -z "$OPTION_project" ] || options+=(--project="$OPTION_project")
[ "$DRY_RUN" = no ] || options+=(--dry-run)
IFS=, read -r -a names <<<"$OPTION_names"
workers=()
for name in "${names[@]}"; do
  start=(scripts/cloud_tpu.sh --name="$name" "${options[@]}" -- "${MAIN[@]}" --mode=sweep)
  if [ "$DRY_RUN" = yes ]; then
    "${start[@]}"
  else
    "${start[@]}" &
    workers+=($!)
  fi
done
status=0
for worker in "${workers[@]+"${workers[@]}"}"; do wait "$worker" || status=$?; done
exit "$status"
