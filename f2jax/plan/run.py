"""Plans a pod before it is paid for: the train step, compiled for a TPU topology by the TPU compiler, without a TPU."""

import dataclasses
import math
import os
import re
from collections import defaultdict
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from f2jax import config as configs
from f2jax.checkpoints import workdir
from f2jax.data.packing import round_up_rows
from f2jax.data.teacher_vectors import read_info
from f2jax.errors import UserError, require_extra
from f2jax.model.qwen3 import Qwen3, abstract_params
from f2jax.model.sizes import SIZES, Qwen3Config, size
from f2jax.parallel import chips
from f2jax.parallel.mesh import make_mesh
from f2jax.parallel.sharding import ROW_SPEC, param_shardings
from f2jax.parallel.threads import interruptible
from f2jax.plan import hlo as plan_hlo
from f2jax.plan import step_time as plan_time
from f2jax.train.program import Program
from f2jax.train.step import Teacher

STAGE_ROWS = {1: 27e6, 2: 18e6}  # training rows of the recipe's stages (recipe 2.1)
QUIET = {  # the compiler asks the machine for its TPU unless it is told; several plans may run side by side
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclass(frozen=True)
class SlicePlan:
    """What a config needs, and how fast it is, on one topology. Bytes are of one device, seconds of one step."""

    topology: str
    size: str
    teacher: str  # size of the teacher, its path or its cache; "": none
    chips: int
    mesh: dict[str, int]
    remat: str
    chunk_rows: int
    rows: int  # packed rows of a step, over all devices
    row_length: int
    tokens_per_text: int
    steps: int
    fits: bool
    memory: dict[str, int]  # bytes by kind: parameters, optimizer, teacher, batch, temporaries, code
    hbm: int  # bytes that the device has
    needed: int  # bytes in all
    collectives: list[dict]  # kind, devices, overlaps, runs, bytes, largest; bytes are those of whole arrays
    seconds: dict[str, float]  # compute, links, exposed, step; {} where it does not fit
    scopes: dict[str, float]  # seconds of compute by direction and part of a layer, without attention kernels
    mfu: float  # operations that the model needs, of those that the chips could do in a step
    tokens_per_second: float  # useful tokens, of each chip
    days: float
    chip_hours: float
    limit: str  # compute, memory or links
    advice: str  # what to change where it does not fit


def plan_slice(config, topology: str, tokens_per_text: int | None = None, rows: float | None = None) -> SlicePlan:
    """Compile the train step of `config` for a topology and read off what it takes.

    Args:
        config: of a training run, see configs/common.py; its `mesh` and `model` groups are the layout.
        topology: chip and shape, e.g. `v5e:16x16`.
        tokens_per_text: mean length; default: `data.max_length`, the worst case.
        rows: training rows of the stage; default: the recipe's.

    Raises:
        UserError: no TPU compiler, unknown topology or teacher, a mesh that does not fit it, or a value out of range.
    """
    configs.check(config)
    devices = topology_devices(topology)
    chip = chips.chip(topology)
    architecture = workdir.architecture_of(config.model.size, config.model.table_rank)
    mesh = make_mesh(**config.mesh, devices=devices)
    length = tokens_per_text or config.data.max_length
    if not 1 <= length <= config.data.max_length:
        raise UserError(f"--tokens-per-text={length} should be from 1 to data.max_length={config.data.max_length}.")
    stage_rows = rows or STAGE_ROWS[2 if config.data.use_instructions else 1]
    steps = config.steps or config.epochs * math.ceil(stage_rows / config.data.batch_size)
    batch = abstract_batch(config, mesh, length)
    teacher = abstract_teacher(config, mesh)
    teacher_width = teacher.model.config.width if teacher else cached_width(config)
    program = Program(config, architecture, mesh, steps, teacher_width)
    packed_rows, row_length = batch["tokens_bt"].shape
    known = {
        "topology": topology,
        "size": config.model.size,
        "teacher": teacher_size(config.teacher.path) or config.teacher.path or config.teacher.cache,
        "chips": len(devices) // chip.cores,
        "mesh": dict(mesh.shape),
        "remat": config.model.remat,
        "chunk_rows": config.model.chunk_rows,
        "rows": packed_rows,
        "row_length": row_length,
        "tokens_per_text": length,
        "steps": steps,
        "hbm": chip.hbm,
    }
    held = {"parameters": bytes_on_device(program.state.params), "optimizer": bytes_on_device(program.state.opt_state)}
    held |= {"teacher": bytes_on_device(teacher), "batch": bytes_on_device(batch)}
    if sum(held.values()) > chip.hbm:
        return _too_large(known, held, sum(held.values()), config)
    with jax.set_mesh(mesh):
        lowered = program.step.lower(program.state, batch, teacher, kind="retrieval")
    try:
        compiled = interruptible(lowered.compile)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _too_large(known, held, bytes_used(str(error), sum(held.values())), config)
    memory, needed = memory_by_kind(compiled.memory_analysis(), held)
    if needed > chip.hbm:  # the compiler does not always complain
        return _too_large(known, held, needed, config)
    cost = plan_hlo.program_cost(compiled.as_text())
    coordinates = [(*device.coords, device.core_on_chip) for device in mesh.devices.flat]
    seconds = plan_time.seconds(cost, chip, coordinates)
    tokens = min(packed_rows * row_length, sequences(config) * length)
    operations = plan_time.model_operations(architecture, tokens, length, passes=3)
    if teacher:
        operations += plan_time.model_operations(teacher.model.config, tokens, length, passes=1)
    days = seconds.step * steps / 86_400
    return SlicePlan(
        **known,
        fits=True,
        memory=memory,
        needed=needed,
        collectives=collectives(cost, len(devices)),
        seconds=dataclasses.asdict(seconds) | {"step": seconds.step},
        scopes={name: cycles / chip.clock for name, cycles in sorted(cost.by_scope.items())},
        mfu=operations / (seconds.step * chip.peak * len(devices)),
        tokens_per_second=tokens / seconds.step / known["chips"],
        days=days,
        chip_hours=days * 24 * known["chips"],
        limit=limit(seconds, cost),
        advice="",
    )


def topology_devices(topology: str):
    """The devices of a slice that need not exist.

    Raises:
        UserError: no TPU compiler on this machine, or the compiler does not know the topology.
    """
    chip = chips.chip(topology)
    require_extra("tpu", "Planning (which needs the TPU compiler, but no TPU)", "libtpu")
    for name, value in (QUIET | {"TPU_ACCELERATOR_TYPE": f"{chip.accelerator}-8"}).items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    sides = [int(side) for side in re.findall(r"\d+", topology.partition(":")[2])]
    host = {"chips_per_host_bounds": [1, 1, 1]} if math.prod(sides) == 1 else {}  # others have hosts of 2 x 2 chips
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology, **host).devices
    except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"The TPU compiler does not know the topology '{topology}': {reason}") from error


def sequences(config) -> int:
    """Texts of a step: queries, their positives and the hard negatives of retrieval."""
    return config.data.batch_size * (2 + config.data.negatives.retrieval)


def abstract_batch(config, mesh, tokens_per_text: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and shardings of a retrieval batch whose texts have a mean length and fill their rows."""
    shards = math.prod(mesh.shape[axis] for axis in ROW_SPEC[0])
    chunk_rows = config.model.chunk_rows
    b, j, s = config.data.batch_size, config.data.negatives.retrieval, sequences(config)
    full = math.ceil(s * tokens_per_text / config.data.row_length)
    rows = round_up_rows(full, config.data.row_steps, shards * max(chunk_rows, 1))
    integers = dict.fromkeys(("tokens_bt", "segments_bt", "positions_bt"), (rows, config.data.row_length))
    integers |= dict.fromkeys(("row_s", "col_s"), (s,)) | dict.fromkeys(("label_b", "positive_b"), (b,))
    integers |= {"negative_bj": (b, j)}
    if chunk_rows:
        chunks = rows // (shards * chunk_rows)
        of_chunk = (chunks, -(-5 * s // (4 * chunks)))  # a quarter more than an even share of the texts
        integers |= {"chunk_row_cm": of_chunk, "chunk_col_cm": of_chunk, "place_s": (s,)}
    shapes = {name: (shape, jnp.int32) for name, shape in integers.items()}
    if config.teacher.cache:
        card = read_info(config.teacher.cache)
        shapes["teacher_se"] = ((s, card.width), jnp.dtype(card.dtype))
    shapes |= {"row_mask_b": ((b,), jnp.bool_), "negative_mask_bj": ((b, j), jnp.bool_)}

    def one(name, shape, dtype):
        where = ROW_SPEC if name.endswith("_bt") else PartitionSpec()
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, where))

    return {name: one(name, *shape) for name, shape in shapes.items()}


def teacher_size(path: str) -> str:
    """The size that a teacher's path ends in, such as `…/F2LLM-v2-1.7B`; "" where the path names none."""
    found = re.search(r"(?:^|[-/])(\d+(?:\.\d+)?[mb])$", path.lower())
    return found.group(1) if found and found.group(1) in SIZES else ""


def cached_width(config) -> int:
    """Dimensions of the teacher's vectors that `config.teacher.cache` holds; 0 where it names none."""
    return read_info(config.teacher.cache).width if config.teacher.cache else 0


def abstract_teacher(config, mesh) -> Teacher | None:
    """Shapes and shardings of the teacher that `config.teacher.path` names; nothing is loaded.

    Raises:
        UserError: neither the path's ending nor the files there say what size it is.
    """
    path = config.teacher.path
    if not path:
        return None
    named = teacher_size(path)
    architecture: Qwen3Config = size(named) if named else workdir.read_architecture(path)
    dtype = jnp.dtype(config.teacher.dtype)
    shapes = nn.meta.unbox(abstract_params(architecture, dtype))
    params = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        param_shardings(abstract_params(architecture), mesh),
    )
    return Teacher(params, Qwen3(architecture, dtype=dtype, param_dtype=dtype, kernel=config.model.kernel))


def bytes_on_device(tree) -> int:
    """Bytes of a tree of shapes with shardings that one device holds, without padding."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def memory_by_kind(stats, held: dict[str, int]) -> tuple[dict[str, int], int]:
    """Bytes by kind, and in all, from the compiler's `memory_analysis()` and the bytes of the arguments by kind."""
    new = max(stats.output_size_in_bytes - stats.alias_size_in_bytes, 0)
    memory = held | {
        "padding": max(stats.argument_size_in_bytes - sum(held.values()), 0),
        "temporaries": stats.temp_size_in_bytes + new,
        "code": stats.generated_code_size_in_bytes,
    }
    return memory, sum(memory.values())


def collectives(cost: plan_hlo.Cost, devices: int) -> list[dict]:
    """Exchanges of a step by kind and number of devices: how many, their bytes in all, and those of the largest one."""
    sums: dict[tuple, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for one in cost.collectives:
        key = one.kind, len(one.group) or devices, one.overlaps
        runs, moved, largest = sums[key]
        sums[key] = [runs + one.runs, moved + one.runs * one.bytes, max(largest, one.bytes)]
    keys, values = ("kind", "devices", "overlaps"), ("runs", "bytes", "largest")
    return [
        dict(zip(keys, key, strict=True)) | {name: round(x) for name, x in zip(values, total, strict=True)}
        for key, total in sums.items()
    ]


def limit(seconds: plan_time.Seconds, cost: plan_hlo.Cost) -> str:
    """What a step waits for most: the links, or else what takes more of its cycles, matrix products or all the rest.

    The rest is bound by memory: its few operations on each number take less time than to read it.
    """
    waiting = seconds.step - seconds.compute
    if waiting > 0.25 * seconds.step:
        return "links"
    return "compute" if cost.products > 0.5 * cost.cycles else "memory"


def bytes_used(message: str, held: int) -> int:
    """What a step would take of the memory, from the compiler's complaint; 0 where that does not say.

    It says either all, or, if that is already too much, the temporaries alone.

    Args:
        held: bytes of the arguments.
    """
    scale = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    for pattern, beside in ((r"Used ([\d.]+)([KMGT]?) of", 0), (r"temporaries \(([\d.]+)([KMGT]?)\)", held)):
        if found := re.search(pattern, message):
            return int(float(found.group(1)) * scale[found.group(2)]) + beside
    return 0


def _too_large(known: dict, held: dict[str, int], needed: int, config) -> SlicePlan:
    """The plan of a step for which there is no room."""
    memory = held | {"temporaries": max(needed - sum(held.values()), 0)}
    return SlicePlan(
        **known,
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
        advice=what_to_change(known, memory, config),
    )


def what_to_change(known: dict, memory: dict[str, int], config) -> str:
    """The first change that would help a step that is too large."""
    mesh, devices = known["mesh"], math.prod(known["mesh"].values())
    states = memory["parameters"] + memory["optimizer"] + memory["teacher"]
    if states > known["hbm"] / 3 and mesh["fsdp"] < devices:
        return f"share the weights among more devices: mesh.fsdp={min(2 * mesh['fsdp'], devices)} or more"
    if known["remat"] != "full":
        return "keep fewer activations: model.remat=full"
    shards = math.prod(mesh[axis] for axis in ROW_SPEC[0])
    if (known["chunk_rows"] or known["rows"] // shards) > 1:
        rows = max((known["chunk_rows"] or known["rows"] // shards) // 2, 1)
        return f"encode fewer rows at once: model.chunk_rows={rows}"
    return "take more chips"
