"""`f2jax report`: make a page of tables and curves from results."""

from dataclasses import dataclass

from f2jax.commands.options import Arguments
from f2jax.errors import require_extra


@dataclass(frozen=True)
class ReportOptions:
    """Results and page."""

    results: tuple[str, ...]  # --output folders of f2jax evaluate, or folders of mteb results
    output: str  # folder for index.html, the plots as PNG, and scores.csv


def main(argv: list[str]) -> None:
    options = Arguments(
        "report",
        "Write one HTML page with tables and curves of results, next to the published F2LLM-v2 scores.",
        "scores-80m scores-330m --output page",
        argv,
        ReportOptions,
        positional="results",
    ).read(ReportOptions)
    require_extra("mteb", "f2jax report")

    from f2jax.evaluation import report
    from f2jax.outputs import output_folder

    with output_folder(options.output, "report"):
        print("\n".join(report.report(options.results, options.output)))
