"""`f2jax compare`: compare training runs, and fit a scaling law to their loss."""

from f2jax.commands.options import Arguments
from f2jax.compare.options import CompareOptions
from f2jax.errors import require_extra


def main(argv: list[str]) -> None:
    options = Arguments(
        "compare",
        "Write one page about training runs: a table of their settings, costs and results, curves, and for a grid of "
        "sizes and tokens a scaling law of the held-out loss, L(N, D) = E + A / N^a + B / D^b.",
        "runs/sweep --output comparison --leave-out 1",
        argv,
        CompareOptions,
        positional="runs",
    ).read(CompareOptions)
    require_extra("eval", "f2jax compare", "matplotlib")

    from f2jax.compare.run import compare
    from f2jax.outputs import output_folder

    with output_folder(options.output, "comparison of runs"):
        print("\n".join(compare(options)))
