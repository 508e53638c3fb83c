"""Which layouts are worth compiling: from the fastest to the most frugal, by a count of bytes on paper."""

from collections.abc import Iterator

from tqdm import tqdm

from f2jax.checkpoints import workdir
from f2jax.errors import UserError
from f2jax.model.sizes import Qwen3Config, size
from f2jax.parallel import chips
from f2jax.parallel.mesh import make_mesh
from f2jax.plan.run import SlicePlan, abstract_batch, plan_slice, teacher_size, topology_devices

STATE_BYTES = 16  # of a weight in training: itself, its gradient and two moments, in float32
ROOM = 0.9  # of the memory that a layout may take on paper; the compiler has the last word


def search_layouts(config, topology: str, tokens_per_text: int | None = None, rows: float | None = None) -> SlicePlan:
    """The fastest plan of the first layouts that the compiler finds room for; the last one tried if none fits.

    The `candidates` are tried in their order. Where the compiler needs more than the paper said, the same one is tried
    with the weights shared over more chips, if that saves what is missing. What fits is compiled once more with the
    weights shared as far as they can be. A program that takes nearly all of the memory may be slow, by its forward pass
    above all (docs/plans.md has examples): if the faster of both does, the next candidate has its turn too.

    Raises:
        UserError: see `plan`; or no layout is small enough even on paper.
    """
    last, fitting = None, []
    weights, shares = weights_and_shares(config, topology)

    def compiled(layout: dict) -> SlicePlan:
        return plan_slice(with_layout(config, layout), topology, tokens_per_text, rows)

    for candidate in tqdm(list(candidates(config, topology, tokens_per_text)), unit="layout", leave=False):
        layout, is_next = candidate, bool(fitting)
        while layout:
            last = compiled(layout)
            if last.fits:
                shared = [compiled(layout | {"mesh.fsdp": n}) for n in shares[-1:] if n > layout["mesh.fsdp"]]
                fitting += [last, *(other for other in shared if other.fits)]
                break
            layout = shared_further(layout, last.needed - last.hbm, weights, shares)
        if is_next or (fitting and fits(fastest(fitting).needed, last.hbm)):
            break
    if last is None:
        raise UserError(f"Not even the weights of {config.model.size} fit {topology}; take more chips.")
    return fastest(fitting) if fitting else last


def fastest(plans: list[SlicePlan]) -> SlicePlan:
    return min(plans, key=lambda one: one.seconds["step"])


def shared_further(layout: dict, missing: int, weights: int, shares: list[int]) -> dict | None:
    """The layout with the weights shared over as few more chips as save the missing bytes; None if none do."""
    now = layout["mesh.fsdp"]
    enough = [n for n in shares if n > now and weights / now - weights / n > missing]
    return layout | {"mesh.fsdp": enough[0]} if enough else None


def weights_and_shares(config, topology: str) -> tuple[int, list[int]]:
    """Bytes of the weights and their state, and over how many chips they may be shared so that they at least fit."""
    architecture = workdir.architecture_of(config.model.size, config.model.table_rank)
    named = teacher_size(config.teacher.path)
    weights = STATE_BYTES * architecture.parameters + (2 * size(named).parameters if named else 0)
    possible = possible_shares(architecture.width, len(topology_devices(topology)))
    return weights, [n for n in possible if fits(weights / n, chips.chip(topology).hbm)]


def with_layout(config, layout: dict):
    """A copy of the config with some fields of `model` and `mesh` changed."""
    changed = config.copy_and_resolve_references()
    for name, value in layout.items():
        group, field = name.split(".")
        changed[group][field] = value
    return changed


def candidates(config, topology: str, tokens_per_text: int | None = None) -> Iterator[dict]:
    """Layouts that fit on paper, from the fastest; each shares the weights as little as leaves room for activations.

    To share them more changes little, and to compute activations again takes much time: `full` goes through the layers
    once more, and so do chunks, for which `dots` is then faster than `full`. The last layout, the most frugal, is there
    whatever the paper says, if there is room for the weights alone.
    """
    chip, devices = chips.chip(topology), topology_devices(topology)
    architecture = workdir.architecture_of(config.model.size, config.model.table_rank)
    weights, shares = weights_and_shares(config, topology)
    if not shares:
        return
    mean = tokens_per_text or config.data.max_length
    all_rows, length = abstract_batch(config, make_mesh(devices=devices), mean)["tokens_bt"].shape
    rows = all_rows // len(devices)
    chunks = [rows >> i for i in range(1, rows.bit_length())]
    layouts = [(remat, 0) for remat in ("dots", "mlp", "qkv", "full")]
    layouts += [(remat, n) for remat in ("dots", "full") for n in chunks]
    for remat, chunk in layouts:
        kept = kept_bytes(architecture, remat, (chunk or rows) * length)
        roomy = [n for n in shares if fits(weights / n + kept, chip.hbm)]
        if roomy or (remat, chunk) == layouts[-1]:
            layout = {"mesh.data": -1, "mesh.fsdp": min(roomy, default=max(shares)), "mesh.tensor": 1}
            yield layout | {"model.remat": remat, "model.chunk_rows": chunk}


def possible_shares(width: int, devices: int) -> list[int]:
    """In how many parts weights of `width` may lie on the devices: powers of two that divide both."""
    return [n for n in (2**i for i in range(20)) if devices % n == 0 and width % n == 0]


def fits(needed: float, hbm: int) -> bool:
    """Is there room on paper for so many bytes?"""
    return needed < ROOM * hbm


def kept_bytes(architecture: Qwen3Config, remat: str, tokens: int) -> int:
    """bfloat16 activations that a forward pass keeps on one device for the backward pass, and those of one layer."""
    a = architecture
    out = a.heads * a.head_dim  # what attention gives
    heads = 2 * out + 2 * a.kv_heads * a.head_dim  # and queries, keys, values
    of_layer = {"full": a.width, "qkv": 2 * a.width + out, "mlp": 2 * a.width + heads}
    of_layer["dots"] = of_layer["mlp"] + 2 * a.mlp
    at_work = 8 * a.width + 2 * heads + 4 * a.mlp
    return 2 * tokens * (a.layers * of_layer[remat] + at_work)
