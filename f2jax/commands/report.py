"""`f2jax report`: tables and curves of results."""

from f2jax.commands.options import parser_of
from f2jax.errors import require_extra


def main(argv: list[str]) -> None:
    parser = parser_of("report", "Tables and curves of results as one HTML page, beside the published F2LLM-v2.")
    parser.add_argument("results", nargs="+", help="folders: the --output of f2jax evaluate, or results of mteb")
    parser.add_argument("--output", required=True, help="folder for index.html, the plots as PNG, and scores.csv")
    args = parser.parse_args(argv)
    require_extra("mteb", "f2jax report")

    from f2jax.evaluation import report as lib

    print("\n".join(lib.report(args.results, args.output)))
