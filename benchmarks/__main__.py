"""Runs all comparisons with peers on this machine, one after the other, and gathers them in a table: `make bench`.

python -m benchmarks --model demo/release --output build/bench [--only encode training …] [--quick]
python -m benchmarks --gpu --data train.parquet --tokenizer FOLDER --output build/gpu --minutes 12  # on an NVIDIA GPU

Finished runs are not repeated unless their file in the output folder is deleted. After `--minutes`, the current run is
stopped, and the next call starts with it. Quick runs have their own folder inside, since their numbers are meaningless.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import report

NANO = ["--model", "{model}"]
QUICK = {
    "encode": ["--texts", "64", "--rounds", "1"],
    "training": ["--queries", "2", "--negatives", "1", "--rounds", "1"],
}
FEW = ["--texts", "6", "--rounds", "9"]  # the shorter a run, the more its time varies
RUNS = {  # name of the run: module, its options, and those of a quick run, which only shows that it works
    "cold_start": ("cold_start", NANO, ["--rounds", "1"]),
    "encode-nano": ("encode", NANO, QUICK["encode"]),
    "encode-80m": ("encode", ["--size", "80m", "--tokenizer", "{model}", "--texts", "60"], QUICK["encode"]),
    "encode-330m-few": ("encode", ["--size", "330m", "--tokenizer", "{model}", *FEW], QUICK["encode"]),
    "encode-0.6b-few": ("encode", ["--size", "0.6b", "--tokenizer", "{model}", *FEW], QUICK["encode"]),
    "training-nano": ("training", ["--size", "nano", "--queries", "16", "--unroll", "3"], QUICK["training"]),
    "training-80m": ("training", ["--size", "80m", "--unroll", "8"], QUICK["training"]),
    "loader": ("loader", [], ["--rows", "2000", "--documents", "5000", "--batches", "1", "--rounds", "1"]),
    "mine": ("mine", [], ["--queries", "500", "--documents", "500", "--rounds", "1"]),
    "search": ("search", ["--scratch", "{output}/vectors", "--documents", "100000"], ["--documents", "5000"]),
}


STEP = ["--data", "{data}", "--tokenizer", "{tokenizer}", "--queries", "16", "--negatives", "4", "--own-weights"]
STEP += ["--max-length", "1024", "--row-length", "1024", "--dtypes", "bfloat16", "--remat", "dots", "--rounds", "8"]
STEP += ["--other-kernels", "triton"]
PASSAGES = ["--data", "{data}", "--tokenizer", "{tokenizer}", "--dtypes", "bfloat16", "--texts", "1000"]
GPU_RUNS = {  # the most important first; the padded batch of the peer for 0.6b needs --checkpointing
    "attention": ("gpu_attention", [], ["--rows", "2", "--rounds", "1"]),
    "training-0.6b": ("training", ["--size", "0.6b", "--unroll", "28", "--checkpointing", *STEP], QUICK["training"]),
    "training-330m": ("training", ["--size", "330m", "--unroll", "16", *STEP], QUICK["training"]),
    "training-gpu-80m": ("training", ["--size", "80m", "--unroll", "8", *STEP], QUICK["training"]),
}
GPU_RUNS |= {
    f"encode-gpu-{size}": ("encode", ["--size", size, *PASSAGES], QUICK["encode"]) for size in ("80m", "330m", "0.6b")
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="demo/release", help="folder of a package, of `make demo`")
    parser.add_argument("--output", type=Path, default=Path("build/bench"))
    parser.add_argument("--only", nargs="+", choices=[*RUNS, *GPU_RUNS])
    parser.add_argument("--gpu", action="store_true", help="the runs for a GPU")
    parser.add_argument("--data", default="train.parquet", help="a training file, for --gpu")
    parser.add_argument("--tokenizer", default="tokenizer", help="folder of its tokenizer")
    parser.add_argument("--minutes", type=float, default=60, help="after which all ends")
    parser.add_argument("--quick", action="store_true", help="the smallest of each, to see that it works")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    output = args.output / "quick" if args.quick else args.output
    output.mkdir(parents=True, exist_ok=True)
    names, failed = args.only or list(GPU_RUNS if args.gpu else RUNS), []
    folders = {"model": args.model, "output": output, "data": args.data, "tokenizer": args.tokenizer}
    for name in names:
        module, options, quick = (RUNS | GPU_RUNS)[name]
        done, part = output / f"{name}.jsonl", output / f"{name}.part"
        if done.exists():
            continue
        part.unlink(missing_ok=True)
        command = [sys.executable, "-m", f"benchmarks.{module}", *options, *(quick if args.quick else [])]
        command = [word.format(**folders) for word in command]
        print(f"+ {' '.join(command)}", flush=True)
        try:
            subprocess.run([*command, "--report", str(part)], check=True, timeout=max(end - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            print(f"{args.minutes:g} minutes are over; {name} and what follows are left for another call.")
            break
        except subprocess.CalledProcessError:  # its message is printed above; the other runs still take their turn
            failed.append(name)
            continue
        part.rename(done)
    print(report.table([path for path in (output / f"{name}.jsonl" for name in names) if path.exists()]))
    if failed:
        raise SystemExit(f"These runs failed: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
