"""Jobs of several processes: how they start, check that they agree, and stop together.

A single process exchanges nothing. On a TPU pod, and under Slurm or Open MPI, JAX finds the other processes by itself;
elsewhere, set JAX_COORDINATOR_ADDRESS (host:port of the first process), JAX_NUM_PROCESSES and JAX_PROCESS_ID.
"""

import itertools
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from f2jax.errors import Interrupted, Restart, UserError
from f2jax.parallel import jax_private, maintenance
from f2jax.parallel.threads import interruptible, leave_at_exit

HEARTBEAT_SECONDS = 30  # a process that is silent for this long counts as dead, and the others end
START_SECONDS = 300  # how long processes wait for each other at the start
ABORT_SECONDS = 60  # how much later jaxlib would abort the process while it waits
NOTICE_SECONDS = 10  # after which a waiting process says what it waits for
DATA_SECONDS = 3_600  # how long they wait until all have read their data; if one dies meanwhile, the others end sooner
LAST_WORDS_SECONDS = 3  # how long the first process lets the others say why they end
RUNTIME_STATUSES = {"UNKNOWN", "INTERNAL", "ABORTED", "CANCELLED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "DATA_LOSS"}
THREADS = 8  # of each CPU device, if a process has several
MAX_NAMED = 5  # differences that an error lists
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
BY_HAND = (
    "JAX_COORDINATOR_ADDRESS (host:port of the first), JAX_NUM_PROCESSES and JAX_PROCESS_ID on each host; on a single "
    "one localhost:1234, 1 and 0"
)
CLUSTER_VARIABLES = ("SLURM_STEP_NODELIST", "OMPI_MCA_orte_hnp_uri")  # set by launchers that JAX can ask for the rest
_comparisons = itertools.count()  # numbers the calls of `check_same_on_all_hosts`, so that no key is used twice


def start() -> None:
    """Joins the other processes of the job before JAX computes anything; does nothing for a single process.

    Raises:
        UserError: the variables are incomplete or wrong, or needed but not set, or the chips are unknown.
        Restart: the others did not start in time, or cannot be reached.
    """
    if jax.distributed.is_initialized():
        return
    _allow_waiting()
    values = [os.environ.get(name) for name in VARIABLES]
    if any(values[1:]) and not all(values):
        missing = [name for name, value in zip(VARIABLES, values, strict=True) if not value]
        raise UserError(f"{' and '.join(missing)} should be set as well, to name the processes of the job.")
    if all(values):
        job: dict[str, Any] = {
            "coordinator_address": values[0],
            "num_processes": _number(VARIABLES[1]),
            "process_id": _number(VARIABLES[2]),
        }
        if _on_tpu():  # otherwise JAX asks Google's metadata server all the same
            job["cluster_detection_method"] = "deactivate"
    elif _in_cluster():
        job = {}
    elif os.environ.get("JAX_PLATFORMS") != "cpu" and (chips := jax_private.unknown_tpu_chips()):
        raise UserError(
            f"This machine has chips of Google ({join_first(sorted(set(chips)))}) that this version of JAX does not "
            f"know, so it cannot tell the other hosts of a slice, and would train alone; update JAX, or set {BY_HAND}."
        )
    else:
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _join(job)
    except ValueError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"JAX cannot tell the processes of this job ({reason}); set {BY_HAND}.") from error
    except TimeoutError as error:
        leave_at_exit(error)  # jaxlib still waits in its thread
        raise Restart(
            f"The other processes of the job did not start within {START_SECONDS} seconds ({_job_name(job)}); start "
            "the same command on all hosts."
        ) from error
    except OSError as error:
        raise Restart(
            f"Google's metadata server, which knows a slice's hosts, gives no answer ({type(error).__name__}); "
            f"start again, or, outside Google Cloud, set {BY_HAND}."
        ) from error
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise Restart(
            f"The processes of the job did not find each other ({reason}); start all of them again."
        ) from error
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, handler)  # JAX's handler would swallow the signal until training asks for it


def _allow_waiting() -> None:
    """Gives several CPU devices of a process more threads than XLA does, which has one for each.

    Two devices that come to two exchanges in a different order each wait in a thread for the other; if no thread is
    left to come to the second exchange, XLA ends the process after 40 seconds.
    """
    flag = re.search(r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    devices = max(int(os.environ.get("JAX_NUM_CPU_DEVICES", 1)), int(flag[1]) if flag else 1)
    if devices > 1:
        os.environ.setdefault("PJRT_NPROC", str(THREADS * devices))


def _join(job: dict[str, Any]) -> None:
    """Waits until all processes of the job have started; after some seconds it says so.

    Raises:
        TimeoutError: they have not within `START_SECONDS`.
    """

    def connect():
        jax.distributed.initialize(
            **job,
            initialization_timeout=START_SECONDS + ABORT_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )

    notice = threading.Timer(NOTICE_SECONDS, _say_waiting, [job])
    notice.start()
    try:
        interruptible(connect, START_SECONDS)
    finally:
        notice.cancel()


def _say_waiting(job: dict[str, Any]) -> None:
    print(f"Waiting for the other processes of the job ({_job_name(job)}).", file=sys.stderr, flush=True)


def _job_name(job: dict[str, Any]) -> str:
    if not job:
        return "as the cluster names them"
    return (
        f"this is process {job['process_id']} of {job['num_processes']}, the first is at {job['coordinator_address']}"
    )


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError as error:
        raise UserError(f"{name}={os.environ[name]} should be a number.") from error


def _in_cluster() -> bool:
    return _on_tpu() or any(name in os.environ for name in CLUSTER_VARIABLES)


def _on_tpu() -> bool:
    return jax_private.has_tpu_chips() and os.environ.get("JAX_PLATFORMS") != "cpu"


@contextmanager
def leave_on_error(all_stop: bool = True) -> Iterator[None]:
    """If the block ends with an error, this process exits without waiting for the others, so that they end soon too.

    Args:
        all_stop: whether an interruption stops all processes at the same place, so that they can end in order.

    Raises:
        Restart: a computation that several processes share failed, and not for lack of memory.
    """
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1 or (all_stop and isinstance(error, Interrupted)):
            raise
        cause = _cause(error)
        leave_at_exit(cause)
        if cause is error:
            raise
        raise cause from error


def _cause(error: BaseException) -> BaseException:
    """Returns the error, or, if a shared computation failed, a Restart: the other processes have gone."""
    if not _of_runtime(error) or "RESOURCE_EXHAUSTED" in str(error):
        return error
    return Restart(
        f"Process {jax.process_index()} cannot continue without the others ({str(error).splitlines()[0][:200]}); run "
        "the same command on all hosts again: it continues from the last checkpoint."
    )


def _of_runtime(error: BaseException) -> bool:
    """Returns whether XLA's runtime raised the error; where an argument's computation failed, JAX says ValueError."""
    if isinstance(error, ValueError):
        return str(error).partition(": ")[0] in RUNTIME_STATUSES
    return isinstance(error, jax.errors.JaxRuntimeError)


def is_first() -> bool:
    """Returns whether this is the process that writes files and prints."""
    return jax.process_index() == 0


def print_once(text: str) -> None:
    """Prints `text` from one of the processes."""
    if is_first():
        print(text)


def broadcast(value: int) -> int:
    """Returns the first process's value in all processes."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def allgather(value: int) -> list[int]:
    """Returns the values of all processes, in order, in all processes."""
    return multihost_utils.process_allgather(np.int32(value)).tolist()


def check_same_on_all_hosts(fingerprints: dict[str, str], seconds: int = START_SECONDS) -> None:
    """Compares the fingerprints of all processes.

    They exchange them through the coordinator, because processes that differ may be unable to compute together.

    Args:
        fingerprints: what must be the same, by name.
        seconds: how long to wait for the slowest process.

    Raises:
        UserError: any of them differ; raised in every process, with the hosts and what differs.
    """
    if jax.process_count() == 1:
        return
    store, milliseconds = jax_private.coordination_client(), seconds * 1000
    prefix = f"f2jax/alike/{next(_comparisons)}"
    store.key_value_set(f"{prefix}/{jax.process_index()}", json.dumps([socket.gethostname(), fingerprints]))
    if is_first():
        texts = [
            store.blocking_key_value_get(f"{prefix}/{process}", milliseconds) for process in range(jax.process_count())
        ]
        store.key_value_set(f"{prefix}/verdict", describe_differences([json.loads(text) for text in texts]))
    verdict = store.blocking_key_value_get(f"{prefix}/verdict", milliseconds)
    if verdict:
        store.key_value_set(f"{prefix}/heard/{jax.process_index()}", "")
        if is_first():  # the coordinator: when it ends, the others end at once
            for process in range(jax.process_count()):
                store.blocking_key_value_get(f"{prefix}/heard/{process}", milliseconds)
            time.sleep(LAST_WORDS_SECONDS)
        raise UserError(verdict)


def describe_differences(hosts: list[tuple[str, dict[str, str]]]) -> str:
    """Returns one sentence on the hosts whose fingerprints differ from those of the majority, or "" if none do.

    Args:
        hosts: (name, fingerprints) of each process, in their order.
    """
    differences = []
    for name in sorted({name for _, fingerprints in hosts for name in fingerprints}):
        values = [fingerprints.get(name, "none") for _, fingerprints in hosts]
        usual = Counter(values).most_common(1)[0][0]
        for process, ((host, _), value) in enumerate(zip(hosts, values, strict=True)):
            if value != usual:
                differences.append(f"process {process} on {host} has {name} {value}, the others {usual}")
    if not differences:
        return ""
    return f"The hosts differ: {join_first(differences, '; ')}. Give all the same versions, code, config and data."


def join_first(items: list[str], separator: str = ", ") -> str:
    """Returns the first few items and the number of the others.

    >>> join_first(["a", "b", "c", "d", "e", "f", "g"])
    'a, b, c, d, e and 2 more'
    """
    more = f" and {len(items) - MAX_NAMED} more" if len(items) > MAX_NAMED else ""
    return separator.join(items[:MAX_NAMED]) + more


NOTHING, SAVE, STOP = range(3)  # what the processes may be asked to do after a step


class StopSignal:
    """SIGTERM or a first Ctrl-C on any host asks all to stop after the current step; a second Ctrl-C stops at once.

    On a TPU machine an announced preemption or maintenance asks too. This is a context manager; it restores the
    previous signal handlers at its end.
    """

    def __init__(self, mesh: Mesh):
        self.requested = False
        self.agreed = NOTHING
        self.latest: jax.Array | None = None
        everywhere = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        devices = len(mesh.local_devices)
        self._any = jax.jit(lambda asked: asked.max(), out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._asked = lambda flag: jax.make_array_from_process_local_data(
            everywhere, np.full(devices, flag, np.int32), (mesh.size,)
        )

    def exchange(self, save: bool = False) -> int:
        """Returns NOTHING, SAVE or STOP, the most that any process had requested by the previous call. Call it after
        each step.

        All processes get the same answer at the same step. The exchange runs on the devices after the step, and its
        result is read one step later, so that no process waits for it.

        Args:
            save: request a checkpoint; the request holds until `saved`.
        """
        wanted = STOP if self.requested else SAVE if save else NOTHING
        if jax.process_count() > 1:
            before, self.latest = self.latest, self._any(self._asked(wanted))
            wanted = NOTHING if before is None else int(before)
        self.agreed = max(self.agreed, wanted)
        return self.agreed

    def saved(self) -> None:
        """Marks the request for a checkpoint as fulfilled."""
        self.agreed = NOTHING

    def __enter__(self):
        self.previous = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.previous[number] = signal.signal(number, self._ask)
            except ValueError:  # not in the main thread: its caller handles signals
                break
        self.watch = maintenance.MaintenanceWatch(self.ask) if _on_tpu() else None
        return self

    def ask(self) -> None:
        """Asks all processes to stop."""
        self.requested = True

    def _ask(self, number, frame) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.ask()

    def __exit__(self, *_):
        if self.watch:
            self.watch.end()
        for number, handler in self.previous.items():
            signal.signal(number, handler)
