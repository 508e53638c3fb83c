"""The `f2jax` command: its commands, their errors and their exit codes.

Each command is a module of `f2jax.commands`, imported when it runs, so that `--help` is quick.
"""

import contextlib
import os
import sys
import traceback
from importlib import import_module

from f2jax import __version__
from f2jax.errors import UserError, did_you_mean, exit_code, is_transient_io_error

COMMANDS = {
    "prepare": "tokenize data into a corpus for training",
    "mine": "give rows hard negatives",
    "train": "train a model as a config says",
    "compare": "training runs side by side, and a law of their loss in size and data",
    "plan": "compile a training for a TPU slice, without one",
    "prune": "cut a model down in width, MLP and layers",
    "cache_teacher": "embed a corpus with a teacher, once for all trainings",
    "start": "make a student's first weights from a teacher's vectors",
    "merge": "average checkpoints into one model",
    "encode": "embed the texts of a file",
    "search": "find documents: many by few dimensions, then few by all",
    "serve": "answer /v1/embeddings as OpenAI does",
    "evaluate": "score a model on built-in tasks, on local ones, or on those of MTEB",
    "report": "tables and curves of results",
    "export": "write a folder that other embedding tools load",
    "verify": "check such a folder against its golden vectors in every tool found here",
}


def main(argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, or the `exit_code` of its error.

    An error prints one line that says what to change; a crash prints its traceback.
    """
    try:
        _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output has gone, as after `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        code = exit_code(error)
        if code == 70:
            traceback.print_exc()
        else:
            print(f"f2jax: {_sentence(error)}", file=sys.stderr)
        return code
    return 0


def _sentence(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted."
    if isinstance(error, (ConnectionError, TimeoutError)):
        return f"the network failed ({error}); run the same command again."
    if isinstance(error, OSError):  # such as a full disk in the middle of a run
        where = f"{error.filename}: " if error.filename else ""
        fix = "" if is_transient_io_error(error) else "fix that and "
        return f"{where}{error.strerror or error}; {fix}run the same command again."
    return str(error)


def _run(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
    elif argv[0] == "--version":
        print(f"f2jax {__version__}")
    elif (command := argv[0].replace("-", "_")) not in COMMANDS:
        raise UserError(f"There is no command '{argv[0]}'{did_you_mean(argv[0], COMMANDS)}")
    else:
        with contextlib.suppress(SystemExit):  # argparse exits after --help
            import_module(f"f2jax.commands.{command}").main(argv[1:])


def _usage() -> str:
    lines = "\n".join(f"  {name:<13} {summary}" for name, summary in COMMANDS.items())
    return f"usage: f2jax COMMAND [--help]\n\n{lines}"
