"""Notices that Google Cloud will soon take this machine away: preemption of a spot machine, or host maintenance.

The metadata server announces it seconds to minutes ahead
(https://cloud.google.com/compute/docs/metadata/getting-live-migration-notice, …/instances/create-use-preemptible).
"""

import os
import threading
import urllib.request
from collections.abc import Callable
from http.client import HTTPException

ADDRESS = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")  # the variable that Google's libraries read
QUIET = {"preempted": "FALSE", "maintenance-event": "NONE"}  # the answers while nothing is announced
POLL_SECONDS = 5.0  # between two requests


def is_maintenance_announced(address: str = ADDRESS) -> bool:
    """Returns whether this machine is about to be taken away; False if no metadata server answers."""
    return any(_ask(address, key) not in (None, quiet) for key, quiet in QUIET.items())


def _ask(address: str, key: str) -> str | None:
    url = f"http://{address}/computeMetadata/v1/instance/{key}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy, because the server is link-local
    try:
        with direct.open(request, timeout=POLL_SECONDS) as answer:
            return answer.read().decode().strip()
    except (OSError, HTTPException, UnicodeDecodeError):  # an answer that was cut off must not end the watch
        return None


class MaintenanceWatch:
    """A thread that asks every few seconds and calls `notify` once when the machine is about to be taken away."""

    def __init__(self, notify: Callable[[], None], address: str = ADDRESS, seconds: float = POLL_SECONDS):
        self.notify, self.address, self.seconds = notify, address, seconds
        self.ended = threading.Event()
        threading.Thread(target=self._poll, name="maintenance", daemon=True).start()

    def _poll(self) -> None:
        while not self.ended.wait(self.seconds):
            if is_maintenance_announced(self.address):
                return self.notify()

    def end(self) -> None:
        """Ends the thread at its next poll."""
        self.ended.set()
