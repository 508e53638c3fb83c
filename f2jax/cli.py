"""The `f2jax` command: which commands there are, and what their errors and exit codes are.

Each command is a module of `f2jax.commands`, imported when it runs, so that `--help` is quick.
"""

import contextlib
import os
import sys
import traceback
from importlib import import_module

from f2jax import __version__
from f2jax.errors import Interrupted, Restart, UserError, nearest

COMMANDS = {
    "prepare": "tokenize data into a corpus for training",
    "mine": "give rows hard negatives",
    "train": "train a model as a config says",
    "plan": "compile a training for a TPU slice, without one",
    "prune": "cut a model down in width, MLP and layers",
    "cache_teacher": "embed a corpus by a teacher, once for all trainings",
    "merge": "average checkpoints into one model",
    "encode": "embed the texts of a file",
    "evaluate": "score a model on built-in tasks, on local ones, or on those of MTEB",
    "report": "tables and curves of results",
    "export": "write a folder that other embedding tools load",
}
PLANNED = ("search",)  # named in the design, not built


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    0: done. 1: one line says what to change. 130: interrupted, and what was to save is saved. 75: the network or
    another process failed. 70: a crash, with its traceback. Whoever starts commands again (launch/run.sh) does so after
    the last three.
    """
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
    except Restart as error:
        print(f"f2jax: {error}", file=sys.stderr)
        return 75
    except (ConnectionError, TimeoutError) as error:
        print(f"f2jax: the network failed ({error}); run the same command again.", file=sys.stderr)
        return 75
    except OSError as error:  # such as a full disk in the middle of a run
        where = f"{error.filename}: " if error.filename else ""
        print(f"f2jax: {where}{error.strerror or error}; mend that and run the same command again.", file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        return 70
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
            import_module(f"f2jax.commands.{argv[0]}").main(argv[1:])


def _usage() -> str:
    lines = "\n".join(f"  {name:<13} {summary}" for name, summary in COMMANDS.items())
    return f"usage: f2jax COMMAND [--help]\n\n{lines}"
