#!/usr/bin/env bash
# One command on any number of SLURM nodes: one process a node, with all of its GPUs. From the checkout:
#
#   sbatch --nodes 4 launch/slurm.sh wbcjax train --data.root /shared/data --workdir /shared/runs/mine
#   bash launch/slurm.sh --dry-run wbcjax train --workdir /shared/runs/mine      # prints what a job would run
#
# Options of sbatch win over those below. JAX finds the other processes by SLURM's variables. Three minutes before the
# time limit, and when it is preempted, a job saves a checkpoint, is queued again, and goes on from there.
#
#SBATCH --job-name=wbcjax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out
set -euo pipefail

dry_run=
if [[ ${1-} == --dry-run ]]; then
  dry_run=yes
  shift
fi
if (($# == 0)); then
  echo "usage: sbatch [--nodes N] launch/slurm.sh COMMAND, or bash launch/slurm.sh --dry-run COMMAND" >&2
  exit 2
fi

# SLURM runs a copy of this file from elsewhere; the rest of launch/ lies where the job was submitted.
launch=${SLURM_SUBMIT_DIR:-$PWD}/launch
# The first task that fails ends the others, and lines begin with their task's number.
step=(srun --kill-on-bad-exit=1 --label python "$launch/resume.py" -- "$@")

# Without this JAX gives a process under SLURM one GPU, as if there were as many processes as GPUs.
gpus=${SLURM_GPUS_ON_NODE:-0}
if ((gpus > 0)); then
  JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))
  export JAX_LOCAL_DEVICE_IDS
fi

if [[ $dry_run ]]; then
  printf '%q ' "${step[@]}"
  echo
  exit 0
fi

"${step[@]}" &
pid=$!
trap 'kill -TERM "$pid"' TERM # srun passes it on to every task
status=0
wait "$pid" || status=$?
while kill -0 "$pid" 2>/dev/null; do # the signal has only ended the waiting
  status=0
  wait "$pid" || status=$?
done

if ((status == 143)); then # stopped by SIGTERM and saved: see launch/resume.py
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
