"""The `f2jax` command. Each command imports what it needs when it runs, so that `--help` is quick."""

import argparse
import contextlib
import os
import sys

from f2jax import __version__
from f2jax.errors import Interrupted, UserError, nearest

PLANNED = ("prune", "cache_teacher", "merge", "search", "plan")  # named in the design, not built


def train(argv: list[str]) -> None:
    parser = _parser("train", "Train a model; the same command resumes an interrupted run.")
    parser.add_argument("--config", required=True, help="config file with options: configs/nano.py:stage=1")
    parser.add_argument("--workdir", required=True, help="folder of the run, local or gs://: checkpoints, metrics")
    parser.epilog = "Any field of the config: --config.optim.peak_lr=4e-5"
    args, overrides = parser.parse_known_args(argv)
    unknown = [text for text in overrides if not text.startswith("--config.")]
    if unknown:
        raise UserError(f"train has no option '{unknown[0]}'; fields of the config are set by --config.NAME=VALUE.")

    from f2jax import config
    from f2jax.parallel import hosts
    from f2jax.train import loop

    hosts.start()
    with hosts.explained():
        loop.train(config.load(args.config, overrides), args.workdir)


def prepare(argv: list[str]) -> None:
    parser = _parser("prepare", "Tokenize data into a corpus that training reads; the same command goes on.")
    parser.add_argument("--input", nargs="+", required=True, help="files, folders, globs or built-in sets")
    parser.add_argument("--output", required=True, help="folder of the corpus")
    parser.add_argument(
        "--tokenizer", required=True, help="tokenizer.json or SentencePiece model, or a folder with one"
    )
    parser.add_argument("--kinds", nargs="*", default=[], help="SOURCE=KIND for files whose rows do not say it")
    parser.add_argument("--cap", type=int, default=0, help="rows of a data set at most, chosen by the seed; 0: all")
    parser.add_argument("--max-length", type=int, default=1024, help="tokens of a text, end token included")
    parser.add_argument("--validation-share", type=float, default=0.01, help="of each data set's queries, held out")
    parser.add_argument("--seed", type=int, default=0, help="of the cap, the held-out share and the instructions")
    parser.add_argument(
        "--instructions", action=argparse.BooleanOptionalAction, default=True, help="tasks before queries: stage 2"
    )
    parser.add_argument("--tasks", nargs="*", default=[], help="NAME=SENTENCE: the task of a source or a kind")
    parser.add_argument("--symmetric-share", type=float, default=0.3, help="of symmetric documents that carry the task")
    parser.add_argument("--symmetric-sources", nargs="*", default=[], help="sources whose tasks are symmetric")
    parser.add_argument("--licences", nargs="*", default=[], help="NAME=LICENCE for the data card; patterns")
    parser.add_argument("--jobs", type=int, default=1, help="processes, where there are several data sets")
    parser.add_argument("--beam_runner", help="a runner of Apache Beam, e.g. DirectRunner, FlinkRunner")
    parser.add_argument("--beam_options", default="", help="its options: name=value,name=value")
    args = parser.parse_args(argv)

    from f2jax.data import prepare as lib
    from f2jax.data.dataset import Instructions

    instructions = Instructions(
        enabled=args.instructions,
        by_name=_pairs(args.tasks, "--tasks"),
        symmetric_share=args.symmetric_share,
        symmetric_sources=tuple(args.symmetric_sources),
        seed=args.seed,
    )
    names = ("max_length", "validation_share", "seed", "cap")
    options = {name: getattr(args, name) for name in names}
    card = lib.prepare(
        args.input,
        args.output,
        args.tokenizer,
        lib.Options(instructions=instructions, kinds=tuple(args.kinds), **options),
        _pairs(args.licences, "--licences"),
        args.jobs,
        lib.beam_options(args.beam_runner, args.beam_options),
    )
    print(lib.table(card))
    print(f"{args.output}: train from it with --config.data.sources=\"('corpus:{args.output}',)\".")


def _pairs(texts: list[str], option: str) -> dict[str, str]:
    """NAME=VALUE, several times."""
    found = [text.partition("=") for text in texts]
    wrong = [text for text, parts in zip(texts, found, strict=True) if not all(parts)]
    if wrong:
        raise UserError(f"'{wrong[0]}' in {option} should be NAME=VALUE.")
    return {name: value for name, _, value in found}


def encode(argv: list[str]) -> None:
    parser = _parser("encode", "Embed the texts of a file; the same command resumes an interrupted run.")
    _model_options(parser)
    parser.add_argument("--input", required=True, help=".txt (a text a line), .jsonl or .parquet")
    parser.add_argument("--output", required=True, help=".npy, or .parquet with text and embedding")
    parser.add_argument("--column", default="text", help="field of the text in .jsonl and .parquet")
    parser.add_argument("--prompt", help="put before every text")
    parser.add_argument("--prompt-name", help="a prompt of the model, e.g. query")
    parser.add_argument("--truncate-dim", type=int, help="keep the first so many dimensions")
    parser.add_argument("--precision", default="float32", help="float32, int8, uint8, binary or ubinary")
    parser.add_argument("--batch-size", type=int, default=1024, help="texts of a device batch at most")
    args = parser.parse_args(argv)

    from f2jax import Embedder
    from f2jax.inference.encode_file import encode_file

    names = ("prompt", "prompt_name", "truncate_dim", "precision", "batch_size")
    options = {name: getattr(args, name) for name in names}
    embedder = Embedder.from_pretrained(args.model, args.dtype)
    rows, dim = encode_file(embedder, args.input, args.output, args.column, **options)
    print(f"{args.output}: {rows:,} vectors of {dim} x {args.precision}.")


def mine(argv: list[str]) -> None:
    parser = _parser("mine", "Give rows hard negatives (recipe 3.2); the same command resumes an interrupted run.")
    parser.add_argument("--input", nargs="+", required=True, help="files, globs, folders or built-in sets of rows")
    parser.add_argument("--output", help=".parquet: the rows with negatives, in the order of the input")
    parser.add_argument("--corpus", help="further documents: .txt (a text a line), .jsonl or .parquet with 'text'")
    parser.add_argument("--kinds", nargs="+", default=[], help="SOURCE=KIND for files whose rows do not say their kind")
    parser.add_argument("--only", nargs="+", help="the kinds to mine for, default: all; other rows stay as they are")
    parser.add_argument("--across-sources", action="store_true", help="documents of all sources, not the row's own")
    parser.add_argument(
        "--replace", action="store_true", help="forget negatives that rows bring; else these come first"
    )
    vectors = parser.add_argument_group(
        "vectors",
        "By a model, or from .npy files of floats with a row for each text. Queries: each distinct query of the input "
        "once, in the order in which they first come, with the row's own instruction before it. Documents: each "
        "distinct positive likewise, then the texts of --corpus. The --list options write these and mine nothing.",
    )
    _model_options(vectors, required=False)
    vectors.add_argument("--prompt-name", help="the model's prompt for queries; default: query, where it has that")
    vectors.add_argument("--batch-size", type=int, default=1024, help="texts of a device batch at most")
    vectors.add_argument("--query-embeddings", metavar="FILE.npy", help="in the place of --model")
    vectors.add_argument("--document-embeddings", metavar="FILE.npy", help="in the place of --model")
    vectors.add_argument("--list-queries", metavar="FILE.jsonl", help="write the queries to embed, in order")
    vectors.add_argument("--list-documents", metavar="FILE.jsonl", help="write the documents to embed, in order")
    rules = parser.add_argument_group("rules", "Scores are cosines.")
    rules.add_argument("--top", type=int, default=100, help="nearest documents looked at, beside the right answers")
    rules.add_argument("--max-score", type=_limit, default=0.8, help="a negative scores below this; or: off")
    rules.add_argument("--relative", type=_limit, default=0.95, help="and below this x the right answer; or: off")
    rules.add_argument("--skip", type=int, default=5, help="of those that pass, leave out so many of the nearest")
    rules.add_argument("--keep", type=int, default=24, help="negatives of a row")
    rules.add_argument("--fewer", default="drop", help="a row with fewer: drop it, or draw the rest at random")
    rules.add_argument("--seed", type=int, default=0, help="of the random draw")
    args = parser.parse_args(argv)

    from f2jax.inference import mine_file

    given = mine_file.Input(args.input, args.corpus, args.kinds, args.only or mine_file.KINDS)
    if args.list_queries or args.list_documents:
        print(mine_file.list_texts(given, args.list_queries, args.list_documents))
        return
    if not args.output:
        raise UserError("f2jax mine needs --output, or a --list option.")
    options = mine_file.Options(**{name: getattr(args, name) for name in mine_file.Options.__dataclass_fields__})
    vectors = mine_file.choose_vectors(
        args.model, args.dtype, args.prompt_name, args.batch_size, args.query_embeddings, args.document_embeddings
    )
    print(mine_file.mine_file(given, vectors, args.output, options, args.across_sources, args.replace))


def export(argv: list[str]) -> None:
    parser = _parser("export", "Write the folder that sentence-transformers and transformers load as it is.")
    _model_options(parser)
    parser.add_argument("--output", required=True, help="folder to write")
    args = parser.parse_args(argv)

    from f2jax import Embedder

    embedder = Embedder.from_pretrained(args.model, args.dtype)
    embedder.save_pretrained(args.output)
    print(f"{args.output}: {embedder.architecture.parameters:,} parameters, {embedder.dim} dimensions, {args.dtype}.")


def evaluate(argv: list[str]) -> None:
    from f2jax.evaluation import builtin

    parser = _parser("evaluate", "Score a model on built-in held-out tasks at every Matryoshka dimension.")
    _model_options(parser)
    parser.add_argument("--tasks", nargs="+", default=list(builtin.TASKS), help=f"of {', '.join(builtin.TASKS)}")
    parser.add_argument("--output", help="folder for results.json, results.txt and dimensions.png")
    args = parser.parse_args(argv)

    from f2jax import Embedder

    results = builtin.evaluate(Embedder.from_pretrained(args.model, args.dtype), args.tasks)
    print(builtin.table(results))
    if args.output:
        builtin.write(results, args.output)
        print(f"Table and plot: {args.output}")


COMMANDS = {
    "train": train,
    "prepare": prepare,
    "mine": mine,
    "encode": encode,
    "export": export,
    "evaluate": evaluate,
}


def main(argv: list[str] | None = None) -> int:
    """Run a command; 0, or 1 after one line that says what to change, or 130 after an interruption."""
    try:
        _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except UserError as error:
        print(f"f2jax: {error}", file=sys.stderr)
        return 1
    except Interrupted as stop:
        print(f"f2jax: {stop}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("f2jax: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # such as a full disk in the middle of a run
        where = f"{error.filename}: " if error.filename else ""
        print(f"f2jax: {where}{error.strerror or error}; mend that and run the same command again.", file=sys.stderr)
        return 1
    return 0


def _run(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
    elif argv[0] == "--version":
        print(f"f2jax {__version__}")
    elif argv[0] in PLANNED:
        raise UserError(f"'f2jax {argv[0]}' is not built yet; built are {', '.join(COMMANDS)}.")
    elif argv[0] not in COMMANDS:
        raise UserError(f"There is no command '{argv[0]}'{nearest(argv[0], COMMANDS)}")
    else:
        with contextlib.suppress(SystemExit):  # argparse leaves so after --help
            COMMANDS[argv[0]](argv[1:])


def _usage() -> str:
    lines = "\n".join(f"  {name:<10} {_SUMMARY[name]}" for name in COMMANDS)
    return f"usage: f2jax COMMAND [--help]\n\n{lines}"


_SUMMARY = {
    "train": "train a model as a config says",
    "prepare": "tokenize data into a corpus for training",
    "mine": "give rows hard negatives",
    "encode": "embed the texts of a file",
    "export": "write a folder that other embedding tools load",
    "evaluate": "score a model on the built-in held-out tasks",
}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are `UserError`s; an unknown option names the nearest known one."""

    def parse_args(self, argv: list[str]) -> argparse.Namespace:
        args, unknown = self.parse_known_args(argv)
        if unknown:
            name = unknown[0].split("=", 1)[0]
            known = [option for option in self._option_string_actions if option.startswith("--")]
            raise UserError(f"{self.prog} has no option '{name}'{nearest(name, known)}")
        return args

    def error(self, message: str):
        raise UserError(f"{self.prog}: {message}; see {self.prog} --help.")


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    return _Parser(prog=f"f2jax {command}", description=description, allow_abbrev=False)


def _limit(text: str) -> float | None:
    try:
        return None if text == "off" else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number nor off") from error


def _model_options(parser, required: bool = True) -> None:
    parser.add_argument("--model", required=required, help="folder, hub id, gs:// path or training workdir")
    parser.add_argument("--dtype", default="float32", help="of weights and matmuls: float32 or bfloat16")
