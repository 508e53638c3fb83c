#!/usr/bin/env bash
# Create the slice of launch/env.sh, and wait until it is ready. A slice that exists is left alone; one that was taken
# away (spot) or failed is deleted and requested again.
#     launch/create.sh [--dry_run]
# Exit code: 0 it is ready; 1 something has to be fixed (no quota, a wrong zone); 75 another try may help (no capacity,
# preempted, an outage of Google Cloud).
. "$(dirname "$0")/lib.sh"
only_dry_run "$@"
settings
need_gcloud

# What Google Cloud, or gcloud itself, says about a request that another try cannot help.
refusals='PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ARGUMENT|FAILED_PRECONDITION|NOT_FOUND|OUT_OF_RANGE|UNIMPLEMENTED'
refusals+='|argument |arguments|Invalid |gcloud auth login'

request() {
    local flags=("--accelerator-type=$ACCELERATOR" "--runtime-version=$RUNTIME" "--valid-until-duration=$WAIT")
    if [ "$SLICES" -gt 1 ]; then
        flags+=("--node-count=$SLICES" "--node-prefix=$TPU_NAME")
    else
        flags+=("--node-id=$TPU_NAME")
    fi
    case $CAPACITY in
        spot) flags+=(--spot) ;;
        reserved) flags+=(--reserved) ;;
    esac
    # shellcheck disable=SC2206  # CREATE_FLAGS is a list of words
    flags+=($CREATE_FLAGS)
    say "Asking for $SLICES x $ACCELERATOR ($CAPACITY): $CHIPS chips on $WORKERS machines in $ZONE."
    tpus create "$TPU_NAME" "${flags[@]}" 2>"$SCRATCH/error" && return
    cat "$SCRATCH/error" >&2
    if grep -qi 'already.exists' "$SCRATCH/error"; then
        say "The request exists already."
    elif grep -qi 'quota' "$SCRATCH/error" && ! grep -qiE 'per (minute|day|second)|PerMinute|rate limit' "$SCRATCH/error"; then
        die "no quota for $CHIPS chips of $TPU_TYPE ($CAPACITY) in $ZONE; ask for it at" \
            "https://console.cloud.google.com/iam-admin/quotas?project=$PROJECT, or change ZONE, TPU_TYPE or CAPACITY."
    elif grep -qE "$refusals" "$SCRATCH/error"; then
        die "the request for the slice failed; Google Cloud's reason is above."
    else
        temporary "the request for the slice failed; Google Cloud's reason is above. The same command tries again."
    fi
}

remake() {
    say "Slice $TPU_NAME is $state; it is made anew."
    delete_slice || temporary "slice $TPU_NAME could not be deleted; the same command tries again."
    request
}

DRY_STATE=NONE
asked=
state=$(slice_state)
case $state in
    UNKNOWN)
        temporary "Google Cloud did not say whether $TPU_NAME exists; its reason is above."
        ;;
    ACTIVE) say "Slice $TPU_NAME is there." && exit 0 ;;
    NONE) request && asked=1 ;;
    SUSPENDED | FAILED) remake && asked=1 ;;
esac

DRY_STATE=ACTIVE
before=
while :; do
    state=$(slice_state)
    [ "$state" = "$before" ] || say "$(date '+%F %T') slice $TPU_NAME: $state"
    before=$state
    case $state in
        ACTIVE) exit 0 ;;
        SUSPENDED | FAILED | NONE) # NONE: it was being deleted when this began
            if [ -n "$asked" ]; then
                temporary "no $ACCELERATOR was to be had ($state); the same command asks again."
            fi
            unset QUIET
            if [ "$state" = NONE ]; then request; else remake; fi
            asked=1
            ;;
    esac
    export QUIET=1 # the question is printed once, its answers when they change
    sleep "$POLL"
done
