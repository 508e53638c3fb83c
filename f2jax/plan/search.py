"""Searches for the fastest layout that fits: estimates bytes on paper, then compiles layouts from fast to frugal."""

import math
from collections.abc import Iterator

import jax
from flax import linen as nn
from tqdm import tqdm

from f2jax.checkpoints import workdir
from f2jax.errors import UserError
from f2jax.model.qwen3 import abstract_params
from f2jax.model.sizes import Qwen3Config
from f2jax.parallel.chips import canonical_topology, chip_of
from f2jax.parallel.mesh import make_mesh
from f2jax.plan.run import SlicePlan, cached_width, plan_slice, planned_rows, teacher_architecture, topology_devices
from f2jax.train.optim import WeightRules
from f2jax.train.program import extra_weights

STATE_BYTES = 16  # bytes for a trained weight: the weight, its gradient and two moments, in float32
FROZEN_BYTES = 4  # bytes for a weight that is not trained
ROOM = 0.9  # share of the memory that a layout may take on paper; the compiler has the last word


def search_layouts(
    config, topology: str, tokens_per_text: int | None = None, rows: float | None = None, lengths: str | None = None
) -> SlicePlan:
    """Returns the fastest plan of the first layouts that fit according to the compiler, or the last plan if none does.

    The `candidate_layouts` are tried in order. If the compiler needs more than estimated, the same layout is tried with
    the weights split over more chips, if that saves enough. A layout that fits is also compiled with the weights
    split as far as possible. A program that takes nearly all of the memory can be slow, especially in its forward pass
    (docs/plans.md has examples), or may not run; if the faster of the two takes that much, the next candidate is
    compiled too. Finally, the fastest layout is compiled with its layers unrolled, which takes the compiler longer, and
    where that is faster than a loop with `dots`, also with nothing computed again.

    Raises:
        UserError: see `plan_slice`, or no layout is small enough even on paper.
    """
    topology = canonical_topology(topology)
    last: SlicePlan | None = None
    fitting: list[SlicePlan] = []
    weights, shares = weights_and_shares(config, topology)

    def compiled(layout: dict) -> SlicePlan:
        return plan_slice(with_layout(config, layout), topology, tokens_per_text, rows, lengths)

    for candidate in tqdm(
        list(candidate_layouts(config, topology, tokens_per_text, lengths)), unit="layout", leave=False
    ):
        layout, is_next = candidate, bool(fitting)
        while layout:
            last = compiled(layout)
            if last.fits:
                split = [compiled(layout | {"mesh.fsdp": n}) for n in shares[-1:] if n > layout["mesh.fsdp"]]
                fitting += [last, *(plan for plan in split if plan.fits)]
                break
            layout = split_further(layout, last.needed - last.hbm, weights, shares)
        if is_next or (fitting and fits_on_paper(fastest_plan(fitting).needed, fitting[0].hbm)):
            break
    if last is None:
        raise UserError(f"Not even the weights of {config.model.size} fit {topology}; take more chips.")
    if not fitting:
        return last
    best, layers = fastest_plan(fitting), workdir.architecture_of(config.model).layers

    def faster(change: dict) -> SlicePlan:
        changed = compiled(layout_of(best) | change)
        return fastest_plan([best, changed]) if changed.fits else best

    if best.unroll < layers:
        best = faster({"model.unroll": layers})
    if best.unroll == layers and best.remat == "dots":
        best = faster({"model.remat": "none"})
    return best


def layout_of(plan: SlicePlan) -> dict:
    """Returns the fields of a config that a search chooses, with their values in a plan."""
    layout: dict = {f"mesh.{axis}": length for axis, length in plan.mesh.items()}
    return layout | {"model.remat": plan.remat, "model.chunk_rows": plan.chunk_rows, "model.unroll": plan.unroll}


def fastest_plan(plans: list[SlicePlan]) -> SlicePlan:
    """Returns the plan with the shortest step; plans that are tight are chosen only if all are."""
    return min(plans, key=lambda plan: (plan.is_tight, plan.seconds["step"]))


def split_further(layout: dict, missing: int, weights: int, shares: list[int]) -> dict | None:
    """Returns the layout with the weights split over just enough more chips to save the missing bytes, or None."""
    current = layout["mesh.fsdp"]
    enough = [n for n in shares if n > current and weights / current - weights / n > missing]
    return layout | {"mesh.fsdp": enough[0]} if enough else None


def weights_and_shares(config, topology: str) -> tuple[int, list[int]]:
    """Returns the bytes of the weights and their state, and the numbers of chips over which they fit when split."""
    architecture = workdir.architecture_of(config.model)
    teacher = teacher_architecture(config)
    extra = extra_weights(config, architecture.width, teacher.width if teacher else cached_width(config))
    params = nn.meta.unbox(abstract_params(architecture))
    params |= {name: jax.eval_shape(make) for name, make in extra.items()}
    parts = WeightRules.of(config.optim, params).split(params)
    trained, frozen = (sum(x.size for x in jax.tree.leaves(part)) for part in parts)
    weights = STATE_BYTES * trained + FROZEN_BYTES * frozen + (2 * teacher.parameters if teacher else 0)
    possible = possible_shares(architecture.width, len(topology_devices(topology)))
    return weights, [n for n in possible if fits_on_paper(weights / n, chip_of(topology).memory)]


def with_layout(config, layout: dict):
    """Returns a copy of the config with some fields of `model` and `mesh` changed."""
    changed = config.copy_and_resolve_references()
    for name, value in layout.items():
        group, field = name.split(".")
        changed[group][field] = value
    return changed


def candidate_layouts(
    config, topology: str, tokens_per_text: int | None = None, lengths: str | None = None
) -> Iterator[dict]:
    """Yields the layouts that fit on paper, fastest first; weights are only split as far as activations need the room.

    Splitting weights further costs little, while recomputing activations costs much: `full` runs the layers forward
    once more, and so do chunks, for which `dots` is then faster than `full`. The last and most frugal layout is yielded
    regardless of the estimate, as long as the weights fit.
    """
    chip, devices = chip_of(topology), topology_devices(topology)
    architecture = workdir.architecture_of(config.model)
    weights, shares = weights_and_shares(config, topology)
    if not shares:
        return
    tokens = planned_rows(config, make_mesh(devices=devices), tokens_per_text, lengths).encoded
    rows = math.ceil(tokens / config.data.row_length)
    chunks = [rows >> i for i in range(1, rows.bit_length())]
    layouts = [(remat, 0) for remat in ("dots", "mlp", "qkv", "full")]
    layouts += [(remat, n) for remat in ("dots", "full") for n in chunks]
    for remat, chunk in layouts:
        saved = saved_bytes(architecture, remat, chunk * config.data.row_length or tokens)
        roomy = [n for n in shares if fits_on_paper(weights / n + saved, chip.memory)]
        if roomy or (remat, chunk) == layouts[-1]:
            layout = {"mesh.data": -1, "mesh.fsdp": min(roomy, default=max(shares)), "mesh.tensor": 1}
            yield layout | {"model.remat": remat, "model.chunk_rows": chunk}


def possible_shares(width: int, devices: int) -> list[int]:
    """Returns the numbers of parts into which weights of `width` can be split: powers of two that divide both."""
    return [n for n in (2**i for i in range(20)) if devices % n == 0 and width % n == 0]


def fits_on_paper(needed: float, hbm: int) -> bool:
    """Returns whether this many bytes leave room for what an estimate does not count."""
    return needed < ROOM * hbm


def saved_bytes(architecture: Qwen3Config, remat: str, tokens: int) -> int:
    """Returns the bytes of bfloat16 activations that the backward pass needs on one device, under a remat policy.

    These are the activations that the forward pass saves in all layers, and the working set of one layer.
    """
    a = architecture
    out = a.heads * a.head_dim  # the output of attention
    heads = 2 * out + 2 * a.kv_heads * a.head_dim  # that output, queries, keys and values
    saved = {"full": a.width, "qkv": 2 * a.width + out, "mlp": 2 * a.width + heads}
    saved["dots"] = saved["mlp"] + 2 * a.mlp
    working_set = 8 * a.width + 2 * heads + 4 * a.mlp
    return 2 * tokens * (a.layers * saved[remat] + working_set)
