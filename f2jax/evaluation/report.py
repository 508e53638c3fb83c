"""`f2jax report`: one page with tables and curves of result files, beside the published scores of F2LLM-v2."""

import base64
import csv
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import mteb
import numpy as np
from mteb.languages import ISO_TO_LANGUAGE

from f2jax import files
from f2jax.evaluation import plots, published, results
from f2jax.evaluation.results import Benchmark, ModelResults, covered


@dataclass(frozen=True)
class Table:
    """Rows of a name and numbers or words; None is an empty cell."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[float | str | None]]]


def report(folders: Iterable[str], output: str) -> list[str]:
    """Write `index.html` (all in one file), `dimensions.png`, `sizes.png` and `scores.csv`; the files written.

    Raises:
        UserError: there are no results, or the folder cannot be written.
    """
    runs = results.read_results(folders)
    benchmarks = covered(runs)
    pictures = {"dimensions.png": plots.dimensions(runs), "sizes.png": plots.sizes(runs, benchmarks)}
    pictures = {name: picture for name, picture in pictures.items() if picture}
    texts = {"index.html": page(tables(runs, benchmarks), pictures), "scores.csv": long_form(runs)}
    written = [files.join(output, name) for name in (*texts, *pictures)]
    for path, content in zip(written, (*texts.values(), *pictures.values()), strict=True):
        files.write_atomically(path, content)
    return written


def tables(runs: Sequence[ModelResults], benchmarks: Sequence[Benchmark]) -> list[Table]:
    """All tables that have rows, scores in percent."""
    whole = {run.model: run for run in runs if run.whole}
    made = [
        by_benchmark(benchmarks),
        *by_published_type(whole, benchmarks),
        _by_model("Task types", "Mean of the tasks that a model has of a type.", whole, lambda run: run.types()),
        by_task(whole),
        by_dimension(runs),
        _by_model("Languages", "Mean of the tasks in a language.", whole, lambda run: run.languages(), language_name),
    ]
    return [table for table in made if table.rows]


def by_benchmark(benchmarks: Sequence[Benchmark]) -> Table:
    """Models x benchmarks, ours first. A mean of some of the tasks says of how many: no published score is like it."""
    ours = dict.fromkeys(model for benchmark in benchmarks for model in benchmark.means)
    rows = [(model, [_coverage(benchmark, model) for benchmark in benchmarks]) for model in ours]
    if benchmarks:
        for model, scores in published.benchmark_scores().items():
            rows.append((f"{model} (paper)", [scores[benchmark.name] for benchmark in benchmarks]))
    note = "Mean of tasks. Where some tasks are missing, their number stands beside the mean; only whole ones compare."
    return Table("Benchmarks", note, [benchmark.name for benchmark in benchmarks], rows)


def _coverage(benchmark: Benchmark, model: str) -> float | str | None:
    mean, tasks = benchmark.means.get(model, (0.0, 0))
    return _partial([mean] * tasks, benchmark.tasks)


def _partial(scores: Sequence[float], tasks: int) -> float | str | None:
    """The mean in percent; with the number of scores where there should be more."""
    if not scores:
        return None
    mean = 100 * float(np.mean(scores))
    return mean if len(scores) == tasks else f"{mean:.2f} ({len(scores)} of {tasks})"


def by_published_type(whole: dict[str, ModelResults], benchmarks: Sequence[Benchmark]) -> list[Table]:
    """For English and multilingual MTEB, task types beside the published ones."""
    made = []
    for benchmark in benchmarks:
        types = published.load_published()["types"].get(benchmark.short)
        if not types:
            continue
        tasks = [task.metadata.name for task in mteb.get_benchmark(benchmark.name).tasks]
        groups = [[task for task in tasks if results.task_type(task) == kind] for kind in types["columns"]]
        rows = []
        for model, run in whole.items():
            own = run.tasks()
            scores = [([own[task] for task in group if task in own], len(group)) for group in groups]
            if any(some for some, _ in scores):
                rows.append((model, [_partial(some, number) for some, number in scores]))
        rows += [(f"{model} (paper)", values) for model, values in types.items() if model != "columns"]
        note = "Mean of the tasks of a type. Where some are missing, their number stands beside it."
        made.append(Table(f"{benchmark.name} by task type", note, types["columns"], rows))
    return made


def by_task(whole: dict[str, ModelResults]) -> Table:
    """Tasks x models, with the published scores of tasks that have them."""
    paper = published.load_published()["tasks"]
    scores = {model: run.tasks() for model, run in whole.items()}
    names = list(dict.fromkeys(task for own in scores.values() for task in own))
    known = paper["columns"] if any(name in paper for name in names) else []
    rows = []
    for name in sorted(names, key=lambda name: (results.task_type(name), name)):
        own = [_percent(scores[model].get(name)) for model in scores]
        rows.append((name, [results.task_type(name), *own, *(paper.get(name) or [None] * len(known))[: len(known)]]))
    columns = ["type", *scores, *(f"{model} (paper)" for model in known)]
    return Table("Tasks", "mteb's main score of each task, mean of its subsets.", columns, rows)


def by_dimension(runs: Sequence[ModelResults]) -> Table:
    """Models at each dimension and precision, by task type."""
    several = results.with_dimensions(runs)
    shared = results.shared_tasks(several)
    scores = {f"{run.model}, {run.variant}": run.types(shared) for run in several} if shared else {}
    kinds = sorted({kind for own in scores.values() for kind in own}, key=lambda kind: (kind != results.ALL, kind))
    note = f"The {len(shared)} tasks that all of these have; truncated, then normalized, then quantized."
    rows = [(name, [_percent(own[kind]) for kind in kinds]) for name, own in scores.items()]
    return Table("Dimensions and precisions", note, kinds, rows)


def _by_model(title: str, note: str, whole: dict[str, ModelResults], scores, name=lambda key: key) -> Table:
    own = {model: scores(run) for model, run in whole.items()}
    keys = sorted({key for values in own.values() for key in values})
    rows = [(name(key), [_percent(values.get(key)) for values in own.values()]) for key in keys]
    return Table(title, note, list(own), rows)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def language_name(tag: str) -> str:
    """deu-Latn → "deu-Latn German" """
    return f"{tag} {ISO_TO_LANGUAGE.get(tag.partition('-')[0], '')}".strip()


def long_form(runs: Sequence[ModelResults]) -> str:
    """Every score as a line of CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV)
    for run in runs:
        left = (run.model, run.revision, run.parameters, run.variant.dim, run.variant.precision)
        for entry in run.entries:
            right = (results.task_type(entry.task), entry.split, entry.subset, " ".join(entry.languages), entry.score)
            writer.writerow([*left, entry.task, *right])
    return text.getvalue()


CSV = (
    "model", "revision", "parameters", "dim", "precision",
    "task", "type", "split", "subset", "languages", "score",
)  # fmt: skip
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1em; color: #222 }
h1, h2 { font-weight: 600 } h2 { margin-top: 2em } p { color: #555 } img { max-width: 100% }
div { overflow: auto; max-height: 40em } table { border-collapse: collapse; font-size: 14px }
th, td { padding: .25em .8em; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap }
th { position: sticky; top: 0; background: #fff } th:first-child, td:first-child { text-align: left }
tr:hover td { background: #f5f8fc } tr.paper td { color: #777 }
"""


def page(made: Sequence[Table], pictures: dict[str, bytes]) -> str:
    """One HTML page with everything inside."""
    body = [f"<h1>Scores</h1><p>In percent. Published: {html.escape(published.load_published()['source'])}.</p>"]
    for name, picture in pictures.items():
        data = base64.b64encode(picture).decode()
        body.append(f'<img alt="{name}" src="data:image/png;base64,{data}">')
    body += [_table(table) for table in made]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>f2jax report</title><style>{STYLE}</style>'
    return head + "\n".join(body) + "</html>\n"


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *table.columns))
    lines = []
    for name, cells in table.rows:
        style = ' class="paper"' if name.endswith("(paper)") else ""
        data = "".join(f"<td>{html.escape(_cell(cell))}</td>" for cell in cells)
        lines.append(f"<tr{style}><td>{html.escape(name)}</td>{data}</tr>")
    title = f"<h2>{html.escape(table.title)}</h2><p>{html.escape(table.note)}</p>"
    return f"{title}<div><table><thead><tr>{head}</tr></thead>{''.join(lines)}</table></div>"


def _cell(cell: float | str | None) -> str:
    return "" if cell is None else cell if isinstance(cell, str) else f"{cell:.2f}"
