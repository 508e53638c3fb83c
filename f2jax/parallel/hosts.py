"""Several processes that train as one: how they start, whether they are alike, and how they stop together.

With one process nothing is exchanged. On a TPU pod, and under Slurm or Open MPI, JAX finds the other processes by
itself; elsewhere JAX_COORDINATOR_ADDRESS (host:port of the first), JAX_NUM_PROCESSES and JAX_PROCESS_ID name them.
"""

import atexit
import itertools
import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import jax
import numpy as np
from jax._src import distributed, hardware_utils  # the key-value store and the TPU test have no public name
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from f2jax.errors import Interrupted, Restart, UserError, exit_code
from f2jax.parallel import maintenance

HEARTBEAT_SECONDS = 30  # a process that is silent for so long is dead, and the others end
START_SECONDS = 300  # that processes wait for each other at the start
DATA_SECONDS = 3_600  # that they wait until all have read their data; one that dies meanwhile ends the others sooner
LAST_WORDS_SECONDS = 3  # that the first process leaves the others to say why they end
MOST_NAMED = 5  # differences that an error names
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
BY_HAND = (
    "JAX_COORDINATOR_ADDRESS (host:port of the first), JAX_NUM_PROCESSES and JAX_PROCESS_ID on each host; on a single "
    "one localhost:1234, 1 and 0"
)
CLUSTER_VARIABLES = ("SLURM_STEP_NODELIST", "OMPI_MCA_orte_hnp_uri")  # of launchers that JAX asks for the rest
_rounds = itertools.count()  # of `check_alike`, so that keys are never used twice


def start() -> None:
    """Join the other processes of the job, before JAX computes anything; nothing to do where there is one.

    Raises:
        UserError: the variables are incomplete or wrong, or they are needed and not there.
        Restart: the others cannot be reached.
    """
    if jax.distributed.is_initialized():
        return
    given = [os.environ.get(name) for name in VARIABLES]
    if any(given[1:]) and not all(given):
        missing = [name for name, value in zip(VARIABLES, given, strict=True) if not value]
        raise UserError(f"{' and '.join(missing)} should be set as well, to name the processes of the job.")
    if all(given):
        named = {"coordinator_address": given[0], "num_processes": _number(1), "process_id": _number(2)}
        if _on_tpu():  # else JAX asks Google's metadata server all the same
            named["cluster_detection_method"] = "deactivate"
    elif _in_cluster():
        named = {}
    else:
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(
            **named,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"JAX cannot tell the processes of this job ({reason}); set {BY_HAND}.") from error
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
        signal.signal(signal.SIGTERM, before)  # JAX's handler would swallow it until training looks for it


def _number(variable: int) -> int:
    name = VARIABLES[variable]
    try:
        return int(os.environ[name])
    except ValueError as error:
        raise UserError(f"{name}={os.environ[name]} should be a number.") from error


def _in_cluster() -> bool:
    return _on_tpu() or any(name in os.environ for name in CLUSTER_VARIABLES)


def _on_tpu() -> bool:
    chips, _ = hardware_utils.num_available_tpu_chips_and_device_id()
    return chips > 0 and os.environ.get("JAX_PLATFORMS") != "cpu"


@contextmanager
def leave_on_error(all_stop: bool = True) -> Iterator[None]:
    """What ends this process alone, inside the block, ends the others soon: it leaves without waiting for them.

    Args:
        all_stop: an interruption stops all processes at the same place.

    Raises:
        Restart: a computation that several processes share failed, not for want of memory.
    """
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1 or (all_stop and isinstance(error, Interrupted)):
            raise
        cause = _cause(error)
        atexit.register(_leave, exit_code(cause))  # comes before JAX's own, which waits for all
        if cause is error:
            raise
        raise cause from error


def _cause(error: BaseException) -> BaseException:
    """The error itself, or that the others have gone, which is why a shared computation fails."""
    if not isinstance(error, jax.errors.JaxRuntimeError) or "RESOURCE_EXHAUSTED" in str(error):
        return error
    return Restart(
        f"Process {jax.process_index()} cannot go on without the others ({str(error).splitlines()[0][:200]}); run the "
        "same command on all hosts again: it goes on from the last checkpoint."
    )


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def is_first() -> bool:
    """Is this the process that writes files and prints?"""
    return jax.process_index() == 0


def print_once(text: str) -> None:
    """Print, once for all processes."""
    if is_first():
        print(text)


def broadcast(value: int) -> int:
    """The value that the first process gives, on all of them."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def allgather(value: int) -> list[int]:
    """The values that the processes give, in their order, on all of them."""
    return multihost_utils.process_allgather(np.int32(value)).tolist()


def check_same_on_all_hosts(own: dict[str, str], seconds: int = START_SECONDS) -> None:
    """All processes compare their `facts`; they ask the coordinator, because unlike ones may not compute together.

    Args:
        seconds: that they wait for the slowest.

    Raises:
        UserError: on every process, where any differs; it names the hosts and what differs.
    """
    if jax.process_count() == 1:
        return
    store, milliseconds = distributed.global_state.client, seconds * 1000
    prefix = f"f2jax/alike/{next(_rounds)}"
    store.key_value_set(f"{prefix}/{jax.process_index()}", json.dumps([socket.gethostname(), own]))
    if is_first():
        texts = [
            store.blocking_key_value_get(f"{prefix}/{process}", milliseconds) for process in range(jax.process_count())
        ]
        store.key_value_set(f"{prefix}/verdict", differing_names([json.loads(text) for text in texts]))
    verdict = store.blocking_key_value_get(f"{prefix}/verdict", milliseconds)
    if verdict:
        store.key_value_set(f"{prefix}/heard/{jax.process_index()}", "")
        if is_first():  # it is the coordinator: where it ends, the others end at once
            for process in range(jax.process_count()):
                store.blocking_key_value_get(f"{prefix}/heard/{process}", milliseconds)
            time.sleep(LAST_WORDS_SECONDS)
        raise UserError(verdict)


def differing_names(hosts: list[tuple[str, dict[str, str]]]) -> str:
    """One sentence on how the facts of some hosts, in the order of the processes, differ from those of most; or ""."""
    found = []
    for name in sorted({name for _, own in hosts for name in own}):
        values = [own.get(name, "none") for _, own in hosts]
        usual = Counter(values).most_common(1)[0][0]
        for process, ((host, _), value) in enumerate(zip(hosts, values, strict=True)):
            if value != usual:
                found.append(f"process {process} on {host} has {name} {value}, the others {usual}")
    same = "Give all the same versions, code, config and data."
    return f"The hosts are not alike: {name_some(found, '; ')}. {same}" if found else ""


def name_some(found: list[str], between: str = ", ") -> str:
    """The first few, and how many more.

    >>> listed(["a", "b", "c", "d", "e", "f", "g"])
    'a, b, c, d, e and 2 more'
    """
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return between.join(found[:MOST_NAMED]) + more


class StopSignal:
    """SIGTERM or the first Ctrl-C on any host asks all to stop after the running step; a second Ctrl-C stops at once.

    On a TPU machine an announced preemption or maintenance asks too. A context manager; the handlers before it come
    back at its end.
    """

    def __init__(self, mesh: Mesh):
        self.requested = False
        self.latest: jax.Array | None = None
        everywhere = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        devices = len(mesh.local_devices)
        self._any = jax.jit(lambda asked: asked.max(), out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._asked = lambda flag: jax.make_array_from_process_local_data(
            everywhere, np.full(devices, flag, np.int32), (mesh.size,)
        )

    def exchange(self) -> bool:
        """Had any process been asked to stop when it called this the last time? Call it once behind each step.

        All processes get the same answer at the same step. The exchange runs on the devices behind the step, and its
        result is read one step later, when it is long there: nobody waits for it.
        """
        if jax.process_count() == 1:
            return self.requested
        before, self.latest = self.latest, self._any(self._asked(self.requested))
        return before is not None and bool(before)

    def __enter__(self):
        self.previous = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.previous[number] = signal.signal(number, self._ask)
            except ValueError:  # not in the main thread: signals stay with whoever runs it
                break
        self.watch = maintenance.Watch(self.ask) if _on_tpu() else None
        return self

    def ask(self) -> None:
        """Ask all to stop."""
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
