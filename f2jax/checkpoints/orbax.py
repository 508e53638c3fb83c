"""Checkpoints with Orbax: written in the background, visible only when whole, restored into the target sharding.

A local checkpoint gets its name when it is whole. On gs://, where nothing can be renamed, it counts once the marker
`commit_success.txt` lies in it, which is written last.
"""

import contextlib
import itertools
import logging
from pathlib import Path

import flax
import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from f2jax import errors, files
from f2jax.errors import Restart, UserError
from f2jax.parallel import hosts


@flax.struct.dataclass
class TrainState:
    """All that a resume needs: the step alone decides the batches."""

    step: jax.Array  # int32 scalar: optimizer steps taken
    params: dict
    opt_state: optax.OptState


READ, DAMAGED, NOT_NOW, REFUSED = range(4)  # what may come of reading a checkpoint, from good to bad


def is_checkpoint_step(step: int, steps: int, config) -> bool:
    """Is a checkpoint due after `step` of `steps`? Every so often, more often in the tail, and at the end."""
    return step == steps or step % config.every == 0 or step in averaged_steps(steps, config)


def averaged_steps(steps: int, config) -> set[int]:
    """The steps of the last stretch whose checkpoints stay, to be averaged later (recipe 2.2)."""
    if not config.tail_steps or not config.tail_every:
        return set()
    return {s for s in range(max(steps - config.tail_steps, 1), steps + 1) if s % config.tail_every == 0}


class Checkpoints:
    """The checkpoints of a workdir (local or gs://); a context manager that waits for pending writes on exit."""

    def __init__(self, workdir: str | Path, config=None, steps: int = 0):
        self.quiet = contextlib.ExitStack()
        self.quiet.enter_context(files.quiet_logger("absl", logging.ERROR))  # Orbax reports each save on several lines
        policies = []
        if config is not None:
            policies = [keep.LatestN(max(config.keep_last, 1)), keep.CustomSteps(sorted(averaged_steps(steps, config)))]
            if config.keep_every:
                policies.append(keep.EveryNSteps(config.keep_every))
        remote = files.is_remote(workdir)
        self.folder = files.join(workdir if remote else Path(workdir).resolve(), "checkpoints")
        self.errors = Exception if remote else (OSError, ValueError, KeyError)  # gcsfs has classes of its own
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep.AnyPreservationPolicy(policies) if policies else None,
            create=config is not None,
            cleanup_tmp_directories=config is not None,  # what is left of writes that were cut off, before the next
            read_only=config is None,
        )
        with files.clear_errors(self.folder):
            self.manager = ocp.CheckpointManager(self.folder, item_names=("params", "opt_state"), options=options)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            self.manager.close()
        except self.errors as error:
            if kind is None:  # an error that is on its way already says what went wrong first
                raise self._unwritten(error) from error
        finally:
            self.quiet.close()

    def save(self, state: TrainState) -> None:
        """Start to write a checkpoint; training goes on meanwhile.

        Raises:
            Restart: disk, network or memory failed for a moment.
            UserError: it or the one before it could not be written, e.g. on a full disk; earlier ones stay as they are.
        """
        step = int(state.step)
        if step in self.manager.all_steps():
            return
        items = {"params": state.params, "opt_state": state.opt_state}
        args = ocp.args.Composite(**{name: ocp.args.StandardSave(tree) for name, tree in items.items() if tree})
        try:
            self.manager.save(step, args=args, force=True)
        except self.errors as error:
            raise self._unwritten(error) from error

    def wait(self) -> None:
        """Wait until the last checkpoint is whole on disk."""
        try:
            self.manager.wait_until_finished()
        except self.errors as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: Exception) -> Restart | UserError:
        reason = "the disk is full" if errors.is_disk_full(error) else _short(error)
        if errors.is_transient(error):
            message = f"A checkpoint could not be written to {self.folder} just now ({reason})"
            return Restart(f"{message}; run the same command again.")
        kept = (
            f"checkpoints of steps {', '.join(map(str, self.steps()))} are whole" if self.steps() else "there is none"
        )
        return UserError(
            f"A checkpoint could not be written to {self.folder}: {reason}; {kept}. Mend that and run the same command."
        )

    def steps(self) -> list[int]:
        return sorted(self.manager.all_steps())

    def restore(self, like: TrainState, warn=print) -> TrainState | None:
        """The newest readable checkpoint in the shapes, types and shardings of `like`; None where there is none.

        A checkpoint that was cut short is passed over, with a warning, for the one before it. All processes call it;
        they take the newest that each of them can read.

        Raises:
            Restart: the disk, the network or the memory is at fault, and not the checkpoint.
            UserError: there are checkpoints, but none can be read, or the folder itself cannot.
        """
        failed, steps = False, self.steps()
        while (step := hosts.broadcast(steps.pop() if steps else -1)) >= 0:
            items, error = self._read(step, like)
            own = _outcome(error)
            outcomes = hosts.allgather(own)
            worst = max(outcomes)
            if worst == READ:
                at = jax.make_array_from_process_local_data(like.step.sharding, np.asarray(step, like.step.dtype))
                return TrainState(at, items["params"], items.get("opt_state"))
            del items  # the next one takes as much memory
            if isinstance(error, (Restart, UserError)) and own == worst:
                raise error
            if worst == REFUSED:
                raise UserError(f"Process {outcomes.index(worst)} may not read {self.folder}; see what it says.")
            why = _short(error) if own == worst else f"by process {outcomes.index(worst)}"
            if worst == NOT_NOW:
                message = f"The checkpoint of step {step} could not be read just now ({why})"
                raise Restart(f"{message}; run the same command again.") from error
            warn(f"The checkpoint of step {step} cannot be read and is passed over ({why}).")
            failed = True
        if failed:
            raise UserError(
                f"None of the checkpoints in {self.folder} can be read by this version and config; go back to those "
                "that wrote them, or move the folder away to start anew."
            )
        return None

    def _read(self, step: int, like: TrainState):
        """(what this process reads of a checkpoint, None) or (None, why it cannot).

        It waits for no other process, as the manager's `restore` does: that would never end where one cannot read.
        """
        if like.opt_state is None:  # the model alone, without what else was trained beside it
            how = ocp.checkpoint_utils.construct_restore_args(like.params)
            args = {"params": ocp.args.PyTreeRestore(like.params, how, partial_restore=True)}
        else:
            args = {name: ocp.args.StandardRestore(getattr(like, name)) for name in ("params", "opt_state")}
        own = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})
        try:
            with ocp.Checkpointer(ocp.CompositeCheckpointHandler(), multiprocessing_options=alone) as reader:
                return reader.restore(files.join(self.folder, str(step)), args=ocp.args.Composite(**args)), None
        except self.errors as error:
            try:
                files.exists(self.folder)
            except (Restart, UserError) as fault:  # of the bucket, and not of the checkpoint
                return None, fault
            return None, error

    def set_aside_after(self, step: int) -> None:
        """Take later checkpoints, those that `restore` passed over, out of the way of new ones.

        They go to `unreadable` beside the others; on gs://, where nothing can be renamed, they are deleted. All
        processes call it.
        """
        later = [found for found in self.steps() if found > step]
        if hosts.is_first():
            for found in later:
                self._set_aside(found)
        if hosts.broadcast(len(later)):  # the others wait here for the first
            self.manager.reload()

    def _set_aside(self, step: int) -> None:
        if files.is_remote(self.folder):
            files.remove_files(files.join(self.folder, str(step)))
        else:
            aside = Path(self.folder).with_name("unreadable")
            aside.mkdir(exist_ok=True)
            Path(self.folder, str(step)).replace(_free(aside / str(step)))


def read_weight(workdir: str | Path, step: int, path: tuple[str, ...], like) -> np.ndarray:
    """One weight of a checkpoint, alone, in the shape and type of `like`.

    Raises:
        Restart: disk, network or memory failed for a moment.
        UserError: the checkpoint cannot be read.
    """
    folder = files.join(workdir if files.is_remote(workdir) else Path(workdir).resolve(), f"checkpoints/{step}/params")
    nest = {path: like}, {path: ocp.ArrayRestoreArgs(restore_type=np.ndarray, dtype=like.dtype)}
    item, restore_args = (unflatten_dict(flat) for flat in nest)
    args = ocp.args.PyTreeRestore(item, restore_args, partial_restore=True)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            found = flatten_dict(checkpointer.restore(folder, args=args))[path]
    except (OSError, ValueError, KeyError) as error:
        if errors.is_transient(error):
            message = f"{folder} could not be read just now ({_short(error)})"
            raise Restart(f"{message}; run the same command again.") from error
        raise UserError(f"{folder} cannot be read ({_short(error)}); leave that checkpoint out.") from error
    return found


def _outcome(error: Exception | None) -> int:
    if error is None:
        return READ
    if isinstance(error, UserError):
        return REFUSED
    return NOT_NOW if isinstance(error, Restart) or errors.is_transient(error) else DAMAGED


def _free(path: Path) -> Path:
    """The path, or with a number behind it one that is not there yet."""
    others = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(one for one in itertools.chain([path], others) if not one.exists())


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
