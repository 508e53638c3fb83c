"""Measures the disk space that `f2jax prepare` takes per byte of raw data, which `launch/check.py` asks for.

python -m benchmarks.corpus_disk --tokenizer TOKENIZER FILE …  # each file alone
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.peaks import bytes_below, highest


def prepare(path: str, tokenizer: str, output: Path) -> tuple[int, int]:
    """Returns the bytes of the corpus, and the largest number of bytes on disk while it was made."""
    command = [sys.executable, "-m", "f2jax", "prepare", "--input", path, "--tokenizer", tokenizer]
    with highest(lambda: bytes_below(output)) as most:
        subprocess.run([*command, "--output", str(output)], check=True, stdout=subprocess.DEVNULL)
    return bytes_below(output), int(most[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--tokenizer", required=True)
    args = parser.parse_args()
    print(f"{'file':<28} {'bytes':>14} {'corpus':>8} {'most while it is made':>22}")
    for path in args.files:
        with tempfile.TemporaryDirectory() as folder:
            raw = Path(path).stat().st_size
            final, most = prepare(path, args.tokenizer, Path(folder) / "corpus")
            print(f"{Path(path).name:<28} {raw:>14,} {final / raw:>6.2f} x {most / raw:>20.2f} x", flush=True)


if __name__ == "__main__":
    main()
