"""Where the time of a run goes: how much of it trains."""

import time
from collections import defaultdict
from contextlib import contextmanager, nullcontext

PARTS = ("start", "compile", "input", "checkpoint", "validation")  # the rest is steps


class Goodput:
    """Counts seconds by part, from the making of the object.

    >>> with goodput.during("checkpoint"):
    ...     checkpoints.save(state)
    """

    def __init__(self):
        self.began = time.perf_counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self.programs: set = set()

    @contextmanager
    def during(self, part: str):
        """Count the time of the block as `part`, one of `PARTS`."""
        since = time.perf_counter()
        try:
            yield
        finally:
            self.count(part, since)

    def count(self, part: str, since: float) -> None:
        """Count the time from `since`, a `time.perf_counter()`, until now."""
        self.seconds[part] += time.perf_counter() - since

    def compiling(self, program):
        """Count the block as compilation where it is the first with this `program`, of any hashable type."""
        new = program not in self.programs
        self.programs.add(program)
        return self.during("compile") if new else nullcontext()

    def waiting(self, items):
        """The items of an iterable; the time until each comes counts as input."""
        items = iter(items)
        while True:
            with self.during("input"):
                item = next(items, None)
            if item is None:
                return
            yield item

    def line(self) -> str:
        """One line: the share of steps, and the seconds of everything else."""
        total = time.perf_counter() - self.began
        others = {part: self.seconds[part] for part in PARTS}
        steps = max(total - sum(others.values()), 0.0)
        rest = ", ".join(f"{part} {seconds:,.1f} s" for part, seconds in others.items())
        return f"Goodput {steps / total:.0%}: steps {steps:,.1f} s; {rest}."
