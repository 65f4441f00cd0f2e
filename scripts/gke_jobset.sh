#!/usr/bin/env bash
# Run main.py as a JobSet on GKE, on TPUs or GPUs.
#
#   scripts/gke_jobset.sh --name=RUN --image=IMAGE --hosts=4 --claim=CLAIM [--restarts=100] \
#     (--tpu=tpu-v5-lite-podslice --topology=4x4 --chips=4 | --gpus=8 [--accelerator=nvidia-h100-80gb]) \
#     [--dry-run] -- --config=configs/cifar10_dit.py --workdir=/shared/run
#
# IMAGE has this checkout as its working directory and python with the package installed; the
# persistent volume claim CLAIM is mounted at /shared in every host. A host that is taken away gets
# SIGTERM: the run saves, and JobSet starts it again on all hosts.

set -euo pipefail
cd "$(dirname "$0")/.."
OPTIONS="name image hosts claim restarts tpu topology chips gpus accelerator"
. scripts/common.sh
OPTION_restarts=100 OPTION_tpu="" OPTION_topology="" OPTION_chips="" OPTION_gpus="" OPTION_accelerator=""
parse "$@"
need name image hosts claim
[[ "$OPTION_name" =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] \
  || fail "--name=$OPTION_name: Kubernetes takes lower-case letters, digits and -, at most 40"
for name in hosts restarts chips gpus; do
  variable="OPTION_$name"
  [[ -z "${!variable}" || "${!variable}" =~ ^[1-9][0-9]*$ ]] || fail "--$name=${!variable} is not a number above 0"
done

selector="" devices="" select="
            nodeSelector:"
if [ -n "$OPTION_tpu" ]; then
  [ -z "$OPTION_gpus" ] || fail "give --tpu or --gpus, not both"
  need topology chips
  devices="google.com/tpu: $OPTION_chips"
  selector="$select
              cloud.google.com/gke-tpu-accelerator: $OPTION_tpu
              cloud.google.com/gke-tpu-topology: $OPTION_topology"
else
  [ -n "$OPTION_gpus" ] || fail "give --tpu=..., --topology=... and --chips=..., or --gpus=..."
  devices="nvidia.com/gpu: $OPTION_gpus"
  [ -z "$OPTION_accelerator" ] || selector="$select
              cloud.google.com/gke-accelerator: $OPTION_accelerator"
fi

# The shell that is signalled passes it on, and ends with a status that asks for a restart.
command="trap 'kill -TERM \$child; wait \$child; exit 143' TERM
python main.py $(quoted "${MAIN[@]}")--config.hosts.coordinator=$OPTION_name-hosts-0-0.$OPTION_name:8476 --config.hosts.count=$OPTION_hosts --config.hosts.index=\$JOB_COMPLETION_INDEX & child=\$!
wait \$child"

manifest="apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $OPTION_name
spec:
  failurePolicy:
    maxRestarts: $OPTION_restarts
  replicatedJobs:
  - name: hosts
    replicas: 1
    template:
      spec:
        parallelism: $OPTION_hosts
        completions: $OPTION_hosts
        completionMode: Indexed
        backoffLimit: 0
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: 180$selector
            containers:
            - name: main
              image: $OPTION_image
              command: [bash, -c]
              args:
              - |
$(sed 's/^/                /' <<<"$command")
              resources:
                limits:
                  $devices
              volumeMounts:
              - name: shared
                mountPath: /shared
            volumes:
            - name: shared
              persistentVolumeClaim:
                claimName: $OPTION_claim"

if [ "$DRY_RUN" = yes ]; then
  execute kubectl apply -f -
  printf '%s\n' "$manifest"
else
  execute kubectl apply -f - <<<"$manifest"
fi
