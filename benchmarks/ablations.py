"""Shows what each part of the recipe is worth: trains and scores the rows of configs/ablation.py, for tables and plots.

python -m benchmarks.ablations --data FOLDER --sets EVAL --output OUTPUT [--rows alone …] [--seeds 0 1 2]
python -m benchmarks.ablations --scores docs/ablations/scores.jsonl --plots docs/ablations

Every finished run is a line in `scores.jsonl` in OUTPUT, and the same command continues with the others. FOLDER
contains the corpora and vectors that docs/ablations.md names, and EVAL the evaluation sets. Scores are main scores in
per cent, averaged over the languages of a set. `±` is the standard error of a mean over the seeds, and differences are
taken seed by seed.
"""

import argparse
import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np

from configs.ablation import ROWS
from f2jax import config as configs
from f2jax.data.corpus import PreparedCorpus
from f2jax.figures import new_figure, tidy_panel, to_png
from f2jax.inference.embedder import Embedder
from f2jax.prune.options import ChannelChoice, PruneOptions
from f2jax.prune.run import prune_model
from f2jax.release.merge import merge_models, sources
from f2jax.start.options import BagOptions, StartOptions
from f2jax.start.run import start_from_vectors
from f2jax.train.loop import train

WIDTH = 64  # width of the recipe's student
TABLE_STEPS = 600  # steps for the token table that students start from
STARTS = ("table", "unordered", "cut", "deep_table", "first_two", "spread_two")  # the first is a row too, not trained
DEEP = 6  # layers of the model that `first_two` and `spread_two` keep two of
MERGED = "merged"  # another row without a run: the mean of the checkpoints at the end of the recipe's run
SETS = {  # the local tasks and their subsets
    "Tatoeba.local": ("cmn-eng", "deu-eng", "spa-eng"),
    "STSB.local": ("deu", "eng", "zho"),
    "Banking77.local": ("default",),
    "SIB200.local": ("deu_Latn", "eng_Latn", "rus_Cyrl", "spa_Latn", "zho_Hans"),
    "XQuAD.local": ("eng", "zho"),
    "HumanEvalX.local": ("python",),
}


@dataclass(frozen=True)
class Question:
    """Rows to compare."""

    title: str
    rows: dict[str, str]  # row: the row that it is compared with; "": none
    nested: bool = False  # whether they are also scored at fewer dimensions and as bits


OPTIONS = ("gradient", "masked", "spread", "projected", "in_batch", "texts", "shared", "strong", "taught_alone", MERGED)
WIDTHS = ("alone_32", "recipe_32"), ("alone", "recipe"), ("alone_128", "recipe_128")
QUESTIONS = {
    "sizes": Question(
        "With a teacher and without, at three widths",
        {row: pair[0] if row != pair[0] else "" for pair in WIDTHS for row in pair},
    ),
    "starts": Question(
        "First weights",
        {"recipe": "", "table": "recipe", "pruned": "recipe", "fresh": "recipe", "fresh_alone": "fresh"},
    ),
    "layers": Question("Which layers", {"recipe": "", "deep": "", "first_layers": "", "spread_layers": "first_layers"}),
    "matryoshka": Question("With Matryoshka and without", {"nested": "flat", "flat": ""}, nested=True),
    "options": Question("Options", {"recipe": ""} | dict.fromkeys((*OPTIONS, "together"), "recipe")),
    "bits": Question("Spread out, for binary vectors", {"recipe": "", "spread": "recipe"}, nested=True),
    "data": Question(
        "Stages, instructions, negatives",
        {"recipe": "", "one_stage": "", "two_stages": "one_stage"}
        | dict.fromkeys(("instructions", "no_negatives", "mined"), "recipe"),
    ),
}


@dataclass
class Runs:
    """Trains and scores rows, each only once.

    Args:
        data: folder of corpora and vectors. sets: folder of the evaluation sets. output: where everything goes.
    """

    data: Path
    sets: Path
    output: Path
    tasks: list = field(default_factory=list)  # opened for the first score

    def run(self, row: str, seed: int) -> None:
        """Trains and scores a row, unless its scores exist."""
        if any((line["row"], line["seed"]) == (row, seed) for line in read_lines(self.output / "scores.jsonl")):
            return
        if row in STARTS:
            model = self.start(row, WIDTH, seed)
        elif row == MERGED:
            model = self.merged("recipe", seed)
        else:
            model = self.train(row, seed)
        scores = self.score(row, model)
        line = {"row": row, "seed": seed, "tokens": trained_tokens(model), "scores": scores}
        with (self.output / "scores.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        mean = np.mean([one["full"] for one in scores.values()])
        print(f"{row} {seed}: {mean:.2f}", flush=True)

    def train(self, row: str, seed: int) -> Path:
        """Trains a row unless it is finished, and returns its workdir."""
        workdir = self.output / "runs" / f"{row}-{seed}"
        done = workdir / "finished"
        if not done.exists():
            setting, path = ROWS[row], Path(__file__).parents[1] / "configs/ablation.py"
            start = self.start(setting.start, setting.width, seed) if setting.start else ""
            train(configs.load(f"{path}:row={row},data={self.data},start={start},seed={seed}"), workdir)
            jax.clear_caches()
            done.touch()
        return workdir

    def start(self, name: str, width: int, seed: int) -> Path:
        """Returns the initial weights of this name, which are made if they are missing."""
        if name in ROWS:
            return self.train(name, seed)
        folder = self.output / "starts" / f"{name}-{width}-{seed}"
        if (folder / "config.json").exists():
            return folder
        if name == "cut":  # Matryoshka has ordered the coordinates, so the first ones can be used alone
            choice = ChannelChoice(channels="first", neurons="first")
            options = PruneOptions(width=width, rescale=False, choice=choice)
            prune_model(str(self.train("alone_128", seed)), folder, options)
        elif name in ("first_two", "spread_two"):
            choice = ChannelChoice(layers_by="first" if name == "first_two" else "even")
            prune_model(str(self.train("deep", seed)), folder, PruneOptions(layers=2, choice=choice))
        else:
            vectors, nested = ("vectors-first", 0.0) if name == "unordered" else (f"vectors-{width}", 0.2)
            layers = DEEP if name == "deep_table" else 0
            bag = BagOptions(steps=TABLE_STEPS, max_length=48, nested_weight=nested, seed=seed)
            corpus, student = PreparedCorpus(self.data / "corpus"), StartOptions("tiny", width, layers=layers, bag=bag)
            start_from_vectors(corpus, self.data / vectors, folder, student)
        return folder

    def merged(self, row: str, seed: int) -> Path:
        """Returns the mean of the checkpoints at the end of a run, as a package."""
        folder = self.output / "merged" / f"{row}-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        merge_models(sources([str(self.train(row, seed))], last=20), folder)
        return folder

    def score(self, row: str, model: Path) -> dict[str, dict[str, float]]:
        """Returns {task: {variant: score}}; the variants are `full` and, for some rows, dimensions and `binary`."""
        from f2jax.evaluation import prompts, runner  # import mteb, which tables and plots do not need
        from f2jax.evaluation.local import TASKS
        from f2jax.evaluation.run import variant_encoders
        from f2jax.evaluation.variants import Variant

        if not self.tasks:
            made = [(TASKS[name](self.sets), subsets) for name, subsets in SETS.items()]
            self.tasks = [task.filter_languages(None, hf_subsets=list(subsets)) for task, subsets in made]
        embedder = Embedder.from_pretrained(model)
        names = {Variant(embedder.dim): "full"}
        if any(row in question.rows for question in QUESTIONS.values() if question.nested):
            names |= {Variant(dim): str(dim) for dim in (32, 16, 8)} | {Variant(embedder.dim, "binary"): "binary"}
        instructed = row in ROWS and ROWS[row].corpus == "instructions"
        chosen = prompts.read_instructions().for_tasks(self.tasks) if instructed else prompts.NONE
        with tempfile.TemporaryDirectory() as folder:
            encoders = variant_encoders(embedder, f"ablation/{row}", list(names), chosen, folder)
            found = runner.run_tasks(encoders, self.tasks, folder)
        labels = {str(variant): name for variant, name in names.items()}
        scores: dict[str, dict[str, float]] = defaultdict(dict)
        for entry in found:
            scores[entry.task][labels[entry.variant]] = round(100 * entry.value, 3)
        return dict(scores)


def trained_tokens(model: Path) -> int:
    """Returns the number of tokens that a workdir was trained on, or 0 for a package."""
    lines = read_lines(model / "metrics.jsonl")
    return int(lines[-1]["tokens"]) if lines else 0


def read_lines(path: Path) -> list[dict]:
    """Returns the objects in a file of JSON lines; a missing file has none."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


Values = dict[int, float]  # {seed: value}


class Scores:
    """The scores of all runs, by row, variant and task."""

    def __init__(self, lines: Sequence[dict]):
        self.lines = lines

    def of(self, row: str, variant: str = "full", task: str = "") -> Values:
        """Returns the scores of a task, or the means over all tasks, for the seeds that have the variant."""
        return {
            line["seed"]: line["scores"][task][variant]
            if task
            else float(np.mean([scores[variant] for scores in line["scores"].values()]))
            for line in self.lines
            if line["row"] == row and all(variant in scores for scores in line["scores"].values())
        }

    def gain(self, row: str, other: str, variant: str = "full", task: str = "") -> Values:
        """Returns the difference between two rows, for the seeds that both have."""
        a, b = self.of(row, variant, task), self.of(other, variant, task)
        return {seed: a[seed] - b[seed] for seed in a.keys() & b.keys()}


def mean_and_error(values: Values) -> tuple[float, float]:
    """Returns the mean and its standard error; the error of a single value is 0."""
    x = np.array(list(values.values()))
    return float(x.mean()), float(x.std(ddof=1) / len(x) ** 0.5) if len(x) > 1 else 0.0


def cell(values: Values, sign: str = "") -> str:
    """Returns `mean ± error`, or "" if there are no values."""
    if not values:
        return ""
    mean, error = mean_and_error(values)
    return f"{mean:{sign}.2f}" + (f" ± {error:.2f}" if len(values) > 1 else "")


def table(question: Question, scores: Scores) -> str:
    """Returns a Markdown table with a line for each row that was run."""
    rows = [row for row in question.rows if scores.of(row)]
    if question.nested:
        variants = ("full", "32", "16", "8", "binary")
        head = ["", *(f"{v} dims" if v.isdigit() else v for v in variants)]
        body = [[row, *(cell(scores.of(row, v)) for v in variants)] for row in rows]
        body += [
            [f"{row} − {other}", *(cell(scores.gain(row, other, v), "+") for v in variants)]
            for row, other in question.rows.items()
            if other and scores.gain(row, other)
        ]
    else:
        head = ["", *(task.removesuffix(".local") for task in SETS), "mean of six", "difference"]
        body = [
            [
                row if len(scores.of(row)) == 3 else f"{row} ({len(scores.of(row))} seeds)",
                *(f"{mean_and_error(scores.of(row, task=task))[0]:.1f}" for task in SETS),
                cell(scores.of(row)),
                cell(scores.gain(row, question.rows[row]), "+") if question.rows[row] else "",
            ]
            for row in rows
        ]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plot(question: Question, scores: Scores) -> bytes:
    """Returns a PNG of differences with their errors or, for a nested question, of scores against dimensions."""
    figure, (panel,) = new_figure(1, (5, 3.2))
    if question.nested:
        for row in question.rows:
            points = [(dim, scores.of(row, name)) for dim, name in ((WIDTH, "full"), (32, "32"), (16, "16"), (8, "8"))]
            points = [(dim, *mean_and_error(values)) for dim, values in points if values]
            if points:
                panel.errorbar(*zip(*points, strict=True), marker="o", capsize=3, label=row)
        panel.set(xscale="log", xlabel="dimensions", ylabel="mean of six sets, %")
        panel.set_xticks([8, 16, 32, WIDTH], ["8", "16", "32", str(WIDTH)])
        panel.legend(fontsize=8)
    else:
        gains = {f"{row} − {other}": scores.gain(row, other) for row, other in question.rows.items() if other}
        gains = {name: gain for name, gain in gains.items() if gain}
        for y, gain in enumerate(gains.values()):
            mean, error = mean_and_error(gain)
            panel.errorbar([mean], [y], xerr=[error], fmt="o", capsize=3, color="C0")
        panel.axvline(0, color="0.6", linewidth=1)
        panel.set(xlabel="points, mean of six sets")
        panel.set_yticks(range(len(gains)), list(gains), fontsize=8)
        panel.invert_yaxis()
    panel.set_title(question.title, fontsize=10)
    tidy_panel(panel)
    return to_png(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of corpora and vectors; without it nothing is trained")
    parser.add_argument("--sets", type=Path, help="folder of the evaluation sets")
    parser.add_argument("--output", type=Path, default=Path("build/ablations"))
    every = [*dict.fromkeys(row for question in QUESTIONS.values() for row in question.rows)]
    parser.add_argument("--rows", nargs="+", choices=every, default=every, metavar="ROW", help=", ".join(every))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--scores", type=Path, help="scores.jsonl to read; default: that of OUTPUT")
    parser.add_argument("--plots", type=Path, help="folder for a plot of each question")
    args = parser.parse_args()
    if bool(args.data) != bool(args.sets):
        parser.error("--data and --sets go together: one has what is trained on, the other what it is scored on.")
    if args.data:
        runs = Runs(args.data, args.sets, args.output)
        for seed in args.seeds:
            for row in args.rows:
                runs.run(row, seed)
    scores = Scores(read_lines(args.scores or args.output / "scores.jsonl"))
    for name, question in QUESTIONS.items():
        if not any(scores.gain(row, other) for row, other in question.rows.items() if other):
            continue
        print(f"\n## {question.title}\n\n{table(question, scores)}")
        if args.plots:
            args.plots.mkdir(parents=True, exist_ok=True)
            (args.plots / f"{name}.png").write_bytes(plot(question, scores))


if __name__ == "__main__":
    main()
