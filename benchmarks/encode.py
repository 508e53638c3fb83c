"""Texts a second of f2jax, sentence-transformers and ONNX Runtime: same weights, same texts, tokenization inside.

python -m benchmarks.encode --model demo/release [--texts 2000] [--rounds 3]
python -m benchmarks.encode --size 80m --tokenizer FOLDER      # random weights

Needs the `bench` extra. Tools take turns in one process; ratios are of medians, to sentence-transformers
in float32. Each has its better batch size of three, found in a round that does not count; ONNX Runtime, which has no
encode function, gets texts sorted by length, as sentence-transformers sorts them.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from tqdm import tqdm

from benchmarks import report
from f2jax import Embedder, files
from f2jax.data.sample import draw
from f2jax.data.tokenizer import load_tokenizer
from f2jax.model.qwen3 import Qwen3, init_params
from f2jax.model.sizes import size
from f2jax.release.export import export
from f2jax.release.package import Card

TEXTS = {"short": ["cldr:translation"], "long": ["stdlib:code"], "mixed": ["cldr:translation", "stdlib:code"]}
BATCH_SIZES = (16, 64, 256)
BASE = "sentence-transformers"
INPUTS = {"input_ids": "ids", "attention_mask": "attention_mask"}  # of the graph, and where a tokenizer has them


def fresh(name: str, tokenizer_folder: str) -> Embedder:
    """A model of this size with random weights."""
    tokenizer = load_tokenizer(tokenizer_folder)
    architecture = size(name)
    return Embedder(architecture, init_params(Qwen3(architecture), 0), tokenizer, Card(max_length=512))


def onnx(folder: str) -> Callable:
    """encode(texts, batch_size) of the package's ONNX graph."""
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.enable_truncation(files.read_json(f"{folder}/tokenizer_config.json")["model_max_length"])
    tokenizer.enable_padding(pad_id=files.read_json(f"{folder}/config.json")["pad_token_id"])
    session = onnxruntime.InferenceSession(f"{folder}/onnx/model.onnx", providers=["CPUExecutionProvider"])

    def encode(texts, batch_size):
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        found = [None] * len(texts)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = tokenizer.encode_batch([texts[i] for i in chosen])
            inputs = {name: np.array([getattr(x, key) for x in batch], np.int64) for name, key in INPUTS.items()}
            for i, vector in zip(chosen, session.run(["sentence_embedding"], inputs)[0], strict=True):
                found[i] = vector
        return np.stack(found)

    return encode


def tools(folder: str) -> dict[str, Callable]:
    """{name: encode(texts, batch_size)}, loaded."""
    ours = {dtype: Embedder.from_pretrained(folder, dtype) for dtype in ("float32", "bfloat16")}
    theirs = {
        dtype: SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": dtype})
        for dtype in ("float32", "bfloat16")
    }
    options = {"show_progress_bar": False}
    return {
        "f2jax": lambda texts, n: ours["float32"].encode(texts, batch_size=n, **options),
        "f2jax, bfloat16": lambda texts, n: ours["bfloat16"].encode(texts, batch_size=n, **options),
        BASE: lambda texts, n: theirs["float32"].encode(texts, batch_size=n, **options),
        f"{BASE}, bfloat16": lambda texts, n: theirs["bfloat16"].encode(texts, batch_size=n, **options),
        "ONNX Runtime": onnx(folder),
    }


def seconds(encode: Callable, texts: list[str], batch_size: int) -> float:
    start = time.perf_counter()
    encode(texts, batch_size)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", help="folder, hub id or workdir")
    which.add_argument("--size", help="a size with random weights; needs --tokenizer")
    parser.add_argument("--tokenizer", help="folder of a tokenizer, for --size")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        embedder = fresh(args.size, args.tokenizer) if args.size else Embedder.from_pretrained(args.model)
        export(embedder, folder, formats=("onnx",))
        encoders = tools(folder)
        columns = ("texts", "mean tokens", "tool", "batch", "texts/s", "ratio", "worst cosine")
        print(f"| {' | '.join(columns)} |\n|---|---:|---|---:|---:|---:|---:|")
        for name, sources in TEXTS.items():
            texts = draw(sources, args.texts)
            tokens = np.mean([len(ids) for ids in embedder.tokenizer.encode(texts, embedder.max_length)])
            golden = embedder.encode(texts, show_progress_bar=False)
            worst, chosen, times = {}, {}, {tool: [] for tool in encoders}
            for tool, encode in tqdm(encoders.items(), desc=f"{name}: batch sizes", leave=False):
                found = np.asarray(encode(texts, BATCH_SIZES[0]), np.float32)
                worst[tool] = np.min(np.sum(found * golden, axis=1) / np.linalg.norm(found, axis=1))
                sizes = (1024,) if tool.startswith("f2jax") else BATCH_SIZES  # ours packs by tokens: 1,024 is its limit
                encode(texts, sizes[-1])  # compiles
                chosen[tool] = min(sizes, key=lambda n: seconds(encode, texts, n))
            for _ in tqdm(range(args.rounds), desc=f"{name}: rounds", leave=False):
                for tool, encode in encoders.items():
                    times[tool].append(seconds(encode, texts, chosen[tool]))
            speeds = {tool: len(texts) / statistics.median(taken) for tool, taken in times.items()}
            for tool, speed in speeds.items():
                cells = f"{chosen[tool]} | {speed:,.0f} | {speed / speeds[BASE]:.2f} | {worst[tool]:.5f}"
                print(f"| {name} | {tokens:.0f} | {tool} | {cells} |", flush=True)
            ours = {"f2jax": speeds["f2jax"]}
            peers = {tool: speed for tool, speed in speeds.items() if not tool.startswith("f2jax")}
            conditions = f"{args.size or Path(args.model).name}, {len(texts):,} texts, mean {tokens:.0f} tokens"
            report.add(args.report, f"encode, {name} texts", "texts/s", ours, peers, conditions)


if __name__ == "__main__":
    main()
