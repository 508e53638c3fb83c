"""Texts a second of f2jax, sentence-transformers and ONNX Runtime: same weights, same texts, tokenization inside.

python -m benchmarks.encode --model demo/release [--texts 2000] [--rounds 3]
python -m benchmarks.encode --size 80m --tokenizer FOLDER      # random weights
python -m benchmarks.encode … --data train.parquet             # passages of a training file, in place of built-in texts

Needs the `bench` extra. Tools take turns in one process, on the GPU where there is one; ratios are of medians, to
sentence-transformers in the first dtype. Each has its better batch size of three, found in a round that does not count;
ONNX Runtime (on a CPU, in float32), which has no encode function, gets texts sorted by length, as sentence-transformers
sorts them. Cosines are to sentence-transformers in float32.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from tqdm import tqdm

from benchmarks import report
from f2jax import Embedder, files
from f2jax.checkpoints.package import ModelSettings
from f2jax.data.texts import sample_texts
from f2jax.data.tokenizer import load_tokenizer
from f2jax.model.qwen3 import Qwen3, init_params
from f2jax.model.sizes import size
from f2jax.release.export import export_package

TEXTS = {"short": ["cldr:translation"], "long": ["stdlib:code"], "mixed": ["cldr:translation", "stdlib:code"]}
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
BATCH_SIZES = (64, 256, 1024) if GPU else (16, 64, 256)
DTYPES = ("float32", "bfloat16")
INPUTS = {"input_ids": "ids", "attention_mask": "attention_mask"}  # of the graph, and where a tokenizer has them


def fresh(name: str, tokenizer_folder: str) -> Embedder:
    """A model of this size with random weights."""
    tokenizer = load_tokenizer(tokenizer_folder)
    architecture = size(name)
    return Embedder(architecture, init_params(Qwen3(architecture), 0), tokenizer, ModelSettings(max_length=512))


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


def tools(folder: str, dtypes: list[str]) -> dict[str, Callable]:
    """{name: encode(texts, batch_size)}, loaded."""
    found = {}
    for dtype in dtypes:
        ours = Embedder.from_pretrained(folder, dtype)
        found[f"f2jax, {dtype}"] = partial(ours.encode, show_progress_bar=False)
    for dtype in dtypes:
        theirs = SentenceTransformer(folder, device=DEVICE, model_kwargs={"dtype": dtype})
        found[f"sentence-transformers, {dtype}"] = partial(theirs.encode, show_progress_bar=False)
    return found if GPU else found | {"ONNX Runtime, float32": onnx(folder)}


def kinds_of_text(data: Path | None, count: int) -> Iterator[tuple[str, list[str]]]:
    """(name, texts) of each kind."""
    if data is None:
        yield from ((name, sample_texts(sources, count)) for name, sources in TEXTS.items())
        return
    texts = pyarrow.parquet.read_table(data, columns=["positive"])["positive"].unique().to_pylist()
    yield data.parent.name, texts[:count]


def seconds(encode: Callable, texts: list[str], batch_size: int) -> float:
    start = time.perf_counter()
    encode(texts, batch_size=batch_size)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", help="folder, hub id or workdir")
    which.add_argument("--size", help="a size with random weights; needs --tokenizer")
    parser.add_argument("--tokenizer", help="folder of a tokenizer, for --size")
    parser.add_argument("--data", type=Path, help="a training file, parquet")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        embedder = fresh(args.size, args.tokenizer) if args.size else Embedder.from_pretrained(args.model)
        export_package(embedder, folder, formats=() if GPU else ("onnx",))
        encoders = tools(folder, args.dtypes)
        oracle = SentenceTransformer(folder, device=DEVICE)
        columns = ("texts", "mean tokens", "tool", "batch", "texts/s", "ratio", "worst cosine")
        print(f"| {' | '.join(columns)} |\n|---|---:|---|---:|---:|---:|---:|")
        for name, texts in kinds_of_text(args.data, args.texts):
            tokens = np.mean([len(ids) for ids in embedder.tokenizer.encode(texts, embedder.max_length)])
            golden = oracle.encode(texts, show_progress_bar=False)
            worst, chosen, times = {}, {}, {tool: [] for tool in encoders}
            for tool, encode in tqdm(encoders.items(), desc=f"{name}: batch sizes", leave=False):
                sizes = (1024,) if tool.startswith("f2jax") else BATCH_SIZES  # ours packs by tokens: 1,024 is its limit
                found = np.asarray(encode(texts, batch_size=sizes[-1]), np.float32)  # compiles
                worst[tool] = np.min(np.sum(found * golden, axis=1) / np.linalg.norm(found, axis=1))
                chosen[tool] = min(sizes, key=lambda n: seconds(encode, texts, n))
            for _ in tqdm(range(args.rounds), desc=f"{name}: rounds", leave=False):
                for tool, encode in encoders.items():
                    times[tool].append(seconds(encode, texts, chosen[tool]))
            speeds = {tool: len(texts) / statistics.median(taken) for tool, taken in times.items()}
            base = speeds[f"sentence-transformers, {args.dtypes[0]}"]
            for tool, speed in speeds.items():
                cells = f"{chosen[tool]} | {speed:,.0f} | {speed / base:.2f} | {worst[tool]:.5f}"
                print(f"| {name} | {tokens:.0f} | {tool} | {cells} |", flush=True)
            ours, peers = ({t: s for t, s in speeds.items() if t.startswith("f2jax") == own} for own in (True, False))
            conditions = f"{args.size or Path(args.model).name}, {len(texts):,} texts, mean {tokens:.0f} tokens"
            report.add(args.report, f"encode, {name} texts", "texts/s", ours, peers, conditions)


if __name__ == "__main__":
    main()
