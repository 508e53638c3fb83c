"""Who does the work: this process, several, or Apache Beam. Each maps a function over items and keeps their order."""

import re
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import active_children, get_context

from f2jax.errors import UserError, require_extra


def run_here(function: Callable, items: Iterable) -> Iterator:
    return map(function, items)


def run_in_processes(function: Callable, items: Sequence, jobs: int) -> Iterator:
    """An interruption ends the processes at once.

    Raises:
        UserError: a process was killed.
    """
    if jobs == 1 or len(items) < 2:
        yield from map(function, items)
        return
    others = set(active_children())
    default = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches them too: they go without a word
    with ProcessPoolExecutor(min(jobs, len(items)), get_context("spawn"), default) as pool:
        try:
            yield from pool.map(function, items)
        except BrokenProcessPool as error:
            raise UserError(
                "A process was killed, perhaps for want of memory; run the same command again, with fewer --jobs."
            ) from error
        except (KeyboardInterrupt, GeneratorExit):
            for process in set(active_children()) - others:
                process.terminate()
            raise


def run_on_beam(function: Callable, items: Sequence, beam: dict) -> Iterator:
    """Results stay in files: a runner hands none back."""
    import apache_beam

    if not items:
        return
    try:
        with apache_beam.Pipeline(runner=beam["beam_runner"], options=beam["beam_options"]) as pipeline:
            _ = pipeline | apache_beam.Create(items) | apache_beam.Reshuffle() | "read" >> apache_beam.Map(function)
    except RuntimeError as error:  # a worker in another process hands its error over as text
        found = re.search(r"UserError: (.+)", str(error))
        if not found:
            raise
        raise UserError(found[1]) from error
    yield from items


def beam_options(runner: str | None, options: str) -> dict | None:
    """What `prepare` takes as `beam`, of a runner's name and `name=value,…`; None where no runner is named.

    Raises:
        UserError: Apache Beam is not installed, or has no such runner.
    """
    if not runner:
        return None
    require_extra("beam", "--beam-runner", "apache_beam")
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners import create_runner

    try:
        create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"--beam-runner {runner}: {str(error).splitlines()[0]}") from error
    return {"beam_runner": runner, "beam_options": PipelineOptions([f"--{x}" for x in options.split(",") if x])}
