#!/usr/bin/env bash
# What happens on a worker of a slice. The other scripts call it over ssh; it is not run by hand.
#     worker.sh setup COMMIT ASKED PYTHON EXTRAS [gs://DATA DIR]   Python, f2jax and its data, as they should be
#                                   ASKED: a checksum of what follows, so that a later set-up knows whether to do anything
#     worker.sh start COMMAND…      run a command detached from the connection; its log and exit code are kept
#     worker.sh report              one line: f2jax-worker HOST STATE COMMAND COMMIT VERSIONS ASKED
#                                   STATE: none, running, exit:CODE, stopped:CODE, lost (the machine was restarted)
#     worker.sh stop [SECONDS]      SIGTERM, so that the run saves; SIGKILL after SECONDS
#     worker.sh log [tail options]  each line with the name of the host
set -euo pipefail

RUN=~/f2jax-run         # pid, boot, command, log; exit and stopped once it has ended
READY=~/f2jax-run/ready # commit, versions, what was asked for; written last, so half a set-up is none
VENV=~/f2jax-env
BOOT=/proc/sys/kernel/random/boot_id # another one after a restart of the machine, when a pid means nothing

setup() { # COMMIT ASKED PYTHON EXTRAS [DATA DIR]
    mkdir -p "$RUN"
    rm -f "$READY"
    export PATH="$HOME/.local/bin:$PATH"
    command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh # https://docs.astral.sh/uv
    if [ "$(cat "$VENV/version" 2>/dev/null)" != "$3" ]; then
        rm -rf "$VENV"
        uv venv --quiet --python "$3" "$VENV"
        echo "$3" >"$VENV/version"
    fi
    uv pip install --quiet --python "$VENV/bin/python" -e "$HOME/f2jax[$4]"
    if [ -n "${5:-}" ]; then
        mkdir -p "$6"
        gcloud storage rsync --recursive "$5" "$6"
    fi
    printf '%s %s %s\n' "$1" "$(versions)" "$2" >"$READY.new"
    mv "$READY.new" "$READY"
}

versions() {
    "$VENV/bin/python" -c 'from importlib.metadata import version as v
print(",".join(f"{name}={v(name)}" for name in ("f2jax", "jax", "libtpu")))'
}

start() { # COMMAND…
    mkdir -p "$RUN"
    [ "$(state)" != running ] || { echo "$(hostname): a run is in progress" >&2; exit 1; }
    rm -f "$RUN/exit" "$RUN/stopped"
    printf '%s' "$*" >"$RUN/command"
    printf '== %s: %s\n' "$(date -u +%FT%TZ)" "$*" >>"$RUN/log"
    # A session of its own: it outlives the connection, and is stopped as a whole.
    # shellcheck disable=SC2016  # expanded by that session's shell
    PATH="$VENV/bin:$PATH" setsid nohup bash -c 'code=0; cd ~/f2jax; env "$@" || code=$?; echo "$code" >~/f2jax-run/exit' \
        run "$@" </dev/null >>"$RUN/log" 2>&1 &
    cat "$BOOT" >"$RUN/boot"
    echo $! >"$RUN/pid"
}

state() {
    if [ ! -f "$RUN/pid" ]; then
        echo none
    elif [ -f "$RUN/exit" ]; then
        local how=exit
        [ ! -f "$RUN/stopped" ] || how=stopped
        echo "$how:$(cat "$RUN/exit")"
    elif [ "$(cat "$BOOT")" = "$(cat "$RUN/boot")" ] && kill -0 "$(cat "$RUN/pid")" 2>/dev/null; then
        echo running
    else
        echo lost
    fi
}

report() {
    local command=- ready='- - -'
    [ ! -f "$RUN/command" ] || command=$(cksum <"$RUN/command" | cut -d' ' -f1)
    [ ! -f "$READY" ] || ready=$(cat "$READY")
    echo "f2jax-worker $(hostname) $(state) $command $ready"
}

stop() { # [SECONDS]
    [ "$(state)" = running ] || return 0
    local group
    group=$(cat "$RUN/pid")
    touch "$RUN/stopped"
    # The command itself gets the signal, not the shell that writes down its exit code.
    pkill -TERM -P "$group" || true
    for _ in $(seq "${1:-600}"); do
        [ "$(state)" = running ] || return 0
        sleep 1
    done
    kill -KILL -- "-$group"
    echo 137 >"$RUN/exit"
}

log() { # [tail options]
    tail "$@" "$RUN/log" | sed -u "s/^/$(hostname): /"
}

"$@"
