"""Parses command lines into dataclasses: an option is defined once, as a field with type, default and comment.

>>> class Greeting:
...     name: str  # whom to greet
...     times: int = 1  # how often
>>> arguments = Arguments("greet", "Greet someone.", "--name you", ["--name", "me"], Greeting)
>>> arguments.read(Greeting)
Greeting(name='me', times=1)
"""

import argparse
import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from f2jax import files
from f2jax.errors import UserError, check_choices, did_you_mean

T = TypeVar("T")
TEXTS = ("prompt", "query")  # options whose value may be an empty text; of others, it is a variable that is not set
METAVARS = {int: "N", float: "NUMBER"}


class Arguments:
    """The parsed arguments of a command."""

    def __init__(
        self,
        command: str,
        description: str,
        example: str,
        argv: Sequence[str],
        *options: type,
        positional: str = "",
        config: bool = False,
    ):
        """Parses `argv` into the dataclasses `options`.

        Each field is an option with its name. It is required if it has no default; a bool is a flag, a tuple takes
        several values, and a dict takes NAME=VALUE pairs. The word `off` stands for None and "". Fields with the same
        name are one option. In `--help`, each dataclass is a group with its docstring as heading.

        Args:
            positional: a field that is given by position, without its name.
            config: whether to accept fields of the config (`--config.NAME=VALUE`), as `overrides`.

        Raises:
            UserError: an option is unknown, missing, or has a value of the wrong type.
        """
        self.overrides: list[str] = []
        self._positional, self._example = positional, f"f2jax {command} {example}"
        if config:
            description += " Any field of the config is an option: --config.optim.peak_lr=4e-5."
        self._parser = _Parser(
            prog=f"f2jax {command}",
            description=description.replace("%", "%%"),
            epilog=f"example: {self._example}",
            allow_abbrev=False,
        )
        self._names: set[str] = set()
        self._former: dict[str, str] = {}
        for kind in options:
            self._add(kind, positional)
        argv = [self._current(_dashed(text)) for text in argv]
        self.overrides = [text for text in argv if config and text.startswith("--config.")]
        if bare := next((text for text in self.overrides if "=" not in text), None):
            raise UserError(f"{bare} has no value; write {bare}=VALUE.")  # the next word may belong to another option
        rest = [text for text in argv if text not in self.overrides]
        self._refuse(self._unknown(rest), config)  # first, because an option that seems to be missing may be mistyped
        self._values, unknown = self._parser.parse_known_args(rest)
        self._refuse(unknown, config)

    def read(self, kind: type[T]) -> T:
        """Returns one of the dataclasses, filled with the arguments.

        Raises:
            UserError: a value is blank or not among the field's choices, or a seed is negative.
        """
        values = {}
        for field, hint in _fields(kind):
            if _is_options(hint):
                values[field.name] = self.read(hint)
                continue
            value = getattr(self._values, _name(field))
            blank = value == "" != _default(field) and str in _options_of(hint)
            if (blank or (isinstance(value, list) and "" in value)) and field.name not in TEXTS:
                raise UserError(f"{_option(_name(field))} is blank; give it a value, or leave it out.")
            if get_origin(hint) is dict:
                value = pairs(value, _option(_name(field)))
            elif isinstance(value, list):  # "1,2" was read as a list
                value = tuple(part for item in value for part in (item if isinstance(item, list) else [item]))
            values[field.name] = value
        made = kind(**values)
        check_choices(made)
        if (seed := getattr(made, "seed", 0)) < 0:
            raise UserError(f"--seed {seed} should be at least 0.")
        return made

    def _add(self, kind: type, positional: str) -> None:
        paragraphs = inspect.cleandoc(kind.__doc__ or "").split("\n\n")
        text = paragraphs[1] if len(paragraphs) > 1 and not re.match(r"Raises:|Args:|>>>", paragraphs[1]) else ""
        group = self._parser.add_argument_group(
            paragraphs[0].replace("\n", " ").rstrip("."), text.replace("\n", " ").replace("%", "%%")
        )
        comments = _comments(kind)
        for field, hint in _fields(kind):
            if not _is_options(hint) and _name(field) not in self._names:
                self._names.add(_name(field))
                name = field.name if field.name == positional else _option(_name(field))
                if "formerly" in field.metadata:
                    self._former[_option(field.metadata["formerly"])] = name
                group.add_argument(name, **_argument(field, hint, comments[field.name], name.startswith("-")))
        for _, hint in _fields(kind):
            if _is_options(hint):
                self._add(hint, positional)

    def _current(self, text: str) -> str:
        """Replaces an option's former name by its current one."""
        name, equals, value = text.partition("=")
        return self._former.get(name, name) + equals + value

    def _unknown(self, argv: Sequence[str]) -> list[str]:
        """Returns the arguments that look like options but are not."""
        known = {_option(name) for name in self._names - {self._positional}} | {"--help"}
        looks = {text: re.fullmatch(r"(--)(?:no-)?([a-z][\w-]*)(?:=.*)?", text, re.DOTALL) for text in argv}
        return [text for text, parts in looks.items() if parts and "".join(parts.groups()) not in known]

    def _refuse(self, unknown: list[str], config: bool) -> None:
        if not unknown:
            return
        if not unknown[0].startswith("-"):
            raise UserError(
                f"'{unknown[0]}' belongs to no option of {self._parser.prog}; put a value with spaces in quotes."
            )
        name = unknown[0].split("=", 1)[0]
        hint = did_you_mean(name, map(_option, self._names - {self._positional}))
        if config and "did you mean" not in hint:
            field = _config_field(name.lstrip("-").replace("-", "_")) or "NAME"
            raise UserError(
                f"{self._parser.prog} has no option '{name}'; fields of the config are set by --config.{field}=VALUE."
            )
        if self._positional and (name == _option(self._positional) or "did you mean" not in hint):
            hint = f"; give the {self._positional} without an option's name, as in `{self._example}`."
        raise UserError(f"{self._parser.prog} has no option '{name}'{hint}")


def _config_field(name: str) -> str | None:
    """Returns the config field with this name, or the one that other trainers call by this name, or None."""
    from f2jax import config

    same = [field for field in config.fields(config.load("common")) if field.rpartition(".")[2] == name]
    return same[0] if len(same) == 1 else config.SYNONYMS.get(name)


def changed(options: Any, *names: str) -> str:
    """Returns the options among `names` that differ from their defaults, joined by "and"; may be empty."""
    defaults = {field.name: _default(field) for field in fields(options)}
    return " and ".join(_option(name) for name in names if getattr(options, name) != defaults[name])


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """Returns a dict from `NAME=VALUE` strings, and from JSON files that contain an object of strings.

    Raises:
        UserError: a string or a file has another form.
    """
    result: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if text.endswith(".json") and not equals:
            given = files.read_json(text)
            if not isinstance(given, dict) or not all(isinstance(item, str) for item in given.values()):
                raise UserError(f"{text}: {option} takes a JSON object of names and texts.")
            result |= given
        elif name and value:
            result[name] = value
        else:
            raise UserError(f"'{text}' in {option} should be NAME=VALUE.")
    return result


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        message = message.replace("the following arguments are required: ", "needs ").removeprefix("argument ")
        raise UserError(f"{self.prog} {message}; see {self.prog} --help.")


def _dashed(text: str) -> str:
    """Replaces `_` by `-` in the name of an option."""
    name, equals, value = text.partition("=")
    return text if not name.startswith("--") or "." in name else name.replace("_", "-") + equals + value


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _is_options(hint: Any) -> bool:
    return isinstance(hint, type) and is_dataclass(hint)


def _name(field: Field) -> str:
    """Returns the option's name: the one in the field's metadata, or else the field's own."""
    return field.metadata.get("option", field.name)


def _fields(kind: type) -> list[tuple[Field, Any]]:
    """Returns the fields with their types, except optional dataclasses, which the command fills in itself."""
    hints = get_type_hints(kind)
    nested = {name for name, hint in hints.items() if any(map(_is_options, get_args(hint)))}
    return [(field, hints[field.name]) for field in fields(kind) if field.name not in nested]


def _default(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _argument(field: Field, hint: Any, comment: str, optional: bool) -> dict[str, Any]:
    """Returns the arguments of `add_argument`."""
    default = _default(field)
    hint = _without_none(hint) if default is None else hint
    several = get_origin(hint) in (tuple, dict)
    result: dict[str, Any] = {}
    if default is MISSING:
        result |= {"required": True} if optional else {}
    else:
        comment = re.sub(r'(?<!\w)(?:None|\(\)|"")(?=:)', "off" if default else "default", comment)
        shown = {True: "on", False: "off"}.get(default) if hint is bool else _shown(default)
        comment += f" (default: {shown})" if shown and "default:" not in comment else ""
        result["default"] = list(default) if isinstance(default, (tuple, dict)) else default
    result["help"] = comment.replace("%", "%%")
    if hint is bool:
        return result | {"action": argparse.BooleanOptionalAction}
    items = tuple(item for item in get_args(hint) if item is not Ellipsis)
    if several:
        result["nargs"] = "+" if default is MISSING else "*"
        result |= {} if default and default is not MISSING else {"action": "extend"}  # a repeated option adds values
        hint = items[0]
    metavar = "NAME=VALUE" if len(items) == 2 and several else _metavar(_name(field), hint)
    return result | {"type": _reader(hint, commas=several), "metavar": metavar}


def _without_none(hint: Any) -> Any:
    """Returns X for `X | None`: if None is the default, no word is needed for it."""
    (hint,) = [item for item in get_args(hint) if item is not NoneType] or [hint]
    return hint


def _shown(default: Any) -> str:
    if isinstance(default, (tuple, list, dict)):
        return " ".join(map(str, default))
    return "" if default in (None, "") else str(default)


def _options_of(hint: Any) -> list[Any]:
    """Returns the types in a union and the words in a Literal."""
    if get_origin(hint) in (Union, UnionType):
        return [option for item in get_args(hint) for option in _options_of(item)]
    return list(get_args(hint)) if get_origin(hint) is Literal else [hint]


def _words(options: list[Any]) -> dict[str, Any]:
    """Returns {word: value}, with `off` for None and for the empty string."""
    return {option or "off": option for option in options if isinstance(option, str)} | (
        {"off": None} if NoneType in options else {}
    )


def _reader(hint: Any, commas: bool) -> Callable[[str], Any]:
    """Returns a function that parses a value of this type; with `commas`, also a list of numbers between commas."""
    options = _options_of(hint)
    words = _words(options)
    number = next((option for option in options if option in METAVARS), None)

    def read(text: str) -> Any:
        if text in words:
            return words[text]
        if commas and number and "," in text:
            return [number(part) for part in text.split(",")]
        return number(text) if number else text

    read.__name__ = " or ".join([*([number.__name__] if number else []), *words])  # "invalid int or off value: 'x'"
    return read


def _metavar(name: str, hint: Any) -> str:
    options = _options_of(hint)
    words = [*(METAVARS[option] for option in options if option in METAVARS), *_words(options)]
    if len(words) == 1:
        return words[0]
    return "{" + ",".join(words) + "}" if words else name.rpartition("_")[2].upper()


def _comments(kind: type) -> dict[str, str]:
    """Returns the comment of each field, from the end of its line or from the lines above it."""
    lines = textwrap.dedent(inspect.getsource(kind)).splitlines()
    (definition,) = ast.parse("\n".join(lines)).body
    assert isinstance(definition, ast.ClassDef)
    result = {}
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above: list[str] = []
            for line in reversed(lines[: node.lineno - 1]):
                if not line.strip().startswith("# "):
                    break
                above.insert(0, line.strip()[2:])
            result[node.target.id] = " ".join(above) or lines[(node.end_lineno or 0) - 1].partition("  # ")[2]
    return result
