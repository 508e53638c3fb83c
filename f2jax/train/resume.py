"""Whether a run may begin in a workdir or go on there: same config, same data, and all hosts see the folder."""

import hashlib
import importlib.metadata
import json
import secrets
from pathlib import Path

import jax

import f2jax
from f2jax import config as configs
from f2jax import files
from f2jax.errors import UserError
from f2jax.parallel import hosts
from f2jax.train.metrics import NAME as METRICS_FILE

# Fields and groups of the config that a resumed run may change: where and how it is computed, not what.
MAY_CHANGE = ("log", "checkpoint", "mesh", "model.kernel", "model.remat", "model.unroll", "model.chunk_rows")
MAY_MOVE = ("data.sources", "teacher.path", "teacher.cache")  # what lies there is compared in their place
PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "numpy")
DATA_FILE = "data.json"  # in the workdir: what decides the rows of the run and their targets, beside its config


def has_checkpoint(workdir: str | Path) -> bool:
    """Is there one that was written whole? Then the weights come from it."""
    folder = files.join(workdir, "checkpoints")
    return files.exists(folder) and any(name.isdigit() for name in files.list_names(folder))


def has_begun(workdir: str | Path) -> bool:
    """Is there a checkpoint or a line of metrics? Until then everything may be corrected."""
    metrics = files.join(workdir, METRICS_FILE)
    return has_checkpoint(workdir) or (files.exists(metrics) and files.file_size(metrics) > 0)


def prepare_workdir(config, workdir: str | Path) -> bool:
    """Make the folder, local or gs://, and keep the config in it; returns whether a run has begun there.

    Raises:
        UserError: the run there has a config that differs, the folder cannot be written, or a host does not see it.
    """
    path = files.join(workdir, "config.json")
    begun = has_begun(workdir)
    if begun and files.exists(path):
        moved = MAY_MOVE if files.exists(files.join(workdir, DATA_FILE)) else ()
        moved += ("init_from",) if has_checkpoint(workdir) else ()
        changed = configs.differences(files.read_json(path), config.to_dict(), MAY_CHANGE + moved)
        if changed:
            raise UserError(
                f"{workdir} holds a run whose config differs in {', '.join(changed)}; give the same config to resume "
                "it, or another --workdir."
            )
    elif hosts.is_first():
        files.write_atomically(path, configs.to_json(config))
    check_shared(workdir)
    return begun


def check_shared(workdir: str | Path) -> None:
    """Each process looks for a new file of the first: in folders of their own no checkpoint would become whole.

    Raises:
        UserError: on every process, where one does not find it.
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


def check_data(config, facts: dict[str, str], workdir: str | Path, begun: bool) -> None:
    """Keep the facts of the data beside the config, as it is now; a run that began with other data is refused.

    Raises:
        UserError: it names the data sets that differ.
    """
    path = files.join(workdir, DATA_FILE)
    known = begun and files.exists(path)
    before = files.read_json(path) if known else facts  # an older version kept none
    changed = [name for name in before | facts if before.get(name) != facts.get(name)]
    if changed:
        raise UserError(
            f"{workdir} holds a run whose data differs in {hosts.join_first(changed)}; restore the data to resume it, "
            "or give another --workdir."
        )
    if hosts.is_first():
        files.write_atomically(files.join(workdir, "config.json"), configs.to_json(config))
        if not known:
            files.write_atomically(path, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def host_fingerprints(config) -> dict[str, str]:
    """What must be the same on all hosts: versions, the code of f2jax, and each field of the config."""
    found = {name: _version(name) for name in PACKAGES}
    found["f2jax code"] = code_hash(Path(f2jax.__file__).parent)
    return found | {f"config.{name}": str(value) for name, value in configs.fields(config).items()}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def code_hash(folder: Path) -> str:
    """A short hash of the Python files in a folder and below."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
