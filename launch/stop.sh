#!/usr/bin/env bash
# Stop what runs on the slice: f2jax saves after the step it is in, and the same launch/run.sh command goes on later.
# The slice stays, and costs: launch/delete.sh.
#     launch/stop.sh [--dry_run]
. "$(dirname "$0")/lib.sh"
for option in "$@"; do
    case $option in
        --dry_run) DRY_RUN=1 ;;
        -h | --help) usage ;;
        *) die "stop.sh has no option '$option'; see launch/stop.sh --help." ;;
    esac
done
settings
need_gcloud
need_slice
on_workers 'bash ~/f2jax/launch/worker.sh stop 600'
say "Slice $TPU_NAME is idle now, and still costs; launch/delete.sh deletes it."
