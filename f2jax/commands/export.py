"""`f2jax export`: write a folder that other embedding tools load."""

from dataclasses import dataclass
from typing import Literal

from f2jax.commands.options import Arguments
from f2jax.inference.options import ModelOptions, ReadOptions


@dataclass(frozen=True)
class ExportOptions:
    """What is written."""

    output: str  # folder to write
    # further formats, next to the weights; (): none
    format: tuple[Literal["onnx", "onnx-int8", "gguf", "gguf-q8"], ...] = ()
    scores: str | None = None  # for the model card: the --output of f2jax evaluate
    license: str | None = None  # for the model card: an identifier of the hub, such as apache-2.0
    truncate_layers: int | None = None  # keep this many leading layers of a model trained with loss.exits; None: all
    table_rank: int | None = None  # keep this many columns of a factorized token table; None: all
    matryoshka_dims: tuple[int, ...] = ()  # dimensions that it was trained to be cut to, where its folder lacks them


def main(argv: list[str]) -> None:
    arguments = Arguments(
        "export",
        "Write the folder that sentence-transformers and transformers load as it is.",
        "--model runs/0.6b --output release --dtype bfloat16",
        argv,
        ModelOptions,
        ReadOptions,
        ExportOptions,
    )
    given, reading = arguments.read(ModelOptions), arguments.read(ReadOptions)
    options = arguments.read(ExportOptions)

    from f2jax import files
    from f2jax.checkpoints import model_card, package
    from f2jax.inference.embedder import Embedder
    from f2jax.outputs import PACKAGE, PACKAGE_FILES, output_folder
    from f2jax.release.export import export_package, read_scores, read_stages

    model = files.resolve_model(given.model, reading.revision)
    package.check_output(options.output, [model])
    embedder = Embedder.from_pretrained(
        model,
        given.dtype,
        options.truncate_layers,
        options.table_rank,
        max_length=reading.max_length,
        matryoshka_dims=options.matryoshka_dims or None,
    )
    scores = read_scores(options.scores, embedder.fingerprint) if options.scores else {}
    about = model_card.RunHistory(read_stages(model), scores, options.license)
    with output_folder(options.output, PACKAGE, PACKAGE_FILES):
        export_package(embedder, options.output, options.format, about)
    size = f"{embedder.architecture.parameters:,} parameters, {embedder.dim} dimensions, {given.dtype}"
    print(f"{options.output}: {size}.")
