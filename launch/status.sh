#!/usr/bin/env bash
# The slice, what it has cost so far, and what each worker does.
#     launch/status.sh [--dry_run]
. "$(dirname "$0")/lib.sh"
only_dry_run "$@"
settings
need_gcloud

state=$(slice_state)
echo "slice    $TPU_NAME: $state ($SLICES x $ACCELERATOR, $CAPACITY, $ZONE)"
[ "$state" = ACTIVE ] || exit 0

# A slice is billed from its creation, which its first node knows; the request may have waited long before.
node=$TPU_NAME
[ "$SLICES" -eq 1 ] || node=$TPU_NAME-0
created=$(cloud gcloud compute tpus tpu-vm describe "$node" --project="$PROJECT" --zone="$ZONE" --quiet \
    --format='value(createTime)')
[ -n "$DRY_RUN" ] || python3 - "$created" "$CHIPS" "$PRICE" <<'PYTHON'
import sys
from datetime import datetime, timezone

created, chips, price = sys.argv[1][:19], int(sys.argv[2]), sys.argv[3]
since = datetime.now(timezone.utc) - datetime.fromisoformat(created).replace(tzinfo=timezone.utc)
hours = since.total_seconds() / 3600
cost = f", about {hours * chips * float(price):,.2f} at {price} each" if price else "; set PRICE for their cost"
print(f"cost     {hours:,.1f} hours x {chips} chips = {hours * chips:,.1f} chip-hours{cost}")
PYTHON

worker_reports >"$SCRATCH/reports"
echo "workers  $(wc -l <"$SCRATCH/reports" | tr -d ' ') of $WORKERS answer"
awk '{printf "         %s %s %s\n", $2, $3, substr($5, 1, 12)}' "$SCRATCH/reports"
echo "command  $(ONE=1 on_workers 'cat ~/f2jax-run/command' 2>/dev/null || true)"
