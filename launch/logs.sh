#!/usr/bin/env bash
# The log of the run on all workers, or on one; each line begins with the name of its machine.
#     launch/logs.sh [--dry_run] [--follow] [--lines N] [WORKER | SLICE/WORKER]     e.g. launch/logs.sh --follow 0
. "$(dirname "$0")/lib.sh"
node=all worker=all lines=50 follow=
while [ $# -gt 0 ]; do
    case $1 in
        --dry_run) DRY_RUN=1 ;;
        --follow | -f) follow=' -F' ;;
        --lines)
            [ $# -gt 1 ] || die "--lines needs a number."
            lines=$2
            shift
            ;;
        --lines=*) lines=${1#*=} ;;
        -h | --help) usage ;;
        -*) die "logs.sh has no option '$1'; see launch/logs.sh --help." ;;
        */*) node=${1%%/*} worker=${1#*/} ;;
        *) node=0 worker=$1 ;;
    esac
    shift
done
is_number "$lines" || die "--lines should be a number."
for number in "$node" "$worker"; do
    [ "$number" = all ] || is_number "$number" || die "a worker is a number from 0, or SLICE/WORKER."
done
settings
need_gcloud
need_slice
tpus ssh "$TPU_NAME" --node="$node" --worker="$worker" --batch-size=all \
    --command="bash ~/f2jax/launch/worker.sh log -n $lines$follow"
