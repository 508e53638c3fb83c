"""The compiled programs of a run on gs://: after a preemption they are found in the bucket, and nothing is compiled."""

import json
import subprocess
import sys

import fsspec
import pytest

from tests import tiny

TRAIN = """
import collections, json, sys
import jax
from f2jax import cli

events = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: events.update([name.rsplit("/", 1)[-1]]))
assert cli.main(sys.argv[1:]) == 0
print("\\n" + json.dumps(events))
"""


@pytest.mark.slow
def test_another_process_compiles_nothing(server, tmp_path):
    bucket, store = server.new_bucket(), fsspec.filesystem("gs")
    options = tiny.overrides(tmp_path, **{"steps": 4, "checkpoint.every": 2, "data.programs": 2})
    command = [sys.executable, "-c", TRAIN, "train", "--config", str(tiny.ROOT / "configs/nano.py:stage=2")]
    command += ["--workdir", f"{bucket}/run", *options]
    environment = server.environment | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(tiny.ROOT)}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)

    def start() -> dict[str, int]:
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout.splitlines()[-1])

    first = start()
    assert first["cache_misses"] > 2 and store.find(f"{bucket}/run/compiled")
    store.rm(f"{bucket}/run/checkpoints/4", recursive=True)  # the slice was taken away after the second step
    again = start()
    assert again.get("cache_misses", 0) == 0 and again["cache_hits"] > 2
