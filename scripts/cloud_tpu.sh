#!/usr/bin/env bash
# Run main.py on every host of a Cloud TPU slice.
#
#   scripts/cloud_tpu.sh --name=TPU --zone=ZONE [--project=ID] [--folder=guidestar] [--setup=yes] \
#     [--dry-run] -- --config=configs/cifar10_dit.py --workdir=/mnt/shared/run
#
# --setup=yes first copies this checkout to --folder in every host's home and installs it there.
# The workdir is a folder that all hosts share (Filestore, or a bucket mounted with gcsfuse). Run
# the same command again to continue.

set -euo pipefail
cd "$(dirname "$0")/.."
OPTIONS="name zone project folder setup"
. scripts/common.sh
OPTION_folder=guidestar OPTION_setup=no OPTION_project=""
parse "$@"
need name zone
[[ "$OPTION_folder" =~ ^[A-Za-z0-9._/-]+$ ]] || fail "--folder=$OPTION_folder: use letters, digits and ._/-"

where=(--zone="$OPTION_zone")
[ -z "$OPTION_project" ] || where+=(--project="$OPTION_project")
everywhere() {
  execute gcloud compute tpus tpu-vm ssh "$OPTION_name" "${where[@]}" --worker=all --command="$1"
}

if [ "$OPTION_setup" = yes ]; then
  archive=out/guidestar.tar.gz
  execute mkdir -p out
  execute git archive --format=tar.gz --output="$archive" HEAD
  execute gcloud compute tpus tpu-vm scp "$archive" "$OPTION_name:guidestar.tar.gz" \
    "${where[@]}" --worker=all
  everywhere "mkdir -p $OPTION_folder && tar -xzf guidestar.tar.gz -C $OPTION_folder && cd $OPTION_folder && python3 -m venv .venv && .venv/bin/pip install --quiet -e '.[tpu]'"
fi
everywhere "cd $OPTION_folder && .venv/bin/python main.py $(quoted "${MAIN[@]}")--config.hosts.coordinator=auto"
