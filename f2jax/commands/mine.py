"""`f2jax mine`: find hard negatives for rows."""

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from shlex import quote

from f2jax.commands.options import Arguments, changed
from f2jax.errors import UserError
from f2jax.mine.options import MiningInput, MiningOptions, MiningVectorOptions


@dataclass(frozen=True)
class MiningOutput:
    """Output."""

    output: str | None = None  # folder for a .parquet file per source, with its rows and their negatives in order
    across_sources: bool = False  # mine from the documents of all sources of the row's kind, not only its own


def main(argv: list[str]) -> None:
    arguments = Arguments(
        "mine",
        "Find hard negatives for rows (recipe 3.2). The same command resumes after an interruption. On several hosts, "
        "run it on each of them, with an output that all of them can see.",
        "--input pairs.jsonl --model release --output mined",
        argv,
        MiningInput,
        MiningOutput,
        MiningVectorOptions,
        MiningOptions,
    )
    rows, output = arguments.read(MiningInput), arguments.read(MiningOutput)
    vectors, options = arguments.read(MiningVectorOptions), arguments.read(MiningOptions)
    if vectors.query_embeddings and (unused := changed(vectors, "prompt_name", "dtype", "batch_size")):
        raise UserError(f"{unused} would change nothing with --query-embeddings; leave that out.")
    if not rows.ratings and (unused := changed(rows, "max_rating")):
        raise UserError(f"{unused} would change nothing without --ratings; leave that out.")
    if options.fewer == "drop" and (unused := changed(options, "seed")):
        raise UserError(f"{unused} would change nothing without --fewer random; leave that out.")

    from f2jax.mine import run
    from f2jax.outputs import output_file, output_folder
    from f2jax.parallel import hosts

    if vectors.list_queries or vectors.list_documents:
        with ExitStack() as outputs:
            for path in filter(None, (vectors.list_queries, vectors.list_documents)):
                outputs.enter_context(output_file(path, "list of texts"))
            print(run.list_mining_texts(rows, vectors.list_queries, vectors.list_documents))
    elif not output.output:
        raise UserError("f2jax mine needs --output, or a --list option.")
    else:
        hosts.start()
        source = run.choose_vectors(vectors)
        kind = "folder of mined rows"
        with output_folder(output.output, kind, local_only=True) if hosts.is_first() else nullcontext():
            summary = run.mine_folder(rows, source, output.output, options, output.across_sources)
            hosts.print_once(str(summary or f"{output.output} is complete: it already has the result of this command."))
            hosts.print_once(
                f"Next: f2jax prepare --input {quote(output.output)} --tokenizer TOKENIZER --output CORPUS"
            )
