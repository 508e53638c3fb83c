"""`f2jax prepare`: tokenize data into a corpus for training."""

import argparse

from f2jax.commands.options import off, pairs, parser_of
from f2jax.data.instructions import Instructions
from f2jax.errors import UserError


def main(argv: list[str]) -> None:
    parser = parser_of(
        "prepare", "Curate and tokenize data into a corpus that training reads; the same command goes on."
    )
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        help="files, folders, globs, hub:ORG/NAME, beir:FOLDER or built-in sets; clustering:PATH, classification:PATH, "
        "sts:PATH or nli:PATH make rows of labelled data, #COLUMN,COLUMN behind it names its columns",
    )
    parser.add_argument("--output", required=True, help="folder of the corpus")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--tokenizer", help="tokenizer.json or SentencePiece model, or a folder with one")
    which.add_argument("--train-vocab", type=int, help="pieces of a SentencePiece model to train on these texts")
    parser.add_argument("--kinds", nargs="*", default=[], help="SOURCE=KIND for files whose rows do not say it")
    parser.add_argument("--cap", type=int, default=0, help="rows of a data set at most, by the seed; 0: all")
    parser.add_argument("--max-length", type=int, default=1024, help="tokens of a text, end token included")
    parser.add_argument("--validation-share", type=float, default=0.01, help="of each data set's queries, held out")
    parser.add_argument("--seed", type=int, default=0, help="of the cap, the held-out share and the instructions")
    parser.add_argument("--licences", nargs="*", default=[], help="NAME=LICENCE for the data card; patterns")
    parser.add_argument(
        "--skipped", metavar="FILE.jsonl", help="list each skipped row with its reason and place, but for the cap's"
    )
    _instruction_options(parser)
    _curation_options(parser)
    workers = parser.add_argument_group("workers", "Whoever works, the bytes are the same.")
    workers.add_argument("--jobs", type=int, default=1, help="processes, where there are several inputs or data sets")
    workers.add_argument("--beam_runner", help="a runner of Apache Beam, e.g. DirectRunner, FlinkRunner")
    workers.add_argument("--beam_options", default="", help="its options: name=value,name=value")
    args = parser.parse_args(argv)

    from f2jax.prepare import curate
    from f2jax.prepare.data_card import table
    from f2jax.prepare.options import PrepareOptions
    from f2jax.prepare.run import prepare as write_corpus
    from f2jax.prepare.workers import beam_options

    instructions = Instructions(
        enabled=args.instructions,
        by_name=_tasks(args.tasks),
        symmetric_share=args.symmetric_share,
        symmetric_sources=tuple(args.symmetric_sources),
        seed=args.seed,
    )
    steps = {name: getattr(args, name) for name in curate.CurationOptions.__dataclass_fields__}
    steps = {name: tuple(value) if isinstance(value, list) else value for name, value in steps.items()}
    names = ("max_length", "validation_share", "seed", "cap")
    options = {name: getattr(args, name) for name in names}
    curation = curate.CurationOptions(**steps) if args.curation else None
    card = write_corpus(
        args.input,
        args.output,
        args.tokenizer or args.train_vocab,
        PrepareOptions(instructions=instructions, kinds=tuple(args.kinds), curate=curation, **options),
        pairs(args.licences, "--licences"),
        args.jobs,
        beam_options(args.beam_runner, args.beam_options),
        args.skipped,
    )
    print(table(card))
    print(f"{args.output}: train from it with --config.data.sources=\"('corpus:{args.output}',)\".")


def _instruction_options(parser) -> None:
    group = parser.add_argument_group("instructions", "Tasks before texts (recipe 2.1).")
    group.add_argument(
        "--instructions", action=argparse.BooleanOptionalAction, default=True, help="tasks before queries: stage 2"
    )
    group.add_argument(
        "--tasks",
        nargs="*",
        default=[],
        help="NAME=SENTENCE, of SOURCE-KIND, source or kind; or a FILE.json of {name: sentence}",
    )
    group.add_argument("--symmetric-share", type=float, default=0.3, help="of symmetric documents that carry the task")
    group.add_argument("--symmetric-sources", nargs="*", default=[], help="sources whose tasks are symmetric")


def _curation_options(parser) -> None:
    """The fields of `curate.Options`, by their names."""
    group = parser.add_argument_group(
        "curation",
        "Steps in this order, each counted in the data card. Each can be off; an option that takes several values is "
        "off without any. --identify-language and --near-duplicates need pip install 'f2jax[curate]'.",
    )
    flag = argparse.BooleanOptionalAction
    group.add_argument("--curation", action=flag, default=True, help="--no-curation: no step at all")
    group.add_argument(
        "--excluded-sources",
        nargs="*",
        metavar="PATTERN",
        default=["mkqa_*", "sib200*"],
        help="left out, since MTEB's tasks are made of them (recipe 3.2); default: mkqa_* sib200*",
    )
    group.add_argument("--unicode-form", type=off, default="NFC", help="of all texts: NFC, NFKC or off")
    group.add_argument("--max-characters", type=int, default=100_000, help="of one text; 0: no limit")
    group.add_argument("--too-long", default="cut", help="what happens to a longer one: cut or drop")
    group.add_argument(
        "--drop-trivial",
        action=flag,
        default=True,
        help="rows whose query is their positive, negatives that are",
    )
    group.add_argument(
        "--identify-language", action=flag, default=False, help="count languages of queries, and set those not declared"
    )
    group.add_argument("--language-confidence", type=float, default=0.9, help="below it a language is und")
    group.add_argument(
        "--drop-other-language", action=flag, default=False, help="rows in another language than they declare"
    )
    group.add_argument(
        "--evaluation-sets",
        nargs="*",
        metavar="SET",
        default=["cldr-names", "stdlib-code"],
        help="drop rows that hold texts of these: built-in names, PATH or NAME=PATH#COLUMN,COLUMN; default: both "
        "built-in ones",
    )
    group.add_argument("--ngram", type=int, default=13, help="words in a row that count as held; 0: only whole texts")
    group.add_argument("--fewest-letters", type=int, default=12, help="of a whole text that is looked for")
    group.add_argument(
        "--exact-duplicates", action=flag, default=True, help="keep one row of those with one query, positive and kind"
    )
    group.add_argument(
        "--near-duplicates",
        type=float,
        metavar="SHARE",
        default=0.0,
        help="keep one row of those that share so many letter n-grams (Jaccard); 0: off. Both kinds of duplicates are "
        "found in all inputs together, on disk: 24 bytes a row for exact, 1.5 kB for near ones",
    )
    group.add_argument("--shingle", type=int, default=5, help="letters of the n-grams")
    group.add_argument("--permutations", type=int, default=128, help="of MinHash: more estimate likeness better")
    group.add_argument("--band", type=int, default=4, help="of them, by which rows meet: 4 for 0.8, 2 for 0.5")


def _tasks(texts: list[str]) -> dict[str, str]:
    """NAME=SENTENCE and names of JSON files that hold such pairs, several times."""
    from f2jax import files

    found = {}
    for text in texts:
        given = files.read_json(text) if text.endswith(".json") and "=" not in text else pairs([text], "--tasks")
        if not isinstance(given, dict) or not all(isinstance(sentence, str) for sentence in given.values()):
            raise UserError(f"{text}: --tasks takes a JSON object of names and sentences.")
        found |= given
    return found
