#!/usr/bin/env bash
# Stop what runs on the slice: f2jax saves after the step it is in, and the same launch/run.sh command goes on later.
# The slice stays, and costs: launch/delete.sh.
#     launch/stop.sh [--dry_run]
. "$(dirname "$0")/lib.sh"
only_dry_run "$@"
settings
need_gcloud
need_slice
on_workers 'bash ~/f2jax/launch/worker.sh stop 600'
say "Slice $TPU_NAME is idle now, and still costs; launch/delete.sh deletes it."
