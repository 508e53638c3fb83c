# shellcheck shell=bash
# What the scripts share: settings, messages, cloud calls that are printed before they run, the state of a slice.
set -euo pipefail

LAUNCH=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CHECKOUT=$(dirname "$LAUNCH")
export TEMPORARY=75 # exit code of what may go well on another try (sysexits.h); 1 is what a person must mend
export DRY_RUN=${DRY_RUN:-}
exec 3>&2 # where cloud calls are printed, also while stderr is caught

say() { printf '%s\n' "$*" >&2; }

die() {
    say "launch: $*"
    exit 1
}

# For failures that another try may not have.
temporary() {
    say "launch: $*"
    exit "$TEMPORARY"
}

# The comment at the head of a script is its help.
usage() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
}

# For a script whose one option is --dry_run.
only_dry_run() {
    local option name
    name=${0##*/}
    for option in "$@"; do
        case $option in
            --dry_run) DRY_RUN=1 ;;
            -h | --help) usage ;;
            *) die "$name has no option '$option'; see launch/$name --help." ;;
        esac
    done
}

# ---- settings ----------------------------------------------------------------

settings() {
    local file=${F2JAX_ENV:-$LAUNCH/env.sh} name word words
    [ -z "${F2JAX_ENV:-}" ] || [ -f "$F2JAX_ENV" ] || die "F2JAX_ENV names $F2JAX_ENV, and there is no such file."
    # shellcheck source=env.example.sh
    if [ -f "$file" ]; then . "$file"; else . "$LAUNCH/env.example.sh"; fi
    [ -n "$PROJECT" ] || die "PROJECT is not set; copy launch/env.example.sh to launch/env.sh and fill it in."
    [ -n "$ZONE" ] || die "ZONE is not set; give it in launch/env.sh."
    case $CAPACITY in
        spot | reserved | on_demand) ;;
        *) die "CAPACITY=$CAPACITY is unknown; it is spot, reserved or on_demand." ;;
    esac
    is_number "$SLICES" && [ "$SLICES" -ge 1 ] || die "SLICES=$SLICES should be a whole number, at least 1."
    [[ $TPU_NAME =~ ^[a-z][a-z0-9-]*$ ]] || die "TPU_NAME=$TPU_NAME should consist of lowercase letters, digits and -."
    for name in BUCKET DATA; do
        case ${!name} in '' | gs://?*) ;; *) die "$name=${!name} should begin with gs://." ;; esac
    done
    for name in RETRIES HEALTHY BACKOFF GRACE SILENCE; do
        is_number "${!name}" || die "$name=${!name} should be a whole number."
    done
    for name in POLL ${PRICE:+PRICE}; do
        [[ ${!name} =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "$name=${!name} should be a number."
    done
    worker_env=() words=
    [ -z "$WORKER_ENV" ] || words=$(printf '%s' "$WORKER_ENV" | xargs printf '%s\n' 2>/dev/null) ||
        die "WORKER_ENV has a quote that is not closed."
    while IFS= read -r word; do
        [ -n "$word" ] || continue # of an empty list
        [[ $word =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || die "WORKER_ENV has the word $word; it is a list of NAME=VALUE."
        worker_env+=("$word")
    done <<<"$words"
    tpu_type
}

is_number() { [[ $1 =~ ^[0-9]+$ ]]; }

# From TPU_TYPE, in either spelling: ACCELERATOR (Google's), CHIPS and WORKERS of all slices, RUNTIME (the image).
# Suffixes of v4 and v5p count TensorCores, two a chip, the others chips; a machine of a multi-host slice has 4 chips.
# https://cloud.google.com/tpu/docs/v5e, …/v5p, …/v6e; images: https://cloud.google.com/tpu/docs/runtimes
tpu_type() {
    local generation shape chips cores=1
    case $TPU_TYPE in
        *:*) generation=${TPU_TYPE%%:*} shape=${TPU_TYPE#*:} ;;
        v5litepod-*) generation=v5e shape=${TPU_TYPE#*-} ;;
        *-*) generation=${TPU_TYPE%%-*} shape=${TPU_TYPE#*-} ;;
        *) generation='' shape='' ;;
    esac
    case $generation in
        v4) RUNTIME=tpu-ubuntu2204-base cores=2 ;;
        v5e) RUNTIME=v2-alpha-tpuv5-lite ;;
        v5p) RUNTIME=v2-alpha-tpuv5 cores=2 ;;
        v6e) RUNTIME=v2-alpha-tpuv6e ;;
        tpu7x)
            [ -n "${ON_GKE:-}" ] || die "TPU_TYPE=$TPU_TYPE is only available on GKE: launch/gke.sh."
            RUNTIME=
            ;;
        *) die "TPU_TYPE=$TPU_TYPE is unknown; write v6e:4x4, or v6e-16; there are v4, v5e, v5p and v6e." ;;
    esac
    [[ $shape =~ ^[0-9]+(x[0-9]+)*$ ]] || die "TPU_TYPE=$TPU_TYPE has no size; write $generation:4x4, or $generation-16."
    chips=$((${shape//x/*}))
    case $TPU_TYPE in *:*) ;; *) chips=$((chips / cores)) ;; esac
    [ "$chips" -ge 1 ] || die "TPU_TYPE=$TPU_TYPE has fewer than one chip."
    case $generation in
        v5e) ACCELERATOR=v5litepod-$chips ;;
        tpu7x) ACCELERATOR=tpu7x-$shape ;; # as xpk says it
        *) ACCELERATOR=$generation-$((chips * cores)) ;;
    esac
    WORKERS=$(((chips + 3) / 4))
    case $generation in v5e | v6e) [ "$chips" -gt 8 ] || WORKERS=1 ;; esac # 1, 4 and 8 chips are one machine there
    CHIPS=$((chips * SLICES))
    WORKERS=$((WORKERS * SLICES))
    export ACCELERATOR RUNTIME CHIPS WORKERS
}

# A mistake found here costs nothing; on the slice it costs minutes. The message is f2jax's own (check.py).
check_runs() { # [OPTIONS OF check.py] -- --config FILE:OPTIONS … --config.NAME=VALUE … [++ the same for each other run]
    local folder=$CHECKOUT platforms=cpu # a worker runs in its copy of the checkout
    case " $* " in *" --folder "*) folder=. platforms=${JAX_PLATFORMS:-} ;; esac
    (cd "$folder" && JAX_PLATFORMS=$platforms with_f2jax "$LAUNCH/check.py" "$@") || exit 1
}

python_here() { # the one of the checkout's .venv, where it has one
    if [ -z "${PYTHON:-}" ] && [ -x "$CHECKOUT/.venv/bin/python" ]; then
        echo "$CHECKOUT/.venv/bin/python"
    else
        echo "${PYTHON:-python3}"
    fi
}

with_f2jax() { PYTHONPATH=$CHECKOUT${PYTHONPATH:+:$PYTHONPATH} "$(python_here)" "$@"; }

has_f2jax() { with_f2jax -c 'import f2jax.train.optim' 2>/dev/null; }

need_checks() {
    has_f2jax || die "$(python_here) lacks what the f2jax of this checkout needs, and nothing is started unchecked:" \
        "pip install -e $CHECKOUT, or set PYTHON to one that has it."
}

check_config() { # --config FILE:OPTIONS … of one run on the slice
    case " $*" in
        *" --workdir gs://"* | *" --workdir=gs://"*) ;;
        *) die "a slice can be taken away with its disks: give train a --workdir on gs://." ;;
    esac
    need_checks
    check_runs --devices "$CHIPS" --slices "$SLICES" --data "$DATA" --data_dir "$DATA_DIR" -- "$@"
}

need() { # PROGRAM WHERE
    [ -n "$DRY_RUN" ] || command -v "$1" >/dev/null || die "$1 is not installed; get it from $2."
}

need_gcloud() { need gcloud https://cloud.google.com/sdk/docs/install; }

# ---- cloud calls -------------------------------------------------------------

# Words quoted for a shell, here or on a worker: " train '--config.data.sources=('\''x'\'',)'".
quoted() {
    local word
    for word in "$@"; do
        if [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
            printf ' %s' "$word"
        else
            printf " '%s'" "$(printf '%s' "$word" | sed "s/'/'\\\\''/g")"
        fi
    done
}

# Print a command as it could be typed, then run it; with --dry_run print only.
cloud() {
    [ -n "${QUIET:-}" ] || printf '+%s\n' "$(quoted "$@")" >&3
    [ -n "$DRY_RUN" ] || "$@"
}

tpus() { # VERB ARGUMENT…
    cloud gcloud compute tpus queued-resources "$@" --project="$PROJECT" --zone="$ZONE" --quiet
}

# Run a shell command on all workers of all slices at once, or, if ONE is set, on the first alone.
on_workers() { # COMMAND
    local where=all
    [ -z "${ONE:-}" ] || where=0
    tpus ssh "$TPU_NAME" --node="$where" --worker="$where" --batch-size=all --command="$1"
}

# The state of the request for the slice: ACTIVE, SUSPENDED, …; NONE if there is none; UNKNOWN without an answer.
# States: https://cloud.google.com/tpu/docs/queued-resources
slice_state() {
    local state
    if state=$(tpus describe "$TPU_NAME" --format='value(state.state)' 2>"$SCRATCH/error"); then
        if [ -n "$DRY_RUN" ]; then echo "${DRY_STATE:-ACTIVE}"; else echo "$state"; fi
    elif grep -qi 'not.found' "$SCRATCH/error"; then
        echo NONE
    else
        cat "$SCRATCH/error" >&2
        echo UNKNOWN
    fi
}

# One line from each worker that answers (see worker.sh): f2jax-worker HOST STATE COMMAND COMMIT VERSIONS ASKED
worker_reports() {
    { on_workers 'bash ~/f2jax/launch/worker.sh report' 2>"$SCRATCH/ssh" || true; } | grep '^f2jax-worker ' || true
}

need_slice() {
    local state
    state=$(slice_state)
    [ "$state" != ACTIVE ] || return 0
    [ "$state" != NONE ] || die "slice $TPU_NAME does not exist (state NONE); launch/create.sh creates it."
    temporary "slice $TPU_NAME is $state; launch/create.sh waits for it, or creates it again."
}

# Delete the slice, also if the cloud fails to answer once. A slice that is gone already counts as deleted.
delete_slice() {
    local try
    for try in 1 2 3; do
        tpus delete "$TPU_NAME" --force 2>"$SCRATCH/error" && return
        ! grep -qi 'not.found' "$SCRATCH/error" || return 0
        cat "$SCRATCH/error" >&2
        [ "$try" -eq 3 ] || sleep "$POLL"
    done
    return 1
}

confirm() { # QUESTION
    [ -z "$DRY_RUN" ] || return 0
    local answer=
    printf '%s [y/N] ' "$1" >&2
    read -r answer || true
    case $answer in y | Y | yes) ;; *) die "nothing was done." ;; esac
}

SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT
