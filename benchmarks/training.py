"""Seconds of a training step: f2jax on packed rows, and the reference's padded step in PyTorch, on the same rows.

python -m benchmarks.training [--size 80m] [--queries 4] [--negatives 7] [--max-length 512] [--rounds 3]
python -m benchmarks.training --data train.parquet --tokenizer FOLDER      # rows of a training file

Needs the `bench` extra. A row is a query, a positive and hard negatives, either from a file or random ids, as long as
texts of the built-in data (with four bytes per token). Tools take turns in one process, on the GPU if there is one;
ratios are of medians, to PyTorch in the first dtype. `useful` is the share of a tool's computed tokens that are not
padding. MFU is the share of the GPU's stated bfloat16 peak taken by the operations that the useful tokens need.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet
import torch
from tqdm import tqdm
from transformers import Qwen3Config as PeerConfig
from transformers import Qwen3Model

from benchmarks import report, torch_step
from f2jax.checkpoints import hf
from f2jax.checkpoints.settings import config_to_hf
from f2jax.configs import common
from f2jax.data.dataset import Row, texts_of
from f2jax.data.packing import assemble
from f2jax.data.shapes import RowRules
from f2jax.data.texts import sample_texts
from f2jax.data.tokenizer import load_tokenizer
from f2jax.model.nested import matryoshka_dims
from f2jax.model.operations import model_operations
from f2jax.model.sizes import Qwen3Config, size
from f2jax.parallel.mesh import make_mesh
from f2jax.train.losses import matryoshka_weights
from f2jax.train.program import Program

TEXTS = ["cldr:translation", "stdlib:code"]
DTYPES = ("float32", "bfloat16")
PEAKS = {"H100": 989.4e12, "H200": 989.4e12}  # bfloat16 operations a second, dense; the SXM cards' data sheets


def make_rows(queries: int, negatives: int, max_length: int, vocab: int) -> list[Row]:
    rng = np.random.default_rng(0)
    texts = iter(rng.permutation(np.array(sample_texts(TEXTS, queries * (2 + negatives)), object)))

    def ids():
        length = min(len(next(texts).encode()) // 4 + 2, max_length)
        return rng.integers(0, vocab, length).astype(np.int32)

    return [Row(ids(), ids(), [ids() for _ in range(negatives)], b, [-1] * negatives, -1) for b in range(queries)]


def rows_of(path: Path, tokenizer_folder: str, queries: int, negatives: int, max_length: int) -> list[Row]:
    """Returns random retrieval rows of a training file that have at least so many negatives, cut to this number."""
    found = [
        row
        for row in pyarrow.parquet.read_table(path, columns=["query", "positive", "negatives", "kind"]).to_pylist()
        if row["kind"] == "retrieval" and len(row["negatives"]) >= negatives
    ]
    if len(found) < queries:
        raise SystemExit(f"{path} has {len(found)} rows of {negatives} negatives, fewer than --queries {queries}.")
    tokenizer = load_tokenizer(tokenizer_folder)
    chosen = [found[i] for i in np.random.default_rng(0).permutation(len(found))[:queries]]
    texts = [[row["query"], row["positive"], *row["negatives"][:negatives]] for row in chosen]
    ids = [tokenizer.encode(of_row, max_length) for of_row in texts]
    return [Row(x[0], x[1], x[2:], b, [-1] * negatives, -1) for b, x in enumerate(ids)]


def padded_tokens(rows: list[Row]) -> int:
    """Returns the reference's number of tokens: queries, positives and negatives are each padded to their longest."""
    groups = [r.query for r in rows], [r.positive for r in rows], [t for r in rows for t in r.negatives]
    return sum(len(texts) * max(map(len, texts)) for texts in groups)


def operations(architecture: Qwen3Config, rows: list[Row]) -> float:
    """Returns the operations that a step needs for the texts of a batch, each of which is encoded once."""
    texts = {text.tobytes(): len(text) for r in rows for text in (r.query, r.positive, *r.negatives)}
    lengths = np.array(list(texts.values()))
    return model_operations(architecture, lengths.sum(), np.square(lengths).sum() / lengths.sum(), passes=3)


@dataclass(frozen=True)
class Run:
    """A tool that trains on one batch."""

    step: Callable[[], float]  # takes a step and returns the loss before it
    computed: int  # tokens of a step, including padding
    params: dict | None = None  # weights before the first step
    text: Callable[[], str] | None = None  # the compiled program


def ours(config, architecture: Qwen3Config, rows: list[Row], keep: bool) -> Run:
    """Returns a run of f2jax on packed rows; with `keep`, it holds the weights before its first step."""
    mesh = make_mesh(devices=jax.devices()[:1])
    program = Program(config, architecture, mesh, config.steps)
    data = config.data
    batch = assemble(
        texts_of(rows),
        len(rows[0].negatives),
        kind="retrieval",
        batch_size=len(rows),
        rules=RowRules(data.row_length, config.model.chunk_rows),
        pad_id=0,
    )
    with jax.set_mesh(mesh):
        params = program.fresh_params(0)
        kept = jax.tree.map(np.asarray, params) if keep else None
        held = [program.start(params)]
        arrays = program.put(batch)

    def step() -> float:
        with jax.set_mesh(mesh):
            state, metrics = program.step(held.pop(), arrays, None, kind=batch.kind)
        held.append(state)
        return float(metrics["loss"])

    def text() -> str:
        with jax.set_mesh(mesh):
            return program.step.lower(held[0], arrays, None, kind=batch.kind).compile().as_text()

    return Run(step, batch.tokens, kept, text)


def theirs(model: Qwen3Model, dtype: str, settings, rows: list[Row], dims, checkpointing: bool) -> Run:
    """Returns a run of PyTorch; weights stay in float32, like ours, and bfloat16 is used by autocast."""
    device = model.device.type
    if checkpointing:
        model.gradient_checkpointing_enable()
    options = {"betas": (settings.b1, settings.b2), "eps": settings.eps, "weight_decay": settings.weight_decay}
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.peak_lr, fused=True, **options)
    weights = matryoshka_weights(dims)

    def step() -> float:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            return torch_step.step(model, optimizer, settings.clip_norm, rows, "retrieval", dims, weights)

    return Run(step, padded_tokens(rows))


def make_config(args, dtype: str, kernel: str = ""):
    config = common.get_config(f"size={args.size}")
    config.steps = 1000
    config.optim.warmup_steps = 1
    config.model.update(dtype=dtype, remat=args.remat, chunk_rows=args.chunk_rows, kernel=kernel or args.kernel)
    config.model.unroll = args.unroll
    config.data.row_length = args.row_length
    return config


def peer_model(architecture: Qwen3Config, params: dict | None, device: str) -> Qwen3Model:
    """Returns the peer's model with our weights; None: with its own."""
    config = config_to_hf(architecture, "float32", 1, 0)
    if params is None:
        with torch.device(device):
            return Qwen3Model(PeerConfig(**config)).train()
    with tempfile.TemporaryDirectory() as folder:
        hf.save_hf(Path(folder), params)
        Path(folder, "config.json").write_text(json.dumps(config))
        return Qwen3Model.from_pretrained(folder, dtype=torch.float32).to(device).train()


def measure(tools: dict[str, Run], rounds: int) -> dict[str, dict]:
    """Returns first loss, seconds of the first step and median seconds of the others by tool; the tools take turns."""
    found, times = {}, {name: [] for name in tools}
    for turn in tqdm(range(rounds + 1), desc="rounds", leave=False):
        for name, tool in tools.items():
            start = time.perf_counter()
            loss = tool.step()
            taken = time.perf_counter() - start
            if turn:
                times[name].append(taken)
            else:
                found[name] = {"loss": loss, "first": taken}
    return {name: one | {"seconds": statistics.median(times[name])} for name, one in found.items()}


def arguments(description: str) -> argparse.ArgumentParser:
    """Returns a parser with the options that define a step."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", default="80m")
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--negatives", type=int, default=7)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--row-length", type=int, default=512, help="of our packed rows")
    parser.add_argument("--chunk-rows", type=int, default=0, help="packed rows that we encode at once; 0: all")
    parser.add_argument("--data", type=Path, help="a training file, parquet; default: built-in texts")
    parser.add_argument("--tokenizer", help="folder of a tokenizer, for --data")
    parser.add_argument("--remat", default="none", help="ours")
    parser.add_argument("--kernel", default="auto", help="our attention")
    parser.add_argument("--unroll", type=int, default=1, help="our layers per iteration of the loop over layers")
    return parser


def read_rows(args, architecture: Qwen3Config) -> list[Row]:
    shape = args.queries, args.negatives, args.max_length
    return rows_of(args.data, args.tokenizer, *shape) if args.data else make_rows(*shape, architecture.vocab_size)


def main() -> None:
    parser = arguments(__doc__.split("\n")[0])
    parser.add_argument("--checkpointing", action="store_true", help="PyTorch computes layers again, as the reference")
    parser.add_argument("--own-weights", action="store_true", help="PyTorch draws its own: no copies through the host")
    parser.add_argument("--alone", action="store_true", help="without PyTorch")
    parser.add_argument("--other-kernels", nargs="+", default=[], help="our attention, again with each of these")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    architecture = replace(size(args.size), max_length=args.max_length)
    rows = read_rows(args, architecture)
    useful = sum(len(text) for row in rows for text in (row.query, row.positive, *row.negatives))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    keep = not (args.own_weights or args.alone)
    tools = {
        f"f2jax, {dtype}": ours(make_config(args, dtype), architecture, rows, keep and dtype == args.dtypes[0])
        for dtype in args.dtypes
    }
    params = tools[f"f2jax, {args.dtypes[0]}"].params
    tools |= {
        f"f2jax, {dtype}, {kernel}": ours(make_config(args, dtype, kernel), architecture, rows, keep=False)
        for kernel in args.other_kernels
        for dtype in args.dtypes
    }
    settings, dims = make_config(args, "float32").optim, matryoshka_dims(architecture.width)
    for dtype in [] if args.alone else args.dtypes:
        model = peer_model(architecture, params, device)
        tools[f"PyTorch, {dtype}"] = theirs(model, dtype, settings, rows, dims, args.checkpointing)
    found = measure(tools, args.rounds)
    texts = args.queries * (2 + args.negatives)
    source = args.data.parent.name if args.data else "built-in texts"
    conditions = f"{args.size}, {texts} texts of {source}, {useful:,} tokens, mean {useful / texts:.0f}"
    kind = jax.devices()[0].device_kind
    print(f"{conditions}; {kind}\n")
    print("| tool | first loss | first step, s | step, s | useful tokens/s | useful | MFU | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    peak = next((peak for card, peak in PEAKS.items() if card in kind), None)
    base = found[f"{'f2jax' if args.alone else 'PyTorch'}, {args.dtypes[0]}"]["seconds"]
    for name, one in found.items():
        mfu = f"{operations(architecture, rows) / one['seconds'] / peak:.1%}" if peak else ""
        speed = f"{one['seconds']:.3g} | {useful / one['seconds']:,.0f} | {useful / tools[name].computed:.0%} | {mfu}"
        print(f"| {name} | {one['loss']:.4f} | {one['first']:.1f} | {speed} | {base / one['seconds']:.2f} |")
    for what, key in (("training step", "seconds"), ("first training step, with compiling", "first")):
        for dtype in [] if args.alone else args.dtypes:
            mine, peer = (
                {name: one[key] for name, one in found.items() if name.startswith(f"{tool}, {dtype}")}
                for tool in ("f2jax", "PyTorch")
            )
            report.add(args.report, what, "s", mine, peer, conditions)


if __name__ == "__main__":
    main()
