"""Metrics on disk: one JSON line per report, and TensorBoard event files beside it."""

import json
import shutil
import tempfile
import time
from pathlib import Path

import jax
from tqdm import tqdm

from f2jax import errors, files
from f2jax.errors import Restart, UserError

NAME = "metrics.jsonl"
PUBLISH_SECONDS = 60  # gs:// is at most so far behind, and one report
LAST_WAITS = 5, 30  # seconds before each further try at the end


class MetricsWriter:
    """Writes `metrics.jsonl` and `tensorboard/` of a workdir; lines after the step of a resume are dropped first.

    An object on gs:// cannot be appended to. There the files lie in a local folder of their own and are uploaded whole
    by `publish`: before each checkpoint, at the end, and at a report once a minute. A kill loses what came after, and a
    resume from the last checkpoint writes it again. An upload that fails ends no run: it warns, and is tried again
    a minute later, since a try may take half of one. Of several processes only the first one's files stay.
    """

    def __init__(self, workdir: str | Path, resume_step: int, tensorboard: bool):
        first = jax.process_index() == 0
        self.target = str(workdir) if files.is_remote(workdir) and first else ""  # "": nothing is uploaded
        kept = [line for line in _lines(files.join(workdir, NAME)) if _step(line) <= resume_step]
        self.temporary = None if first and not self.target else tempfile.mkdtemp(prefix="f2jax-metrics-")
        self.folder = Path(self.temporary or workdir)
        self.published: dict[Path, int] = {}
        self.publish_time = time.monotonic()

        self.last_line = kept[-1] if kept else "{}"
        files.write_atomically(self.folder / NAME, "".join(kept))
        self.file = (self.folder / NAME).open("a")
        self.board = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=resume_step + 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        if self.board:
            self.board.close()
        error = self._upload()
        for seconds in LAST_WAITS:
            if isinstance(error, Restart):
                time.sleep(seconds)
                error = self._upload()
        if error:
            tqdm.write(f"The last metrics are not in {self.target} ({_reason(error)}); they lie in {self.folder}.")
        elif self.temporary:
            shutil.rmtree(self.temporary)

    def validated(self, step: int) -> bool:
        """Does the file that was found end with the validation after `step`?"""
        line = json.loads(self.last_line)
        return line.get("step") == step and any(key.startswith("validation/") for key in line)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line: the step, then the values; keys with a slash are groups, e.g. `validation/stdlib-code/loss`."""
        self.file.write(json.dumps({"step": step} | values) + "\n")
        self.file.flush()
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
        if time.monotonic() - self.publish_time > PUBLISH_SECONDS:
            self.publish()

    def publish(self) -> None:
        """Bring what is on gs:// up to date; a local workdir always is."""
        if self.board:
            self.board.flush()
        error = self._upload()
        self.publish_time = time.monotonic()
        if error:
            reason = _reason(error)
            tqdm.write(f"Metrics could not be written to {self.target} ({reason}); it is tried again in a minute.")

    def _upload(self) -> Restart | UserError | None:
        """What kept it from being whole."""
        try:
            for path in self.folder.rglob("*") if self.target else ():
                if path.is_file() and path.stat().st_size != self.published.get(path):  # they only grow
                    content = path.read_bytes()
                    files.write_atomically(files.join(self.target, path.relative_to(self.folder).as_posix()), content)
                    self.published[path] = len(content)
        except (Restart, UserError) as error:
            return error
        return None


def _lines(path: str) -> list[str]:
    if not files.exists(path):
        return []
    return files.read_bytes(path).decode("utf-8", "replace").splitlines(keepends=True)


def _reason(error: Restart | UserError) -> str:
    return errors.short_reason(error.__cause__ or error)


def _step(line: str) -> float:
    """The step of a line; a line that was cut off by a kill counts as later than any."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
