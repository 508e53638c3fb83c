#!/usr/bin/env bash
# Stop what runs on the slice: f2jax finishes its step and saves, and the same launch/run.sh command resumes it later.
# The slice is kept and still costs money; launch/delete.sh deletes it.
#     launch/stop.sh [--dry_run]
. "$(dirname "$0")/lib.sh"
only_dry_run "$@"
settings
need_gcloud
need_slice
on_workers 'bash ~/f2jax/launch/worker.sh stop 600'
say "Slice $TPU_NAME is idle now, and still costs; launch/delete.sh deletes it."
