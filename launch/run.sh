#!/usr/bin/env bash
# Run one f2jax command on all workers of the slice until it is done, whatever happens to the slice in between.
#     launch/run.sh [--dry_run] [--one] [--then_delete] train --config configs/stage2.py:size=80m --workdir gs://…
#         --one           on the first worker alone, and on its CPU if the slice has more workers: prune, merge, export
#         --then_delete   delete the slice once the run has ended, well or badly
#
# The run is detached on the workers: closing the laptop does not end it, and the same command follows it again. While
# this script runs, it reacts to the end of a run as follows:
#     exit code 0                  done
#     exit code 1                  a person has to fix something (f2jax says what in one line): stop and print it
#     any other                    start again after a pause that doubles each time, at most RETRIES times in a row
#     a slice taken away (spot),   create it, set it up, start again: f2jax resumes from its last checkpoint
#     or with lost machines
#     launch/stop.sh               the run has been saved and stopped: exit with 130
. "$(dirname "$0")/lib.sh"
delete=
while [ $# -gt 0 ]; do
    case $1 in
        --dry_run) DRY_RUN=1 ;;
        --one) ONE=1 ;;
        --then_delete) delete=1 ;;
        -h | --help) usage ;;
        -*) die "run.sh has no option '$1'; options of f2jax come after its command: launch/run.sh train --config …" ;;
        *) break ;;
    esac
    shift
done
[ $# -gt 0 ] || die "say what to run: launch/run.sh train --config … --workdir …"
[ "$1" != f2jax ] || shift
settings
need_gcloud
[ "$1" != train ] || check_config "${@:2}"

command=(${worker_env[@]+"${worker_env[@]}"})
if [ -n "${ONE:-}" ] && [ "$WORKERS" -gt 1 ]; then
    command+=(JAX_PLATFORMS=cpu) # the chips of a slice start together or not at all
fi
[ -z "${ONE:-}" ] || WORKERS=1
command+=(f2jax "$@")
name=$(printf '%s' "${command[*]}" | cksum | cut -d' ' -f1)

finish() { # CODE
    [ -z "$delete" ] || "$LAUNCH/delete.sh" --yes
    exit "$1"
}

stop_all() { # SECONDS
    on_workers "bash ~/f2jax/launch/worker.sh stop $1" || true
}

last_lines() {
    say "The end of the logs:"
    on_workers 'bash ~/f2jax/launch/worker.sh log -n 15' >&2 || true
}

# The states of the workers for this command, from their reports: "running running exit:137".
states() { awk -v name="$name" '$4 == name {print $3}' "$SCRATCH/reports"; }

# Do all that is needed until the command runs. 0: it runs.
start() {
    if [ "$(slice_state)" = ACTIVE ] && worker_reports >"$SCRATCH/reports" && grep -q ' running ' "$SCRATCH/reports"; then
        grep ' running ' "$SCRATCH/reports" | awk -v name="$name" '$4 != name {other = 1} END {exit !other}' &&
            die "slice $TPU_NAME runs another command; launch/status.sh shows it, launch/stop.sh stops it."
        if [ "$(states | grep -c running)" -eq "$WORKERS" ]; then
            say "The command runs already; following it."
            return 0
        fi
        stop_all "$GRACE" # some of an attempt that broke
    fi
    "$LAUNCH/create.sh" || return $?
    "$LAUNCH/setup.sh" || return $?
    say "$(date '+%F %T') starting on $WORKERS workers."
    # The folder of compiled programs is no part of the command, by which a run is identified.
    on_workers "${F2JAX_COMPILED:+env$(quoted "F2JAX_COMPILED=$F2JAX_COMPILED") }bash ~/f2jax/launch/worker.sh start$(
        quoted "${command[@]}"
    )" || return "$TEMPORARY"
}

# Watch the workers until the run has ended; sets outcome.
follow() {
    local state broken_since='' silent=0 seen=''
    while :; do
        sleep "$POLL"
        state=$(slice_state)
        export QUIET=1 # the two questions are printed once
        case $state in
            ACTIVE) ;;
            UNKNOWN) continue ;; # no answer from the cloud says nothing about the run
            *)
                outcome="the slice is $state"
                return
                ;;
        esac
        worker_reports >"$SCRATCH/reports"
        local now codes running
        codes=$(states | sort | uniq -c | awk '{printf "%s%s x %s", sep, $1, $2; sep = ", "}')
        [ "$codes" = "$seen" ] || say "$(date '+%F %T') workers: ${codes:-no answer}"
        seen=$codes
        running=$(states | grep -c '^running$' || true)
        if states | grep -q '^exit:1$'; then
            outcome=mend
            return
        elif states | grep -q '^stopped:'; then
            outcome=stopped
            return
        elif [ "$(states | wc -l)" -lt "$WORKERS" ]; then
            silent=$((silent + 1))
            [ "$silent" -lt "$SILENCE" ] && continue
            outcome="$((WORKERS - $(states | wc -l))) of $WORKERS workers do not answer"
            if [ -s "$SCRATCH/reports" ] && [ "$running" -eq 0 ]; then
                outcome="the slice has lost machines" # the others have ended for want of them
                delete_slice || outcome="a slice that has lost machines could not be deleted"
            fi
            return
        elif [ "$(states | grep -c '^exit:0$' || true)" -eq "$WORKERS" ]; then
            outcome='done'
            return
        fi
        silent=0
        [ "$(states | grep -cE '^(running|exit:0)$' || true)" -lt "$WORKERS" ] || continue
        # Some failed; the others notice, save if they can, and end: they get GRACE seconds for that.
        now=$(date +%s)
        broken_since=${broken_since:-$now}
        if [ "$running" -eq 0 ] || [ $((now - broken_since)) -ge "$GRACE" ]; then
            outcome="the workers ended with $codes"
            [ "$running" -eq 0 ] || stop_all 10
            return
        fi
    done
}

trap 'say "Not followed any more: a run goes on by itself. The same command follows it, launch/stop.sh stops it."
      exit 130' INT TERM

# No answer at the start means a wrong project or a missing login; later it means the network, which comes back.
[ "$(QUIET=1 slice_state)" != UNKNOWN ] || die "Google Cloud did not say whether $TPU_NAME exists; its reason is above."

failures=0
while :; do
    unset QUIET
    code=0
    start || code=$?
    began=$(date +%s) # the wait for a slice is no attempt that lasted
    case $code in
        0)
            if [ -n "$DRY_RUN" ]; then
                worker_reports
                say "… and look at the workers every $POLL seconds, until the run has ended."
                finish 0
            fi
            follow
            ;;
        1) finish 1 ;; # create.sh or setup.sh has said what to mend
        *) outcome="the slice was not made ready" ;;
    esac
    unset QUIET
    case $outcome in
        'done')
            say "$(date '+%F %T') done."
            finish 0
            ;;
        mend)
            last_lines
            stop_all 60
            say "launch: f2jax says above what to change (exit code 1); then run the same command again."
            finish 1
            ;;
        stopped)
            say "$(date '+%F %T') stopped and saved; run the same command to continue."
            finish 130
            ;;
        *answer)
            last_lines
            say "launch: $outcome, though the slice is ACTIVE; see launch/status.sh, and if it is broken, delete it with launch/delete.sh:" \
                "the same command then creates it again and continues."
            exit "$TEMPORARY"
            ;;
    esac
    case $outcome in the\ workers*) last_lines ;; esac
    [ $(($(date +%s) - began)) -lt "$HEALTHY" ] || failures=0
    failures=$((failures + 1))
    if [ "$failures" -gt "$RETRIES" ]; then
        say "launch: $outcome; given up after $RETRIES restarts that each ended within $HEALTHY seconds."
        finish "$TEMPORARY"
    fi
    pause=$((BACKOFF * (1 << (failures - 1 > 9 ? 9 : failures - 1))))
    [ "$pause" -le 900 ] || pause=900
    say "$(date '+%F %T') $outcome; restart $failures of $RETRIES in $pause seconds."
    sleep "$pause"
done
