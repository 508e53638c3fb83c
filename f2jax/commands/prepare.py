"""`f2jax prepare`: curate and tokenize data into a corpus for training."""

from dataclasses import dataclass, field, fields, replace

from f2jax.commands.options import Arguments, changed
from f2jax.errors import UserError, require_extra
from f2jax.prepare.curate import CurationOptions
from f2jax.prepare.options import PrepareOptions


@dataclass(frozen=True)
class CorpusOptions:
    """Input and output."""

    output: str  # folder for the corpus
    # files, folders, globs, hub:ORG/NAME, beir:FOLDER or built-in sets; clustering:PATH, classification:PATH, sts:PATH
    # or nli:PATH for labelled data, with #COLUMN,COLUMN to name its columns
    input: tuple[str, ...] = ()
    tokenizer: str | None = None  # a tokenizer.json or SentencePiece model, or a folder with one
    # train a SentencePiece model of this many pieces on the texts, instead of --tokenizer
    train_vocab: int | None = None
    licences: dict[str, str] = field(default_factory=dict)  # SOURCE=LICENCE for the data card; SOURCE may be a pattern
    # .jsonl file for the skipped rows, each with its reason and place, except those over the cap
    skipped: str | None = None
    curation: bool = True  # curate the rows with the steps below
    # add the inputs to the corpus in --output, with its tokenizer and options; without --input, write the index that
    # data sets of an earlier version lack
    add: bool = False


@dataclass(frozen=True)
class WorkerOptions:
    """Workers; the corpus is the same for any of them.

    Options of Apache Beam follow after --, as its own pipelines take them: -- --project=NAME --region=europe-west4.
    """

    jobs: int = 1  # number of processes, if there are several inputs or data sets
    # run on a cluster by Apache Beam, such as DataflowRunner, FlinkRunner or SparkRunner; the workers read the inputs
    # and write --output, which may be on gs://
    beam_runner: str | None = None


def main(argv: list[str]) -> None:
    argv, beam = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    arguments = Arguments(
        "prepare",
        "Curate and tokenize data into a corpus for training. The same command resumes after an interruption.",
        "--input pairs.jsonl --tokenizer Qwen3-0.6B --output corpus",
        argv,
        CorpusOptions,
        PrepareOptions,
        CurationOptions,
        WorkerOptions,
    )
    corpus, workers = arguments.read(CorpusOptions), arguments.read(WorkerOptions)
    tokenizer = corpus.tokenizer or corpus.train_vocab or ""
    if corpus.add and tokenizer:
        raise UserError("With --add, the tokenizer of the corpus is used; leave out --tokenizer and --train-vocab.")
    if not corpus.add and (not tokenizer or (corpus.tokenizer and corpus.train_vocab)):
        raise UserError("f2jax prepare needs either --tokenizer or --train-vocab.")
    options = arguments.read(PrepareOptions)
    curation = arguments.read(CurationOptions)
    if corpus.curation:
        options = replace(options, curate=curation)
    unused = {
        "with --no-curation": not corpus.curation and changed(curation, *(field.name for field in fields(curation))),
        "without --train-vocab": not corpus.train_vocab and not corpus.add and changed(options, "own_spaces"),
    }
    for where, names in unused.items():
        if names:
            raise UserError(f"{names} would change nothing {where}; leave that out.")

    from f2jax.data.corpus import TOKENIZER
    from f2jax.prepare.add import AddedTo
    from f2jax.prepare.data_card import table
    from f2jax.prepare.describe import add_index
    from f2jax.prepare.run import prepare

    if corpus.add and not corpus.input:
        only = CorpusOptions(output=corpus.output, add=True), WorkerOptions(jobs=workers.jobs)
        if (corpus, workers) != only or beam or options != PrepareOptions(curate=CurationOptions()):
            raise UserError("--add without --input takes only --output and --jobs; leave out other options.")
        print(table(add_index(corpus.output, workers.jobs)))
        return
    before = AddedTo.open(corpus.output) if corpus.add else None
    if before:
        tokenizer, options = str(before.folder / TOKENIZER), before.options(options)
    given = corpus.input, corpus.output, tokenizer, options, corpus.licences
    if workers.beam_runner:
        if corpus.add or corpus.skipped or workers.jobs != 1:
            raise UserError("--beam-runner cannot be combined with --add, --skipped or --jobs; leave them out.")
        require_extra("beam", "--beam-runner", "apache_beam")
        from f2jax.prepare.beam_graph import prepare_on_beam

        card = prepare_on_beam(*given, workers.beam_runner, beam)
    elif beam:
        raise UserError("Options after -- are for Apache Beam; give --beam-runner too.")
    else:
        card = prepare(*given, workers.jobs, corpus.skipped, before)
    print(table(card))
    print(f"Next: f2jax train with --config.data.sources=\"('corpus:{corpus.output}',)\"")
