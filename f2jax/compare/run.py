"""`f2jax compare`: a page that compares runs, with a scaling law if they form a grid."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from f2jax import files
from f2jax.compare import plots
from f2jax.compare.law import LEAST, GridPoint, ScalingLaw, bootstrap_laws, can_fit, fit_law, interval
from f2jax.compare.options import CompareOptions
from f2jax.compare.runs import ComparedRun, differing_fields, measures, read_runs
from f2jax.errors import UserError, did_you_mean
from f2jax.tables import PageTable, html_page
from f2jax.train.metrics import MEASURED

METRICS = ("loss", "accuracy", "mfu")  # training metrics to show, besides those of validation and evaluation
SHARE = "best N grows with operations to the power"
CONSTANTS = {  # of a law, by its name on the page
    "E": "irreducible",
    "A": "size_factor",
    "a": "size_exponent",
    "B": "data_factor",
    "b": "data_exponent",
    SHARE: "size_share",
}
NOTHING = 1e-6  # a smaller E is not determined by the runs
BUDGETS = 5  # rows in the table of optima


@dataclass(frozen=True)
class FittedLaw:
    """A law, and the laws of bootstrap samples of its runs."""

    law: ScalingLaw
    samples: Sequence[ScalingLaw]
    points: Sequence[GridPoint]
    left_out: Sequence[GridPoint]

    @property
    def with_optimum(self) -> list[ScalingLaw]:
        """The bootstrap laws that have an optimum; empty if the law of all runs has none."""
        return [] if self.law.unidentified else [sample for sample in self.samples if not sample.unidentified]

    @property
    def doubt(self) -> str:
        """What the runs do not determine; "" if they determine everything."""
        flat = " and ".join(self.law.unidentified)
        if flat or not self.with_optimum:
            which = f"{flat} in these runs" if flat else "N or D in the samples of these runs"
            return f"The loss hardly changes with {which}, so its exponent is not identified and no size is optimal."
        missing = len(self.samples) - len(self.with_optimum)
        return (
            f"{missing} of {len(self.samples)} samples, in which the loss hardly changes with N or D, have no optimum."
            if missing
            else ""
        )

    @property
    def per_product(self) -> float:
        """The operations per parameter and token: 6, plus those of attention."""
        return float(np.median([point.operations / (point.parameters * point.tokens) for point in self.points]))

    def predicted(self, point: GridPoint) -> tuple[float, float, float]:
        """Returns the predicted loss of a run and the bounds of its interval."""
        losses = [float(law.loss(point.parameters, point.tokens)) for law in (self.law, *self.samples)]
        return losses[0], *interval(losses[1:])


def compare(options: CompareOptions) -> list[str]:
    """Writes `index.html` (self-contained), the plots and CSV files; returns the lines to print.

    Raises:
        UserError: there are no runs, one cannot be read, or an option is out of range.
    """
    for option, value in (("leave-out", options.leave_out), ("bootstrap", options.bootstrap)):
        if value < (option == "bootstrap"):
            raise UserError(f"--{option} {value} should be at least {int(option == 'bootstrap')}.")
    runs = read_runs(options.runs, options.plan)
    if not any(run.lines for run in runs):
        raise UserError("None of these runs has a line in metrics.jsonl yet; train a little longer.")
    found = {name for run in runs for line in run.lines for name in line}
    if options.metric not in {*found, CompareOptions.metric}:
        short = [name for name in found if name.count("/") < 2]  # not those of each data set
        raise UserError(f"No run has the metric '{options.metric}'{did_you_mean(options.metric, found, short)}")
    letters = measures(runs)
    law, reason = law_of([run for run, letter in zip(runs, letters, strict=True) if letter == "A"], options)
    columns = run_columns(runs, letters, law, options.metric)
    tables = [runs_table(runs, columns, letters, reason)]
    pictures = {"curves.png": plots.plot_curves(runs, options.metric)}
    texts = {"runs.csv": _csv(["run", *columns], zip([run.name for run in runs], *columns.values(), strict=True))}
    texts["curves.csv"] = curves_csv(runs)
    if law:
        tables += [constants_table(law, options.metric), *([optimum_table(law)] if law.with_optimum else [])]
        pictures["law.png"] = plots.plot_law(
            law.law, law.points, law.left_out, options.metric, law.per_product, bool(law.with_optimum)
        )
        texts["law.csv"] = _csv(["constant", "value", "low", "high"], _constants(law))
    texts["index.html"] = html_page("runs side by side", f"{len(runs)} runs.", tables, pictures)
    for name, content in (texts | pictures).items():
        files.write_atomically(files.join(options.output, name), content)
    return [reason or law_line(law, options.metric), *(files.join(options.output, name) for name in texts | pictures)]


def law_of(runs: Sequence[ComparedRun], options: CompareOptions) -> tuple[FittedLaw | None, str]:
    """Returns the law of runs with the same held-out loss, or None and the reason."""
    points = [point for run in runs if (point := grid_point(run, options.metric))]
    sizes = sorted({point.parameters for point in points})
    out = set(sizes[max(len(sizes) - options.leave_out, 0) :])
    fitted = [point for point in points if point.parameters not in out]
    parameters_i, tokens_i, losses_i = np.array([(p.parameters, p.tokens, p.loss) for p in fitted]).reshape(-1, 3).T
    if not fitted or not can_fit(parameters_i, tokens_i):
        missing = len(runs) - len(points)
        counted = f"; {missing} of these have no {options.metric} above 0, or have not counted tokens and operations"
        return None, (
            f"No law: it takes {LEAST} sizes with {LEAST} budgets of tokens each, of runs with the same held-out loss "
            f"(A){counted if missing else ''}."
        )
    samples = bootstrap_laws(parameters_i, tokens_i, losses_i, options.bootstrap)
    left_out = [point for point in points if point.parameters in out]
    return FittedLaw(fit_law(parameters_i, tokens_i, losses_i), samples, fitted, left_out), ""


def grid_point(run: ComparedRun, metric: str) -> GridPoint | None:
    """Returns a run as a point to fit, or None if a value is missing."""
    tokens, operations, loss = run.tokens, run.operations, run.last(metric)
    if not (tokens and operations and loss and loss > 0):
        return None
    return GridPoint(run.name, run.weights, tokens, operations, loss)


def run_columns(
    runs: Sequence[ComparedRun], letters: Sequence[str], law: FittedLaw | None, metric: str
) -> dict[str, list]:
    """Returns the columns of the table of runs; each has a value or None for every run."""
    columns: dict[str, list] = dict(differing_fields(runs))
    columns["parameters"] = [run.architecture.parameters for run in runs]
    columns["outside the token table"] = [run.weights for run in runs]
    columns["steps"] = [run.steps for run in runs]
    columns["tokens"] = [run.tokens for run in runs]
    columns["operations"] = [run.operations for run in runs]
    columns["hours"] = [run.hours for run in runs]
    columns["chip-hours"] = [run.hours and run.plan and run.hours * run.plan["chips"] for run in runs]
    columns["seconds a step"] = [run.step_seconds for run in runs]
    columns["seconds a step, planned"] = [run.plan and run.plan["seconds"]["step"] for run in runs]
    names = dict.fromkeys(name for run in runs for line in run.lines for name in line if name.count("/") == 1)
    for name in (*METRICS, *(name for name in names if name.startswith(MEASURED))):
        columns[name] = [run.last(name) for run in runs]
    columns["held-out loss"] = list(letters)
    if law:
        points = {point.run: point for point in (*law.points, *law.left_out)}
        out = {point.run for point in law.left_out}
        predicted = [law.predicted(points[run.name]) if run.name in points else None for run in runs]
        for place, name in enumerate((f"{metric} by the law", "low", "high")):
            columns[name] = [values and values[place] for values in predicted]
        columns["left out"] = ["yes" if run.name in out else None for run in runs]
    return {name: values for name, values in columns.items() if any(value is not None for value in values)}


def runs_table(runs: Sequence[ComparedRun], columns: dict[str, list], letters: Sequence[str], reason: str) -> PageTable:
    """Returns the table of runs for the page."""
    note = (
        "Fields of the config in which the runs differ, what they took, and their last metrics. Tokens are those of "
        "texts, without padding; hours count only a branch's own steps."
    )
    if len(set(letters)) > 1:
        note += (
            " Runs with another letter under “held-out loss” have other held-out texts, or a loss of other terms or "
            "among other numbers of candidates: these losses do not compare, and the law is that of A alone."
        )
    rows = [(run.name, [_shown(values[place]) for values in columns.values()]) for place, run in enumerate(runs)]
    return PageTable("Runs", f"{note} {reason}".strip(), list(columns), rows)


def _shown(value) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None if value is None else str(value)
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e12):
        return f"{int(value):,}"
    return f"{value:.4g}"


def _constants(law: FittedLaw) -> list[tuple[str, float, float, float]]:
    return [
        (name, float(getattr(law.law, field)), *interval([getattr(sample, field) for sample in samples]))
        for name, field in CONSTANTS.items()
        if (samples := law.with_optimum if name == SHARE else law.samples)
    ]


def constants_table(law: FittedLaw, metric: str) -> PageTable:
    """Returns the constants of a law with their intervals."""
    sizes = len({point.parameters for point in law.points})
    note = (
        f"{metric} = E + A / N^a + B / D^b, with N the parameters outside the token table and D the tokens, fitted on "
        f"{len(law.points)} runs of {sizes} sizes (Hoffmann et al. 2022: Huber loss of the logarithm). Low and high: "
        f"95 % of {len(law.samples)} samples of the runs. {law.doubt}"
    )
    rows = [(name, [_shown(value) for value in values]) for name, *values in _constants(law)]
    return PageTable("Law", note.strip(), ["value", "low", "high"], rows)


def optimum_table(law: FittedLaw) -> PageTable:
    """Returns the optimal sizes and tokens for numbers of operations in the range of the runs."""
    spent = [point.operations for point in (*law.points, *law.left_out)]
    rows = []
    for operations in np.geomspace(min(spent), max(spent), BUDGETS):
        product = operations / law.per_product
        size, tokens = law.law.optimum(product)
        sizes = interval([float(sample.optimum(product)[0]) for sample in law.with_optimum])
        loss = float(law.law.loss(size, tokens))
        rows.append((f"{operations:.3g}", [_shown(float(f"{x:.3g}")) for x in (size, *sizes, tokens, loss)]))
    note = (
        f"For so many operations ({law.per_product:.2f} for each parameter and token in these runs), the parameters "
        "outside the token table and the tokens of least loss by the law."
    )
    return PageTable("Compute-optimal", note, ["parameters", "low", "high", "tokens", "loss"], rows)


def law_line(law: FittedLaw | None, metric: str) -> str:
    """Returns a line with the law and its error on the runs that were left out."""
    if law is None:
        return ""
    of, floor = law.law, law.law.irreducible if law.law.irreducible > NOTHING else 0
    line = (
        f"{metric} = {floor:.3g} + {of.size_factor:.3g} / N^{of.size_exponent:.3g} + {of.data_factor:.3g} / "
        f"D^{of.data_exponent:.3g} on {len(law.points)} runs. {law.doubt}"
    ).strip()
    if law.left_out:
        off = [abs(law.predicted(point)[0] / point.loss - 1) for point in law.left_out]
        line += f" The {len(off)} runs left out: off by {np.mean(off):.1%} on average, {max(off):.1%} at most."
    return line


def curves_csv(runs: Sequence[ComparedRun]) -> str:
    """Returns all lines of metrics with the tokens and operations so far, without metrics of single data sets."""
    names = dict.fromkeys(
        name
        for run in runs
        for line in run.lines
        for name in line
        if name.count("/") == 0 or (name.count("/") == 1 and name.startswith(MEASURED))
    )
    own = [name for name in names if name not in ("step", "tokens", "operations")]
    rows = []
    for run in runs:
        steps_i = np.array([line["step"] for line in run.lines])
        tokens_i, operations_i = run.tokens_at(steps_i), run.operations_at(steps_i)
        for place, line in enumerate(run.lines):
            counts = [None if values is None else values[place] for values in (tokens_i, operations_i)]
            rows.append([run.name, line["step"], *counts, *(line.get(name) for name in own)])
    return _csv(["run", "step", "tokens", "operations", *own], rows)


def _csv(head: Sequence[str], rows) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()
