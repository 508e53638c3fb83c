"""Notice that Google Cloud will soon take this machine away: preemption of a spot machine, or host maintenance.

Its metadata server says so some seconds to minutes ahead
(https://cloud.google.com/compute/docs/metadata/getting-live-migration-notice, …/instances/create-use-preemptible).
"""

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable

ADDRESS = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")  # the variable of Google's own libraries
QUIET = {"preempted": "FALSE", "maintenance-event": "NONE"}  # what is said while nothing is to come
SECONDS = 5.0  # between two looks


def is_maintenance_announced(address: str = ADDRESS) -> bool:
    """Is this machine about to be taken away? False where no metadata server answers."""
    return any(_ask(address, key) not in (None, quiet) for key, quiet in QUIET.items())


def _ask(address: str, key: str) -> str | None:
    url = f"http://{address}/computeMetadata/v1/instance/{key}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the server is on the machine's own link
    try:
        with direct.open(request, timeout=SECONDS) as answer:
            return answer.read().decode().strip()
    except (urllib.error.URLError, OSError):
        return None


class Watch:
    """A thread that looks every few seconds, and calls `notify` once when the machine is about to be taken away."""

    def __init__(self, notify: Callable[[], None], address: str = ADDRESS, seconds: float = SECONDS):
        self.notify, self.address, self.seconds = notify, address, seconds
        self.ended = threading.Event()
        threading.Thread(target=self._look, name="maintenance", daemon=True).start()

    def _look(self) -> None:
        while not self.ended.wait(self.seconds):
            if is_maintenance_announced(self.address):
                return self.notify()

    def end(self) -> None:
        self.ended.set()
