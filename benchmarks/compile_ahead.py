"""Measures how long a training waits for the compiler on a CPU, with and without a thread that compiles ahead.

    python -m benchmarks.compile_ahead

Each run is a process of its own, with an empty cache of compiled programs. Its mixture has four data sets, with texts
of about 5, 20, 60 and 200 words, and up to six shapes of packed rows.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

MEANS = (5, 20, 60, 200)


def write_rows(folder: Path, count: int = 1_000) -> list[str]:
    """Writes a JSONL file of pairs for each mean length in words."""
    rng, words = np.random.default_rng(0), np.array([f"w{i}" for i in range(300)])
    paths = []
    for mean in MEANS:
        texts = [" ".join(rng.choice(words, rng.integers(mean // 2, mean * 3 // 2 + 1))) for _ in range(2 * count)]
        rows = [{"query": texts[2 * i], "positive": texts[2 * i + 1], "source": f"mean {mean}"} for i in range(count)]
        paths.append(str(folder / f"{mean}.jsonl"))
        Path(paths[-1]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


def run(folder: Path, sources: list[str], name: str, ahead: bool, steps: int) -> dict[str, float]:
    """Returns the seconds that the parts of a training take."""
    settings = {
        "model.size": "tiny",
        "model.compile_ahead": ahead,
        "steps": steps,
        "tokenizer.train_vocab": 500,
        "data.sources": str(tuple(sources)),
        "data.batch_size": 32,
        "data.programs": 6,
        "log.validate_every": 0,
        "checkpoint.every": steps,
    }
    options = [f"--config.{field}={value}" for field, value in settings.items()]
    command = ["train", "--config", "nano:stage=1", "--workdir", str(folder / name), *options]
    environment = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    output = subprocess.run(
        [sys.executable, "-m", "f2jax", *command],
        env=environment | {"JAX_PLATFORMS": "cpu"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    (line,) = re.findall("Goodput .*", output)
    print(f"ahead={ahead}: {line}", flush=True)
    return {part: float(seconds.replace(",", "")) for part, seconds in re.findall(r"(\w+) ([\d.,]+) s", line)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = write_rows(folder)
        waits: dict[bool, list[float]] = {True: [], False: []}
        for repeat in range(args.repeats):
            for ahead in (False, True):
                waits[ahead].append(run(folder, sources, f"{repeat}-{ahead}", ahead, args.steps)["compile"])
        print(f"waited {np.mean(waits[True]):.1f} s instead of {np.mean(waits[False]):.1f} s")


if __name__ == "__main__":
    main()
