"""`f2jax prepare` on the command line, and a run that trains from what it wrote."""

import pytest

from f2jax import cli
from f2jax.data.corpus import Corpus
from f2jax.train import loop
from tests import tiny
from tests.data import corpora


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    corpora.make_tokenizer(folder / "tokenizer")
    corpora.write_inputs(folder / "in")
    return folder


def prepare(folder, *options: str) -> int:
    needed = [
        "--input",
        str(folder / "in"),
        "--output",
        str(folder / "corpus"),
        "--tokenizer",
        str(folder / "tokenizer"),
    ]
    return cli.main(["prepare", *needed, *options])


def test_every_option_reaches_the_card(folder, capsys):
    options = "--cap 30 --max-length 9 --validation-share 0.5 --seed 4 --symmetric-share 0.1 --symmetric-sources s t"
    lists = ["--kinds", "x=clustering", "--tasks", "pairs=Find it.", "retrieval=Find.", "--licences", "p*=CC0 1.0"]
    assert prepare(folder, "--no-instructions", *options.split(), *lists) == 0
    card = Corpus(folder / "corpus").card
    assert card["options"] == {
        "max_length": 9,
        "validation_share": 0.5,
        "seed": 4,
        "cap": 30,
        "kinds": ["x=clustering"],
        "curate": None,
        "instructions": {
            "enabled": False,
            "by_name": {"pairs": "Find it.", "retrieval": "Find."},
            "symmetric_share": 0.1,
            "symmetric_sources": ["s", "t"],
            "seed": 4,
        },
    }
    licences = {entry["name"]: entry["licence"] for entry in card["datasets"]}
    assert licences == {"pairs": "CC0 1.0", "colours": None, "../hostile name": None}
    printed = capsys.readouterr().out
    assert "Skipped 1 rows: empty query." in printed and "corpus:" in printed
    assert all(sum(entry["rows"].values()) <= 30 for entry in card["datasets"])


@pytest.mark.parametrize(
    "options,message",
    [
        (["--tasks", "no sentence"], "'no sentence' in --tasks should be NAME=VALUE."),
        (["--kinds", "x=retreival"], "should be SOURCE=KIND"),
        (["--tokeniser", "t"], "did you mean '--tokenizer'?"),
        (["--jobs", "two"], "invalid int value: 'two'"),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, options, message):
    assert prepare(folder, *options) == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_trains_from_a_corpus_as_from_the_files_themselves(tmp_path, capsys):
    """Same rows, tokenizer and seed: the same losses, bit for bit."""
    config = tiny.config(tmp_path, **{"steps": 3, "data.max_length": 32})
    expected = loop.train(config, tmp_path / "files")
    inputs, tokenizer = list(config.data.sources), str(tmp_path / "files/tokenizer")
    options = ["--max-length", "32", "--validation-share", "0.1", "--seed", str(config.seed)]
    tasks = [f"{name}={task}" for name, task in config.data.instructions.items()]
    command = ["prepare", "--input", *inputs, "--output", str(tmp_path / "corpus"), "--tokenizer", tokenizer]
    assert cli.main([*command, *options, "--tasks", *tasks]) == 0
    sources = {"steps": 3, "data.sources": f"('corpus:{tmp_path / 'corpus'}',)"}
    found = loop.train(tiny.config(tmp_path, **sources), tmp_path / "corpus run")
    timed = {"tokens_per_second"}
    assert {k: v for k, v in found.items() if k not in timed} == {k: v for k, v in expected.items() if k not in timed}
