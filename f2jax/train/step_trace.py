"""Traces some steps for TensorBoard and XProf: what each device and the host did, and when."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from tqdm import tqdm

from f2jax import errors, files
from f2jax.errors import Restart, UserError
from f2jax.parallel import hosts

FOLDER = "profile"  # in the workdir
NAME = "train"  # of the steps in a trace


class StepTrace:
    """Traces `steps` steps after step `start` in the first process, into `profile/` of a workdir.

    This is a context manager; if the run ends inside it, the trace so far is kept. A trace for gs:// is uploaded from a
    temporary folder; if that fails, the run continues and the folder is kept.

    >>> with StepTrace("runs/80m", start=20, steps=5) as trace, trace.step(20, lambda: state):
    ...     state, metrics = program.step(state, batch, teacher)

    Args:
        steps: number of steps to trace; 0: none.
    """

    def __init__(self, workdir: str | Path, start: int = 0, steps: int = 0) -> None:
        self.workdir, self.first = str(workdir), start
        self.end = start + (steps if hosts.is_first() else 0)
        self.folder = ""  # into which is traced now

    def __enter__(self) -> "StepTrace":
        return self

    def __exit__(self, *_) -> None:
        if self.folder:
            self._finish()

    @contextmanager
    def step(self, step: int, state: Callable[[], object]) -> Iterator[None]:
        """Traces the block if it is one of the steps; devices are idle at the beginning and at the end of the trace.

        Args:
            step: number of steps before this one.
            state: returns arrays of the last step that was started.
        """
        if step == self.first < self.end:
            jax.block_until_ready(state())
            self._begin()
        if not self.folder:
            yield
            return
        with jax.profiler.StepTraceAnnotation(NAME, step_num=step + 1):
            yield
        if step + 1 == self.end:
            jax.block_until_ready(state())
            self._finish()

    def _begin(self) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # each call in Python would slow the steps down, and fill the trace
        target = files.join(self.workdir, FOLDER)
        self.folder = tempfile.mkdtemp(prefix="f2jax-profile-") if files.is_remote(target) else target
        jax.profiler.start_trace(self.folder, profiler_options=options)

    def _finish(self) -> None:
        jax.profiler.stop_trace()
        folder, self.folder = self.folder, ""
        if not files.is_remote(self.workdir):
            return
        try:
            for path in filter(Path.is_file, Path(folder).rglob("*")):
                target = files.join(self.workdir, f"{FOLDER}/{path.relative_to(folder).as_posix()}")
                files.write_atomically(target, path.read_bytes())
        except (Restart, UserError) as error:
            reason = errors.short_reason(error.__cause__ or error)
            tqdm.write(f"The trace could not be written to {self.workdir} ({reason}); it is in {folder}.")
        else:
            shutil.rmtree(folder)
