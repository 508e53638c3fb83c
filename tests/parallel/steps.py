"""Loss and gradient of one batch under many layouts, in a process of its own; alone, or as one of a job's processes.

python -m tests.parallel.steps OUT.npz CASE…
"""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils

from f2jax.configs import common
from f2jax.data.dataset import Row, texts_of
from f2jax.data.packing import RowShare, assemble
from f2jax.data.shapes import RowRules
from f2jax.model.qwen3 import Qwen3, abstract_params
from f2jax.model.sizes import Qwen3Config
from f2jax.parallel import hosts
from f2jax.parallel.mesh import make_mesh, process_share
from f2jax.parallel.sharding import param_shardings
from f2jax.plan.hlo import first_group, parse_hlo
from f2jax.train.program import Program
from f2jax.train.step import Teacher, loss_fn
from tests import tiny

SHAPE = Qwen3Config(32, 64, 2, 4, 2, head_dim=8, vocab_size=64, max_length=64)
WIDER = replace(SHAPE, width=48, layers=1)  # a teacher
ONE = {"replica": 1, "data": 1, "fsdp": 1, "tensor": 1}
LAYOUTS = {
    "data": ONE | {"data": -1},
    "fsdp": ONE | {"fsdp": -1},
    "fsdp and tensor": ONE | {"fsdp": -1, "tensor": 2},
    "slices of data and fsdp": ONE | {"replica": 2, "data": -1, "fsdp": 2},
    "slices of fsdp and tensor": ONE | {"replica": 2, "fsdp": -1, "tensor": 2},
}
PLAIN = {"loss": {}, "teacher": ""}
LEARNING = {"loss": {"passage_gradient": True}, "teacher": ""}
FULL = {"loss": {"passage_gradient": True}, "teacher": "model"}
ALL_TERMS = {"distill_hard_weight": 1.0, "distill_in_batch_weight": 1.0, "distill_texts_weight": 1.0}
ALL_TERMS |= {"shared_negatives_weight": 1.0, "query_query_weight": 1.0, "document_document_weight": 1.0}
ALL_TERMS |= {
    "trained_temperatures": True,
    "distill_projection": True,
    "distill_matryoshka": True,
    "spread_weight": 1.0,
    "mask_duplicates": True,
}
TERMS = {"loss": ALL_TERMS, "teacher": "model"}
CACHE = {"loss": ALL_TERMS, "teacher": "cache"}
NESTED = {"loss": {"passage_gradient": True, "exits": True}, "teacher": "", "table_rank": 16}
BFLOAT16 = FULL | {"dtype": "bfloat16"}
EXCHANGED = FULL | {"gradient_dtype": "bfloat16"}
# name: (what is computed, mesh, rows of a chunk)
CASES = {f"plain, {name}": (PLAIN, mesh, 0) for name, mesh in LAYOUTS.items()}
CASES |= {
    "plain, chunks of one row": (PLAIN, LAYOUTS["data"], 1),
    "full, fsdp and tensor": (FULL, LAYOUTS["fsdp and tensor"], 0),
    "full, chunks on fsdp": (FULL, LAYOUTS["fsdp"], 1),
    "full, chunks on slices": (FULL, LAYOUTS["slices of fsdp and tensor"], 2),
    "terms, chunks on fsdp and tensor": (TERMS, LAYOUTS["fsdp and tensor"], 1),
    "cache, chunks on fsdp": (CACHE, LAYOUTS["fsdp"], 1),
    "nested, fsdp and tensor": (NESTED, LAYOUTS["fsdp and tensor"], 0),
    "nested, chunks on slices": (NESTED, LAYOUTS["slices of fsdp and tensor"], 1),
}
ROUNDED = {  # cases in bfloat16, of which each layout rounds other sums
    "bfloat16, fsdp and tensor": (BFLOAT16, LAYOUTS["fsdp and tensor"], 0),
    "bfloat16, chunks on slices": (BFLOAT16, LAYOUTS["slices of data and fsdp"], 1),
}
SUMMED = {"bfloat16 sums, chunks on data": (EXCHANGED, LAYOUTS["data"], 1)}  # the copies exchange rounded gradients
# One case of each term and each kind of layout; the other cases are left to the slow tests.
CHOSEN = ("plain, slices of data and fsdp", "full, chunks on slices", "terms, chunks on fsdp and tensor")
CHOSEN += ("cache, chunks on fsdp", "nested, fsdp and tensor", "bfloat16, fsdp and tensor", *SUMMED)
ONE_DEVICE = {"plain": PLAIN, "learning": LEARNING, "full": FULL, "terms": TERMS, "cache": CACHE, "nested": NESTED}
ONE_DEVICE |= {"bfloat16": BFLOAT16}
ROWS, NEGATIVES, ROW_LENGTH = 24, 3, 16


def rows(cached: bool) -> list[Row]:
    """One row fewer than the batch takes, of many lengths; some rows have fewer negatives, some the same positive.

    cached: each text brings the vector of a teacher.
    """
    rng = np.random.default_rng(0)

    def ids(longest):
        return rng.integers(1, SHAPE.vocab_size, rng.integers(1, longest + 1)).astype(np.int32)

    def row(b):
        count = NEGATIVES - (b % 5 == 0)
        texts = ids(10), ids(ROW_LENGTH), [ids(ROW_LENGTH) for _ in range(count)]
        vectors = rng.normal(size=(2 + count, WIDER.width)).astype(np.float32) if cached else None
        return Row(*texts, b - b % 2, [100 + b] * count, vectors=vectors)

    return [row(b) for b in range(ROWS - 1)]


def settings(loss: dict, **model: str):
    config = common.get_config("size=tiny")
    config.model.update(dtype="float32", remat="none")
    config.model.update(model)
    config.loss.update(loss)
    config.optim.warmup_steps = 0
    return config


def measure(
    mesh,
    chunk_rows: int,
    loss: dict,
    teacher: str,
    table_rank: int = 0,
    **model: str,
) -> dict[str, np.ndarray]:
    """Loss, gradient (all weights in one vector), the packed tokens of all processes, how many are filled here, and how
    many operations inside loops add up something over copies of the weights.
    """
    config, shape = settings(loss, **model), replace(SHAPE, table_rank=table_rank)
    options = {"kind": "retrieval", "batch_size": ROWS, "rules": RowRules(ROW_LENGTH, chunk_rows), "pad_id": 0}
    batch = assemble(texts_of(rows(teacher == "cache")), NEGATIVES, share=RowShare(*process_share(mesh)), **options)
    with jax.set_mesh(mesh):
        program = Program(config, shape, mesh, steps=1, teacher_width=WIDER.width)
        where = jax.tree.map(lambda x: x.sharding, program.state.params)
        frozen = Teacher(placed(WIDER, 1, mesh), Qwen3(WIDER)) if teacher == "model" else None
        settled = {name: program.step.__wrapped__.keywords[name] for name in ("model", "config", "gradient_dtype")}
        loss_of = partial(loss_fn, kind="retrieval", **settled)  # as the step takes it
        split = jax.jit(jax.value_and_grad(loss_of, has_aux=True), out_shardings=(None, where))
        arrays = program.put(batch)
        params = program.start(placed(shape, 0, mesh)).params
        compiled = split.lower(params, arrays, frozen).compile()
        (loss, _), gradient = compiled(params, arrays, frozen)
    vector = np.concatenate([whole(x).ravel() for x in jax.tree.leaves(gradient)])
    tokens_bt = whole(arrays.tokens_bt)
    counts = {"filled": len(batch.tokens_bt), "sums_in_loops": sums_in_loops(compiled.as_text(), mesh)}
    numbers = {name: np.array(count) for name, count in counts.items()}
    return {"loss": whole(loss), "gradient": vector, "tokens": tokens_bt} | numbers


def sums_in_loops(text: str, mesh) -> int:
    """How many operations outside the entry of a program sum over devices that hold different copies of the weights."""
    computations, entry = parse_hlo(text)
    found = [x for name, body in computations.items() if name != entry for x in body if "reduce" in x.op]
    sums = [x for x in found if x.op.removesuffix("-start") in ("all-reduce", "reduce-scatter")]
    of_a_copy = mesh.shape["fsdp"] * mesh.shape["tensor"]
    groups = [first_group(x.rest) or range(mesh.size) for x in sums]
    return sum(len({device // of_a_copy for device in group}) > 1 for group in groups)


def placed(architecture: Qwen3Config, seed: int, mesh):
    """Random weights, each process giving the pieces of its own devices."""
    shapes, where = nn.meta.unbox(abstract_params(architecture)), param_shardings(abstract_params(architecture), mesh)
    rng = np.random.default_rng(seed)
    values = jax.tree.map(lambda x: rng.normal(len(x.shape) < 3, 0.2, x.shape).astype(np.float32), shapes)
    return jax.tree.map(lambda x, s: jax.make_array_from_callback(x.shape, s, lambda i: x[i]), values, where)


def whole(x: jax.Array) -> np.ndarray:
    """All of an array that several processes hold."""
    return np.asarray(x) if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True)


def run(path, names, devices: int) -> np.lib.npyio.NpzFile:
    """The cases, measured by one process with so many devices."""
    job = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(tiny.ROOT)}
    subprocess.run([sys.executable, "-m", "tests.parallel.steps", path, *names], env=os.environ | job, check=True)
    return np.load(path)


def main(path: str, names: list[str]) -> None:
    hosts.start()
    found = {}
    for name in names:
        what, sizes, chunk_rows = (CASES | ROUNDED | SUMMED).get(name) or (ONE_DEVICE[name], ONE, 0)
        found |= {f"{name}/{key}": value for key, value in measure(make_mesh(**sizes), chunk_rows, **what).items()}
    if hosts.is_first():
        np.savez(path, **found)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
