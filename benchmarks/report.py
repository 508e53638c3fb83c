"""What `python -m benchmarks` gathers: each comparison is a line of a JSON file, and all lines are one table."""

import json
from collections.abc import Sequence
from pathlib import Path

COLUMNS = ("what", "ours", "", "peer", "", "ratio", "conditions")


def add(path: Path | None, what: str, unit: str, ours: dict[str, float], peers: dict[str, float], conditions: str = ""):
    """Append the comparison of each of ours with each of the peers.

    Args:
        path: the file; None: no report is wanted.
        ours: {name: median}.
        unit: of the medians; of one that ends with `/s`, more is better, of others less. The ratio is how many times
            better ours is.
    """
    if path is None:
        return
    with path.open("a") as file:
        for our_name, our_value in ours.items():
            for peer, value in peers.items():
                ratio = our_value / value if unit.endswith("/s") else value / our_value
                row = (what, our_name, f"{our_value:,.4g} {unit}", peer, f"{value:,.4g} {unit}", ratio, conditions)
                file.write(json.dumps(row) + "\n")


def table(paths: Sequence[Path]) -> str:
    """Markdown of all lines of the files."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---|---|---:|---|---:|---:|---|"]
    for line in [line for path in paths for line in path.read_text().splitlines()]:
        *cells, ratio, conditions = json.loads(line)
        lines.append(f"| {' | '.join(cells)} | {ratio:.2f} | {conditions} |")
    return "\n".join(lines)
