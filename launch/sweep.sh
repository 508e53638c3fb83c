#!/usr/bin/env bash
# Train once for each combination of values, each in a workdir of its own; the same command continues and skips what is
# done. Before anything costs money, every combination is checked and listed, and you are asked to confirm.
#     launch/sweep.sh [--dry_run] [--yes] [--plan] [--slices N] --config FILE:OPTIONS --workdir gs://bucket/sweep \
#         --grid optim.peak_lr=2e-5,4e-5 --grid seed=0,1 [--grid_file FILE] [-- --config.steps=1000 …]
#     --grid FIELD=V1,V2   a field of the config and its values; separate values that contain commas by |.
#                          :OPTION=V1,V2 is an option of the config, as in FILE:OPTION=V1
#     --grid_file FILE     the same, one per line; # begins a comment
#     --slices N           1, the default: one run after another on the slice TPU_NAME, which is kept
#                          N: slices TPU_NAME-1 … TPU_NAME-N are created and share the runs; each is deleted when its
#                          runs have ended
#     --plan               first also compile each training for the slice, once for those that take the same step: whether
#                          it fits, how many days it takes. Takes minutes each, and needs the TPU compiler on this machine
#                          (pip install -e .[tpu])
#     --local              run f2jax on this machine instead of a slice, one run after another; --workdir is a folder,
#                          which has the logs too
# Logs are in runs/<name of the workdir>/, one per run. The exit code is 1 if a run has failed. Compiled programs are in
# WORKDIR/compiled for all runs, unless JAX_COMPILATION_CACHE_DIR (on slices, one in WORKER_ENV) names another folder.
# Then: f2jax compare --output page WORKDIR
. "$(dirname "$0")/lib.sh"
config='' workdir='' slices=1 yes='' here='' plan=''
axes=() fixed=()
value_of() { [ $# -gt 1 ] || die "$1 needs a value."; }
while [ $# -gt 0 ]; do
    case $1 in --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;; esac
    case $1 in
        --dry_run) DRY_RUN=1 ;;
        --yes) yes=1 ;;
        --local) here=1 ;;
        --plan) plan=1 ;;
        --config) value_of "$@" && config=$2 && shift ;;
        --workdir) value_of "$@" && workdir=${2%/} && shift ;;
        --slices) value_of "$@" && slices=$2 && shift ;;
        --grid) value_of "$@" && axes+=("$2") && shift ;;
        --grid_file)
            value_of "$@"
            [ -f "$2" ] || die "there is no file $2."
            while IFS= read -r line || [ -n "$line" ]; do
                line=$(printf '%s' "${line%%#*}" | tr -d '[:space:]')
                [ -z "$line" ] || axes+=("$line")
            done <"$2"
            shift
            ;;
        --)
            fixed=("${@:2}")
            break
            ;;
        -h | --help) usage ;;
        *) die "sweep.sh has no option '$1'; see launch/sweep.sh --help." ;;
    esac
    shift
done
[ -n "$config" ] || die "say what to train: --config configs/stage2.py:size=80m"
if [ -n "$here" ]; then
    case $workdir in '' | gs://*) die "--local trains in a folder: --workdir runs/sweep." ;; esac
    [ "$slices" = 1 ] || die "--local trains on this machine alone; leave --slices out."
    [ -z "$plan" ] || die "--plan is for a slice; leave it out with --local."
else
    case $workdir in gs://*/*) ;; *) die "--workdir should be a folder of a bucket: gs://bucket/sweep." ;; esac
fi
[ "${#axes[@]}" -gt 0 ] || die "say what to vary: --grid optim.peak_lr=2e-5,4e-5"
is_number "$slices" && [ "$slices" -ge 1 ] || die "--slices should be a whole number, at least 1."
if [ -n "$here" ]; then
    need f2jax "this checkout: pip install -e $CHECKOUT"
    logs=$workdir train=(f2jax train) where='this machine' TPU_NAME=here
else
    settings
    need_gcloud
    logs=$CHECKOUT/runs/$(basename "$workdir") train=("$LAUNCH/run.sh" train)
    where="$slices x $CHIPS chips of $TPU_TYPE ($CAPACITY)"
fi

export F2JAX_COMPILED=$workdir/compiled # runs that differ in their seed or data run the same programs

# All combinations, each as its overrides on one line.
runs=('')
for axis in "${axes[@]}"; do
    field=${axis%%=*} values=${axis#*=}
    [[ $axis =~ ^:?[A-Za-z0-9_.]+=.+ ]] || die "'$axis' should be FIELD=VALUE,VALUE."
    separator=,
    case $values in *\|*) separator='|' ;; esac
    longer=()
    for run in "${runs[@]}"; do
        rest=$values$separator
        while [ -n "$rest" ]; do
            longer+=("$run$field=${rest%%"$separator"*}"$'\n')
            rest=${rest#*"$separator"}
        done
    done
    runs=("${longer[@]}")
done

words_of() { # RUN: sets words, the config of a run, its workdir and its fields
    local line spec=$config fields=(${fixed[@]+"${fixed[@]}"})
    while IFS= read -r line; do
        case $line in
            '') ;;
            :*) case $spec in *:*) spec+=,${line#:} ;; *) spec+=$line ;; esac ;;
            *) fields+=("--config.$line") ;;
        esac
    done <<<"$1"
    words=(--config "$spec" --workdir "$workdir/$(name_of "$1")" ${fields[@]+"${fields[@]}"})
}

name_of() { # RUN: optim.peak_lr=2e-5,seed=0, a name that a bucket and a shell take
    printf '%s' "$1" | sed 's/^://' | paste -s -d, - | tr -c 'A-Za-z0-9_.,=\n-' '-'
}

twice=$(for run in "${runs[@]}"; do name_of "$run"; done | sort | uniq -d | head -1)
[ -z "$twice" ] || die "two runs would be called $twice; give values that differ in letters and digits."

checked=()
for run in "${runs[@]}"; do
    [ ! -f "$logs/$(name_of "$run").done" ] || continue # what is done needs no room
    words_of "$run"
    checked+=(++ "${words[@]}")
done
need_checks
where_to=(--devices "${CHIPS:-0}" --slices "${SLICES:-1}" ${DATA_DIR:+--data "$DATA" --data_dir "$DATA_DIR"})
[ -z "$here" ] || where_to=(--devices 0 --folder "$workdir")
[ -z "$plan" ] || where_to+=(--plan "$TPU_TYPE" ${PRICE:+--price "$PRICE"})
check_runs "${where_to[@]}" -- ${checked[@]+"${checked[@]:1}"}
for run in "${runs[@]}"; do
    mark=
    [ ! -f "$logs/$(name_of "$run").done" ] || mark=' (done)'
    say "$workdir/$(name_of "$run")$mark"
done
say "${#runs[@]} runs on $where."
[ -n "$yes" ] || confirm "Start?"
[ -n "$DRY_RUN" ] || mkdir -p "$logs"

# The runs that one slice gets, one after another.
work() { # NUMBER OF THE SLICE, from 0
    local index run name code child=
    [ "$slices" -eq 1 ] || trap '[ -z "$child" ] || kill "$child"; exit 130' TERM # on one slice the trap below ends both
    for ((index = $1; index < ${#runs[@]}; index += slices)); do
        run=${runs[index]} name=$(name_of "${runs[index]}") code=0
        [ ! -f "$logs/$name.done" ] || continue
        words_of "$run"
        say "$(date '+%F %T') $TPU_NAME: $name"
        if [ -n "$DRY_RUN" ] && [ -n "$here" ]; then
            printf '+%s\n' "$(quoted "${train[@]}" "${words[@]}")" >&3
            continue
        elif [ -n "$DRY_RUN" ]; then
            "${train[@]}" "${words[@]}"
            continue
        fi
        "${train[@]}" "${words[@]}" >>"$logs/$name.log" 2>&1 &
        child=$! # in the background: a trap does not wait for it
        wait "$child" || code=$?
        case $code in
            0) touch "$logs/$name.done" ;;
            130) return 130 ;;
            *) say "$name failed (exit code $code): $logs/$name.log" ;;
        esac
    done
    local log=/dev/stderr
    [ -n "$DRY_RUN" ] || log=$logs/$TPU_NAME.log
    [ "$slices" -eq 1 ] || "$LAUNCH/delete.sh" --yes >>"$log" 2>&1
}

farewell='Not followed any more: what runs goes on by itself, and slices stay. The same command follows it.'
[ -z "$here" ] || farewell='Stopped once the run has saved; run the same command to continue.'
trap 'say "$farewell"; kill $(jobs -p) 2>/dev/null; [ -z "$here" ] || wait; exit 130' INT TERM
if [ "$slices" -eq 1 ]; then
    work 0
else
    base=$TPU_NAME
    for ((slice = 0; slice < slices && slice < ${#runs[@]}; slice++)); do
        export TPU_NAME=$base-$((slice + 1))
        work "$slice" &
    done
    wait
fi

failed=0
for run in "${runs[@]}"; do
    name=$(name_of "$run") state='done'
    [ -f "$logs/$name.done" ] || { state='not done' && failed=1; }
    echo "$state  $workdir/$name"
done
[ -n "$DRY_RUN" ] || exit "$failed"
