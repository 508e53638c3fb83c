"""Plans a slice before it is paid for: compiles the train step for a TPU topology, with the TPU compiler but no TPU."""

import dataclasses
import math
import os
import re
import time
from collections import defaultdict
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from f2jax import config as configs
from f2jax.checkpoints import workdir
from f2jax.data.teacher_vectors import read_info
from f2jax.errors import UserError, require_extra
from f2jax.model.attention import check_kernel_fits
from f2jax.model.operations import step_operations
from f2jax.model.qwen3 import Qwen3, abstract_params, check_execution
from f2jax.model.sizes import SIZES, Qwen3Config, size
from f2jax.parallel.chips import canonical_topology, chip_of
from f2jax.parallel.mesh import make_mesh
from f2jax.parallel.sharding import ROW_SPEC, param_shardings
from f2jax.parallel.threads import interruptible
from f2jax.plan.hlo import Cost, program_cost
from f2jax.plan.lengths import PlannedRows, rows_of_lengths, rows_of_mean
from f2jax.plan.step_time import StepSeconds, step_seconds
from f2jax.train.program import Program, abstract_batch
from f2jax.train.step import Teacher

STAGE_ROWS = {1: 27e6, 2: 18e6}  # training rows of the recipe's stages (recipe 2.1)
TIGHT = 0.95  # share of the memory above which transfers and fragmentation may keep a program from running
COMPILER_ENVIRONMENT = {  # keeps the compiler from looking for a TPU here, and lets several plans run concurrently
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclass(frozen=True)
class SlicePlan:
    """What a config needs on a topology, and how fast it is; bytes are per device, and seconds per step."""

    topology: str
    size: str
    teacher: str  # size of the teacher, its path or its cache; "": none
    chips: int
    mesh: dict[str, int]
    remat: str
    chunk_rows: int
    unroll: int  # layers in an iteration of the loop over layers
    rows: int  # packed rows that a step encodes, over all devices
    row_length: int
    chunks: int  # chunks of rows that a device encodes one after the other
    useful_share: float  # share of useful tokens among the tokens of rows, in steps of all kinds
    tiles_below: float  # tiles below the diagonal of a row that attention visits, see `lengths.tiles_below`
    tokens_per_text: int
    steps: int
    fits: bool
    memory: dict[str, int]  # bytes by kind: parameters, optimizer, teacher, batch, temporaries, code
    hbm: int  # bytes that a program may use
    needed: int  # bytes in total
    collectives: list[dict]  # kind, devices, overlaps, runs, bytes, largest; bytes are those of complete arrays
    seconds: dict[str, float]  # compute, links, exposed, step; {} if it does not fit
    scopes: dict[str, float]  # seconds of compute by pass and part of a layer, without attention kernels
    mfu: float  # operations that the model needs, as a share of those that the chips could do in a step
    tokens_per_second: float  # useful tokens per chip
    days: float
    chip_hours: float
    limit: str  # compute, memory or links
    advice: str  # what to change if it does not fit, or only just fits
    compile_seconds: float = 0.0  # seconds of one processor core

    @property
    def is_tight(self) -> bool:
        """Whether it fits, but leaves so little memory that it may not run."""
        return self.fits and self.needed > TIGHT * self.hbm

    def for_steps(self, steps: int) -> "SlicePlan":
        """Returns the plan of a training that fits and takes the same step another number of times."""
        days = self.seconds["step"] * steps / 86_400
        return dataclasses.replace(self, steps=steps, days=days, chip_hours=days * 24 * self.chips)


def planned_steps(config, rows: float | None = None) -> int:
    """Returns the steps of a training: `config.steps`, or those of its epochs over `rows` or the rows of the recipe."""
    rows = rows or STAGE_ROWS[2 if config.data.use_instructions else 1]
    return config.steps or config.epochs * math.ceil(rows / config.data.batch_size)


def plan_slice(
    config, topology: str, tokens_per_text: int | None = None, rows: float | None = None, lengths: str | None = None
) -> SlicePlan:
    """Compiles the train step of `config` for a topology and reports what it takes.

    >>> plan_slice(config, "v5p:4x4x4", tokens_per_text=256).mfu

    Args:
        config: a training config, see configs/common.py; its groups `mesh` and `model` are the layout.
        topology: chip and shape, such as `v5e:16x16`, or another name that `canonical_topology` knows.
        tokens_per_text: mean length of a text; None: `data.max_length`, the worst case.
        rows: training rows of the stage; None: the recipe's (recipe 2.1).
        lengths: real lengths instead of the mean length, see `rows_of_lengths`.

    Raises:
        UserError: there is no TPU compiler, the topology, the teacher, the attention kernel or the remat policy is
            unknown, the mesh does not fit the slice, or a value is out of range.
    """
    configs.check(config)
    check_execution(config.model.kernel, config.model.remat)
    topology = canonical_topology(topology)
    devices, chip = topology_devices(topology), chip_of(topology)
    architecture = workdir.architecture_of(config.model)
    check_kernel_fits(config.model.kernel, architecture.head_dim, "tpu")
    mesh = make_mesh(**config.mesh, devices=devices)
    planned = planned_rows(config, mesh, tokens_per_text, lengths)
    steps = planned_steps(config, rows)
    batch = abstract_batch(config, mesh, "retrieval", config.data.negatives.retrieval, planned.shape)
    teacher = abstract_teacher(config, mesh)
    teacher_width = teacher.model.config.width if teacher else cached_width(config)
    program = Program(config, architecture, mesh, steps, teacher_width)
    settings: dict = {
        "topology": topology,
        "size": config.model.size,
        "teacher": teacher_size(config.teacher.path) or config.teacher.path or config.teacher.cache,
        "chips": len(devices) // chip.cores,
        "mesh": dict(mesh.shape),
        "remat": config.model.remat,
        "chunk_rows": config.model.chunk_rows,
        "unroll": config.model.unroll,
        "rows": batch.tokens_bt.shape[0] // planned.shape.slots * planned.chunks,
        "row_length": planned.shape.length,
        "chunks": planned.chunks,
        "useful_share": planned.useful_share,
        "tiles_below": planned.tiles_below,
        "tokens_per_text": planned.mean,
        "steps": steps,
        "hbm": chip.memory,
    }
    arguments = {
        "parameters": bytes_on_device(program.state.params),
        "optimizer": bytes_on_device(program.state.opt_state),
        "teacher": bytes_on_device(teacher),
        "batch": bytes_on_device(batch),
    }
    if sum(arguments.values()) > chip.memory:
        return _too_large(settings, arguments, sum(arguments.values()), config.data.row_length)
    with jax.set_mesh(mesh):
        lowered = program.step.lower(program.state, batch, teacher, kind="retrieval")
    start = time.process_time()  # of all threads, so that other work on this machine does not count
    try:
        compiled = interruptible(lowered.compile)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = bytes_used(str(error), sum(arguments.values()))
        return _too_large(settings, arguments, needed, config.data.row_length)
    compile_seconds = time.process_time() - start
    memory, needed = memory_by_kind(compiled.memory_analysis(), arguments)
    if needed > chip.memory:  # the compiler does not always raise an error
        return _too_large(settings, arguments, needed, config.data.row_length)
    cost = program_cost(compiled.as_text(), planned.chunks)
    seconds = step_seconds(cost, chip, device_coordinates(mesh), planned.tiles_below)
    tokens = planned.tokens
    operations = step_operations(architecture, teacher.model.config if teacher else None, tokens, planned.mean)
    days = seconds.step * steps / 86_400
    return SlicePlan(
        **settings,
        fits=True,
        memory=memory,
        needed=needed,
        collectives=sum_collectives(cost, len(devices)),
        seconds=dataclasses.asdict(seconds) | {"step": seconds.step},
        scopes={name: cycles / chip.clock for name, cycles in sorted(cost.by_scope.items())},
        mfu=operations / (seconds.step * chip.peak * len(devices)),
        tokens_per_second=tokens / seconds.step / settings["chips"],
        days=days,
        chip_hours=days * 24 * settings["chips"],
        limit=bottleneck(seconds, cost),
        advice=what_to_change(settings, memory, config.data.row_length) if needed > TIGHT * chip.memory else "",
        compile_seconds=compile_seconds,
    )


def planned_rows(config, mesh, tokens_per_text: int | None = None, lengths: str | None = None) -> PlannedRows:
    """Returns the rows of a step on a mesh; see `plan_slice`."""
    if tokens_per_text and lengths:
        raise UserError("--tokens-per-text and --lengths both say how long texts are; give one of them.")
    parts, longest = math.prod(mesh.shape[axis] for axis in ROW_SPEC[0]), config.data.max_length
    if lengths:
        return rows_of_lengths(config, parts, lengths)
    mean = tokens_per_text or longest
    if not 1 <= mean <= longest:
        raise UserError(f"--tokens-per-text={mean} should be from 1 to data.max_length={longest}.")
    return rows_of_mean(config, parts, mean)


def topology_devices(topology: str):
    """Returns the devices of a slice that need not exist.

    Raises:
        UserError: there is no TPU compiler on this machine, or it does not know the topology.
    """
    chip = chip_of(topology)
    require_extra("tpu", "Planning (which needs the TPU compiler, but no TPU)", "libtpu")
    for name, value in (COMPILER_ENVIRONMENT | {"TPU_ACCELERATOR_TYPE": f"{chip.accelerator}-8"}).items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    sides = [int(side) for side in re.findall(r"\d+", topology.partition(":")[2])]
    host = {"chips_per_host_bounds": [1, 1, 1]} if math.prod(sides) == 1 else {}  # otherwise, 2 × 2 chips per host
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology, **host).devices
    except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"The TPU compiler does not know the topology '{topology}': {reason}") from error


def device_coordinates(mesh) -> list[tuple[int, ...]]:
    """Returns the position of each device along the axes of its slice, and its core, in the order of the mesh."""
    return [(*device.coords, device.core_on_chip) for device in mesh.devices.flat]


def teacher_size(path: str) -> str:
    """Returns the size that a teacher's path ends with, as in `…/F2LLM-v2-1.7B`, or "" if it does not name one."""
    match = re.search(r"(?:^|[-/])(\d+(?:\.\d+)?[mb])$", path.lower())
    return match.group(1) if match and match.group(1) in SIZES else ""


def cached_width(config) -> int:
    """Returns the dimension of the teacher's vectors in `config.teacher.cache`, or 0 without one."""
    return read_info(config.teacher.cache).width if config.teacher.cache else 0


def teacher_architecture(config) -> Qwen3Config | None:
    """Returns the shape of the teacher in `config.teacher.path`, or None without one.

    Raises:
        UserError: neither the end of the path nor the files there state its size.
    """
    path = config.teacher.path
    size_name = teacher_size(path)
    return size(size_name) if size_name else workdir.read_architecture(path) if path else None


def abstract_teacher(config, mesh) -> Teacher | None:
    """Returns shapes and shardings of the teacher in `config.teacher.path` without loading it, or None without one.

    Raises:
        UserError: see `teacher_architecture`.
    """
    architecture = teacher_architecture(config)
    if not architecture:
        return None
    dtype = jnp.dtype(config.teacher.dtype)
    shapes = nn.meta.unbox(abstract_params(architecture, dtype))
    params = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        param_shardings(abstract_params(architecture), mesh),
    )
    return Teacher(params, Qwen3(architecture, dtype=dtype, param_dtype=dtype, kernel=config.model.kernel))


def bytes_on_device(tree) -> int:
    """Returns the bytes of a tree of sharded shapes that one device holds, without padding."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def memory_by_kind(stats, arguments: dict[str, int]) -> tuple[dict[str, int], int]:
    """Returns the bytes that a program needs by kind, and in total.

    Args:
        stats: the compiler's `memory_analysis()`.
        arguments: bytes of the arguments by kind.
    """
    new_outputs = max(stats.output_size_in_bytes - stats.alias_size_in_bytes, 0)
    memory = arguments | {
        "padding": max(stats.argument_size_in_bytes - sum(arguments.values()), 0),
        "temporaries": stats.temp_size_in_bytes + new_outputs,
        "code": stats.generated_code_size_in_bytes,
    }
    return memory, sum(memory.values())


def sum_collectives(cost: Cost, devices: int) -> list[dict]:
    """Returns the collectives of a step by kind and number of devices: their count, total bytes and largest size."""
    sums: dict[tuple, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for exchange in cost.collectives:
        key = exchange.kind, len(exchange.group) or devices, exchange.overlaps
        runs, moved, largest = sums[key]
        sums[key] = [runs + exchange.runs, moved + exchange.runs * exchange.bytes, max(largest, exchange.bytes)]
    keys, values = ("kind", "devices", "overlaps"), ("runs", "bytes", "largest")
    return [
        dict(zip(keys, key, strict=True)) | {name: round(x) for name, x in zip(values, total, strict=True)}
        for key, total in sums.items()
    ]


def bottleneck(seconds: StepSeconds, cost: Cost) -> str:
    """Returns what a step waits for most: `links`, `compute` (matrix products) or `memory` (all other operations).

    Other operations are limited by memory, because reading a number takes longer than the work on it.
    """
    waiting = seconds.step - seconds.compute
    if waiting > 0.25 * seconds.step:
        return "links"
    return "compute" if cost.products > 0.5 * cost.cycles else "memory"


def bytes_used(message: str, arguments: int) -> int:
    """Returns the bytes that a step would need according to the compiler's error message, or 0 if it does not say.

    The message gives either the total or, if the temporaries alone are too large, only those.

    Args:
        arguments: bytes of the arguments.
    """
    scale = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    for pattern, more in ((r"Used ([\d.]+)([KMGT]?) of", 0), (r"temporaries \(([\d.]+)([KMGT]?)\)", arguments)):
        if match := re.search(pattern, message):
            return int(float(match.group(1)) * scale[match.group(2)]) + more
    return 0


def _too_large(settings: dict, arguments: dict[str, int], needed: int, row_length: int) -> SlicePlan:
    """Returns the plan of a step that does not fit."""
    memory = arguments | {"temporaries": max(needed - sum(arguments.values()), 0)}
    return SlicePlan(
        **settings,
        fits=False,
        memory=memory,
        needed=needed,
        collectives=[],
        seconds={},
        scopes={},
        mfu=0.0,
        tokens_per_second=0.0,
        days=0.0,
        chip_hours=0.0,
        limit="memory",
        advice=what_to_change(settings, memory, row_length),
    )


def what_to_change(settings: dict, memory: dict[str, int], row_length: int) -> str:
    """Returns the first change that would help a step that needs too much memory.

    Args:
        row_length: the config's `data.row_length`; `model.chunk_rows` counts rows of this length.
    """
    mesh, devices = settings["mesh"], math.prod(settings["mesh"].values())
    states = memory["parameters"] + memory["optimizer"] + memory["teacher"]
    if states > settings["hbm"] / 3 and mesh["fsdp"] < devices:
        return f"split the weights over more devices: mesh.fsdp={min(2 * mesh['fsdp'], devices)} or more"
    if settings["remat"] != "full":
        return "keep fewer activations: model.remat=full"
    shards = math.prod(mesh[axis] for axis in ROW_SPEC[0])
    rows = settings["chunk_rows"] or settings["rows"] * settings["row_length"] // shards // row_length
    return f"encode fewer rows at once: model.chunk_rows={rows // 2}" if rows > 1 else "take more chips"
