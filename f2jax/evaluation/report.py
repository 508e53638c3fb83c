"""`f2jax report`: a page with tables and curves of results, next to the published scores of F2LLM-v2."""

import csv
import io
from collections.abc import Iterable, Sequence

import mteb
import numpy as np
from mteb.languages import ISO_TO_LANGUAGE

from f2jax import files
from f2jax.evaluation import plots, published, results
from f2jax.evaluation.plots import Curve, SizePanel
from f2jax.evaluation.results import Benchmark, ScoredVariant, covered_benchmarks
from f2jax.tables import PageTable, html_page


def report(folders: Iterable[str], output: str) -> list[str]:
    """Writes `index.html` (all in one file), `dimensions.png`, `sizes.png` and `scores.csv`; returns their paths.

    Raises:
        UserError: there are no results, or the folder cannot be written.
    """
    runs = results.read_results(folders)
    benchmarks = covered_benchmarks(runs)
    pictures: dict[str, bytes] = {}
    if curves := dimension_curves(runs):
        pictures["dimensions.png"] = plots.plot_dimensions(curves)
    if panels := size_panels(runs, benchmarks):
        pictures["sizes.png"] = plots.plot_sizes(panels)
    texts = {"index.html": page(score_tables(runs, benchmarks), pictures), "scores.csv": to_csv(runs)}
    written = [files.join(output, name) for name in (*texts, *pictures)]
    for name, content in (texts | pictures).items():
        files.write_atomically(files.join(output, name), content)
    return written


def dimension_curves(runs: Sequence[ScoredVariant]) -> dict[str, list[Curve]]:
    """Returns curves for each task type and for all tasks, on the tasks that all models with several dimensions share.

    Models with one dimension are included if they have these tasks too. The result may be empty.
    """
    several = results.with_dimensions(runs)
    shared = results.shared_tasks(several)
    scores = [(run, run.types(shared)) for run in runs if shared and shared <= set(run.tasks())]
    models = list(dict.fromkeys(run.model for run, _ in scores))
    return {
        kind: [
            Curve(model, color, [(run.variant, 100 * types[kind]) for run, types in scores if run.model == model])
            for color, model in enumerate(models)
        ]
        for kind in ([results.ALL, *sorted({results.task_type(task) for task in shared})] if shared else [])
    }


def size_panels(runs: Sequence[ScoredVariant], benchmarks: Sequence[Benchmark]) -> list[SizePanel]:
    """Returns a panel for each benchmark that one of our models covers completely.

    If there is none, a single panel shows the mean of the tasks that all our models share. Panels with a single point
    are left out.
    """
    ours = {run.model: run for run in runs if run.full and run.parameters}
    complete = {
        benchmark.name: {model: mean for model, (mean, count) in benchmark.means.items() if count == benchmark.tasks}
        for benchmark in benchmarks
    }
    complete = {name: means for name, means in complete.items() if set(means) & set(ours)}
    shared = results.shared_tasks(list(ours.values()))
    if not complete and shared:
        means = {model: run.types(shared)[results.ALL] for model, run in ours.items()}
        complete = {f"mean of {len(shared)} shared tasks": means}
    sizes, paper = published.load_published()["parameters"], published.benchmark_scores()
    panels = [
        SizePanel(
            title,
            [(sizes[model], scores[title]) for model, scores in paper.items() if title in scores],
            [
                (model, color, run.parameters or 0, 100 * means[model])
                for color, (model, run) in enumerate(ours.items())
                if model in means
            ],
        )
        for title, means in complete.items()
    ]
    return [panel for panel in panels if len(panel.family) + len(panel.models) > 1]


def score_tables(runs: Sequence[ScoredVariant], benchmarks: Sequence[Benchmark]) -> list[PageTable]:
    """Returns all tables that are not empty, with scores in percent."""
    full = {run.model: run for run in runs if run.full}
    tables = [
        by_benchmark(benchmarks),
        *by_published_type(full, benchmarks),
        _by_model("Task types", "Mean of the tasks that a model has of a type.", full, lambda run: run.types()),
        by_task(full),
        by_dimension(runs),
        _by_model("Languages", "Mean of the tasks in a language.", full, lambda run: run.languages(), language_name),
    ]
    return [table for table in tables if table.rows]


def by_benchmark(benchmarks: Sequence[Benchmark]) -> PageTable:
    """Returns models × benchmarks, ours first. Means of incomplete benchmarks state their number of tasks."""
    ours = dict.fromkeys(model for benchmark in benchmarks for model in benchmark.means)
    rows = [(model, [_coverage(benchmark, model) for benchmark in benchmarks]) for model in ours]
    if benchmarks:
        for model, scores in published.benchmark_scores().items():
            rows.append((f"{model} (paper)", [scores[benchmark.name] for benchmark in benchmarks]))
    note = "Mean of tasks. If some are missing, their number follows; compare only complete benchmarks."
    return PageTable("Benchmarks", note, [benchmark.name for benchmark in benchmarks], rows)


def _coverage(benchmark: Benchmark, model: str) -> float | str | None:
    mean, tasks = benchmark.means.get(model, (0.0, 0))
    return _partial([mean] * tasks, benchmark.tasks)


def _partial(scores: Sequence[float], tasks: int) -> float | str | None:
    """Returns the mean in percent, followed by the number of scores if there should be more."""
    if not scores:
        return None
    mean = 100 * float(np.mean(scores))
    return mean if len(scores) == tasks else f"{mean:.2f} ({len(scores)} of {tasks})"


def by_published_type(full: dict[str, ScoredVariant], benchmarks: Sequence[Benchmark]) -> list[PageTable]:
    """Returns scores by task type of English and multilingual MTEB, next to the published ones."""
    tables = []
    for benchmark in benchmarks:
        types = published.load_published()["types"].get(benchmark.short)
        if not types:
            continue
        tasks = [task.metadata.name for task in mteb.get_benchmark(benchmark.name).tasks]
        groups = [[task for task in tasks if results.task_type(task) == kind] for kind in types["columns"]]
        rows = []
        for model, run in full.items():
            by_name = run.tasks()
            scores = [[by_name[task] for task in group if task in by_name] for group in groups]
            if any(scores):
                rows.append((model, [_partial(*pair) for pair in zip(scores, map(len, groups), strict=True)]))
        rows += [(f"{model} (paper)", values) for model, values in types.items() if model != "columns"]
        note = "Mean of the tasks of a type. If some are missing, the number present follows."
        tables.append(PageTable(f"{benchmark.name} by task type", note, types["columns"], rows))
    return tables


def by_task(full: dict[str, ScoredVariant]) -> PageTable:
    """Returns tasks × models, with published scores where there are any."""
    paper = published.load_published()["tasks"]
    scores = {model: run.tasks() for model, run in full.items()}
    names = {task for by_name in scores.values() for task in by_name}
    sizes = paper["columns"] if any(name in paper for name in names) else []
    rows = []
    for name in sorted(names, key=lambda name: (results.task_type(name), name)):
        ours = [_percent(scores[model].get(name)) for model in scores]
        rows.append((name, [results.task_type(name), *ours, *paper.get(name, [None] * len(sizes))[: len(sizes)]]))
    columns = ["type", *scores, *(f"{model} (paper)" for model in sizes)]
    return PageTable("Tasks", "mteb's main score of each task, mean of its subsets.", columns, rows)


def by_dimension(runs: Sequence[ScoredVariant]) -> PageTable:
    """Returns the scores of models at each dimension and precision, by task type."""
    several = results.with_dimensions(runs)
    shared = results.shared_tasks(several)
    scores = {f"{run.model}, {run.variant}": run.types(shared) for run in several} if shared else {}
    kinds = sorted({kind for types in scores.values() for kind in types}, key=lambda kind: (kind != results.ALL, kind))
    note = f"The {len(shared)} tasks that all of these have; truncated, then normalized, then quantized."
    rows = [(name, [_percent(types[kind]) for kind in kinds]) for name, types in scores.items()]
    return PageTable("Dimensions and precisions", note, kinds, rows)


def _by_model(title: str, note: str, full: dict[str, ScoredVariant], scores, name=lambda key: key) -> PageTable:
    by_model = {model: scores(run) for model, run in full.items()}
    keys = sorted({key for values in by_model.values() for key in values})
    rows = [(name(key), [_percent(values.get(key)) for values in by_model.values()]) for key in keys]
    return PageTable(title, note, list(by_model), rows)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def language_name(tag: str) -> str:
    """Returns "deu-Latn German" for deu-Latn."""
    return f"{tag} {ISO_TO_LANGUAGE.get(tag.partition('-')[0], '')}".strip()


def to_csv(runs: Sequence[ScoredVariant]) -> str:
    """Returns all scores as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for run in runs:
        left = (run.model, run.revision, run.parameters, run.variant.dim, run.variant.precision)
        for entry in run.entries:
            right = (results.task_type(entry.task), entry.split, entry.subset, " ".join(entry.languages), entry.score)
            writer.writerow([*left, entry.task, *right])
    return text.getvalue()


CSV_COLUMNS = (
    "model", "revision", "parameters", "dim", "precision",
    "task", "type", "split", "subset", "languages", "score",
)  # fmt: skip


def page(tables: Sequence[PageTable], pictures: dict[str, bytes]) -> str:
    """Returns a self-contained HTML page."""
    note = f"In percent. Published: {published.load_published()['source']}."
    return html_page("Scores", note, tables, pictures)
