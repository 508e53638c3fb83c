"""Checkpoints with Orbax: written in the background, visible once complete, restored into the target sharding.

A local checkpoint gets its final name once it is complete. On gs://, where nothing can be renamed, it is complete once
it contains the marker `commit_success.txt`, which is written last.
"""

import itertools
import json
import logging
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from f2jax import errors, files
from f2jax.checkpoints.best import KeepBest
from f2jax.errors import Restart, UserError
from f2jax.parallel import hosts
from f2jax.parallel.sharding import copy_axes, path_name, with_copies, without_copies


@flax.struct.dataclass
class TrainState:
    """The state of a training, of which the step decides the batches. Leaves are arrays, or shapes and shardings."""

    step: Any  # int32 scalar: optimizer steps taken
    params: dict
    opt_state: optax.OptState


ITEMS = "params", "opt_state"  # of a checkpoint, and of a `TrainState`
READ, DAMAGED, NOT_NOW, REFUSED = range(4)  # the outcomes of reading a checkpoint, from best to worst
RETRY_SECONDS = 1, 5  # pauses before a checkpoint that seems damaged is read again
# Words in TensorStore's messages about files that are damaged, truncated or missing.
DAMAGE = "DATA_LOSS", "OUT_OF_RANGE", "NOT_FOUND", "Truncated Zstd", "ZSTD_decompress"


def is_checkpoint_step(step: int, steps: int, config) -> bool:
    """Returns whether a checkpoint follows `step` of `steps`: at regular steps, more often in the tail, at the end."""
    return step == steps or step % config.every == 0 or step in averaged_steps(steps, config)


def averaged_steps(steps: int, config) -> set[int]:
    """Returns the steps of the tail, whose checkpoints are kept to be averaged later (recipe 2.2)."""
    if not config.tail_steps or not config.tail_every:
        return set()
    return {s for s in range(max(steps - config.tail_steps, 1), steps + 1) if s % config.tail_every == 0}


def kept_steps(steps: int, config) -> set[int]:
    """Returns the steps whose checkpoints a complete run leaves, but for the best one and those that time asked for."""
    averaged = averaged_steps(steps, config)
    saved = averaged | {*range(config.every, steps, config.every), steps}
    regular = {step for step in saved if config.keep_every and step % config.keep_every == 0}
    return averaged | regular | {*sorted(saved)[-config.keep_last :]}


class SaveTimer:
    """Decides when `minutes` have passed since the last checkpoint; 0 minutes: never.

    >>> timer = SaveTimer(minutes=30)
    >>> timer.due()
    False
    """

    def __init__(self, minutes: float):
        self.seconds = 60 * minutes
        self.saved()

    def saved(self) -> None:
        """Restarts the timer."""
        self.since, self.asked = time.monotonic(), False

    def due(self) -> bool:
        """Returns whether a checkpoint is due; true only once until `saved` is called."""
        due = not self.asked and self.seconds > 0 and time.monotonic() - self.since >= self.seconds
        self.asked |= due
        return due


class Checkpoints:
    """The checkpoints of a workdir (local or gs://), as a context manager that waits for pending writes on exit.

    >>> with Checkpoints("runs/80m") as checkpoints:  # without a config: to read
    ...     state = checkpoints.restore(like)

    Args:
        config: the group `checkpoint` of a run's config; None: only read, and create nothing.
        steps: number of steps of the complete run, from whose end the tail is counted.

    Attributes:
        scores: {step: `checkpoint.best_metric`}, to which validation and evaluation add; the best checkpoint is kept.
    """

    def __init__(self, workdir: str | Path, config=None, steps: int = 0):
        self.quiet = ExitStack()
        self.quiet.enter_context(files.quiet_logger("absl", logging.ERROR))  # Orbax reports each save on several lines
        policies: list[keep.PreservationPolicy] = []
        self.scores: dict[int, float] = {}
        if config is not None:
            policies = [keep.LatestN(max(config.keep_last, 1)), keep.CustomSteps(sorted(averaged_steps(steps, config)))]
            if config.keep_every:
                policies.append(keep.EveryNSteps(config.keep_every))
            if config.best_metric:
                policies.append(KeepBest(config.best_metric, self.scores))
        self.folder = files.join(workdir if files.is_remote(workdir) else Path(workdir).resolve(), "checkpoints")
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep.AnyPreservationPolicy(policies) if policies else None,
            create=config is not None,
            cleanup_tmp_directories=config is not None,  # unfinished writes are deleted before the next one
            read_only=config is None,
        )
        with files.clear_errors(self.folder):
            self.manager = ocp.CheckpointManager(self.folder, item_names=ITEMS, options=options)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        with self.quiet, self._clear_write_errors(quiet=kind is not None):
            self.manager.close()  # waits as well

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Waits for the last checkpoint at the end of the block, even after an error, which is then raised.

        Raises:
            Restart, UserError: as for `save`.
        """
        try:
            yield
        except BaseException:
            with self._clear_write_errors(quiet=True):
                self.manager.wait_until_finished()
            raise
        self.wait()

    def save(self, state: TrainState) -> None:
        """Starts to write a checkpoint in the background.

        Raises:
            Restart: disk, network or memory failed temporarily.
            UserError: this or the previous checkpoint cannot be written, e.g. because the disk is full; earlier ones
                are not affected.
        """
        step = int(state.step)
        if step in self.manager.all_steps():
            return
        items = {name: getattr(state, name) for name in ITEMS}
        args = ocp.args.Composite(**{name: ocp.args.StandardSave(tree) for name, tree in items.items() if tree})
        with self._clear_write_errors():
            self.manager.save(step, args=args, force=True)

    def wait(self) -> None:
        """Waits until the last checkpoint is complete.

        Raises:
            Restart, UserError: as for `save`.
        """
        with self._clear_write_errors():
            self.manager.wait_until_finished()

    @contextmanager
    def _clear_write_errors(self, quiet: bool = False) -> Iterator[None]:
        """Turns write errors into one sentence; `quiet` hides them after an earlier error, which explains more."""
        try:
            yield
        except Exception as error:
            if not quiet:
                raise self._unwritten(error) from error

    def _unwritten(self, error: Exception) -> Restart | UserError:
        reason = "the disk is full" if errors.is_disk_full(error) else _short(error)
        if errors.is_transient(error):
            message = f"A checkpoint could not be written to {self.folder} just now ({reason})"
            return Restart(f"{message}; run the same command again.")
        steps = ", ".join(map(str, self.steps()))
        kept = f"checkpoints of steps {steps} are complete" if steps else "there is none yet"
        return UserError(
            f"A checkpoint could not be written to {self.folder}: {reason}; {kept}. Fix that and run the same command."
        )

    def steps(self) -> list[int]:
        """Returns the steps of the finished checkpoints, in ascending order."""
        return sorted(self.manager.all_steps())

    def restore(self, like: TrainState, warn=print, step: int | None = None) -> TrainState | None:
        """Restores the newest readable checkpoint in the shapes, dtypes and shardings of `like`; None if there is none.

        Damaged checkpoints are skipped with a warning. All processes call this, and restore the newest checkpoint that
        each of them can read. Arrays of which several devices hold copies are read in parts that the devices exchange,
        if the parts are stored separately.

        Args:
            step: restore only this one.

        Raises:
            Restart: disk, network or memory failed, and not the checkpoint.
            UserError: a checkpoint does not match `like`, all checkpoints are damaged, or the folder cannot be read.
        """
        damaged, steps = False, self.steps() if step is None else [step]
        names = [name for name in ITEMS if getattr(like, name) is not None]
        wanted = {name: getattr(like, name) for name in names}
        has_copies = any(map(copy_axes, jax.tree.leaves(wanted)))
        while (step := hosts.broadcast(steps.pop() if steps else -1)) >= 0:
            chunks, unknown = self._chunks(step, names) if has_copies else ({}, None)
            items, error = self._read(step, without_copies(wanted, chunks) if has_copies else wanted)
            outcome = _outcome(error)
            outcomes = hosts.allgather(outcome)
            worst = max(outcomes)
            if items is not None and worst == READ:
                if unknown:
                    warn(
                        f"How step {step} is stored cannot be read ({unknown}), so each device reads all that it holds."
                    )
                items = with_copies({name: items[name] for name in names}, wanted)
                at = jax.make_array_from_process_local_data(like.step.sharding, np.asarray(step, like.step.dtype))
                return TrainState(at, items["params"], items.get("opt_state"))
            del items  # the next one takes as much memory
            if isinstance(error, (Restart, UserError)) and outcome == worst:
                raise error
            process = outcomes.index(worst)
            why = _short(error) if error and outcome == worst else f"by process {process}"
            if worst == REFUSED:
                raise UserError(
                    f"The checkpoint of step {step} in {self.folder} cannot be used ({why}); restore it with the "
                    "version and config that wrote it."
                ) from error
            if worst == NOT_NOW:
                message = f"The checkpoint of step {step} could not be read just now ({why})"
                raise Restart(f"{message}; run the same command again.") from error
            warn(f"The checkpoint of step {step} cannot be read and is skipped ({why}).")
            damaged = True
        if damaged:
            raise UserError(
                f"None of the checkpoints in {self.folder} can be read; restore one from a copy, or move the folder "
                "away to start from scratch."
            )
        return None

    def _chunks(self, step: int, names: Sequence[str]) -> tuple[dict[str, tuple[int, ...]], str | None]:
        """Returns the shapes of the chunks in which each array of a checkpoint is stored; see `without_copies`.

        The result is {} if a process cannot read them or reads different ones, with the reason if it is this process.
        """
        found: dict[str, tuple[int, ...]] = {}
        unknown = None
        try:
            for name in names:
                folder = epath.Path(files.join(self.folder, f"{step}/{name}"))
                tree = {name: ocp.PyTreeCheckpointHandler().metadata(folder).tree}
                leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
                shapes = {path_name(path): getattr(leaf, "storage", None) for path, leaf in leaves}
                found |= {path: tuple(storage.chunk_shape) for path, storage in shapes.items() if storage}
        except Exception as error:  # of any class, see `_read_once`; the other processes wait for this one below
            found, unknown = {}, _short(error)
        alike = len(set(hosts.allgather(zlib.crc32(repr(sorted(found.items())).encode()) >> 1))) == 1
        return found if alike else {}, unknown

    def _read(self, step: int, like: dict) -> tuple[Any, Exception | None]:
        """Returns (the items of a checkpoint, None), or (None, the error) if this process cannot read it.

        If the checkpoint seems damaged, it is read again, because a bucket or a disk may fail once. Unlike `restore` of
        Orbax's manager, this does not wait for other processes, which would hang if one of them cannot read.
        """
        for pause in (*RETRY_SECONDS, None):
            items, error = self._read_once(step, like)
            if error is None:
                return items, None
            if _outcome(error) != DAMAGED or pause is None:
                break
            time.sleep(pause)
        try:
            files.exists(self.folder)
        except (Restart, UserError) as fault:  # of the bucket, and not of the checkpoint
            return None, fault
        return None, error

    def _read_once(self, step: int, like: dict) -> tuple[Any, Exception | None]:
        if "opt_state" in like:
            args = {name: ocp.args.StandardRestore(tree) for name, tree in like.items()}
        else:  # the model alone, without other trained weights
            restore_args = ocp.checkpoint_utils.construct_restore_args(like["params"])
            args = {"params": ocp.args.PyTreeRestore(like["params"], restore_args, partial_restore=True)}
        process = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(primary_host=process, active_processes={process})
        try:
            with ocp.Checkpointer(ocp.CompositeCheckpointHandler(), multiprocessing_options=alone) as reader:
                return reader.restore(files.join(self.folder, str(step)), args=ocp.args.Composite(**args)), None
        except Exception as error:  # Orbax, TensorStore and gcsfs have classes of their own, or none
            return None, error

    def set_aside_after(self, step: int) -> None:
        """Moves later checkpoints, which `restore` skipped, to `unreadable/` next to `checkpoints/`.

        All processes call this. Nothing is deleted.
        """
        later = [later for later in self.steps() if later > step]
        if hosts.is_first():
            for damaged in later:
                target = files.join(self.folder.removesuffix("checkpoints"), f"unreadable/{damaged}")
                files.move_folder(files.join(self.folder, str(damaged)), _unused(target))
        if hosts.broadcast(len(later)):  # the others wait here for the first
            self.manager.reload()


def finished_steps(workdir: str | Path) -> list[int]:
    """Returns the steps of a workdir's complete checkpoints; empty if there are none, or no such folder."""
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.steps()


def read_weight(workdir: str | Path, step: int, path: tuple[str, ...], like) -> np.ndarray:
    """Returns a single weight of a checkpoint with the shape and dtype of `like`.

    Raises:
        Restart: disk, network or memory failed temporarily.
        UserError: the checkpoint cannot be read.
    """
    folder = files.join(workdir if files.is_remote(workdir) else Path(workdir).resolve(), f"checkpoints/{step}/params")
    nest = {path: like}, {path: ocp.ArrayRestoreArgs(restore_type=np.ndarray, dtype=like.dtype)}
    item, restore_args = (unflatten_dict(flat) for flat in nest)
    args = ocp.args.PyTreeRestore(item, restore_args, partial_restore=True)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            return flatten_dict(checkpointer.restore(folder, args=args))[path]
    except Exception as error:  # as in `Checkpoints`
        if errors.is_transient(error):
            message = f"{folder} could not be read just now ({_short(error)})"
            raise Restart(f"{message}; run the same command again.") from error
        raise UserError(f"{folder} cannot be read ({_short(error)}); leave that checkpoint out.") from error


def _outcome(error: Exception | None) -> int:
    if error is None:
        return READ
    if isinstance(error, UserError):
        return REFUSED
    if isinstance(error, Restart) or errors.is_transient(error):
        return NOT_NOW
    return DAMAGED if _says_damaged(error) else REFUSED


def _says_damaged(error: BaseException) -> bool:
    """Returns whether an error means that files are damaged, truncated or missing, and not that shapes differ."""
    return (
        isinstance(error, (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError))
        or any(words in str(error) for words in DAMAGE)
        or (error.__cause__ is not None and _says_damaged(error.__cause__))
    )


def _unused(path: str) -> str:
    """Returns the path with the first number appended that makes it unused."""
    others = (f"{path}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([path], others) if not files.exists(name))


def _short(error: BaseException) -> str:
    """Returns the first line of an error's message, or of its cause's if it only describes the store."""
    if error.__cause__ is not None and str(error).startswith("Encountered error while reading array"):
        return _short(error.__cause__)
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
