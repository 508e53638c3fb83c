"""`f2jax prepare`: tokenize data into a corpus for training."""

from dataclasses import dataclass, field, replace

from f2jax.commands.options import Arguments
from f2jax.errors import UserError
from f2jax.prepare.curate import CurationOptions
from f2jax.prepare.options import PrepareOptions


@dataclass(frozen=True)
class CorpusOptions:
    """Inputs and outputs."""

    # files, folders, globs, hub:ORG/NAME, beir:FOLDER or built-in sets; clustering:PATH, classification:PATH, sts:PATH
    # or nli:PATH make rows of labelled data, and #COLUMN,COLUMN after it names its columns
    input: tuple[str, ...]
    output: str  # folder of the corpus
    tokenizer: str | None = None  # tokenizer.json or SentencePiece model, or a folder with one
    train_vocab: int | None = None  # pieces of a SentencePiece model to train on these texts, instead of --tokenizer
    licences: dict[str, str] = field(default_factory=dict)  # NAME=LICENCE for the data card; names may be patterns
    # .jsonl file that lists each skipped row with its reason and place, but for those over the cap
    skipped: str | None = None
    curation: bool = True  # --no-curation: none of the steps of curation
    add: bool = False  # add the inputs to the corpus in --output, with its tokenizer and by its options


@dataclass(frozen=True)
class WorkerOptions:
    """Workers: the bytes are the same whoever works."""

    jobs: int = 1  # processes, where there are several inputs or data sets
    beam_runner: str | None = None  # a runner of Apache Beam, such as DirectRunner or FlinkRunner
    beam_options: tuple[str, ...] = ()  # options of the runner: NAME=VALUE NAME=VALUE


def main(argv: list[str]) -> None:
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
    from f2jax.prepare.run import prepare
    from f2jax.prepare.workers import beam_options

    beam = beam_options(workers.beam_runner, workers.beam_options)
    before = AddedTo.open(corpus.output) if corpus.add else None
    if before:
        tokenizer, options = str(before.folder / TOKENIZER), before.options(options)
    given = corpus.input, corpus.output, tokenizer, options, corpus.licences
    card = prepare(*given, workers.jobs, beam, corpus.skipped, before)
    print(table(card))
    print(f"{corpus.output}: train from it with --config.data.sources=\"('corpus:{corpus.output}',)\".")
