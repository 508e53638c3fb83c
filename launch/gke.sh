#!/usr/bin/env bash
# The same on Google Kubernetes Engine, through xpk (pip install xpk): a cluster that keeps its slices, and workloads
# that queue for them. The cluster restarts runs itself, so no script has to follow them.
#     launch/gke.sh create                   a cluster with SLICES slices of TPU_TYPE
#     launch/gke.sh run NAME train --config … --workdir gs://…    this commit, on all of them
#     launch/gke.sh status [NAME]            the workloads; with NAME, wait for its end: 0 done, 125 failed
#     launch/gke.sh logs NAME                of all workers, followed
#     launch/gke.sh stop NAME                delete the workload: f2jax saves first
#     launch/gke.sh delete                   delete the cluster, after a question
# Each takes --dry_run right after its name. xpk's options: https://github.com/AI-Hypercomputer/xpk/tree/main/docs/usage
. "$(dirname "$0")/lib.sh"
verb=${1:-}
shift || true
case $verb in
    create | run | status | logs | stop | delete) ;;
    '' | -h | --help) usage ;;
    *) die "gke.sh has no command '$verb'; there are create, run, status, logs, stop and delete." ;;
esac
yes=
while :; do
    case ${1:-} in
        --dry_run) DRY_RUN=1 ;;
        --yes) yes=1 ;;
        *) break ;;
    esac
    shift
done
case $verb in
    run | logs | stop)
        name=${1:-}
        shift || true
        [[ $name =~ ^[a-z][a-z0-9-]{0,39}$ ]] ||
            die "name the workload, with at most 40 lowercase letters, digits and -: launch/gke.sh $verb NAME."
        ;;
esac
export ON_GKE=1
settings
need xpk "PyPI: pip install xpk"
need_gcloud
need kubectl "gcloud components install kubectl"

capacity=(--spot)
case $CAPACITY in
    on_demand) capacity=(--on-demand) ;;
    reserved)
        [ -n "$GKE_RESERVATION" ] || die "CAPACITY=reserved needs the name of the reservation: GKE_RESERVATION."
        capacity=("--reservation=$GKE_RESERVATION")
        ;;
esac

xpk_() { # OBJECT VERB ARGUMENT…
    cloud xpk "$@" --cluster="$GKE_CLUSTER" --project="$PROJECT" --zone="$ZONE"
}

# A folder of a bucket onto the disk; the base image has no gcloud, f2jax brings gcsfs.
copy='import gcsfs, sys; gcsfs.GCSFileSystem().get(*sys.argv[1:], recursive=True)'

case $verb in
    create)
        xpk_ cluster create --tpu-type="$ACCELERATOR" --num-slices="$SLICES" "${capacity[@]}"
        ;;
    run)
        [ "${1:-}" != f2jax ] || shift
        [ $# -gt 0 ] || die "say what to run: launch/gke.sh run $name train --config … --workdir gs://…"
        [ "$1" != train ] || check_config "${@:2}"
        cd "$CHECKOUT"
        [ -z "$(git status --porcelain)" ] || [ -n "$DRY_RUN" ] ||
            die "there are uncommitted changes; commit them, so that a commit identifies the code of a run."
        git archive HEAD | tar -x -C "$SCRATCH"
        git rev-parse HEAD >"$SCRATCH/COMMIT"
        data=
        [ -z "$DATA" ] || data="python -c '$copy'$(quoted "${DATA%/}/" "${DATA_DIR%/}/") || exit $TEMPORARY; "
        # xpk copies the folder into the base image and runs the command in it. If a package index does not answer,
        # another try may help, and so are all codes of f2jax but 0 and 1; xpk restarts on 42 and 127 to 255 by itself.
        # SIGTERM goes to the last process of the shell: exec makes that f2jax.
        xpk_ workload create --workload="$name" --tpu-type="$ACCELERATOR" --num-slices="$SLICES" \
            --base-docker-image="python:$PYTHON_VERSION" --script-dir="$SCRATCH" \
            --max-restarts="$RETRIES" --restart-on-exit-codes="70,$TEMPORARY" \
            --termination-grace-period-seconds="$GRACE" \
            --command="pip install -q '.[$EXTRAS]' || exit $TEMPORARY; ${data}exec env $WORKER_ENV f2jax$(quoted "$@")"
        ;;
    status)
        if [ $# -gt 0 ]; then
            xpk_ workload list --wait-for-job-completion="$1"
        else
            xpk_ workload list
        fi
        ;;
    logs)
        # An xpk cluster is regional; its workloads are JobSets, which label their pods.
        cloud gcloud container clusters get-credentials "$GKE_CLUSTER" --project="$PROJECT" --region="${ZONE%-*}"
        cloud kubectl logs --follow --prefix --tail=50 --max-log-requests="$WORKERS" --all-containers \
            --selector="jobset.sigs.k8s.io/jobset-name=$name"
        ;;
    stop)
        xpk_ workload delete --workload="$name" --force
        ;;
    delete)
        [ -n "$yes" ] || confirm "Delete cluster $GKE_CLUSTER in $ZONE with all its slices and workloads?"
        xpk_ cluster delete --force
        say "Left in the project, and costing:"
        cloud gcloud container clusters list --project="$PROJECT" >&2 || true
        [ -z "$BUCKET" ] || cloud gcloud storage du --summarize --readable-sizes "$BUCKET" >&2 || true
        ;;
esac
