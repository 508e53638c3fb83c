#!/usr/bin/env bash
# Ask, delete the slice, and list what is left and still costs money.
#     launch/delete.sh [--dry_run] [--yes]
. "$(dirname "$0")/lib.sh"
yes=
for option in "$@"; do
    case $option in
        --dry_run) DRY_RUN=1 ;;
        --yes) yes=1 ;;
        -h | --help) usage ;;
        *) die "delete.sh has no option '$option'; see launch/delete.sh --help." ;;
    esac
done
settings
need_gcloud

state=$(slice_state)
[ "$state" != UNKNOWN ] || die "Google Cloud did not say whether $TPU_NAME exists; its reason is above."
if [ "$state" = NONE ]; then
    say "There is no slice $TPU_NAME in $ZONE."
else
    if [ "$state" = ACTIVE ]; then
        worker_reports >"$SCRATCH/reports"
        running=$(grep -c ' running ' "$SCRATCH/reports" || true)
        [ "$running" -eq 0 ] || say "A run is going on on $running workers; launch/stop.sh stops and saves it first."
    fi
    [ -n "$yes" ] || confirm "Delete slice $TPU_NAME ($state, $CHIPS chips, $ZONE) with the disks of its machines?"
    tpus delete "$TPU_NAME" --force
    [ -n "$DRY_RUN" ] || say "Slice $TPU_NAME is deleted."
fi

say "Left in the project, and costing:"
tpus list --format='table(name.basename(),state.state,tpu.nodeSpec[0].node.acceleratorType)' >&2 || true
[ -z "$BUCKET" ] || cloud gcloud storage du --summarize --readable-sizes "$BUCKET" >&2 || true
