#!/usr/bin/env bash
# Put this checkout on every worker of the slice: Python, f2jax with its TPU libraries, the data of DATA; then verify
# that all workers have the same commit and the same versions. If that has been done already, it takes seconds.
#     launch/setup.sh [--dry_run]
# Exit code: 0 ready; 1 something has to be fixed; 75 a worker failed or the slice went away, so another try may help.
. "$(dirname "$0")/lib.sh"
only_dry_run "$@"
settings
need_gcloud
need git https://git-scm.com

cd "$CHECKOUT"
commit=$(git rev-parse HEAD)
if [ -n "$(git status --porcelain)" ] && [ -z "$DRY_RUN" ]; then
    git status --short >&2
    die "these changes are not committed; commit them, so that a commit identifies the code of a run."
fi

asked=$(printf '%s' "$PYTHON_VERSION $EXTRAS $DATA $DATA_DIR" | cksum | cut -d' ' -f1)

# Every worker answers, with this commit and what is asked for now, and all have the same versions.
ready() {
    worker_reports >"$SCRATCH/reports"
    [ "$(wc -l <"$SCRATCH/reports")" -eq "$WORKERS" ] || return 1
    [ "$(cut -d' ' -f5- "$SCRATCH/reports" | sort -u | cut -d' ' -f1,3)" = "$commit $asked" ]
}

need_slice
if [ -z "$DRY_RUN" ] && ready; then
    say "$WORKERS workers have ${commit:0:12} ($(head -1 "$SCRATCH/reports" | cut -d' ' -f6))."
    exit 0
fi
if [ -z "$DRY_RUN" ] && grep -q ' running ' "$SCRATCH/reports"; then
    die "a run with other code or data is in progress; launch/stop.sh saves and stops it."
fi

say "Putting ${commit:0:12} on $WORKERS workers."
git archive --format=tar.gz --output="$SCRATCH/f2jax.tar.gz" HEAD
tpus scp "$SCRATCH/f2jax.tar.gz" "$TPU_NAME:" --node=all --worker=all --batch-size=all || {
    temporary "the checkout could not be copied to every worker; the same command tries again."
}
data=
[ -z "$DATA" ] || data=$(quoted "$DATA" "$DATA_DIR")
on_workers "rm -rf ~/f2jax && mkdir ~/f2jax && tar -xzf ~/f2jax.tar.gz -C ~/f2jax &&
 bash ~/f2jax/launch/worker.sh setup $commit $asked $PYTHON_VERSION $EXTRAS$data || echo \"\$(hostname): set-up failed\"" ||
    say "launch: not every worker could be reached."

[ -z "$DRY_RUN" ] || exit 0
ready || {
    say "Workers that answer (host, state, command, commit, versions, set-up):"
    cut -d' ' -f2- "$SCRATCH/reports" >&2
    temporary "not all of $WORKERS workers are ready with ${commit:0:12}; the messages above say what failed where."
}
say "$WORKERS workers have ${commit:0:12} ($(head -1 "$SCRATCH/reports" | cut -d' ' -f6))."
