#!/usr/bin/env bash
# `speaq …`, or the same with --resume where the output holds what an earlier, interrupted run has left there. For jobs
# that a cluster starts again by itself: Slurm after pre-emption (slurm.sh), Kubernetes after a failure (kuberay_job.yaml).
#
#   launch/files/clusters/again.sh tune --config … --output /shared/STUDY …    begins the search, or goes on with it
#   launch/files/clusters/again.sh train --config … --output /shared/RUN …
#
# Other commands run as they are: `reproduce` finds by itself what is done.
set -euo pipefail
[ "$#" -gt 0 ] || { echo "usage: $0 tune|train|pretrain|reproduce …" >&2; exit 2; }
output=
for ((i = 1; i < $#; i++)); do
  if [ "${!i}" = --output ]; then
    following=$((i + 1))
    output=${!following}
  fi
done
holds() { # whether the output has this file
  case "$output" in
    *://*) python -c 'import sys; from launch.store.remote import Store; sys.exit(Store(sys.argv[1]).stamp(sys.argv[2]) == [None])' "$output" "$1" ;;
    *) [ -e "$output/$1" ] ;;
  esac
}
if [ "$1" = tune ] && holds study.yaml; then
  set -- tune --resume "$output" # the study knows the rest
elif [[ "$1" =~ ^(train|pretrain)$ ]] && holds config.yaml; then
  set -- "$@" --resume
fi
exec python -m speaq.cli "$@"
