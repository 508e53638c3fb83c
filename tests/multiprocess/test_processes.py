"""Processes joined by jax.distributed compute as one, and start, stop and end together."""

import subprocess

import numpy as np
import pytest

from f2jax.parallel import hosts
from f2jax.parallel.local import launch
from tests import tiny
from tests.parallel import steps
from tests.parallel.test_layouts import check

CASES = ["plain, fsdp", "full, chunks on slices", "cache, chunks on fsdp"]


def run(monkeypatch, command: list[str], processes: int, devices: int = 1) -> list[tuple[int, str]]:
    """(exit code, output) of each process of a job."""
    for name, value in ({"PYTHONPATH": str(tiny.ROOT)} | steps.QUICK).items():
        monkeypatch.setenv(name, value)
    started = launch(command, processes, devices, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        return [(process.wait(600), process.stdout.read()) for process in started]
    finally:
        for process in started:
            process.kill()


@pytest.fixture(scope="module", params=[2, 4])
def found(request, tmp_path_factory):
    """The cases on two or four processes with two devices each."""
    path = tmp_path_factory.mktemp("processes") / "found.npz"
    with pytest.MonkeyPatch.context() as patch:
        results = run(patch, ["-m", "tests.parallel.steps", str(path), *CASES], request.param, devices=2)
    assert [code for code, _ in results] == [0] * request.param, results
    return request.param, np.load(path)


@pytest.mark.parametrize("case", CASES)
def test_processes_give_the_loss_gradient_and_rows_of_one_device(case, one_device, found):
    check(case, one_device, found[1])


def test_a_process_fills_the_rows_of_its_own_devices_alone(found):
    processes, arrays = found
    assert arrays["plain, fsdp/filled"] * processes == len(arrays["plain, fsdp/tokens"])


UNLIKE = """
import sys
from f2jax.errors import UserError
from f2jax.parallel import hosts
hosts.start()
import jax
hosts.check_alike({"config.seed": "0"})
try:
    hosts.check_alike({"jax": "1.0", "config.seed": "7" if jax.process_index() == 2 else "0"})
except UserError as error:
    sys.exit(f"refused: {error}")
"""


def test_a_host_that_differs_is_named_on_every_host(monkeypatch):
    for code, text in run(monkeypatch, ["-c", UNLIKE], processes=3):
        assert code == 1
        line = text.splitlines()[-1]
        assert line.startswith("refused: The hosts are not alike: process 2 on ") and "seed 7, the others 0" in line
        assert "jax" not in line


ALONE = """
import sys
from f2jax.errors import UserError
from f2jax.parallel import hosts
hosts.start()
import jax
from jax.experimental import multihost_utils
with hosts.explained():
    if jax.process_index() == 1:
        raise UserError("this host cannot read its data")
    multihost_utils.sync_global_devices("a step that never ends")
"""


@pytest.mark.slow
def test_an_error_on_one_host_ends_the_others(monkeypatch):
    """They notice when its sign of life has been missing for half a minute."""
    (code, _), (failed, text) = run(monkeypatch, ["-c", ALONE], processes=2)
    assert failed == 1 and "this host cannot read its data" in text.splitlines()[-1]
    assert code != 0


def test_the_hosts_that_differ_from_most_are_named():
    usual = {"jax": "1", "libtpu": "none"}
    assert hosts.unlike([("a", usual), ("b", dict(usual))]) == ""
    found = hosts.unlike([("a", usual | {"jax": "2"}), ("b", usual), ("c", usual)])
    assert "process 0 on a has jax 2, the others 1. Give all the same" in found
    assert "process 1 on b has libtpu none, the others 3" in hosts.unlike(
        [("a", {"libtpu": "3"}), ("b", {}), ("c", {"libtpu": "3"})]
    )


def test_the_code_hash_changes_with_any_python_file(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/a.py").write_text("1")
    before = hosts.code_hash(tmp_path)
    (tmp_path / "notes.txt").write_text("no code")
    assert hosts.code_hash(tmp_path) == before
    (tmp_path / "inner/a.py").write_text("2")
    assert hosts.code_hash(tmp_path) != before


@pytest.mark.parametrize("variables", [{"JAX_NUM_PROCESSES": "2"}, {"JAX_PROCESS_ID": "0"}])
def test_a_job_that_is_named_by_half_is_refused(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(hosts.UserError, match=r"JAX_COORDINATOR_ADDRESS and .* should be set as well"):
        hosts.start()


def test_without_a_job_nothing_is_started():
    hosts.start()
    assert steps.jax.process_count() == 1
