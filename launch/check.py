"""Checks trainings before anything starts or is paid for: what f2jax would refuse later, it says now, in one sentence.

    python launch/check.py [--devices N --slices N] [--data gs://… --data_dir FOLDER] [--folder FOLDER]
        [--given MODEL …] [--prepare FOLDER SOURCE …] [--merge STEPS] [--plan TOPOLOGY]
        -- --config FILE:OPTIONS --config.NAME=VALUE … [++ --config …]

Of each run it checks the fields, the model's shape, the loss, the optimizer and its schedule, and the mesh on that many
devices (0: those of this machine) with what it divides. With --folder, where runs on this machine lie, it looks for the
data and the models that they start from, but for those in --given, which earlier steps make, and asks for room for
their checkpoints, less what lies in the --workdir of a run already. Each --prepare is a corpus to be made on this
machine and the raw data that must be there for it; the disk needs room for the least that corpora take of it. With
--data_dir, where workers get a copy of --data, a corpus has to be in there, or on gs://. With --merge, each run has to
keep checkpoints of so many last steps for an average. With --plan each training is
compiled for that slice, once for all that are alike. One that does not fit is refused; for the others it prints the
days and the cost (--price is that of a chip-hour). Each takes minutes and the TPU compiler on this machine. It says
what it could not check.
"""

import argparse
import itertools
import shutil
import sys
from pathlib import Path
from typing import Any

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2}
# The least that a corpus took while it was made, for each byte of raw data that is compressed, or not; short texts took
# up to 24 times their Parquet file (`python -m benchmarks.corpus_disk`).
CORPUS_SHARE = {True: 1.3, False: 0.5}


def main(argv: list[str]) -> None:
    own, runs = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--devices", type=int)
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--data")
    parser.add_argument("--data_dir")
    parser.add_argument("--folder")
    parser.add_argument("--given", nargs="*", default=[])
    parser.add_argument("--prepare", nargs="+", action="append", default=[])
    parser.add_argument("--merge", type=int)
    parser.add_argument("--plan")
    parser.add_argument("--price", type=float)
    args = parser.parse_args(own)

    from f2jax.errors import UserError

    of_run = argparse.ArgumentParser(allow_abbrev=False)
    of_run.add_argument("--config")
    of_run.add_argument("--workdir")
    needed, notes = 0, set()
    if not args.folder:
        notes.add("Data, starting weights and disks are those of the workers: they are not checked here.")
    try:
        for source in [source for _, *sources in args.prepare for source in sources]:
            check_source(source, notes)
        check_room_for_corpora(args.prepare, notes)
        trainings = []
        for is_run, words in itertools.groupby(runs, lambda word: word != "++"):
            if is_run:
                given, rest = of_run.parse_known_args(list(words))
                if not given.config:
                    raise UserError("train needs a --config, such as configs/stage2.py:size=80m.")
                overrides = [text for text in rest if text.startswith("--config.")]
                needed += check_run(given.config, overrides, given.workdir, args, notes)
                trainings.append((given.config, overrides))
        if args.folder:
            check_disk(args.folder, needed)
        plans: dict[Any, Any] = {}
        for config, overrides in trainings if args.plan else ():  # last: each takes minutes
            plan_run(config, overrides, args, plans)
    except UserError as error:
        sys.exit(f"launch: {error}")
    for note in sorted(notes):
        print(note, file=sys.stderr)


def check_run(spec: str, overrides: list[str], run: str | None, args, notes: set[str]) -> int:
    """Returns the bytes that the checkpoints of a run in workdir `run` are to take; notes what cannot be checked here.

    Raises:
        UserError: f2jax would refuse the run.
    """
    from f2jax import config
    from f2jax.checkpoints import workdir
    from f2jax.checkpoints.orbax import kept_steps
    from f2jax.model.qwen3 import check_execution
    from f2jax.model.sizes import SIZES
    from f2jax.train.measures import check_best_metric
    from f2jax.train.program import check_settings

    loaded = config.load(spec, overrides)
    config.check(loaded)
    check_execution(loaded.model.kernel, loaded.model.remat)
    if loaded.checkpoint.best_metric:
        check_best_metric(loaded.checkpoint.best_metric, loaded)
    if args.merge is not None:
        check_tail(loaded.checkpoint, args.merge)
    if not loaded.steps:
        notes.add("steps=0: the data decide; the schedule, and room for the checkpoints at its end, are not checked.")
    known = loaded.model.size in SIZES or (args.folder and Path(loaded.model.size or "no such").is_dir())
    architecture = workdir.architecture_of(loaded.model) if known else None
    if architecture is None:
        notes.add(f"model.size={loaded.model.size} is not on this machine: its shape and checkpoints are not checked.")
    else:
        check_settings(loaded, architecture)
    if args.devices is not None:
        check_mesh(loaded.mesh, architecture, args)
    if args.data_dir:
        check_copied([source for source in loaded.data.sources if source.startswith("corpus:")], args)
    if args.folder:
        for source in loaded.data.sources:
            if source.removeprefix("corpus:") not in args.given:
                check_source(source, notes)
        for name in (loaded.init_from, loaded.teacher.path, loaded.resume_from):
            if name and name not in args.given:
                check_model(name, notes)
    if architecture is None:
        return 0
    moments = {"adamw": 2, "sgd": 1}[loaded.optim.name] * BYTES[loaded.optim.state_dtype]
    weights = BYTES[loaded.model.param_dtype]
    kept = len(kept_steps(loaded.steps, loaded.checkpoint)) if loaded.steps else loaded.checkpoint.keep_last
    one = architecture.parameters * (weights + moments)
    lying = bytes_of(Path(run) / "checkpoints") if run and args.folder else 0
    return max(kept * one - lying, 0) + one  # one more while it is written


def check_tail(checkpoint, merge: int) -> None:
    """Raises UserError where a run keeps checkpoints for an average, but of fewer steps than are to be merged."""
    from f2jax.errors import UserError

    kept = checkpoint.tail_steps if checkpoint.tail_every else 0
    if merge > kept:
        raise UserError(
            f"--merge {merge} averages the checkpoints of the last {merge} steps, and checkpoint.tail_steps and "
            f"tail_every keep those of {kept}; merge fewer, or override both."
        )


def plan_run(spec: str, overrides: list[str], args, plans: dict[Any, Any]) -> None:
    """Compiles the step of a run for the slice, unless one like it was, and says what it takes.

    Args:
        plans: those so far, by all that decides on a step; runs that differ in what starts them are said once.

    Raises:
        UserError: it does not fit, or cannot be planned.
    """
    from f2jax import config
    from f2jax.errors import UserError
    from f2jax.parallel.chips import canonical_topology
    from f2jax.plan.report import cost
    from f2jax.plan.run import plan_slice, planned_steps

    if args.slices > 1:
        raise UserError("--plan compiles for one slice; leave it out with SLICES above 1.")
    loaded = config.load(spec, overrides)
    if loaded.teacher.path in args.given:  # not there yet: FOLDER/SIZE-STAGE
        loaded.teacher.path = Path(loaded.teacher.path).name.rpartition("-")[0]
    steps = planned_steps(loaded)
    alike = loaded.copy_and_resolve_references()
    alike.data.sources, alike.data.use_instructions = (), False  # say how many steps, not what one is
    key = repr([alike[group].to_dict() for group in ("mesh", "model", "data", "teacher", "loss", "optim")])
    if (key, steps) in plans:
        return
    if key not in plans:
        plans[key] = plan_slice(loaded, canonical_topology(args.plan))
    if not plans[key].fits:
        raise UserError(f"{spec} does not fit {plans[key].topology}; {plans[key].advice}.")
    plans[key, steps] = plan = plans[key].for_steps(steps)
    print(
        f"{spec} on {plan.topology}: {plan.needed / GIB:,.1f} of {plan.hbm / GIB:,.1f} GiB, {plan.days:,.2f} days at "
        f"most, {plan.chip_hours:,.0f} chip-hours, {cost(plan, args.price) or 'at a price that is not known'}",
        file=sys.stderr,
    )


def check_mesh(mesh, architecture, args) -> None:
    """Raises UserError where the mesh does not fit the devices, or does not divide a weight."""
    import jax
    from jax.sharding import AbstractMesh

    from f2jax.model.qwen3 import abstract_params
    from f2jax.parallel.mesh import MESH_AXES, mesh_sizes
    from f2jax.parallel.sharding import param_shardings

    sizes = mesh_sizes([mesh[axis] for axis in MESH_AXES], args.devices or jax.device_count(), args.slices)
    if architecture is not None:
        param_shardings(abstract_params(architecture), AbstractMesh(tuple(sizes), MESH_AXES))


def check_source(source: str, notes: set[str]) -> None:
    """Raises UserError where the files of a source of rows, or a corpus, are not there; notes those of the hub."""
    from f2jax import files
    from f2jax.data.corpus import CARD
    from f2jax.data.sources import source_files
    from f2jax.errors import UserError

    if source.startswith("hub:"):
        notes.add(f"{source} is not looked for: it is on the hub.")
    elif not source.startswith("corpus:"):
        source_files(source)
    elif not files.exists(files.join(source.removeprefix("corpus:"), CARD)):
        raise UserError(f"{source} in data.sources is no corpus; make it with f2jax prepare.")


def check_copied(corpora: list[str], args) -> None:
    """Raises UserError for a corpus that the workers will not have."""
    from f2jax import files
    from f2jax.errors import UserError

    folder = args.data_dir.rstrip("/")
    for path in [source.removeprefix("corpus:") for source in corpora]:
        inside = f"{path}/".startswith(f"{folder}/")
        if not inside and not files.is_remote(path):
            raise UserError(
                f"The workers have no {path}; put the corpus on gs://, set DATA to it in launch/env.sh, and name it "
                f"corpus:{folder}."
            )
        if inside and not args.data:
            raise UserError(
                f"corpus:{path} is where set-up copies DATA to, and DATA is empty; set it in launch/env.sh to the "
                "gs:// folder of the corpus."
            )


def check_model(name: str, notes: set[str]) -> None:
    """Raises UserError where a model is named that is not there; notes those of the hub."""
    from f2jax import files
    from f2jax.checkpoints import workdir
    from f2jax.checkpoints.workdir import split_step

    run, _ = split_step(name)
    local = files.is_remote(run) or Path(run).expanduser().is_dir() or run in files.built_in_models()
    if not local and run.count("/") == 1 and not run.startswith((".", "/", "~")):
        notes.add(f"{name} is not looked for: it would be downloaded from the hub.")
    else:
        workdir.read_architecture(workdir.find_model(name).path)


def check_room_for_corpora(corpora: list[list[str]], notes: set[str]) -> None:
    """Raises UserError where the disk has no room for the corpora that are to be made of raw data.

    Args:
        corpora: of each its folder, then its sources.
    """
    from f2jax import files
    from f2jax.data.corpus import CARD
    from f2jax.data.sources import source_files
    from f2jax.errors import UserError

    needed = 0.0
    for folder, *sources in corpora:
        if (Path(folder) / CARD).exists():
            continue
        whole = 0.0
        for path in [path for source in sources if not source.startswith("hub:") for path in source_files(source)]:
            compressed = path.endswith((".parquet", ".gz", ".bz2", ".zst"))
            store, name = files.filesystem(path)
            whole += CORPUS_SHARE[compressed] * store.size(name)
        needed += max(whole - bytes_of(Path(folder)), 0)  # of one that was cut off, some lies there
    if needed:
        free = shutil.disk_usage(existing(corpora[0][0])).free
        if needed > free:
            raise UserError(
                f"The corpora take at least {needed / GIB:,.1f} GiB and {corpora[0][0]} has {free / GIB:,.1f} free; "
                "make room, or give another folder."
            )
        notes.add(
            f"The corpora take at least {needed / GIB:,.1f} GiB, maybe many times that; {free / GIB:,.1f} are free."
        )


def bytes_of(folder: Path) -> int:
    """Returns the size of the files below a folder; 0 if there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def existing(folder: str) -> Path:
    """Returns a folder, or the nearest one above it that exists."""
    path = Path(folder).resolve()
    return next(place for place in (path, *path.parents) if place.exists())


def check_disk(folder: str, needed: int) -> None:
    """Raises UserError where the disk of a folder, which need not exist yet, has no room for the checkpoints."""
    from f2jax.errors import UserError

    free = shutil.disk_usage(existing(folder)).free
    if needed > free:
        raise UserError(
            f"The checkpoints of these runs take {needed / GIB:,.1f} GiB more at least and {folder} has "
            f"{free / GIB:,.1f} free; give another folder, or lower checkpoint.keep_last and tail_steps."
        )


if __name__ == "__main__":
    main(sys.argv[1:])
