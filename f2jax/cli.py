"""The `f2jax` command. Each command imports what it needs when it runs, so that `--help` is quick."""

import argparse
import contextlib
import os
import sys

from f2jax import __version__
from f2jax.errors import Interrupted, UserError, nearest

PLANNED = ("prepare", "mine", "prune", "cache_teacher", "merge", "search", "plan")  # named in the design, not built


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
    from f2jax.train import loop

    loop.train(config.load(args.config, overrides), args.workdir)


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


COMMANDS = {"train": train, "encode": encode, "export": export, "evaluate": evaluate}


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


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="folder, hub id, gs:// path or training workdir")
    parser.add_argument("--dtype", default="float32", help="of weights and matmuls: float32 or bfloat16")
