"""The `f2jax` command: runs its commands, and turns their errors into one line and an exit code.

Each command is a module of `f2jax.commands`, imported only when it runs, so that `--help` is quick.
"""

import contextlib
import os
import sys
import traceback
from importlib import import_module

from f2jax import __version__
from f2jax.errors import UserError, did_you_mean, exit_code, is_device_full, is_disk_full, is_transient_io_error

COMMANDS = {
    "prepare": "curate and tokenize data into a corpus for training",
    "mine": "find hard negatives for rows",
    "train": "train or fine-tune a model",
    "compare": "compare training runs, and fit a scaling law to them",
    "plan": "see whether a training fits a TPU slice, without one",
    "prune": "cut a model down in width, MLP and layers",
    "cache-teacher": "embed a corpus with a teacher, once for all trainings",
    "start": "make the initial weights of a student from a teacher's vectors",
    "merge": "average several models or checkpoints",
    "encode": "embed the texts of a file",
    "search": "find documents, first by a few dimensions, then by all",
    "serve": "answer /v1/embeddings like OpenAI's API",
    "evaluate": "score a model on built-in tasks, on your files, or on MTEB",
    "report": "make a page of tables and curves from results",
    "export": "write a model as a folder that other tools load",
    "verify": "check an exported folder in every tool on this machine",
}
# Tasks that users may look for, but that have no command of their own.
TASKS = {"finetune": "; use f2jax train --config finetune:data=FILE --workdir FOLDER."}


def main(argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, or the `exit_code` of the error.

    For an error, it prints one line that says what to change; for a crash, the traceback.
    """
    try:
        _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output has exited, as after `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        code = exit_code(error)
        if code == 70:
            traceback.print_exc()
        else:
            print(f"f2jax: {_sentence(error).removeprefix('f2jax ')}", file=sys.stderr)
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
        reason = error.strerror or (f"the disk is full ({error})" if is_disk_full(error) else error)
        return f"{where}{reason}; {fix}run the same command again."
    if is_device_full(error):
        reason = str(error).splitlines()[0].partition(": ")[2].rstrip(".")[:200]
        return (
            f"the device has too little memory ({reason}); take a smaller batch, and in a training model.chunk_rows=8, "
            "then mesh.fsdp."
        )
    return str(error)


def _run(argv: list[str]) -> None:
    if argv[:1] == ["help"]:  # f2jax help encode
        argv = [*argv[1:], "--help"]
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
    elif argv[0] == "--version":
        print(f"f2jax {__version__}")
    elif (command := argv[0].replace("_", "-")) not in COMMANDS:
        hint = TASKS.get(command.replace("-", "")) or did_you_mean(argv[0], COMMANDS)
        raise UserError(f"There is no command '{argv[0]}'{hint}")
    else:
        with contextlib.suppress(SystemExit):  # argparse exits after --help
            import_module(f"f2jax.commands.{command.replace('-', '_')}").main(argv[1:])


def _usage() -> str:
    lines = "\n".join(f"  {name:<13} {summary}" for name, summary in COMMANDS.items())
    example = '--folder notes --model mini --query "how do I renew a passport?"'
    return (
        f"usage: f2jax COMMAND [--help]\n\n{lines}\n\nf2jax COMMAND --help lists the options of a command.\n"
        f"example: f2jax search {example}"
    )
