"""Dataclasses become options: types, defaults, choices and comments are said once."""

from dataclasses import asdict, dataclass, field
from typing import Literal

import pytest

from f2jax.commands.options import Arguments, changed
from f2jax.errors import UserError


@dataclass(frozen=True)
class Inner:
    """How it is done.

    The second paragraph explains it.

    Raises:
        UserError: never.
    """

    # a comment
    # of two lines
    rule: Literal["first", "best", ""] = "first"
    limit: float | None = 0.5  # at most this; None: no limit
    seed: int = 1  # seed of the rule


@dataclass(frozen=True)
class Options:
    """What is done."""

    names: tuple[str, ...]  # given by position
    output: str  # where to
    count: int = 3  # 100 % of them; 0: all
    shares: tuple[int, ...] = ()  # some; (): none
    known: tuple[str, ...] = ("a", "b")  # these
    dims: tuple[int | Literal["all"], ...] = ()  # widths
    rescale: bool = True  # scale them
    prompt: str | None = None  # None: that of the model
    tasks: dict[str, str] = field(default_factory=dict)  # NAME=TASK
    enabled: bool = field(default=False, metadata={"option": "instructions"})  # with instructions
    notes: str | None = field(default=None, metadata={"option": "remarks", "formerly": "comments"})  # more to say
    inner: Inner = field(default_factory=Inner)
    later: Inner | None = None  # set by the command


def read(*argv: str) -> Options:
    return Arguments("do", "Do it.", "a", argv, Options, positional="names").read(Options)


@pytest.mark.parametrize("given", [["--remarks", "x"], ["--comments", "x"], ["--comments=x"]], ids=str)
def test_an_option_is_taken_by_a_name_that_it_had_before(given, capsys):
    assert read("a", "--output", "o", *given).notes == "x"
    with pytest.raises(SystemExit):
        read("--help")
    assert "--comments" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "given",
    [["--output", ""], ["--output="], ["--output", "o", "--remarks", ""], ["--known", "x", "", "--output", "o"]],
    ids=str,
)
def test_a_blank_value_as_of_a_variable_that_is_not_set_is_refused(given):
    with pytest.raises(UserError, match=r"^--(output|remarks|known) is blank; give it a value, or leave it out\.$"):
        read("a", *given)


def test_a_blank_text_and_a_choice_that_is_off_are_values():
    given = read("a", "--output", "o", "--prompt", "", "--rule", "off")
    assert (given.prompt, given.inner.rule) == ("", "")


def test_without_options_the_fields_have_their_defaults():
    assert read("x", "--output", "o") == Options(("x",), "o")


@pytest.mark.parametrize(
    "argv,name,value",
    [
        (["--count", "7"], "count", 7),
        (["--shares", "1", "2"], "shares", (1, 2)),
        (["--shares", "1,2", "5"], "shares", (1, 2, 5)),
        (["--shares", "1", "--shares", "2"], "shares", (1, 2)),
        (["--known", "c"], "known", ("c",)),
        (["--known"], "known", ()),
        (["--dims", "8", "all"], "dims", (8, "all")),
        (["--no-rescale"], "rescale", False),
        (["--instructions"], "enabled", True),
        (["--prompt", "off"], "prompt", "off"),
        (["--tasks", "a=b=c", "d=e"], "tasks", {"a": "b=c", "d": "e"}),
        (["--rule", "best"], "inner", Inner("best")),
        (["--rule", "off"], "inner", Inner("")),
        (["--limit", "off", "--seed=4"], "inner", Inner(limit=None, seed=4)),
        (["--no_rescale"], "rescale", False),
    ],
    ids=str,
)
def test_an_option_sets_its_field(argv, name, value):
    assert asdict(read("x", "--output=o", *argv)) == asdict(Options(("x",), "o", **{name: value}))


def test_pairs_may_lie_in_a_json_file(tmp_path):
    (tmp_path / "tasks.json").write_text('{"a": "b"}')
    assert read("x", "--output=o", "--tasks", f"{tmp_path}/tasks.json", "c=d").tasks == {"a": "b", "c": "d"}


@pytest.mark.parametrize(
    "argv,message",
    [
        (["x"], "f2jax do needs --output; see f2jax do --help."),
        (["x", "--output=o", "--count", "many"], "f2jax do --count: invalid int value: 'many'"),
        (["x", "--output=o", "--limit", "high"], "f2jax do --limit: invalid float or off value: 'high'"),
        (["x", "--output=o", "--dims", "none"], "f2jax do --dims: invalid int or all value: 'none'"),
        (["x", "--output=o", "--seed=-1"], "--seed -1 should be at least 0."),
        (["x", "--output=o", "--rule", "frist"], "rule='frist' is not a choice; did you mean 'first'?"),
        (["x", "--output=o", "--tasks", "a"], "'a' in --tasks should be NAME=VALUE."),
        (["x", "--output=o", "--contu=1"], "f2jax do has no option '--contu'; did you mean '--count'?"),
        (["x", "--output=o", "--later=1"], "f2jax do has no option '--later'"),
    ],
)
def test_a_mistake_is_one_sentence(argv, message):
    with pytest.raises(UserError) as error:
        read(*argv)
    assert message in str(error.value)


def test_help_has_comments_defaults_choices_and_the_example(capsys):
    with pytest.raises(SystemExit):
        read("--help")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.replace("\n          ", " ").splitlines()]
    for line in (
        "What is done:",
        "NAMES given by position",
        "--count N 100 % of them; 0: all (default: 3)",
        "--shares [N ...] some; default: none",
        "--known [KNOWN ...] these (default: a b)",
        "--dims [{N,all} ...] widths",
        "--rescale, --no-rescale scale them (default: on)",
        "--prompt PROMPT default: that of the model",
        "--tasks [NAME=VALUE ...] NAME=TASK",
        "How it is done:",
        "The second paragraph explains it.",
        "--rule {first,best,off} a comment of two lines (default: first)",
        "--limit {NUMBER,off} at most this; off: no limit (default: 0.5)",
        "example: f2jax do a",
    ):
        assert line in lines


def test_fields_of_a_config_are_taken_where_a_command_has_one():
    def overrides(*argv: str) -> list[str]:
        given = ["x", "--output=o", *argv]
        return Arguments("do", "Do it.", "a", given, Options, positional="names", config=True).overrides

    assert overrides("--config.a_b=1") == ["--config.a_b=1"]
    with pytest.raises(UserError, match="has no option '--seeed'; did you mean '--seed'"):
        overrides("--seeed=1")
    with pytest.raises(UserError, match=r"--config\.a_b has no value; write --config\.a_b=VALUE"):
        overrides("--known", "c", "--config.a_b", "5")


def test_what_differs_from_its_default_is_named():
    assert changed(Options(("x",), "o"), "count", "prompt", "tasks") == ""
    assert changed(Options(("x",), "o", count=1, prompt="p"), "count", "prompt", "known") == "--count and --prompt"


@pytest.mark.parametrize("name", ["--names", "--zzz"])
def test_what_is_given_by_position_is_said_where_an_option_of_it_is_tried(name):
    with pytest.raises(UserError, match=r"; give the names without an option's name, as in `f2jax do a`\."):
        Arguments("do", "Do it.", "a", ["x", "--output=o", f"{name}=y"], Options, positional="names")
