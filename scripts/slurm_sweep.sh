#!/usr/bin/env bash
# Submit a sweep to SLURM as an array: one worker an element, each on its own GPUs.
#
#   scripts/slurm_sweep.sh --workers=8 --gpus=1 [--time=24:00:00] [--cpus=16] [--partition=P] \
#     [--account=A] [--python=.venv/bin/python] [--dry-run] -- \
#     --config=configs/sweeps/digits.py --workdir=DIR --config.sweep.storage=journal:DIR/sweep.journal
#
# DIR is a folder that all nodes share, and so is the storage's file; SQLite, which a sweep takes by
# itself, is safe on one machine alone. Two minutes before the time limit, and when an element is
# preempted, its worker is sent SIGTERM: it leaves its trial to the others, ends, and is queued
# again. Output goes to <workdir>/slurm-<job>_<element>.log. More workers: submit it once more.

set -euo pipefail
cd "$(dirname "$0")/.."
OPTIONS="workers gpus time cpus partition account python"
. scripts/common.sh
OPTION_time=24:00:00 OPTION_cpus=8 OPTION_partition="" OPTION_account="" OPTION_python=.venv/bin/python
parse "$@"
need workers gpus
for name in workers gpus cpus; do
  variable="OPTION_$name"
  [[ "${!variable}" =~ ^[1-9][0-9]*$ ]] || fail "--$name=${!variable} is not a number above 0"
done
need_shared_storage
for word in "${MAIN[@]}"; do case "$word" in --workdir=*) workdir="${word#*=}" ;; esac; done

options=(--job-name=guidestar-sweep --array="1-$OPTION_workers" --nodes=1 --ntasks=1
  --gpus-per-node="$OPTION_gpus" --cpus-per-task="$OPTION_cpus" --time="$OPTION_time"
  --signal=TERM@120 --requeue --open-mode=append --output="$workdir/slurm-%A_%a.log")
[ -z "$OPTION_partition" ] || options+=(--partition="$OPTION_partition")
[ -z "$OPTION_account" ] || options+=(--account="$OPTION_account")

batch="#!/usr/bin/env bash
cd $(quoted "$PWD")
printed=\$(mktemp)
srun $(quoted "$OPTION_python" main.py "${MAIN[@]}" --mode=sweep)2>&1 | tee \"\$printed\"
status=\${PIPESTATUS[0]}
# Status 0 and this line: it was told to stop before the sweep was done.
again=\"\${SLURM_ARRAY_JOB_ID}_\${SLURM_ARRAY_TASK_ID}\"
if grep -q 'stopped by SIGTERM: trials' \"\$printed\"; then scontrol requeue \"\$again\"; fi
rm -f \"\$printed\"
exit \"\$status\""

if [ "$DRY_RUN" = yes ]; then
  execute sbatch "${options[@]}"
  printf '%s\n' "$batch"
else
  mkdir -p "$workdir"
  execute sbatch "${options[@]}" <<<"$batch"
fi
