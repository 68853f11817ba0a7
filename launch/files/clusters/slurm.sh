#!/usr/bin/env bash
# A Ray cluster on Slurm for the time of one command; the job's exit code is the command's.
#
#   sbatch launch/files/clusters/slurm.sh doctor --storage /shared --data /shared/VG
#   sbatch launch/files/clusters/slurm.sh tune --config configs/speaq_vg.yaml --space search_spaces/speaq.yaml \
#     --data /shared/VG --output /shared/STUDY --set training.init_from=/shared/DETECTOR
#   sbatch --nodes=4 launch/files/clusters/slurm.sh train … --set resources.num_workers=32
#
# - From a checkout on shared storage that has been set up (`make setup`); options of sbatch change what stands below.
# - A minute before the time limit, or when Slurm takes the job's place (USR1), the command is stopped with its
#   checkpoints written and the job is queued again; a job that runs for a second time goes on where it was (tune and
#   train with --resume, reproduce by itself). `scancel` stops it for good; submit `tune --resume /shared/STUDY` yourself.
# - Only nodes of this job may join: a random token in the environment, new for each job, in no file and no command line.
# - SPEAQ_INTERFACE=ib0 names the network to use; else it is the one with the node's first address. Gloo and NCCL are
#   told, as they would take the address that the host name stands for, often a loopback.
# - Not `ray symmetric-run`: it waits 30 s for the other nodes, and knows neither a token nor the second run.
#SBATCH --job-name=speaq
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@60
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
[ "$#" -gt 0 ] || { echo "usage: sbatch $0 tune|train|reproduce|doctor …" >&2; exit 2; }
export PATH="$PWD/.venv/bin:$PATH" RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN="$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')"
export RAY_AUTH_TOKEN

# The address and the interface of the node where it runs, in two words.
network='
  if [ -n "${SPEAQ_INTERFACE:-}" ]; then address=$(ip -o -4 addr show dev "$SPEAQ_INTERFACE" | sed -n "1s/.*inet \([0-9.]*\).*/\1/p")
  else address=$(hostname -I | cut -d" " -f1); fi
  address=${address:-127.0.0.1}
  echo "$address $(ip -o -4 addr | sed -n "s/^[0-9]*: *\([^ ]*\) .*inet $address\/.*/\1/p" | head -n 1)"'
# Ray on the node where it runs, until it is killed.
start='
  read -r address interface <<< "$(bash -c "$network")"
  export GLOO_SOCKET_IFNAME=$interface NCCL_SOCKET_IFNAME=$interface
  trap "kill \$ray" TERM
  ray start --block --node-ip-address="$address" --temp-dir="/tmp/ray-$SLURM_JOB_ID" "$@" &
  ray=$!
  wait || wait || true # a signal ends the first one
  rm -rf "/tmp/ray-$SLURM_JOB_ID"'
export network

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
on() { # on NODE[,NODE…] COUNT COMMAND…, in a subshell of its own, which becomes srun: a signal reaches it
  exec srun --nodes="$2" --ntasks="$2" --nodelist="$1" --export=ALL --overlap "${@:3}"
}
read -r address _ <<< "$(on "$head" 1 bash -c "$network")"
port=$((20000 + SLURM_JOB_ID % 20000)) # two jobs may share a node
export RAY_ADDRESS="$address:$port"

on "$head" 1 bash -c "$start" ray --head --port="$port" --dashboard-host=127.0.0.1 --dashboard-port=$((port + 20000)) &
steps=($!)
trap 'kill "${steps[@]}" 2> /dev/null || true; wait || true' EXIT
if [ "${#nodes[@]}" -gt 1 ]; then
  others=$(IFS=,; echo "${nodes[*]:1}")
  on "$others" "$((${#nodes[@]} - 1))" bash -c "until ray health-check --address=$RAY_ADDRESS 2> /dev/null; do sleep 2; done; $start" ray --address="$RAY_ADDRESS" &
  steps+=($!)
fi
for ((i = 0; i < 150; i++)); do ray health-check --address="$RAY_ADDRESS" 2> /dev/null && break; sleep 2; done
python - "${#nodes[@]}" << 'PYTHON'
import sys, time, ray
ray.init(logging_level="ERROR")
deadline = time.monotonic() + 600
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]):
    if time.monotonic() > deadline:
        sys.exit("not all nodes have joined the Ray cluster in 600 s")
    time.sleep(1)
PYTHON

run=(python -m speaq.cli)
[ "${SLURM_RESTART_COUNT:-0}" -eq 0 ] || run=(launch/files/clusters/again.sh)
"${run[@]}" "$@" &
command=$!
again=
trap 'again=yes; kill -TERM "$command"' USR1
trap 'kill -TERM "$command"' TERM INT
while kill -0 "$command" 2> /dev/null; do wait "$command" || true; done # a signal ends `wait` before the command
code=0
wait "$command" || code=$?
if [ -n "$again" ] && [ "$code" -ne 0 ]; then
  echo "stopped with its checkpoints written; the job is queued again" >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
