"""What several commands share: parsers whose errors are one sentence, and kinds of options."""

import argparse

from f2jax.errors import UserError, did_you_mean


class Parser(argparse.ArgumentParser):
    """A parser whose errors are `UserError`s; an unknown option names the nearest known one."""

    def parse_args(self, argv: list[str]) -> argparse.Namespace:
        args, unknown = self.parse_known_args(argv)
        if unknown:
            name = unknown[0].split("=", 1)[0]
            known = [option for option in self._option_string_actions if option.startswith("--")]
            raise UserError(f"{self.prog} has no option '{name}'{did_you_mean(name, known)}")
        return args

    def error(self, message: str):
        raise UserError(f"{self.prog}: {message}; see {self.prog} --help.")


def parser_of(command: str, description: str) -> argparse.ArgumentParser:
    return Parser(prog=f"f2jax {command}", description=description, allow_abbrev=False)


def changed(parser: argparse.ArgumentParser, args: argparse.Namespace, *names: str) -> str:
    """Those of the options that differ from their defaults, as a list to be read; empty where none does."""
    found = (name for name in names if getattr(args, name) != parser.get_default(name))
    return " and ".join(f"--{name.replace('_', '-')}" for name in found)


def off(text: str) -> str:
    return "" if text == "off" else text


def limit(text: str) -> float | None:
    try:
        return None if text == "off" else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number nor off") from error


def numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' should be numbers with commas, like 0,2,5") from error


def model_options(parser, required: bool = True) -> None:
    parser.add_argument("--model", required=required, help="folder, hub id, gs:// path or training workdir")
    parser.add_argument("--dtype", default="float32", help="of weights and matmuls: float32 or bfloat16")


def devices_option(parser) -> None:
    parser.add_argument(
        "--fsdp", type=int, default=1, help="devices that share one copy of the weights; 1: each has all"
    )


def pairs(texts: list[str], option: str) -> dict[str, str]:
    """NAME=VALUE, several times."""
    found = [text.partition("=") for text in texts]
    wrong = [text for text, parts in zip(texts, found, strict=True) if not all(parts)]
    if wrong:
        raise UserError(f"'{wrong[0]}' in {option} should be NAME=VALUE.")
    return {name: value for name, _, value in found}


def dimension(text: str) -> int | str:
    try:
        return text if text == "all" else int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number nor all") from error
