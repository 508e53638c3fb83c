"""`f2jax export`: write a model as a folder that other tools load."""

from dataclasses import dataclass, replace
from shlex import quote
from typing import Literal

from f2jax.commands.options import Arguments
from f2jax.errors import UserError
from f2jax.inference.options import ModelOptions, ReadOptions


@dataclass(frozen=True)
class ExportOptions:
    """The output."""

    output: str  # folder to write
    # additional formats; (): none
    format: tuple[Literal["onnx", "onnx-int8", "gguf", "gguf-q8"], ...] = ()
    scores: str | None = None  # the --output of f2jax evaluate, for the model card
    # an identifier of the Hugging Face hub, such as apache-2.0, for the model card; other: see the next two
    license: str | None = None
    license_name: str | None = None  # name of a licence that has no identifier; needs --license other
    license_link: str | None = None  # its address; needs --license other
    about: str | None = None  # JSON file with summary, teacher, licenses and limits, for the model card
    # store the weights in int8, a quarter of the size, which only f2jax reads; None: store them in --dtype
    weights: Literal["int8"] | None = None
    truncate_layers: int | None = None  # keep this many layers of a model trained with loss.exits; None: all
    table_rank: int | None = None  # keep this many columns of a factorized token table; None: all
    matryoshka_dims: tuple[int, ...] = ()  # dimensions to truncate vectors to, if the folder does not state them


def main(argv: list[str]) -> None:
    arguments = Arguments(
        "export",
        "Write a model as a folder that sentence-transformers and transformers load unchanged.",
        "--model runs/0.6b --output release --dtype bfloat16",
        argv,
        ModelOptions,
        ReadOptions,
        ExportOptions,
    )
    given, reading = arguments.read(ModelOptions), arguments.read(ReadOptions)
    options = arguments.read(ExportOptions)
    if (options.license == "other") != bool(options.license_name) or (
        options.license_link and not options.license_name
    ):
        raise UserError("--license other, --license-name NAME and perhaps --license-link URL go together.")

    from f2jax import files
    from f2jax.checkpoints import package
    from f2jax.checkpoints.workdir import find_model
    from f2jax.inference.embedder import Embedder
    from f2jax.outputs import PACKAGE, PACKAGE_FILES, output_folder
    from f2jax.release.export import export_package, read_background, read_scores, read_stages, rounded

    model = find_model(given.model, reading.revision)
    package.check_output(options.output, [model.path])
    embedder = Embedder.from_pretrained(
        str(model),
        given.dtype,
        options.truncate_layers,
        options.table_rank,
        max_length=reading.max_length,
        matryoshka_dims=options.matryoshka_dims or None,
    )
    as_int8 = options.weights == "int8"
    scored = rounded(embedder) if as_int8 else embedder
    scores = read_scores(options.scores, scored.fingerprint) if options.scores else {}
    background = read_background(options.about) if options.about else None
    earlier = package.read_earlier_card(model.path)
    about = replace(earlier, stages=read_stages(model.path, model.step), scores=scores, background=background)
    if options.license:
        details = {"license_name": options.license_name, "license_link": options.license_link}
        stated = {name: text for name, text in details.items() if text}
        about = replace(about, license=options.license, license_details=stated)
    with output_folder(options.output, PACKAGE, PACKAGE_FILES):
        export_package(embedder, options.output, options.format, about, as_int8)
    dtype = options.weights or given.dtype
    size = f"{embedder.architecture.parameters:,} parameters, {embedder.dim} dimensions, {dtype}"
    print(f"{options.output}: {size}.")
    if not files.is_remote(options.output):
        print(f"Next: f2jax verify {quote(options.output)}")
