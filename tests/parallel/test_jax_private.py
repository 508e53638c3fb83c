"""The only functions that touch JAX's private modules work with the installed JAX, the oldest and the newest."""

import glob
import os
import re
import subprocess
import sys

import pytest

from f2jax.errors import UserError
from f2jax.parallel import hosts, jax_private
from tests.tiny import ROOT

JOB_OF_ONE = """
import socket
import jax
from f2jax.parallel import jax_private
assert jax_private.coordination_client() is None
with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
jax.distributed.initialize(address, num_processes=1, process_id=0, cluster_detection_method="deactivate")
store = jax_private.coordination_client()
store.key_value_set("name", "value")
print(store.blocking_key_value_get("name", 10_000))
"""


def test_the_store_of_a_job_keeps_values():
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", JOB_OF_ONE], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "value", done.stderr


@pytest.mark.parametrize("vendor,device,expected", [("0x1ae0", "0x0063", True), ("0x8086", "0x0063", False)])
def test_a_tpu_is_a_device_of_google_on_the_bus(monkeypatch, tmp_path, vendor, device, expected):
    function = tmp_path / "0000:00:05.0"  # the address of a device on the bus
    function.mkdir()
    (function / "vendor").write_text(f"{vendor}\n")
    (function / "device").write_text(f"{device}\n")
    monkeypatch.setattr(glob, "glob", lambda pattern: [str(function / "vendor")])
    assert jax_private.has_tpu_chips() is expected


@pytest.mark.parametrize(
    "vendor,device,kind,alone",
    [
        ("0x1ae0", "0x00aa", "0xff0000", False),
        ("0x1ae0", "0x00aa", "0x120000", False),
        ("0x1ae0", "0x0042", "0x020000", True),
        ("0x8086", "0x00aa", "0xff0000", True),
    ],
    ids=["a chip", "an accelerator", "a network card", "of another maker"],
)
def test_a_host_with_chips_that_jax_does_not_know_does_not_train_alone(
    monkeypatch, tmp_path, vendor, device, kind, alone
):
    function = tmp_path / "0000:00:05.0"
    function.mkdir()
    for name, text in (("vendor", vendor), ("device", device), ("class", kind)):
        (function / name).write_text(f"{text}\n")
    monkeypatch.setattr(glob, "glob", lambda pattern: [str(function / "vendor")])
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    if alone:
        hosts.start()
        return
    with pytest.raises(UserError, match=r"chips of Google \(0x00aa\) .* update JAX, or set JAX_COORDINATOR_ADDRESS"):
        hosts.start()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    hosts.start()


def test_no_other_module_imports_private_parts_of_jax():
    imports = re.compile(r"^\s*(?:from|import) jax\._src", re.MULTILINE)
    folders = ("f2jax", "configs", "benchmarks", "launch")
    users = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if imports.search(path.read_text())]
    assert users == [ROOT / "f2jax/parallel/jax_private.py"]
