"""Gathers the results of `python -m benchmarks`: each comparison is a line of JSON, and all lines form a table."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

COLUMNS = ("what", "ours", "", "peer", "", "ratio", "conditions", "processor")
UNITS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bfloat16", "amx_bf16": "AMX"}  # by Linux's CPU flags


def add(path: Path | None, what: str, unit: str, ours: dict[str, float], peers: dict[str, float], conditions: str = ""):
    """Appends the comparison of each of ours with each of the peers.

    Args:
        path: file of the report; None: nothing is written.
        ours: {name: median}.
        unit: unit of the medians; more is better if it ends with `/s`, and less otherwise. The ratio is how many times
            better ours is.
    """
    if path is None:
        return
    with path.open("a") as file:
        for our_name, our_value in ours.items():
            for peer, value in peers.items():
                ratio = our_value / value if unit.endswith("/s") else value / our_value
                values = our_name, f"{our_value:,.4g} {unit}", peer, f"{value:,.4g} {unit}"
                row = (what, *values, ratio, conditions, processor())
                file.write(json.dumps(row) + "\n")


def processor() -> str:
    """Returns the hardware that a figure holds for: the name of the GPU, or the processor's vector units."""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        if cards := subprocess.run(query, capture_output=True, text=True).stdout.splitlines():
            return cards[0]
    info = Path("/proc/cpuinfo")
    return units(info.read_text() if info.exists() else "")


def units(cpuinfo: str) -> str:
    """Returns the number of processors in Linux's `/proc/cpuinfo`, and their vector units.

    >>> units("processor : 0\nflags : fpu avx2 avx512f avx512_bf16")
    '1 x AVX2, AVX-512, bfloat16'
    """
    lines = [line.partition(":") for line in cpuinfo.splitlines()]
    flags = next((value.split() for name, _, value in lines if name.strip() == "flags"), [])
    count = sum(name.strip() == "processor" for name, _, _ in lines)
    return f"{count} x {', '.join(name for flag, name in UNITS.items() if flag in flags)}" if flags else "unknown"


def table(paths: Sequence[Path]) -> str:
    """Returns a Markdown table of all lines of the files."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---|---|---:|---|---:|---:|---|---|"]
    for line in [line for path in paths for line in path.read_text().splitlines()]:
        row = json.loads(line)
        *cells, ratio, conditions, unit = row if len(row) == len(COLUMNS) else [*row, "unknown"]  # of earlier versions
        lines.append(f"| {' | '.join(cells)} | {ratio:.2f} | {conditions} | {unit} |")
    return "\n".join(lines)
