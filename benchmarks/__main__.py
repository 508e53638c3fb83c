"""All comparisons with peers on this machine, one after the other, into one table: `make bench`.

python -m benchmarks --model demo/release --output build/bench [--only encode training …] [--quick]

What is done is not done again; delete its file in the output folder for that. Hours on two cores. Quick runs have a
folder of their own inside, since their numbers say nothing.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks import report

NANO = ["--model", "{model}"]
QUICK = {
    "encode": ["--texts", "64", "--rounds", "1"],
    "training": ["--queries", "2", "--negatives", "1", "--rounds", "1"],
}
RUNS = {  # name of the run: module, its options, and those of a quick one, which only shows that it works
    "cold_start": ("cold_start", NANO, ["--rounds", "1"]),
    "encode-nano": ("encode", NANO, QUICK["encode"]),
    "encode-80m": ("encode", ["--size", "80m", "--tokenizer", "{model}", "--texts", "60"], QUICK["encode"]),
    "training-nano": ("training", ["--size", "nano", "--queries", "16"], QUICK["training"]),
    "training-80m": ("training", ["--size", "80m", "--unroll", "8"], QUICK["training"]),
    "loader": ("loader", [], ["--rows", "2000", "--documents", "5000", "--batches", "1", "--rounds", "1"]),
    "mine": ("mine", [], ["--queries", "500", "--documents", "500", "--rounds", "1"]),
    "search": ("search", ["--scratch", "{output}/vectors", "--documents", "100000"], ["--documents", "5000"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="demo/release", help="folder of a package, of `make demo`")
    parser.add_argument("--output", type=Path, default=Path("build/bench"))
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--quick", action="store_true", help="the smallest of each, to see that it works")
    args = parser.parse_args()
    output = args.output / "quick" if args.quick else args.output
    output.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        module, options, quick = RUNS[name]
        done, part = output / f"{name}.jsonl", output / f"{name}.part"
        if done.exists():
            continue
        part.unlink(missing_ok=True)
        command = [sys.executable, "-m", f"benchmarks.{module}", *options, *(quick if args.quick else [])]
        command = [word.format(model=args.model, output=output) for word in command]
        print(f"+ {' '.join(command)}", flush=True)
        subprocess.run([*command, "--report", str(part)], check=True)
        part.rename(done)
    print(report.table([output / f"{name}.jsonl" for name in args.only]))


if __name__ == "__main__":
    main()
