#!/usr/bin/env bash
# How the family is made: every model of F2LLM-v2 in order, from raw files to released packages. Each step is one f2jax
# command. Run the same command again to skip the steps that are done and resume one that was interrupted.
#     launch/family.sh [--dry_run] [--local] --stage1 FILES --stage2 FILES --output FOLDER [--sizes "80m 0.6b …"] \
#         [--merge STEPS] [--benchmarks "english code …"] [--plan] [-- --config.model.remat=mlp …]
#         --stage1, --stage2  globs of training files for the two stages; on a slice, those of stage 1 are on gs://
#         --output            on gs://, or with --local a folder: corpora, workdirs, results, packages
#         --sizes             default: all eight. A size whose teacher is neither among them nor trained already is
#                             trained without a teacher.
#         --merge STEPS       release the average of the checkpoints of the last STEPS steps, not the last one
#         --benchmarks        the mteb benchmarks to score the packages on at the end; default: the 17 of the paper.
#                             builtin: the tasks that come with f2jax, which need neither the network nor an accelerator
#         --plan              before the first step, also compile each training for the slice: whether it fits, how many
#                             days it takes, what it costs. Takes minutes each, and needs the TPU compiler on this
#                             machine (pip install -e .[tpu])
#         --local             run f2jax on this machine instead of a slice
#         -- OVERRIDES        for the config of every training; by default all devices share the weights, which the large
#                             sizes need: --config.mesh.data=1 --config.mesh.fsdp=-1
# With a slice, corpora are made on this machine and copied to the bucket; set DATA to FOLDER/corpus in launch/env.sh, and
# set-up copies it to the workers. One TPU_TYPE for all sizes is simple, not cheap: `f2jax plan` says which slice and
# layout suit each size. Run the script for some --sizes at a time, the large ones first, with the same --output and
# checkout.
. "$(dirname "$0")/lib.sh"
stage1='' stage2='' output='' here='' plan='' merge='' sizes='14b 8b 4b 1.7b 0.6b 330m 160m 80m'
benchmarks='multilingual english code medical european scandinavian indic german french korean polish chinese japanese'
benchmarks+=' dutch russian persian vietnamese'
overrides=(--config.mesh.data=1 --config.mesh.fsdp=-1) # later ones win
value_of() { [ $# -gt 1 ] || die "$1 needs a value."; }
while [ $# -gt 0 ]; do
    case $1 in --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;; esac
    case $1 in
        --dry_run) DRY_RUN=1 ;;
        --local) here=1 ;;
        --stage1) value_of "$@" && stage1=$2 && shift ;;
        --stage2) value_of "$@" && stage2=$2 && shift ;;
        --output) value_of "$@" && output=${2%/} && shift ;;
        --sizes) value_of "$@" && sizes=$2 && shift ;;
        --merge) value_of "$@" && merge=$2 && shift ;;
        --benchmarks) value_of "$@" && benchmarks=$2 && shift ;;
        --plan) plan=1 ;;
        --)
            overrides+=("${@:2}")
            break
            ;;
        -h | --help) usage ;;
        *) die "family.sh has no option '$1'; see launch/family.sh --help." ;;
    esac
    shift
done
[ -n "$stage1" ] && [ -n "$stage2" ] && [ -n "$output" ] ||
    die "say what to train on and where to write: --stage1 'raw1/*.parquet' --stage2 'raw2/*.parquet' --output FOLDER"
for size in $sizes; do
    case $size in 80m | 160m | 330m | 0.6b | 1.7b | 4b | 8b | 14b) ;; *) die "there is no size '$size'." ;; esac
done
[ -z "$merge" ] || is_number "$merge" || die "--merge should be a number of steps, such as 2500."
[ -z "$plan" ] || [ -z "$here" ] || die "--plan is for a slice; leave it out with --local."
wanted() { case " $sizes " in *" $1 "*) ;; *) return 1 ;; esac; }
marks=$CHECKOUT/runs/family/$(printf '%s' "$output" | tr -c 'A-Za-z0-9.-' '-') # one empty file for each step that is done
is_done() { [ -f "$marks/$1" ]; }
for size in 80m 160m 330m; do
    ! wanted $size || wanted 0.6b || is_done train-0.6b-1 || die "$size is pruned from 0.6b: add that to --sizes."
done

IFS=' ' read -ra input1 <<<"$stage1" # f2jax expands the globs
IFS=' ' read -ra input2 <<<"$stage2"

if [ -n "$here" ]; then
    case $output in gs://*) die "--local writes to a folder, not to $output." ;; esac
    need f2jax "this checkout: pip install -e $CHECKOUT"
    corpus=$output/corpus configs=$CHECKOUT/configs
    train=(f2jax) once=(f2jax)
else
    settings
    case $output in gs://*) ;; *) die "a slice writes to a bucket: --output gs://bucket/family." ;; esac
    [ "${DATA%/}" = "$output/corpus" ] || die "set DATA=$output/corpus in launch/env.sh, so that the workers get it."
    for file in "${input1[@]}"; do
        case $file in gs://*) ;; *) die "a worker reads the files of --stage1 to measure what to prune: put $file on gs://." ;; esac
    done
    need f2jax "this checkout: pip install -e $CHECKOUT"
    need_gcloud
    case $benchmarks:$EXTRAS in builtin:* | *mteb*) ;; *) die "benchmarks need mteb on the workers: add it to EXTRAS in launch/env.sh, as tpu,eval,mteb." ;; esac
    corpus=$CHECKOUT/runs/family/corpus configs=configs # a worker runs in its copy of the checkout
    train=("$LAUNCH/run.sh") once=("$LAUNCH/run.sh" --one)
fi
need hf "PyPI: pip install huggingface-hub"

step() { # NAME COMMAND…: run it, unless it is done
    if is_done "$1"; then
        say "$1: done"
        return
    fi
    always "$@"
    [ -n "$DRY_RUN" ] || { mkdir -p "$marks" && touch "$marks/$1"; }
}

always() { # NAME COMMAND…: run it, as what it is made of grows from call to call
    local name=$1
    shift
    say "$name"
    if [ -n "$DRY_RUN" ]; then
        printf '+%s\n' "$(quoted "$@")" >&3
        return
    fi
    "$@" || die "$name failed with exit code $?; run the same command to continue from here."
}

sources() { # STAGE: where the workers, or this machine, read the corpus
    local folder=$corpus
    [ -n "$here" ] || folder=$DATA_DIR
    printf "%s=('corpus:%s/%s',)" --config.data.sources "$folder" "$1"
}

first_stage() { # SIZE: sets words, the options of its training from Qwen3's language model
    words=(--config "$configs/stage1.py:size=$1" --workdir "$output/$1-1"
        --config.init_from="Qwen/Qwen3-$(printf '%s' "$1" | tr b B)" "$(sources 1)" "${overrides[@]}")
}

second_stage() { # SIZE: sets words; teachers are those of recipe 2.2, where they are trained
    local teacher
    case $1 in
        1.7b) teacher=4b ;;
        0.6b) teacher=1.7b ;;
        330m | 160m | 80m) teacher=0.6b ;;
        *) teacher=none ;;
    esac
    if wanted "$teacher" || is_done "train-$teacher-2"; then teacher=$output/$teacher-2; else teacher=none; fi
    words=(--config "$configs/stage2.py:size=$1,teacher=$teacher" --workdir "$output/$1-2"
        --config.init_from="$output/$1-1" "$(sources 2)" "${overrides[@]}")
}

# Every training that is not done is checked before the first step, because a later one may start days later.
trainings=() given=("$corpus/1" "$corpus/2")
for size in 14b 8b 4b 1.7b 0.6b 330m 160m 80m; do
    given+=("$output/$size-1" "$output/$size-2") # made by steps, now or before
    wanted $size || continue
    case $size in *b) is_done train-$size-1 || { first_stage $size && trainings+=(++ "${words[@]}"); } ;; esac
    is_done train-$size-2 || { second_stage $size && trainings+=(++ "${words[@]}"); }
done
need_checks
where_to=(--devices "${CHIPS:-0}" --slices "${SLICES:-1}")
[ -z "$here" ] || where_to=(--devices 0 --folder "$output")
[ -z "$merge" ] || where_to+=(--merge "$merge")
[ -z "$plan" ] || where_to+=(--plan "$TPU_TYPE" ${PRICE:+--price "$PRICE"})
check_runs "${where_to[@]}" --given "${given[@]}" --prepare "$corpus/1" "${input1[@]}" --prepare "$corpus/2" "${input2[@]}" \
    -- ${trainings[@]+"${trainings[@]:1}"}
with_f2jax -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("mteb") is None)' ||
    die "the report at the end needs mteb here: pip install -e '${CHECKOUT}[mteb]'"

# Recipe 2.1: stage 1 on raw pairs; stage 2 with instructions, 80,000 queries a data set at most. Qwen3's tokenizer.
step tokenizer hf download Qwen/Qwen3-0.6B tokenizer.json --local-dir "$corpus/tokenizer"
step prepare-1 f2jax prepare --input "${input1[@]}" --output "$corpus/1" --tokenizer "$corpus/tokenizer" --no-instructions
step prepare-2 f2jax prepare --input "${input2[@]}" --output "$corpus/2" --tokenizer "$corpus/tokenizer" --cap 80000
[ -n "$here" ] || step upload gcloud storage rsync --recursive "$corpus" "$output/corpus"

# Stage 1 starts from Qwen3's language models; the three small sizes have none.
for size in 14b 8b 4b 1.7b 0.6b; do
    wanted $size || continue
    first_stage $size
    step "train-$size-1" "${train[@]}" train "${words[@]}"
done

# The small sizes are cut from the 0.6B as stage 1 left it, by its activations on texts of that stage (recipe 1).
for size in 330m 160m 80m; do
    ! wanted $size || step "prune-$size" "${once[@]}" prune --model "$output/0.6b-1" --size $size \
        --input "${input1[@]}" --output "$output/$size-1"
done

# Stage 2, teachers before students: 4B -> 1.7B -> 0.6B -> 330M, 160M, 80M (recipe 2.2).
of=${merge:+-merged-$merge} # in the names of what is made of one release
for size in 14b 8b 4b 1.7b 0.6b 330m 160m 80m; do
    wanted $size || continue
    second_stage $size
    step "train-$size-2" "${train[@]}" train "${words[@]}"
    model=$output/$size-2
    if [ -n "$merge" ]; then
        model=$output/$size$of
        step "merge-$size$of" "${once[@]}" merge "$output/$size-2" --last "$merge" --output "$model"
    fi
    # A release replaces one with other STEPS, which then no longer counts as done.
    [ -n "$DRY_RUN" ] || is_done "export-$size$of" || rm -f "$marks"/{export,verify,evaluate}-"$size"*
    step "export-$size$of" "${once[@]}" export --model "$model" --output "$output/release/$size"
    [ -z "$here" ] || step "verify-$size$of" f2jax verify "$output/release/$size"
done

# Scores of the packages beside the published ones; texts are encoded once for all benchmarks.
for size in 14b 8b 4b 1.7b 0.6b 330m 160m 80m; do
    wanted $size || continue
    for benchmark in $benchmarks; do
        tasks=(--benchmark "$benchmark" --dtype bfloat16)
        [ "$benchmark" != builtin ] || tasks=()
        step "evaluate-$size$of-$benchmark" "${once[@]}" evaluate --model "$output/release/$size" \
            ${tasks[@]+"${tasks[@]}"} --output "$output/results/$size"
    done
done
results=$output/results page=$output/report
if [ -z "$here" ]; then
    results=$CHECKOUT/runs/family/results page=$CHECKOUT/runs/family/report
    [ -n "$DRY_RUN" ] || mkdir -p "$results"
    always fetch-results gcloud storage rsync --recursive "$output/results" "$results"
fi
scored=()
for size in 14b 8b 4b 1.7b 0.6b 330m 160m 80m; do # also those of earlier calls
    ! wanted $size && [ ! -d "$results/$size" ] || scored+=("$results/$size")
done
always report f2jax report "${scored[@]}" --output "$page"
say "Packages: $output/release. Scores: $page"
