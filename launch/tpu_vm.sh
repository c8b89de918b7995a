#!/usr/bin/env bash
# One command on every host of a Cloud TPU slice, by gcloud:
#
#   export TPU=my-slice ZONE=us-west4-a REPO=https://github.com/OWNER/wbcjax
#   launch/tpu_vm.sh setup                       # once: the checkout, and wbcjax with JAX for TPU, on each host
#   launch/tpu_vm.sh run wbcjax train --data.root /shared/data --workdir /shared/runs/mine
#   launch/tpu_vm.sh stop                        # saves a checkpoint and ends; run goes on from it
#   launch/tpu_vm.sh --dry-run run wbcjax train  # prints the call of gcloud
#
# JAX asks the slice for its hosts. /shared is a folder that all hosts see, such as a mounted Filestore share.
set -euo pipefail

usage() {
  echo "usage: TPU=NAME ZONE=ZONE launch/tpu_vm.sh [--dry-run] setup | run COMMAND | stop" >&2
  exit 2
}

dry_run=
if [[ ${1-} == --dry-run ]]; then
  dry_run=yes
  shift
fi
: "${TPU:?the name of the TPU slice}" "${ZONE:?the zone that it is in}"

case ${1-} in
  setup)
    : "${REPO:?the address of the repository}"
    remote="git clone --quiet $(printf %q "$REPO") wbcjax
      python3 -m venv wbcjax/.venv
      wbcjax/.venv/bin/pip install --quiet -e wbcjax 'jax[tpu]'"
    ;;
  run)
    shift
    (($#)) || usage
    # Detached, so that a lost connection ends no training; the log of each host is shown and kept.
    remote="cd wbcjax && export PATH=\$PWD/.venv/bin:\$PATH WBCJAX_DISTRIBUTED=auto
      nohup python launch/resume.py --$(printf ' %q' "$@") > run.log 2>&1 &
      tail --pid=\$! -f run.log; wait \$!"
    ;;
  stop)
    remote="pkill -TERM -f '[l]aunch/resume.py'" # the brackets: not this command itself
    ;;
  *) usage ;;
esac

call=(gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all --command "$remote")
if [[ $dry_run ]]; then
  printf '%q ' "${call[@]}"
  echo
  exit 0
fi
exec "${call[@]}"
