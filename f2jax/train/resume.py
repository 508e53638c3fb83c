"""Starts and resumes runs: whether a run exists in a workdir, where it continues, and what may have changed."""

import contextlib
import hashlib
import importlib.metadata
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import jax
from ml_collections import ConfigDict

import f2jax
from f2jax import config as configs
from f2jax import files
from f2jax.checkpoints import workdir as workdir_lib
from f2jax.checkpoints.best import METRICS_FILE
from f2jax.checkpoints.orbax import finished_steps
from f2jax.checkpoints.workdir import StoredModel
from f2jax.data.tokenizer import load_tokenizer
from f2jax.errors import Restart, UserError
from f2jax.locks import exclusive
from f2jax.model.sizes import Qwen3Config
from f2jax.parallel import hosts
from f2jax.train.teacher import TEACHER

# Fields and groups of the config that may change when a run resumes, since they decide how it is computed, not what.
MAY_CHANGE = (
    *("log", "checkpoint", "mesh", "model.kernel", "model.remat", "model.unroll", "model.chunk_rows"),
    *("model.compiler_options", "model.compile_ahead", "data.row_length", "data.programs"),
)
MAY_MOVE = ("data.sources", "teacher.path", "teacher.cache")  # what lies there is compared instead
STARTS = ("init_from", "resume_from")  # not read once the run has a checkpoint of its own
PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "numpy")
CONFIG_FILE = "config.json"
DATA_FILE = "data.json"  # in the workdir: what decides the rows of the run and their targets, besides its config
BRANCH_FILE = "branch.json"  # in the workdir of a run that began from a checkpoint of another: which, and what differs
OLD_TEACHER = "the teacher"  # in `data.json` of older versions: a hash of one norm


@dataclass(frozen=True)
class Run:
    """The content of a workdir at the start, and where the run continues.

    It continues from a complete checkpoint (`step`) if there is one. Otherwise it starts from the checkpoint of another
    run (`branch`), the weights of `init`, or random weights, even if it was killed before its first checkpoint.
    """

    workdir: str
    begun: bool  # a checkpoint or a line of metrics is there; until then everything may be corrected
    step: int | None  # of the newest finished checkpoint
    branch: tuple[str, int] | None  # workdir and step of the checkpoint of another run that this one continues
    init: StoredModel | None  # the starting weights
    architecture: Qwen3Config

    @property
    def tokenizer(self) -> str:
        """The folder of the tokenizer that the run must keep; "": not chosen yet."""
        run = self.workdir if self.begun else self.branch[0] if self.branch else ""
        return run and files.join(run, "tokenizer")

    def check_steps(self, steps: int) -> int:
        """Returns the number of steps of the complete run.

        Raises:
            UserError: the checkpoint that it branches from already has as many.
        """
        if self.branch and self.branch[1] >= steps:
            run, step = self.branch
            raise UserError(
                f"resume_from={run}@{step} has taken {step} steps, and this run ends after {steps}; raise steps."
            )
        return steps

    def keep(self, config: ConfigDict, fingerprints: dict[str, str], tokenizer) -> None:
        """Writes what a resume needs: config, architecture, tokenizer, `fingerprints` of the data, and the branch.

        Raises:
            UserError: the run was started with other data, which the message names.
        """
        self._check_data(fingerprints)
        if not hosts.is_first():
            return
        files.write_atomically(files.join(self.workdir, CONFIG_FILE), configs.to_json(config))
        files.write_atomically(files.join(self.workdir, DATA_FILE), _json(fingerprints))
        workdir_lib.write_architecture(self.workdir, self.architecture)
        if not self.begun:
            tokenizer.save(files.join(self.workdir, "tokenizer"))
        if not self.begun and self.branch:
            run, step = self.branch
            changed = configs.differences(
                files.read_json_object(files.join(run, CONFIG_FILE)), config.to_dict(), STARTS
            )
            branch = {"run": run, "step": step, "changed": changed}
            files.write_atomically(files.join(self.workdir, BRANCH_FILE), _json(branch))

    def _check_data(self, fingerprints: dict[str, str]) -> None:
        path = files.join(self.workdir, DATA_FILE)
        if not (self.begun and files.exists(path)):  # an older version kept none
            return
        before = files.read_json_object(path)
        if before.pop(OLD_TEACHER, None) and TEACHER in fingerprints:
            before[TEACHER] = fingerprints[TEACHER]
        changed = [name for name in before | fingerprints if before.get(name) != fingerprints.get(name)]
        if changed:
            raise UserError(
                f"{self.workdir} holds a run whose data differs in {hosts.join_first(changed)}; restore the data to "
                "resume it, or give another --workdir."
            )


def open_run(config: ConfigDict, workdir: str | Path) -> Run:
    """Opens a workdir, local or gs://, or creates it and writes the config.

    Raises:
        UserError: the folder contains something else or a run with another config, it cannot be written, a host cannot
            see it, or what the run starts from cannot be found or has another size or tokenizer.
    """
    check_is_run(workdir)
    steps = finished_steps(workdir)
    step = hosts.broadcast(steps[-1] if steps else -1)
    metrics = files.join(workdir, METRICS_FILE)
    begun = hosts.broadcast(int(step >= 0 or (files.exists(metrics) and files.file_size(metrics) > 0)))
    path = files.join(workdir, CONFIG_FILE)
    if begun and files.exists(path):
        check_same_config(config, workdir, has_checkpoint=step >= 0)
    elif hosts.is_first():
        files.write_atomically(path, configs.to_json(config))
    check_shared(workdir)

    if step >= 0:
        return Run(str(workdir), True, step, None, None, workdir_lib.read_architecture(workdir))
    if config.resume_from:
        path, name = files.join(workdir, BRANCH_FILE), config.resume_from
        if begun and files.exists(path):  # the newest, or best, checkpoint of the other run may be another by now
            before = files.read_json_object(path, {"run": str, "step": int})
            name = f"{before['run']}@{before['step']}"
        branch = find_checkpoint(name)
        architecture = branch_architecture(config, branch[0])
        if not begun:
            check_branch_tokenizer(config, branch[0])
        return Run(str(workdir), bool(begun), None, branch, None, architecture)
    init = workdir_lib.find_model(config.init_from) if config.init_from else None
    return Run(str(workdir), bool(begun), None, None, init, start_architecture(config, init.path if init else ""))


@contextlib.contextmanager
def sole_training(workdir: str | Path) -> Iterator[None]:
    """Locks a local workdir against other trainings; one on gs:// is used without a lock.

    Raises:
        UserError: another process trains there, or the folder cannot be written; raised in all processes.
    """
    with contextlib.ExitStack() as lock:
        refused: Exception | None = None
        if hosts.is_first() and not files.is_remote(workdir):
            try:
                lock.enter_context(exclusive(Path(workdir), "train", required=False))
            except (Restart, UserError) as error:
                refused = error
        if hosts.broadcast(int(refused is not None)):
            raise refused or UserError(f"Process 0 cannot use the workdir {workdir}; its message says why.")
        yield


def check_is_run(workdir: str | Path) -> None:
    """Raises UserError unless a folder is missing, empty or the workdir of a run."""
    own_name = str(workdir).rstrip("/").rsplit("/", 1)[-1]  # an empty folder on gs:// lists itself
    names = files.list_names(workdir) if files.exists(workdir) else []
    names = [name for name in names if not name.startswith(".") and not (files.is_remote(workdir) and name == own_name)]
    names = [name for name in names if name != f"{CONFIG_FILE}.part"]  # of a start that was killed
    if CONFIG_FILE in names:
        saved = files.read_json(files.join(workdir, CONFIG_FILE))
        is_run = isinstance(saved, dict) and {"data", "optim", "checkpoint"} <= saved.keys()
    else:
        is_run = workdir_lib.is_workdir(workdir)  # its config may be lost
    if names and not is_run:
        raise UserError(
            f"{workdir} holds {hosts.join_first(sorted(names))}, which is not a training run; give --workdir a new or "
            "empty folder."
        )


def check_same_config(config: ConfigDict, workdir: str | Path, has_checkpoint: bool) -> None:
    """Raises UserError if a field of an existing run differs that must not change."""
    moved = MAY_MOVE if files.exists(files.join(workdir, DATA_FILE)) else ()
    allowed = (*MAY_CHANGE, *moved, *(STARTS if has_checkpoint else ()))
    changed = configs.differences(files.read_json_object(files.join(workdir, CONFIG_FILE)), config.to_dict(), allowed)
    if changed:
        other = f"another --workdir, with --config.resume_from={workdir} to continue from its checkpoint there"
        raise UserError(
            f"{workdir} holds a run whose config differs in {', '.join(changed)}; give the same config to resume it, "
            f"or {other if has_checkpoint else 'another --workdir'}."
        )


def find_checkpoint(name: str) -> tuple[str, int]:
    """Returns workdir and step of RUN@STEP or RUN@best, or of the newest checkpoint of RUN.

    Raises:
        UserError: there is no such checkpoint.
    """
    run, step = workdir_lib.split_step(name)
    if not workdir_lib.is_workdir(run):
        raise UserError(f"resume_from={name}: {run} is not the workdir of a training run.")
    return run, workdir_lib.chosen_step(run, step)


def start_architecture(config: ConfigDict, init_path: str) -> Qwen3Config:
    """Returns the architecture of the initial weights, which must match `model.size` if it is set.

    Without initial weights it is that of `model.size`.

    Raises:
        UserError: they have another size, or their token table has another rank.
    """
    rank = config.model.table_rank
    if not init_path:
        return workdir_lib.architecture_of(config.model)
    architecture = workdir_lib.read_architecture(init_path)
    if architecture.table_rank not in (0, rank):
        raise UserError(
            f"The token table of init_from={config.init_from} has rank {architecture.table_rank}, not {rank}; set "
            f"model.table_rank={architecture.table_rank}, or start from a folder that f2jax export writes."
        )
    _check_size(config, architecture, f"init_from={config.init_from}")
    return replace(architecture, table_rank=rank)


def branch_architecture(config: ConfigDict, run: str) -> Qwen3Config:
    """Returns the architecture of the run that is continued.

    Raises:
        UserError: it differs from that of the config.
    """
    architecture = workdir_lib.read_architecture(run)
    if architecture.table_rank != config.model.table_rank:
        raise UserError(
            f"The token table of resume_from={config.resume_from} has rank {architecture.table_rank}, not "
            f"{config.model.table_rank}; set model.table_rank={architecture.table_rank}."
        )
    _check_size(config, architecture, f"resume_from={config.resume_from}")
    return architecture


def check_branch_tokenizer(config: ConfigDict, run: str) -> None:
    """Raises UserError if the config asks for another tokenizer than that of the run that is continued."""
    before = files.read_json_object(files.join(run, CONFIG_FILE), optional={"tokenizer": dict}).get("tokenizer", {})
    path, train_vocab = config.tokenizer.path, config.tokenizer.train_vocab
    folder = files.join(run, "tokenizer")
    if train_vocab and train_vocab != before.get("train_vocab"):
        raise UserError(
            f"tokenizer.train_vocab={train_vocab} makes a new tokenizer, and the run to continue has its own, in "
            f"{folder}; set it to 0."
        )
    if path and path != before.get("path") and not load_tokenizer(folder).gives_same_ids(load_tokenizer(path)):
        raise UserError(
            f"tokenizer.path={path} splits texts into other tokens than the run to continue, whose tokenizer is in "
            f"{folder}; leave it empty."
        )


def _check_size(config: ConfigDict, architecture: Qwen3Config, origin: str) -> None:
    if not config.model.size:
        return
    wanted = workdir_lib.architecture_of(config.model)
    names = ("width", "mlp", "layers", "heads", "kv_heads", "head_dim", "vocab_size")
    pairs = [(name, getattr(architecture, name), getattr(wanted, name)) for name in names]
    wrong = [f"{name} {value}, not {other}" for name, value, other in pairs if value != other]
    if wrong:
        raise UserError(f"{origin} is not a {config.model.size}: it has {'; '.join(wrong)}.")


def check_shared(workdir: str | Path) -> None:
    """Checks that all processes see a file written by the first; in separate folders, no checkpoint would complete.

    Raises:
        UserError: a process does not see it; raised in all processes.
    """
    if jax.process_count() == 1:
        return
    path = files.join(workdir, f"shared-{hosts.broadcast(secrets.randbits(31))}")
    if hosts.is_first():
        files.write_atomically(path, "Hosts look for this file at the start of a run.\n")
    written = hosts.allgather(1)  # none looks before
    blind = [process for process, sees in enumerate(hosts.allgather(int(files.exists(path)))) if not sees]
    if hosts.is_first():
        files.remove_file(path)
    if blind:
        raise UserError(
            f"The workdir {workdir} of process 0 is not that of {len(blind)} of {len(written)} processes, process "
            f"{blind[0]} the first of them; give a folder that all hosts share, or one on gs://."
        )


def diverged_advice(workdir: str | Path, steps: list[int], bad_step: int, skipped: int) -> str:
    """Returns what to do after a step whose loss is not finite.

    Args:
        steps: steps of the complete checkpoints.
        skipped: `data.skip_steps` of the run.
    """
    before = [step for step in steps if step < bad_step]
    if not before:
        return "Lower optim.peak_lr or look at that data, and begin in another --workdir; there is no checkpoint yet."
    return (
        f"Go on from its checkpoint in another --workdir, with --config.resume_from={workdir}@{before[-1]} and a lower "
        f"--config.optim.peak_lr, or --config.data.skip_steps={bad_step + skipped - before[-1]} to leave out the "
        "batches up to that one."
    )


def host_fingerprints(config: ConfigDict) -> dict[str, str]:
    """Returns what must be the same on all hosts: versions, the code of f2jax, and each field of the config."""
    versions = {name: _version(name) for name in PACKAGES}
    code = {"f2jax code": code_hash(Path(f2jax.__file__).parent)}
    return versions | code | {f"config.{name}": str(value) for name, value in configs.fields(config).items()}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def code_hash(folder: Path) -> str:
    """Returns a short hash of the Python files in a folder and its subfolders."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _json(value) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
