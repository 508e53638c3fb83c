#!/usr/bin/env bash
# What distillation, pruning and Matryoshka are worth: the rows of configs/ablation.py, three seeds each. A step that is
# done is skipped, and one that was cut off goes on, by the same command.
#     launch/ablations/run.sh [--dry_run] --teacher RUN --from RUN --corpus FOLDER --texts FILES --data FOLDER
#         --output FOLDER [--rows "distilled alone …"] [--seeds "0 1 2"] [--stage 2]
#         [--languages "eng …"] [-- --config.… …]
#         --teacher  a finished model, and --from the one that students are cut from: runs of configs/mini.py
#         --corpus   of f2jax prepare, with instructions; --texts: files that activations are measured on
#         --stage 1  students train as in stage 1 of configs/mini.py: teacher, corpus and scores have no instructions
#         --data     folder of the evaluation sets
#         --rows     names in configs/ablation.py; default: thirteen that go with the recipe
#         --languages  that are scored, as ISO 639-3 codes; default: all of STS-B and XQuAD
#         --         what follows is given to each `f2jax train`
# Then: python -m benchmarks.ablations --output FOLDER
. "$(dirname "$0")/../lib.sh"
teacher='' from='' corpus='' texts='' data='' output='' seeds='0 1 2' stage=2 languages=''
rows='distilled alone random_start random_start_alone random_channels first_channels first_channels_alone
ordered_channels first_layer last_layer no_matryoshka stop_gradient cached'
shape=(--width 64 --mlp 128) tasks=(STSB.local XQuAD.local) train=() scored=()
while [ $# -gt 0 ]; do
    case $1 in --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;; esac
    case $1 in
        --dry_run) DRY_RUN=1 && shift && continue ;;
        --) train=("${@:2}") && break ;;
        -h | --help) usage ;;
        --teacher | --from | --corpus | --texts | --data | --output | --rows | --seeds | --stage | --languages) ;;
        *) die "run.sh has no option '$1'; see launch/ablations/run.sh --help." ;;
    esac
    [ $# -gt 1 ] || die "$1 needs a value."
    declare "${1#--}=$2"
    shift 2
done
for name in teacher from corpus texts data output; do
    [ -n "${!name}" ] || die "--$name is missing; see launch/ablations/run.sh --help."
done
[ "$stage" != 1 ] || scored+=(--prompts none)
[ -z "$languages" ] || IFS=' ' read -ra scored <<<"${scored[*]} --languages $languages"
need f2jax "this checkout: pip install -e $CHECKOUT"
IFS=' ' read -ra calibration <<<"$texts" # f2jax expands the globs

step() { # FILE COMMAND…: run it, unless the file is there that a whole run leaves
    local mark=$1
    shift
    [ ! -e "$mark" ] || return 0
    printf '+%s\n' "$(quoted "$@")" >&3
    [ -z "$DRY_RUN" ] || return 0
    "$@" || die "that has not ended well (exit code $?); the same command goes on from here."
    mkdir -p "$(dirname "$mark")"
    touch "$mark"
}

student() { # ROW SEED: the folder that the row starts from, made where it is not there
    local name=importance options=()
    case $1 in
        random_channels) name=random-$2 options=(--channels random --neurons random --no-rescale --seed "$2") ;;
        first_channels*) name=first options=(--channels first) ;;
        ordered_channels) name=ordered options=(--order importance) ;;
        first_layer) name=layer-0 options=(--keep-layers 0 --layers 1) ;;
        last_layer) name=layer-1 options=(--keep-layers 1 --layers 1) ;;
    esac
    start=$output/students/$name
    step "$output/done/student-$name" f2jax prune --model "$from" "${shape[@]}" --data "${calibration[@]}" \
        --output "$start" "${options[@]}"
}

for seed in $seeds; do
    for row in $rows; do
        student "$row" "$seed"
        cache=''
        if [ "$row" = cached ]; then
            cache=$output/teacher
            step "$output/done/cache" f2jax cache_teacher --model "$teacher" --corpus "$corpus" --width 64 \
                --output "$cache"
        fi
        run=$row-$seed
        config=$CHECKOUT/configs/ablation.py:stage=$stage,row=$row,start=$start,teacher=$teacher,cache=$cache,seed=$seed
        step "$output/done/$run" f2jax train --config "$config" --workdir "$output/runs/$run" \
            --config.data.sources="('corpus:$corpus',)" "${train[@]}"
        step "$output/done/scores-$run" f2jax evaluate --model "$output/runs/$run" --data "$data" \
            --tasks "${tasks[@]}" --dims 64 32 16 8 --precisions "${scored[@]}" --name "ablation/$run" \
            --output "$output/scores"
    done
done
say "Table and plots: python -m benchmarks.ablations --output $output"
