"""Metrics on disk: one JSON line per report, and TensorBoard event files beside it."""

import json
from pathlib import Path


class MetricsWriter:
    """Appends to `metrics.jsonl` in a workdir; lines after the step of a resume are dropped first."""

    def __init__(self, workdir: Path, resume_step: int, tensorboard: bool):
        self.path = workdir / "metrics.jsonl"
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines(keepends=True) if _step(line) <= resume_step]
            partial = self.path.with_suffix(".partial")
            partial.write_text("".join(kept))
            partial.replace(self.path)
        self.file = self.path.open("a")
        self.board = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self.board = SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line: the step, then the values; keys with a slash are groups, e.g. `validation/stdlib-code/loss`."""
        self.file.write(json.dumps({"step": step} | values) + "\n")
        self.file.flush()
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.file.close()
        if self.board:
            self.board.close()


def _step(line: str) -> float:
    """The step of a line; a line that was cut off by a kill counts as later than any."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")
