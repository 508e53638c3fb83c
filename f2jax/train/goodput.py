"""Measures how much of a run's time is spent on training steps, and on what the rest is spent."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

PARTS = ("start", "compile", "input", "checkpoint", "validation")  # the rest is steps
OTHER_WORK = ("start", "checkpoint", "validation")  # what does not slow down a step
T = TypeVar("T")


class Goodput:
    """Counts the seconds of each part of a run.

    >>> with goodput.during("checkpoint"):
    ...     checkpoints.save(state)
    """

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self.programs: set = set()

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """Counts the time of the block under `part`, one of `PARTS`."""
        since = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - since

    def started(self) -> None:
        """Counts all time so far as the start."""
        self.seconds["start"] = time.perf_counter() - self.began

    def compiling(self, program) -> AbstractContextManager[None]:
        """Counts the block as compilation if it is the first one with this `program`, which may be any hashable."""
        new = program not in self.programs
        self.programs.add(program)
        return self.during("compile") if new else nullcontext()

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """Yields the items; the time until each comes counts as input."""
        iterator = iter(items)
        while True:
            with self.during("input"):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    def training_seconds(self) -> float:
        """Returns the seconds spent on steps, with their compilation and input."""
        return time.perf_counter() - self.began - sum(self.seconds[part] for part in OTHER_WORK)

    def left(self, done: int, steps: int) -> float:
        """Estimates the seconds for `steps` more steps from the `done` ones since this start.

        Validation and checkpoints count, but not the start and compilation, which happen only once.
        """
        return (time.perf_counter() - self.began - self.seconds["start"] - self.seconds["compile"]) / done * steps

    def line(self) -> str:
        """Returns a line with the share of training steps, and the seconds of all other parts."""
        total = time.perf_counter() - self.began
        others = {part: self.seconds[part] for part in PARTS}
        steps = max(total - sum(others.values()), 0.0)
        rest = ", ".join(f"{part} {seconds:,.1f} s" for part, seconds in others.items())
        return f"Goodput {steps / total:.0%}: steps {steps:,.1f} s; {rest}."
