"""`f2jax prepare`: tokenize data into a corpus for training."""

from dataclasses import dataclass, field, replace

from f2jax.commands.options import Arguments
from f2jax.errors import UserError, require_extra
from f2jax.prepare.curate import CurationOptions
from f2jax.prepare.options import PrepareOptions


@dataclass(frozen=True)
class CorpusOptions:
    """Inputs and outputs."""

    output: str  # folder of the corpus
    # files, folders, globs, hub:ORG/NAME, beir:FOLDER or built-in sets; clustering:PATH, classification:PATH, sts:PATH
    # or nli:PATH make rows of labelled data, and #COLUMN,COLUMN after it names its columns
    input: tuple[str, ...] = ()
    tokenizer: str | None = None  # tokenizer.json or SentencePiece model, or a folder with one
    train_vocab: int | None = None  # pieces of a SentencePiece model to train on these texts, instead of --tokenizer
    licences: dict[str, str] = field(default_factory=dict)  # NAME=LICENCE for the data card; names may be patterns
    # .jsonl file that lists each skipped row with its reason and place, but for those over the cap
    skipped: str | None = None
    curation: bool = True  # --no-curation: none of the steps of curation
    # add the inputs to the corpus in --output, with its tokenizer and by its options; without --input only the index
    # that data sets of an earlier version lack
    add: bool = False


@dataclass(frozen=True)
class WorkerOptions:
    """Workers: the hashes are the same whoever works.

    Behind -- stand options of Apache Beam as its own pipelines take them: -- --project=NAME --region=europe-west4.
    """

    jobs: int = 1  # processes, where there are several inputs or data sets
    # a runner of Apache Beam, such as DataflowRunner, FlinkRunner or SparkRunner, whose workers read inputs and write
    # --output, on gs:// too
    beam_runner: str | None = None


def main(argv: list[str]) -> None:
    argv, beam = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    arguments = Arguments(
        "prepare",
        "Curate and tokenize data into a corpus that training reads; run again, the same command resumes.",
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
        raise UserError("With --add the tokenizer is that of the corpus; leave out --tokenizer and --train-vocab.")
    if not corpus.add and (not tokenizer or (corpus.tokenizer and corpus.train_vocab)):
        raise UserError("f2jax prepare needs either --tokenizer or --train-vocab.")
    options = arguments.read(PrepareOptions)
    if corpus.curation:
        options = replace(options, curate=arguments.read(CurationOptions))

    from f2jax.data.corpus import TOKENIZER
    from f2jax.prepare.add import AddedTo
    from f2jax.prepare.data_card import table
    from f2jax.prepare.describe import add_index
    from f2jax.prepare.run import prepare

    if corpus.add and not corpus.input:
        only = CorpusOptions(output=corpus.output, add=True), WorkerOptions(jobs=workers.jobs)
        if (corpus, workers) != only or beam or options != PrepareOptions(curate=CurationOptions()):
            raise UserError("With --add and no --input there are only --output and --jobs; leave out other options.")
        print(table(add_index(corpus.output, workers.jobs)))
        return
    before = AddedTo.open(corpus.output) if corpus.add else None
    if before:
        tokenizer, options = str(before.folder / TOKENIZER), before.options(options)
    given = corpus.input, corpus.output, tokenizer, options, corpus.licences
    if workers.beam_runner:
        if corpus.add or corpus.skipped or workers.jobs != 1:
            raise UserError("With --beam-runner there is no --add, --skipped or --jobs; leave them out.")
        require_extra("beam", "--beam-runner", "apache_beam")
        from f2jax.prepare.beam_graph import prepare_on_beam

        card = prepare_on_beam(*given, workers.beam_runner, beam)
    elif beam:
        raise UserError("Options behind -- are those of Apache Beam; name a --beam-runner too.")
    else:
        card = prepare(*given, workers.jobs, corpus.skipped, before)
    print(table(card))
    print(f"{corpus.output}: train from it with --config.data.sources=\"('corpus:{corpus.output}',)\".")
