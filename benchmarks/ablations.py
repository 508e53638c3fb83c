"""Table and plots of the runs that launch/ablations/run.sh made: mean and spread over seeds, question by question.

python -m benchmarks.ablations --output FOLDER [--plots docs/ablations]

Scores are means of the tasks, in per cent. `±` is the standard deviation over the seeds; a difference from the row it
is compared with is taken seed by seed, with the standard error of its mean.
"""

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np

from f2jax.evaluation import results

matplotlib.use("Agg")
from matplotlib import pyplot as plt

QUESTIONS = {  # title: rows, the first is what the others are compared with
    "distillation": ("distilled", "alone", "random_start", "random_start_alone"),
    "pruning": ("distilled", "random_channels", "first_channels", "ordered_channels", "random_start"),
    "coordinates": ("distilled", "alone", "first_channels", "first_channels_alone"),
    "layers": ("first_layer", "last_layer"),
    "matryoshka": ("distilled", "no_matryoshka", "uniform_matryoshka"),
    "gradient": ("distilled", "stop_gradient"),
    "cache": ("distilled", "cached"),
    "objectives": ("distilled", "cosine", "projected", "nested", "scores", "strong", "not_spread", "masked"),
}


def scores(folder: Path) -> dict[tuple[str, int], dict[int, float]]:
    """{(row, dimensions): {seed: mean score of the tasks}} of all runs whose scores are there."""
    found = defaultdict(dict)
    for run in results.read_results([folder / "scores"]):
        name = re.fullmatch(r".*/(\w+)-(\d+)( \(.*\))?", run.model)  # in brackets: prompts that are not the default's
        if name:
            found[name[1], run.variant.dim][int(name[2])] = 100 * float(np.mean(list(run.tasks().values())))
    return dict(found)


def tokens_per_second(folder: Path, row: str) -> float:
    """Median over the reports of the logs of all seeds; compilation falls on few of them."""
    values = []
    for path in (folder / "runs").glob(f"{row}-[0-9]*/metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        values += [line["tokens_per_second"] for line in lines if "tokens_per_second" in line]
    return float(np.median(values)) if values else float("nan")


def table(folder: Path, rows, found) -> str:
    """Markdown: a row for each setting that was run, a column for each number of dimensions."""
    dims = sorted({dim for _, dim in found}, reverse=True)
    lines = ["| | " + " | ".join(f"{dim} dims" for dim in dims) + " | against the first | tokens/s |"]
    lines.append("|---|" + "---:|" * (len(dims) + 2))
    first = found.get((rows[0], dims[0]), {})
    for row in rows:
        own = found.get((row, dims[0]))
        if not own:
            continue
        cells = [
            f"{np.mean(v):.2f} ± {np.std(v, ddof=1):.2f}" if len(v) > 1 else f"{v[0]:.2f}"
            for v in (list(found[row, dim].values()) for dim in dims)
        ]
        shared = sorted(own.keys() & first.keys())
        difference = [own[seed] - first[seed] for seed in shared]
        versus = "" if row == rows[0] or not shared else f"{np.mean(difference):+.2f}"
        if versus and len(shared) > 1:
            versus += f" ± {np.std(difference, ddof=1) / len(shared) ** 0.5:.2f}"
        name = f"{row} ({len(own)} seeds)" if len(own) != 3 else row
        lines.append(f"| {name} | {' | '.join(cells)} | {versus} | {tokens_per_second(folder, row):,.0f} |")
    return "\n".join(lines)


def plot(title: str, rows, found, path: Path) -> None:
    """Score against dimensions, a line for each row; bars are the spread over the seeds."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for row in rows:
        dims = sorted(dim for name, dim in found if name == row)
        values = [list(found[row, dim].values()) for dim in dims]
        if dims:
            spread = [np.std(v, ddof=1) if len(v) > 1 else 0 for v in values]
            axes.errorbar(dims, [np.mean(v) for v in values], spread, marker="o", capsize=3, label=row)
    axes.set(title=title, xlabel="dimensions", ylabel="mean score, %", xscale="log")
    ticks = sorted({dim for _, dim in found})
    axes.set_xticks(ticks, [str(dim) for dim in ticks])
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder that launch/ablations/run.sh wrote")
    parser.add_argument("--plots", type=Path, help="folder of the plots, default: OUTPUT/plots")
    args = parser.parse_args()
    plots = args.plots or args.output / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    found = scores(args.output)
    for title, rows in QUESTIONS.items():
        if sum((row in {name for name, _ in found}) for row in rows) > 1:
            plot(title, rows, found, plots / f"{title}.png")
            print(f"\n## {title}\n\n{table(args.output, rows, found)}")


if __name__ == "__main__":
    main()
