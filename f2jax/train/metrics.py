"""Writes metrics: a line of JSON per report in `metrics.jsonl`, and TensorBoard event files."""

import json
import shutil
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path

import jax
from tqdm import tqdm

from f2jax import errors, files
from f2jax.checkpoints.best import METRICS_FILE, read_metrics
from f2jax.errors import Restart, UserError

MEASURED = "validation/", "evaluation/"  # begin the names of metrics that are not of the steps
PUBLISH_SECONDS = 60  # how far gs:// may be behind, plus one report
LAST_WAITS = 5, 30  # seconds before each retry of the last upload


@dataclass(frozen=True)
class Totals:
    """Totals over all steps since the first one, including those before a resume and those of a continued run."""

    tokens: float = 0.0  # useful ones
    operations: float = 0.0  # floating-point operations that the model needs


def read_totals(workdir: str | Path, step: int) -> Totals | None:
    """Returns the totals up to `step` from the metrics of a workdir; None if an older version did not write them."""
    if not step:
        return Totals()
    lines = [line for line in read_metrics(workdir) if line["step"] == step]
    names = [field.name for field in fields(Totals)]
    found = [Totals(*(line[name] for name in names)) for line in lines if set(names) <= line.keys()]
    return found[-1] if found else None


class MetricsWriter:
    """Writes `metrics.jsonl` and `tensorboard/` in a workdir; lines after the step of a resume are removed first.

    For a workdir on gs://, the files are in a temporary folder, and `publish` uploads what is new: before each
    checkpoint, at the end, and after reports at most once a minute. If the process is killed, lines since the last
    upload are lost, and the resumed run writes them again. A failed upload does not end the run: it is reported, and
    repeated a minute later with the whole file. Only the first process keeps its files.

    >>> with MetricsWriter("runs/80m", resume_step=0, tensorboard=True) as writer:
    ...     writer.write(10, {"loss": 1.5})
    """

    def __init__(self, workdir: str | Path, resume_step: int, tensorboard: bool):
        first = jax.process_index() == 0
        self.target = str(workdir) if files.is_remote(workdir) and first else ""  # "": nothing is uploaded
        kept = [line for line in _lines(files.join(workdir, METRICS_FILE)) if _step(line) <= resume_step]
        self.temporary = None if first and not self.target else tempfile.mkdtemp(prefix="f2jax-metrics-")
        self.folder = Path(self.temporary or workdir)
        self.published: dict[Path, int] = {}
        self.publish_time = time.monotonic()

        files.write_atomically(self.folder / METRICS_FILE, "".join(kept))
        self.file = (self.folder / METRICS_FILE).open("a")
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
            tqdm.write(f"The last metrics are not in {self.target} ({_reason(error)}); they are in {self.folder}.")
        elif self.temporary:
            shutil.rmtree(self.temporary)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes a line with the step and the values; slashes in keys make groups: `validation/stdlib-code/loss`."""
        self.file.write(json.dumps({"step": step} | values) + "\n")
        self.file.flush()
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
        if time.monotonic() - self.publish_time > PUBLISH_SECONDS:
            self.publish()

    def publish(self) -> None:
        """Uploads changes to gs://; does nothing for a local workdir."""
        if self.board:
            self.board.flush()
        error = self._upload()
        self.publish_time = time.monotonic()
        if error:
            reason = _reason(error)
            tqdm.write(f"Metrics could not be written to {self.target} ({reason}); the next try is in a minute.")

    def _upload(self) -> Restart | UserError | None:
        """Uploads changes, and returns the error if not everything could be uploaded."""
        try:
            for path in self.folder.rglob("*") if self.target else ():
                if not path.is_file() or path.stat().st_size == self.published.get(path):
                    continue
                content, target = path.read_bytes(), files.join(self.target, path.relative_to(self.folder).as_posix())
                before = self.published.pop(path, 0)  # until it is known to be there
                if before and self.target.startswith("gs://"):  # files only grow
                    files.append_to_object(target, content[before:], before)
                else:
                    files.write_atomically(target, content)
                self.published[path] = len(content)
        except (Restart, UserError) as error:
            return error
        return None


def _lines(path: str) -> list[str]:
    if not files.exists(path):
        return []
    return files.read_bytes(path).decode("utf-8", "replace").splitlines(keepends=True)


def _reason(error: Restart | UserError) -> str:
    return errors.short_reason(error.__cause__ or error).rstrip(".")


def _step(line: str) -> float:
    """Returns the step of a line; an incomplete line counts as later than all others."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
