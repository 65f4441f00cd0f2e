#!/usr/bin/env bash
# Submit main.py to SLURM, one process for each GPU.
#
#   scripts/slurm.sh --nodes=2 --gpus=8 [--time=24:00:00] [--cpus=16] [--partition=P] [--account=A] \
#     [--python=.venv/bin/python] [--dry-run] -- --config=configs/cifar10_dit.py --workdir=DIR
#
# Three minutes before the time limit, and when the job is preempted, every process is sent SIGTERM:
# the run saves, ends, and the job is queued again. Its output goes to <workdir>/slurm-<job>.log.

set -euo pipefail
cd "$(dirname "$0")/.."
OPTIONS="nodes gpus time cpus partition account python"
. scripts/common.sh
OPTION_time=24:00:00 OPTION_cpus=8 OPTION_partition="" OPTION_account="" OPTION_python=.venv/bin/python
parse "$@"
need nodes gpus
for name in nodes gpus cpus; do
  variable="OPTION_$name"
  [[ "${!variable}" =~ ^[1-9][0-9]*$ ]] || fail "--$name=${!variable} is not a number above 0"
done
for word in "${MAIN[@]}"; do case "$word" in --workdir=*) workdir="${word#*=}" ;; esac; done

options=(--job-name=guidestar --nodes="$OPTION_nodes" --ntasks-per-node="$OPTION_gpus"
  --gpus-per-node="$OPTION_gpus" --cpus-per-task="$OPTION_cpus" --time="$OPTION_time"
  --signal=TERM@180 --requeue --open-mode=append --output="$workdir/slurm-%j.log")
[ -z "$OPTION_partition" ] || options+=(--partition="$OPTION_partition")
[ -z "$OPTION_account" ] || options+=(--account="$OPTION_account")

batch="#!/usr/bin/env bash
cd $(quoted "$PWD")
printed=\$(mktemp)
srun --kill-on-bad-exit=1 $(quoted "$OPTION_python" main.py "${MAIN[@]}")2>&1 | tee \"\$printed\"
status=\${PIPESTATUS[0]}
# Status 0 and this line: it was told to stop before it was done.
if grep -q 'stopped by SIGTERM: step' \"\$printed\"; then scontrol requeue \"\$SLURM_JOB_ID\"; fi
rm -f \"\$printed\"
exit \"\$status\""

if [ "$DRY_RUN" = yes ]; then
  execute sbatch "${options[@]}"
  printf '%s\n' "$batch"
else
  mkdir -p "$workdir"
  execute sbatch "${options[@]}" <<<"$batch"
fi
