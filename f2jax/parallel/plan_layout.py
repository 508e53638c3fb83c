"""Which layouts are worth compiling: from the fastest to the most frugal, by a count of bytes on paper."""

from collections.abc import Iterator

from tqdm import tqdm

from f2jax.errors import UserError
from f2jax.model.sizes import Qwen3Config, size
from f2jax.parallel import chips
from f2jax.parallel.mesh import make_mesh
from f2jax.parallel.plan import Plan, abstract_batch, plan, teacher_size, topology_devices

STATE_BYTES = 16  # of a weight in training: itself, its gradient and two moments, in float32
STATE_SHARE = 0.4  # of the memory that these may take, before they are split further
ROOM = 0.9  # of the memory that a layout may take on paper; the compiler has the last word


def search(config, topology: str, tokens_per_text: int | None = None, rows: float | None = None) -> Plan:
    """The plan of the first of the `candidates` that the compiler finds room for; of the last one if none fits.

    Raises:
        UserError: see `plan`; or no layout is small enough even on paper.
    """
    found = None
    for layout in tqdm(list(candidates(config, topology, tokens_per_text)), unit="layout", leave=False):
        found = plan(with_layout(config, layout), topology, tokens_per_text, rows)
        if found.fits:
            return found
    if found is None:
        raise UserError(f"Not even the weights of {config.model.size} fit {topology}; take more chips.")
    return found


def with_layout(config, layout: dict):
    """A copy of the config with some fields of `model` and `mesh` changed."""
    changed = config.copy_and_resolve_references()
    for name, value in layout.items():
        group, field = name.split(".")
        changed[group][field] = value
    return changed


def candidates(config, topology: str, tokens_per_text: int | None = None) -> Iterator[dict]:
    """Layouts that fit on paper: as little sharing of weights as there is room for, then ever fewer activations.

    The last one, the most frugal, is there whatever the paper says.
    """
    chip, devices = chips.chip(topology), topology_devices(topology)
    architecture = size(config.model.size)
    named = teacher_size(config.teacher.path)
    weights = STATE_BYTES * architecture.parameters + (2 * size(named).parameters if named else 0)
    fsdp = share_of_weights(weights, architecture.width, chip.hbm, len(devices))
    if fsdp is None:
        return
    mesh = make_mesh(fsdp=fsdp, devices=devices)
    all_rows, length = abstract_batch(config, mesh, tokens_per_text or config.data.max_length)["tokens_bt"].shape
    rows = all_rows // len(devices)
    room = ROOM * chip.hbm - weights / fsdp
    base = {"mesh.data": -1, "mesh.fsdp": fsdp, "mesh.tensor": 1}
    chunks = [0, *(rows >> i for i in range(1, rows.bit_length()))]  # 0: all rows at once
    layouts = [("dots", 0), ("mlp", 0), *(("full", chunk) for chunk in chunks)]
    for remat, chunk in layouts:
        if kept_bytes(architecture, remat, (chunk or rows) * length) < room or (remat, chunk) == layouts[-1]:
            yield base | {"model.remat": remat, "model.chunk_rows": chunk}


def share_of_weights(weights: int, width: int, hbm: int, devices: int) -> int | None:
    """Devices that share the weights: the fewest that leave room for the rest, or all that can; None: too few."""
    possible = [n for n in (2**i for i in range(20)) if n <= devices and devices % n == 0 and width % n == 0]
    roomy = [n for n in possible if weights / n <= STATE_SHARE * hbm]
    largest = max(possible)
    return min(roomy, default=largest if weights / largest < ROOM * hbm else None)


def kept_bytes(architecture: Qwen3Config, remat: str, tokens: int) -> int:
    """bfloat16 activations that a forward pass keeps on one device for the backward pass, and those of one layer."""
    a = architecture
    heads = 2 * (a.heads + a.kv_heads) * a.head_dim  # queries, keys, values, and what attention gives
    of_layer = {"full": a.width, "mlp": 2 * a.width + heads, "dots": 2 * a.width + heads + 2 * a.mlp}
    at_work = 8 * a.width + 2 * heads + 4 * a.mlp
    return 2 * tokens * (a.layers * of_layer[remat] + at_work)
