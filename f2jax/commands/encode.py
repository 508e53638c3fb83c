"""`f2jax encode`: embed the texts of a file."""

from contextlib import nullcontext
from dataclasses import asdict, dataclass

from f2jax.commands.options import Arguments, changed
from f2jax.errors import UserError
from f2jax.inference.options import ModelOptions, Precision, ReadOptions


@dataclass(frozen=True)
class EncodeOptions:
    """Texts and vectors."""

    input: str  # .txt (one text per line), or rows as .jsonl, .json, .csv, .tsv, .arrow or .parquet; may be on gs://
    output: str  # .npy, or .parquet with texts and embeddings; may be on gs://
    column: str = "text"  # column with the text, in files of rows
    prompt: str | None = None  # string to prepend to every text
    prompt_name: str | None = None  # prompt of the model to prepend to every text, such as query
    truncate_dim: int | None = None  # keep this many leading dimensions; None: all
    precision: Precision = "float32"  # type of the stored numbers
    batch_size: int = 1024  # largest number of texts in a batch
    fsdp: int = 1  # spread the weights over this many devices; 1: every device holds all of them


def main(argv: list[str]) -> None:
    arguments = Arguments(
        "encode",
        "Embed the texts of a file on all devices. The same command resumes after an interruption. On several hosts, "
        "run it on each of them: they share the work, and the first one writes the output.",
        "--model mini --input texts.txt --output vectors.npy",
        argv,
        ModelOptions,
        ReadOptions,
        EncodeOptions,
    )
    model, options = arguments.read(ModelOptions), arguments.read(EncodeOptions)
    reading = arguments.read(ReadOptions)

    if options.prompt is not None and options.prompt_name:
        raise UserError("Give either --prompt or --prompt-name.")

    from f2jax.data.sources.tables import is_text_file

    if is_text_file(options.input) and (unused := changed(options, "column")):
        raise UserError(f"{unused} would change nothing with {options.input}, a text on each line; leave that out.")

    from f2jax.inference.embedder import Embedder
    from f2jax.inference.encode_file import encode_file
    from f2jax.outputs import output_file
    from f2jax.parallel import hosts

    hosts.start()
    embedder = Embedder.from_pretrained(model.model, model.dtype, fsdp=options.fsdp, **asdict(reading))
    with output_file(options.output, "file of vectors") if hosts.is_first() else nullcontext():
        count, width = encode_file(
            embedder,
            options.input,
            options.output,
            options.column,
            prompt=options.prompt,
            prompt_name=options.prompt_name,
            truncate_dim=options.truncate_dim,
            precision=options.precision,
            batch_size=options.batch_size,
        )
    hosts.print_once(f"{options.output}: {count:,} vectors of {width} x {options.precision}.")
    if str(embedder.truncation):
        hosts.print_once(str(embedder.truncation))
