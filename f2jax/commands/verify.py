"""`f2jax verify`: hold a released package against its golden set in every tool that is installed."""

from f2jax.commands.options import parser_of
from f2jax.errors import UserError


def main(argv: list[str]) -> None:
    parser = parser_of(
        "verify",
        "Embed a package's golden set by every tool found here (f2jax, transformers, sentence-transformers, ONNX "
        "Runtime, llama.cpp), and print the worst cosine of each.",
    )
    parser.add_argument("folder", help="a package that f2jax export wrote")
    args = parser.parse_args(argv)

    from tqdm import tqdm

    from f2jax.release import verify

    results = list(tqdm(verify.verify_package(args.folder), unit="tool", leave=False, dynamic_ncols=True))
    print(verify.table(results))
    if all(one.worst is None and not one.failed for one in results):
        raise UserError(f"No tool could read {args.folder}, so nothing is verified; export the model again.")
    failed = [f"{one.tool} ({one.form})" for one in results if one.failed]
    if failed:
        raise UserError(
            f"{args.folder} does not give its golden vectors (cosine {verify.BOUND}) in {', '.join(failed)}; "
            "export the model again, or report the tool's version."
        )
