# shellcheck shell=bash disable=SC2034  # read by the scripts beside it
# Every setting of the launch scripts. Copy this file to launch/env.sh and fill it in:
#     cp launch/env.example.sh launch/env.sh
# A variable that is already set wins over the file: TPU_NAME=other launch/status.sh

PROJECT=${PROJECT:-}               # Google Cloud project, e.g. my-project
ZONE=${ZONE:-us-east5-b}           # one that has the TPU type: https://cloud.google.com/tpu/docs/regions-zones
TPU_NAME=${TPU_NAME:-f2jax}        # of the slice; it exists once in the project and zone
TPU_TYPE=${TPU_TYPE:-v6e:4x4}      # as `f2jax plan --topology` says it, v5e:16x16, or Google's v5litepod-256
SLICES=${SLICES:-1}                # more than one: multi-slice, joined by the data-center network
CAPACITY=${CAPACITY:-spot}         # spot (cheap, can be taken away), reserved (you have a reservation) or on_demand
WAIT=${WAIT:-24h}                  # a request that is not served by then expires, so that it cannot start unwatched
CREATE_FLAGS=${CREATE_FLAGS:-}     # further flags of `queued-resources create`, e.g. --service-account=… --network=…

BUCKET=${BUCKET:-}                 # gs://my-bucket/f2jax, in the region of the zone: workdirs, corpora, releases
DATA=${DATA:-}                     # gs:// folder that set-up copies to DATA_DIR on every worker; empty: none
DATA_DIR=${DATA_DIR:-/tmp/f2jax-data}                # a prepared corpus is read from a local folder
WORKER_ENV=${WORKER_ENV:-}         # NAME=VALUE … for the command on the workers, e.g. LIBTPU_INIT_ARGS='--a=1 --b=2'; no secrets

PYTHON_VERSION=${PYTHON_VERSION:-3.12}               # uv brings it; the one of the TPU images is older than f2jax needs
EXTRAS=${EXTRAS:-tpu,eval}         # of setup.py, installed on the workers

RETRIES=${RETRIES:-10}             # restarts in a row before a run is given up
HEALTHY=${HEALTHY:-1800}           # seconds after which an attempt counts as healthy: its end starts the count anew
BACKOFF=${BACKOFF:-30}             # seconds before the first restart; doubles with each, 15 minutes at most
POLL=${POLL:-60}                   # seconds between two looks at the workers
GRACE=${GRACE:-180}                # seconds that the others get to save when one worker has ended badly
SILENCE=${SILENCE:-10}             # looks in a row that workers may leave unanswered

PRICE=${PRICE:-}                   # of a chip-hour, for status.sh and --plan: https://cloud.google.com/tpu/pricing

GKE_CLUSTER=${GKE_CLUSTER:-f2jax}                    # launch/gke.sh: the cluster
GKE_RESERVATION=${GKE_RESERVATION:-}                 # its reservation, where CAPACITY=reserved
