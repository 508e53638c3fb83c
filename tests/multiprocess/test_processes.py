"""Processes joined by jax.distributed compute as one, and start, stop and end together."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from f2jax.errors import Restart
from f2jax.parallel import hosts, threads
from f2jax.parallel.simulate import launch
from f2jax.train import resume
from tests import tiny
from tests.parallel import steps
from tests.parallel.test_layouts import check


def run(monkeypatch, command: list[str], processes: int, devices: int = 1) -> list[tuple[int, str]]:
    """(exit code, output) of each process of a job."""
    monkeypatch.setenv("PYTHONPATH", str(tiny.ROOT))
    started = launch(command, processes, devices, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        return [(process.wait(600), process.stdout.read()) for process in started]
    finally:
        for process in started:
            process.kill()


# Processes with two devices each, and what they compute.
JOBS = [(2, "full, chunks on slices"), pytest.param(4, "cache, chunks on fsdp", marks=pytest.mark.slow)]


@pytest.fixture
def arrays(processes, case, make_once):
    """What a job of so many processes computes in a case."""

    def make(folder):
        with pytest.MonkeyPatch.context() as patch:
            results = run(patch, ["-m", "tests.parallel.steps", str(folder / "arrays.npz"), case], processes, devices=2)
        assert [code for code, _ in results] == [0] * processes, results

    return np.load(make_once(f"processes_{processes}", make) / "arrays.npz")


@pytest.mark.parametrize("processes,case", JOBS)
def test_processes_give_the_loss_gradient_and_rows_of_one_device(case, one_device, arrays):
    check(case, one_device, arrays)


@pytest.mark.parametrize("processes,case", JOBS)
def test_a_process_fills_the_rows_of_its_own_devices_alone(processes, case, arrays):
    assert arrays[f"{case}/filled"] * processes == len(arrays[f"{case}/tokens"])


UNLIKE = """
import sys
from f2jax.errors import UserError
from f2jax.parallel import hosts
hosts.start()
import jax
hosts.check_same_on_all_hosts({"config.seed": "0"})
try:
    hosts.check_same_on_all_hosts({"jax": "1.0", "config.seed": "7" if jax.process_index() == 2 else "0"})
except UserError as error:
    sys.exit(f"refused: {error}")
"""


def test_a_host_that_differs_is_named_on_every_host(monkeypatch):
    for code, text in run(monkeypatch, ["-c", UNLIKE], processes=3):
        assert code == 1
        line = text.splitlines()[-1]
        assert line.startswith("refused: The hosts differ: process 2 on ") and "seed 7, the others 0" in line
        assert "jax" not in line


BLIND = """
import sys
from f2jax.errors import UserError
from f2jax.parallel import hosts
from f2jax.train import resume
hosts.start()
import jax
resume.check_shared(sys.argv[1])
try:
    resume.check_shared(f"{sys.argv[1]}/{min(jax.process_index(), 1)}")
except UserError as error:
    sys.exit(f"refused: {error}")
"""


def test_a_workdir_that_not_all_hosts_see_is_refused_on_every_host(monkeypatch, tmp_path):
    for code, text in run(monkeypatch, ["-c", BLIND, str(tmp_path)], processes=3):
        assert code == 1
        line = text.splitlines()[-1]
        assert line.startswith(f"refused: The workdir {tmp_path}") and "not that of 2 of 3 processes, process 1" in line
    assert not list(tmp_path.rglob("shared-*"))


ALONE = """
import sys
from f2jax.errors import UserError
from f2jax.parallel import hosts
hosts.HEARTBEAT_SECONDS = 3
hosts.start()
import jax
from jax.experimental import multihost_utils
with hosts.leave_on_error():
    if jax.process_index() == 1:
        raise UserError("this host cannot read its data")
    multihost_utils.sync_global_devices("a step that never ends")
"""


@pytest.mark.slow
def test_an_error_on_one_host_ends_the_others(monkeypatch):
    """They notice when its sign of life is missing; half a minute as it is set, in the test of a killed training."""
    (code, _), (failed, text) = run(monkeypatch, ["-c", ALONE], processes=2)
    assert failed == 1 and "this host cannot read its data" in text.splitlines()[-1]
    assert code != 0


GONE = "Gloo all-reduce failed: [pair.cc:547] Connection closed by peer [127.0.0.1]:21177"


@pytest.mark.parametrize(
    "error, restarts",
    [
        (jax.errors.JaxRuntimeError(f"UNKNOWN: {GONE}"), True),
        (ValueError(f"UNKNOWN: {GONE}"), True),  # what JAX raises where an argument is the result that failed
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"), False),
        (ValueError("operands could not be broadcast together"), False),
    ],
    ids=["runtime", "argument", "memory", "a mistake of ours"],
)
def test_a_computation_that_lost_its_peer_asks_for_a_restart(monkeypatch, error, restarts):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(threads.atexit, "register", lambda *_: None)
    with pytest.raises(Restart if restarts else type(error)), hosts.leave_on_error():
        raise error


def test_the_hosts_that_differ_from_most_are_named():
    usual = {"jax": "1", "libtpu": "none"}
    assert hosts.describe_differences([("a", usual), ("b", dict(usual))]) == ""
    found = hosts.describe_differences([("a", usual | {"jax": "2"}), ("b", usual), ("c", usual)])
    assert "process 0 on a has jax 2, the others 1. Give all the same" in found
    assert "process 1 on b has libtpu none, the others 3" in hosts.describe_differences(
        [("a", {"libtpu": "3"}), ("b", {}), ("c", {"libtpu": "3"})]
    )


def test_the_code_hash_changes_with_any_python_file(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/a.py").write_text("1")
    before = resume.code_hash(tmp_path)
    (tmp_path / "notes.txt").write_text("no code")
    assert resume.code_hash(tmp_path) == before
    (tmp_path / "inner/a.py").write_text("2")
    assert resume.code_hash(tmp_path) != before


@pytest.mark.parametrize("variables", [{"JAX_NUM_PROCESSES": "2"}, {"JAX_PROCESS_ID": "0"}])
def test_a_job_that_is_named_by_half_is_refused(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(hosts.UserError, match=r"JAX_COORDINATOR_ADDRESS and .* should be set as well"):
        hosts.start()


TPU_MACHINE = """
import os, sys
from f2jax.errors import Restart, UserError
from f2jax.parallel import hosts
from jax._src.clusters import cloud_tpu_cluster
hosts._on_tpu = lambda: True
cloud_tpu_cluster.running_in_cloud_tpu_vm = True
if "GCE_METADATA_IP" in os.environ:
    del os.environ["TPU_SKIP_MDS_QUERY"]  # set by JAX, as there is no chip
try:
    hosts.start()
except (Restart, UserError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
import jax
print(jax.process_count(), "process")
"""
BY_HAND = "JAX_COORDINATOR_ADDRESS (host:port of the first), JAX_NUM_PROCESSES and JAX_PROCESS_ID on each host"


def on_tpu_machine(monkeypatch, **variables) -> str:
    """The last line of a process on a machine with a TPU that is none of Google Cloud."""
    for name in [name for name in os.environ if name.startswith("TPU_")]:  # plans that were made in this process
        monkeypatch.delenv(name)
    for name, value in ({"PYTHONPATH": str(tiny.ROOT), "JAX_PLATFORMS": "cpu"} | variables).items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", TPU_MACHINE], capture_output=True, text=True, timeout=600)
    return (done.stdout + done.stderr).splitlines()[-1]


def test_a_tpu_machine_of_no_known_kind_is_told_to_name_the_processes(monkeypatch):
    line = on_tpu_machine(monkeypatch)
    assert line.startswith(
        "UserError: JAX cannot tell the processes of this job (coordinator_address should be defined)"
    )
    assert f"; set {BY_HAND}" in line


def test_a_tpu_machine_without_a_metadata_server_is_told_so(monkeypatch):
    line = on_tpu_machine(monkeypatch, GCE_METADATA_IP="127.0.0.1:9")
    assert line.startswith("Restart: Google's metadata server") and f"outside Google Cloud, set {BY_HAND}" in line


@pytest.mark.parametrize("metadata", [{}, {"GCE_METADATA_IP": "127.0.0.1:9"}], ids=str)
def test_a_tpu_machine_whose_processes_are_named_starts(monkeypatch, metadata):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    names = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}
    assert on_tpu_machine(monkeypatch, **names, **metadata) == "1 process"


def test_a_process_beyond_the_last_one_is_refused(monkeypatch):
    names = {"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}
    line = on_tpu_machine(monkeypatch, **names)
    assert line.startswith("UserError: JAX cannot tell the processes of this job (process_id and num_processes")


WAITING = """
import sys
from f2jax import cli
from f2jax.parallel import hosts
hosts.START_SECONDS, hosts.NOTICE_SECONDS = 3, 1
sys.exit(cli.main(["train", "--config", sys.argv[1], "--workdir", sys.argv[2]]))
"""


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_is_started_alone_says_what_it_waits_for_and_ends_with_a_sentence(
    monkeypatch, tmp_path, process
):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    names = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(process)}
    for name, value in ({"PYTHONPATH": str(tiny.ROOT), "JAX_PLATFORMS": "cpu"} | names).items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-c", WAITING, str(tiny.ROOT / "configs/nano.py"), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    job = f"this is process {process} of 2, the first is at {address}"
    assert done.returncode == 75, done.stderr
    assert done.stderr.splitlines() == [
        f"Waiting for the other processes of the job ({job}).",
        f"f2jax: The other processes of the job did not start within 3 seconds ({job}); start the same command on all "
        "hosts.",
    ]


def test_without_a_job_nothing_is_started():
    hosts.start()
    assert steps.jax.process_count() == 1
