"""`f2jax verify`: check that every installed tool reproduces a package's vectors."""

from dataclasses import dataclass

from f2jax.commands.options import Arguments
from f2jax.errors import UserError


@dataclass(frozen=True)
class VerifyOptions:
    """Package."""

    folder: str  # a package that f2jax export wrote


def main(argv: list[str]) -> None:
    folder = (
        Arguments(
            "verify",
            "Embed the golden set of a package with every tool on this machine (f2jax, transformers, "
            "sentence-transformers on PyTorch, ONNX and OpenVINO, optimum, fastembed, Transformers.js, ONNX Runtime, "
            "llama.cpp), and print the worst cosine of each.",
            "release",
            argv,
            VerifyOptions,
            positional="folder",
        )
        .read(VerifyOptions)
        .folder
    )

    from tqdm import tqdm

    from f2jax.release import verify

    results = list(tqdm(verify.verify_package(folder), unit="tool", leave=False, dynamic_ncols=True))
    print(verify.results_table(results))
    if all(result.worst is None and not result.failed for result in results):
        raise UserError(f"No tool could read {folder}, so nothing was verified; export the model again.")
    failed = [
        f"{result.tool} ({result.form}, cosine {verify.bound(result.form)})" for result in results if result.failed
    ]
    if failed:
        raise UserError(
            f"{folder} does not reproduce its golden vectors in {', '.join(failed)}; export the model again, or report "
            "the tool's version. If only eight-bit weights fail, this model cannot be rounded that far."
        )
