#!/usr/bin/env bash
# Copy results from the bucket: metrics, TensorBoard files, configs, released packages; checkpoints on request.
#     launch/fetch.sh [--dry_run] [--checkpoints] gs://bucket/runs/one [FOLDER, default: runs/one]
. "$(dirname "$0")/lib.sh"
checkpoints=
arguments=()
for option in "$@"; do
    case $option in
        --dry_run) DRY_RUN=1 ;;
        --checkpoints) checkpoints=1 ;;
        -h | --help) usage ;;
        -*) die "fetch.sh has no option '$option'; see launch/fetch.sh --help." ;;
        *) arguments+=("$option") ;;
    esac
done
[ "${#arguments[@]}" -ge 1 ] || die "say what to fetch: launch/fetch.sh gs://bucket/runs/one [FOLDER]"
from=${arguments[0]%/}
case $from in gs://*/*) ;; *) die "'$from' is no folder of a bucket; write gs://bucket/folder." ;; esac
to=${arguments[1]:-runs/$(basename "$from")}
need_gcloud

flags=(--recursive)
[ -n "$checkpoints" ] || flags+=("--exclude=(^|.*/)checkpoints/.*")
[ -n "$DRY_RUN" ] || mkdir -p "$to"
cloud gcloud storage rsync "${flags[@]}" "$from" "$to"
say "Results: $to"
