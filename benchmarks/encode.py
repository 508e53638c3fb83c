"""Texts per second of f2jax, sentence-transformers and ONNX Runtime: same weights, same texts, including tokenization.

python -m benchmarks.encode --model demo/release [--texts 2000] [--rounds 3]
python -m benchmarks.encode --size 80m --tokenizer FOLDER      # random weights
python -m benchmarks.encode … --data train.parquet             # passages of a training file instead of built-in texts
python -m benchmarks.encode … --lengths 1024 4096 8192         # single texts of about these numbers of tokens
python -m benchmarks.encode … --cpu-time                       # of all cores, if other programs run at the same time

Needs the `bench` extra. Tools take turns in one process, on the GPU if there is one; ratios are of medians, to
sentence-transformers in the first dtype. Each tool uses the best of three batch sizes, found in a round that does not
count. ONNX Runtime (on a CPU, in float32, not with --lengths) has no encode function, and gets texts sorted by length,
like sentence-transformers. Cosines are to sentence-transformers in float32.
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
INPUTS = {"input_ids": "ids", "attention_mask": "attention_mask"}  # in the graph, and in a tokenizer's output


def fresh(name: str, tokenizer_folder: str, max_length: int) -> Embedder:
    """Returns a model of this size with random weights, and with the positions and ids that are needed."""
    tokenizer, known = load_tokenizer(tokenizer_folder), size(name)
    vocab_size = max(known.vocab_size, tokenizer.vocab_size)
    architecture = size(name, vocab_size=vocab_size, max_length=max(known.max_length, max_length))
    return Embedder(architecture, init_params(Qwen3(architecture), 0), tokenizer, ModelSettings(max_length))


def onnx(folder: str) -> Callable:
    """Returns encode(texts, batch_size) for the package's ONNX graph."""
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


def tools(folder: str, dtypes: list[str], with_onnx: bool) -> dict[str, Callable]:
    """Loads the tools and returns {name: encode(texts, batch_size)}."""
    found = {}
    for dtype in dtypes:
        ours = Embedder.from_pretrained(folder, dtype)
        found[f"f2jax, {dtype}"] = partial(ours.encode, show_progress_bar=False)
    for dtype in dtypes:
        theirs = SentenceTransformer(folder, device=DEVICE, model_kwargs={"dtype": dtype})
        found[f"sentence-transformers, {dtype}"] = partial(theirs.encode, show_progress_bar=False)
    return found | ({"ONNX Runtime, float32": onnx(folder)} if with_onnx else {})


def kinds_of_text(data: Path | None, count: int) -> Iterator[tuple[str, list[str]]]:
    """Yields (name, texts) for each kind of text."""
    if data is None:
        yield from ((name, sample_texts(sources, count)) for name, sources in TEXTS.items())
        return
    texts = pyarrow.parquet.read_table(data, columns=["positive"])["positive"].unique().to_pylist()
    yield data.parent.name, texts[:count]


def long_texts(tokenizer, lengths: list[int]) -> Iterator[tuple[str, list[str]]]:
    """Yields (name, [text]) with a text of about each number of tokens."""
    text = " ".join(sample_texts(TEXTS["long"], 500))
    characters = len(text) / len(tokenizer.encode([text], 2**31 - 1)[0])
    yield from ((f"one of {length:,}", [text[: int(length * characters)]]) for length in lengths)


def seconds(encode: Callable, texts: list[str], batch_size: int, clock: Callable[[], float]) -> float:
    start = clock()
    encode(texts, batch_size=batch_size)
    return clock() - start


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
    parser.add_argument("--lengths", type=int, nargs="+", default=[], help="tokens of a text")
    parser.add_argument("--cpu-time", action="store_true", help="measure the time of all cores")
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    longest = max(args.lengths, default=None)
    with tempfile.TemporaryDirectory() as folder:
        if args.size:
            embedder = fresh(args.size, args.tokenizer, longest or 512)
        else:
            embedder = Embedder.from_pretrained(args.model, max_length=longest)
        with_onnx = not (GPU or longest)  # our graph holds all attention scores of a text in memory
        export_package(embedder, folder, formats=("onnx",) if with_onnx else ())
        encoders = tools(folder, args.dtypes, with_onnx)
        oracle = SentenceTransformer(folder, device=DEVICE)
        columns = ("texts", "mean tokens", "tool", "batch", "texts/s", "ratio", "worst cosine")
        print(f"| {' | '.join(columns)} |\n|---|---:|---|---:|---:|---:|---:|")
        kinds = long_texts(embedder.tokenizer, args.lengths) if longest else kinds_of_text(args.data, args.texts)
        for name, texts in kinds:
            tokens = np.mean([len(ids) for ids in embedder.tokenizer.encode(texts, embedder.max_length)])
            golden = oracle.encode(texts, show_progress_bar=False)
            worst, chosen, times = {}, {}, {tool: [] for tool in encoders}
            for tool, encode in tqdm(encoders.items(), desc=f"{name}: batch sizes", leave=False):
                one = tool.startswith("f2jax") or len(texts) == 1  # f2jax packs by tokens, up to 1,024 texts
                sizes = (1024,) if one else BATCH_SIZES
                found = np.asarray(encode(texts, batch_size=sizes[-1]), np.float32)  # compiles
                worst[tool] = np.min(np.sum(found * golden, axis=1) / np.linalg.norm(found, axis=1))
                several = len(sizes) > 1
                chosen[tool] = min(sizes, key=lambda n: seconds(encode, texts, n, clock)) if several else sizes[0]
            for _ in tqdm(range(args.rounds), desc=f"{name}: rounds", leave=False):
                for tool, encode in encoders.items():
                    times[tool].append(seconds(encode, texts, chosen[tool], clock))
            speeds = {tool: len(texts) / statistics.median(taken) for tool, taken in times.items()}
            base = speeds[f"sentence-transformers, {args.dtypes[0]}"]
            for tool, speed in speeds.items():
                shown = f"{speed:,.{0 if speed >= 100 else 2}f} | {speed / base:.2f}"
                cells = f"{chosen[tool]} | {shown} | {worst[tool]:.5f}"
                print(f"| {name} | {tokens:.0f} | {tool} | {cells} |", flush=True)
            ours, peers = ({t: s for t, s in speeds.items() if t.startswith("f2jax") == own} for own in (True, False))
            conditions = f"{args.size or Path(args.model).name}, {len(texts):,} texts, mean {tokens:.0f} tokens"
            report.add(args.report, f"encode, {name} texts", "texts/s", ours, peers, conditions)


if __name__ == "__main__":
    main()
