"""Seconds of a training step: f2jax on packed rows beside the reference's padded step in PyTorch, on the same rows.

python -m benchmarks.training [--size 80m] [--queries 4] [--negatives 7] [--max-length 512] [--rounds 3]

Needs the `bench` extra. A row is a query, a positive and hard negatives, as long as texts of the built-in data (four
bytes are a token); the ids are random. Tools take turns in one process, on the GPU where there is one; ratios are of
medians, to PyTorch in the first dtype. `useful` is the share of tokens that are no padding, of what each tool computes.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import torch
from tqdm import tqdm
from transformers import Qwen3Model

from benchmarks import report, torch_step
from configs import common
from f2jax.data.dataset import Row
from f2jax.data.packing import assemble
from f2jax.data.sample import draw
from f2jax.model import hf
from f2jax.model.sizes import Qwen3Config, size
from f2jax.parallel.mesh import make_mesh
from f2jax.train.losses import matryoshka_dims, matryoshka_weights
from f2jax.train.program import Program

TEXTS = ["cldr:translation", "stdlib:code"]
DTYPES = ("float32", "bfloat16")


def make_rows(queries: int, negatives: int, max_length: int, vocab: int) -> list[Row]:
    rng = np.random.default_rng(0)
    texts = iter(rng.permutation(np.array(draw(TEXTS, queries * (2 + negatives)), object)))

    def ids():
        length = min(len(next(texts).encode()) // 4 + 2, max_length)
        return rng.integers(0, vocab, length).astype(np.int32)

    return [Row(ids(), ids(), [ids() for _ in range(negatives)], b, [-1] * negatives, -1) for b in range(queries)]


def padded_tokens(rows: list[Row]) -> int:
    """That the reference computes: queries, positives and negatives, each padded to their longest."""
    groups = [r.query for r in rows], [r.positive for r in rows], [t for r in rows for t in r.negatives]
    return sum(len(texts) * max(map(len, texts)) for texts in groups)


def ours(config, architecture: Qwen3Config, rows: list[Row]) -> tuple[Callable[[], float], int, dict]:
    """(a step that returns its loss, tokens that it computes, the weights before it)."""
    mesh = make_mesh(devices=jax.devices()[:1])
    program = Program(config, architecture, mesh, config.steps)
    data = config.data
    batch = assemble(
        rows,
        len(rows[0].negatives),
        kind="retrieval",
        batch_size=len(rows),
        row_length=data.row_length,
        pad_id=0,
        chunk_rows=config.model.chunk_rows,
    )
    with jax.set_mesh(mesh):
        params = program.fresh_params(0)
        kept = jax.tree.map(np.asarray, params)
        held = [program.start(params)]
        arrays = program.put(batch)

    def step() -> float:
        with jax.set_mesh(mesh):
            state, metrics = program.step(held.pop(), arrays, None, kind=batch.kind)
        held.append(state)
        return float(metrics["loss"])

    return step, batch.rows * data.row_length, kept


def theirs(folder: str, dtype: str, settings, rows: list[Row], dims, device: str) -> Callable[[], float]:
    """Weights stay in float32, as ours; bfloat16 computes by autocast."""
    model = Qwen3Model.from_pretrained(folder, dtype=torch.float32).to(device).train()
    options = {"betas": (settings.b1, settings.b2), "eps": settings.eps, "weight_decay": settings.weight_decay}
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.peak_lr, fused=True, **options)
    weights = matryoshka_weights(dims)

    def step() -> float:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            return torch_step.step(model, optimizer, settings.clip_norm, rows, "retrieval", dims, weights)

    return step


def make_config(args, dtype: str):
    config = common.get_config(f"size={args.size}")
    config.steps = 1000
    config.optim.warmup_steps = 1
    config.model.update(dtype=dtype, remat=args.remat, chunk_rows=args.chunk_rows)
    config.data.row_length = args.row_length
    return config


def measure(tools: dict[str, Callable[[], float]], rounds: int) -> dict[str, dict]:
    """{tool: first loss, seconds of the first step, median seconds of the others}; the tools take turns."""
    found, times = {}, {name: [] for name in tools}
    for turn in tqdm(range(rounds + 1), desc="rounds", leave=False):
        for name, step in tools.items():
            start = time.perf_counter()
            loss = step()
            taken = time.perf_counter() - start
            if turn:
                times[name].append(taken)
            else:
                found[name] = {"loss": loss, "first": taken}
    return {name: one | {"seconds": statistics.median(times[name])} for name, one in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="80m")
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--negatives", type=int, default=7)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--row-length", type=int, default=512, help="of our packed rows")
    parser.add_argument("--chunk-rows", type=int, default=0, help="packed rows that we encode at once; 0: all")
    parser.add_argument("--remat", default="none")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    architecture = replace(size(args.size), max_length=args.max_length)
    rows = make_rows(args.queries, args.negatives, args.max_length, architecture.vocab_size)
    useful = sum(len(text) for row in rows for text in (row.query, row.positive, *row.negatives))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tools, computed = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for dtype in args.dtypes:
            name = f"f2jax, {dtype}"
            tools[name], computed[name], params = ours(make_config(args, dtype), architecture, rows)
        hf.save(Path(folder), params)
        Path(folder, "config.json").write_text(json.dumps(hf.config_to_hf(architecture, "float32", 1, 0)))
        settings, dims = make_config(args, "float32").optim, matryoshka_dims(architecture.width)
        for dtype in args.dtypes:
            name = f"PyTorch, {dtype}"
            tools[name] = theirs(folder, dtype, settings, rows, dims, device)
            computed[name] = padded_tokens(rows)
    found = measure(tools, args.rounds)
    texts = args.queries * (2 + args.negatives)
    conditions = f"{args.size}, {texts} texts, {useful:,} tokens, mean {useful / texts:.0f}"
    print(f"{conditions}; {jax.devices()[0].device_kind}\n")
    print("| tool | first loss | first step, s | step, s | useful tokens/s | useful | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, one in found.items():
        speed = f"{one['seconds']:.2f} | {useful / one['seconds']:,.0f} | {useful / computed[name]:.0%}"
        ratio = found[f"PyTorch, {args.dtypes[0]}"]["seconds"] / one["seconds"]
        print(f"| {name} | {one['loss']:.4f} | {one['first']:.1f} | {speed} | {ratio:.2f} |")
    for what, key in (("training step", "seconds"), ("first training step, with compiling", "first")):
        for dtype in args.dtypes:
            mine, peer = ({f"{tool}, {dtype}": found[f"{tool}, {dtype}"][key]} for tool in ("f2jax", "PyTorch"))
            report.add(args.report, what, "s", mine, peer, conditions)


if __name__ == "__main__":
    main()
