"""`prepare --add`: what is there stays byte for byte, what comes is made by the same rules, a kill breaks nothing."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from f2jax.cli import main
from f2jax.data.corpus import PreparedCorpus
from f2jax.errors import UserError
from f2jax.prepare import run
from f2jax.prepare.add import AddedTo
from f2jax.prepare.curate import CurationOptions
from f2jax.prepare.run import prepare
from tests.data import corpora

CURATED = replace(corpora.OPTIONS, curate=CurationOptions(evaluation_sets=()), cap=100)


def content(corpus: Path) -> dict[str, bytes]:
    """All files of the data sets that the card names, and the tokenizer."""
    names = {entry["folder"] for entry in PreparedCorpus(corpus).card["datasets"]}
    paths = [path for path in corpus.rglob("*") if path.is_file()]
    kept = [path for path in paths if {*path.relative_to(corpus).parts} & {*names, "tokenizer"}]
    return {str(path.relative_to(corpus)): path.read_bytes() for path in kept}


def add(folder: Path, *inputs: str, options=CURATED, **how) -> dict:
    before = AddedTo.open(folder / "corpus")
    given = [*inputs], folder / "corpus", before.folder / "tokenizer", before.options(options)
    return prepare(*given, before=before, **how)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with inputs and their corpus. Read only."""
    folder = tmp_path_factory.mktemp("base")
    corpora.make(folder, options=CURATED)
    return folder


@pytest.fixture
def folder(base, tmp_path) -> Path:
    """The corpus alone: the raw files are gone."""
    shutil.copytree(base / "corpus", tmp_path / "corpus")
    return tmp_path


def test_what_is_there_stays_without_its_raw_files_and_what_comes_is_as_prepared_alone(folder):
    new = corpora.write(folder / "new.jsonl", corpora.rows(130, 9))
    before, old = content(folder / "corpus"), PreparedCorpus(folder / "corpus").card
    card = add(folder, new)
    assert card == PreparedCorpus(folder / "corpus").card
    assert card["datasets"][:-1] == old["datasets"] and card["options"] == old["options"]
    assert before.items() <= content(folder / "corpus").items()
    alone = prepare([new], folder / "alone", folder / "corpus/tokenizer", CURATED)
    assert card["datasets"][-1] == alone["datasets"][0]
    assert sum(alone["datasets"][0]["rows"].values()) == 100, "the cap of the corpus holds for what comes too"
    for name in ("skipped", "noted"):
        assert card[name] == Counter(old[name]) + Counter(alone[name])


def test_what_was_added_is_not_read_again(folder):
    new, more = (corpora.write(folder / f"{name}.jsonl", corpora.rows(40, n)) for n, name in enumerate("ab", 20))
    add(folder, new)
    before = content(folder / "corpus")
    card = add(folder, new, more)
    assert [entry["name"] for entry in card["datasets"]] == ["pairs", "colours", "../hostile name", "a", "b"]
    assert before.items() <= content(folder / "corpus").items()
    assert add(folder, new, more) == card


def test_what_is_there_gets_an_index_too_where_it_has_none(folder):
    shutil.rmtree(folder / "corpus/index")
    card = add(folder, corpora.write(folder / "new.jsonl", corpora.rows(30, 9)))
    indexed = [training.is_indexed for training, _ in PreparedCorpus(folder / "corpus").splits()]
    assert indexed == [True] * len(card["datasets"]) == [True] * 4


def test_without_inputs_only_the_index_is_added(folder, capsys):
    """Also to a corpus of an earlier version, whose inputs have other names, and whose fingerprint a run has kept."""
    corpus = folder / "corpus"
    card = PreparedCorpus(corpus).card
    card.pop("inputs")
    (corpus / "corpus.json").write_text(json.dumps(card))
    before = {path: path.read_bytes() for path in corpus.rglob("*") if path.is_file()}
    shutil.rmtree(corpus / "index")
    command = ["prepare", "--add", "--output", str(corpus)]
    assert main([*command, "--cap", "7"]) == 1
    assert "--add without --input takes only --output and --jobs" in capsys.readouterr().err
    assert main(command) == 0
    assert {path: path.read_bytes() for path in corpus.rglob("*") if path.is_file()} == before
    assert main(["prepare", *command[2:], "--tokenizer", "any"]) == 1
    assert "name files or built-in sets with --input" in capsys.readouterr().err


@pytest.mark.parametrize("near", [0.0, 0.8])
def test_of_duplicates_that_which_is_there_stays(tmp_path, near):
    """Whichever has more negatives, which decides among the rows of one call."""
    options = replace(CURATED, curate=replace(CURATED.curate, near_duplicates=near))
    texts = [" ".join(map(str, numbers)) for numbers in np.random.default_rng(0).integers(10**6, size=(30, 9))]
    rows = [{"query": text, "positive": f"answer to {text}"} for text in texts]
    corpora.make(tmp_path, [corpora.write(tmp_path / "old.jsonl", rows[:20])], options)
    before = content(tmp_path / "corpus")
    richer = [row | {"negatives": ["other"]} for row in rows[10:]]
    if near:
        richer = [row | {"query": f"{row['query']}!"} for row in richer]
    card = add(tmp_path, corpora.write(tmp_path / "new.jsonl", [*richer, *richer[-2:]]), options=options)
    assert [sum(entry["rows"].values()) for entry in card["datasets"]] == [20, 10]
    assert sum(card["skipped"].values()) == 12
    assert before.items() <= content(tmp_path / "corpus").items()


@pytest.mark.parametrize("when", ["make", "card"])
def test_an_interruption_leaves_the_corpus_whole(folder, monkeypatch, when):
    new = [corpora.write(folder / f"{name}.jsonl", corpora.rows(40, n)) for n, name in enumerate("ab", 20)]
    before, card = content(folder / "corpus"), PreparedCorpus(folder / "corpus").card

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(*((run, "describe") if when == "make" else (AddedTo, "joined")), stop)
        add(folder, *new)
    assert content(folder / "corpus") == before and PreparedCorpus(folder / "corpus").card == card
    other = corpora.write(folder / "other.jsonl", corpora.rows(40, 20))  # the same rows, which are not in it
    assert add(folder, other)["datasets"][-1]["rows"] == {"train": 27, "validation": 13}
    whole = add(folder, *new)
    assert before.items() <= content(folder / "corpus").items()
    assert [entry["name"] for entry in whole["datasets"][3:]] == ["other", "b"], "a has the rows of other"


def test_the_command_adds(folder, capsys):
    new = corpora.write(folder / "new.jsonl", corpora.rows(30, 9))
    command = ["prepare", "--add", "--input", new, "--output", str(folder / "corpus")]
    for options, message in (
        (["--max-length", "64"], "corpus was prepared with another max_length; leave that option out with --add."),
        (["--no-curation"], "corpus was prepared with another curate; leave that option out with --add."),
        (["--tokenizer", "any"], "With --add, the tokenizer of the corpus is used; leave out --tokenizer"),
    ):
        assert main([*command, *options]) == 1
        assert message in capsys.readouterr().err
    assert main([*command, "--cap", "100"]) == 0, "which is what the corpus has"
    assert "new " in capsys.readouterr().out and len(PreparedCorpus(folder / "corpus").card["datasets"]) == 4


def test_a_corpus_whose_numbers_cannot_be_used_is_refused_before_anything_is_read(folder, monkeypatch):
    """Those of an earlier version have 24 bytes a row."""
    new = corpora.write(folder / "new.jsonl", corpora.rows(30, 9))
    survey = next(path for path in (folder / "corpus/survey").iterdir())
    monkeypatch.setattr(run, "read_input", None)
    summary = json.loads((survey / "survey.json").read_text())
    size = summary["sizes"]["rows"] = 24 * summary["rows"]
    (survey / "rows").write_bytes(bytes(size))
    with pytest.raises(UserError, match=r"corpus lacks a part of survey/ that is needed; prepare it again, then add"):
        add(folder, new)
    (survey / "survey.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match=r"corpus was prepared by an earlier version; prepare it again, then add to it"):
        add(folder, new)


def test_what_cannot_be_added(folder):
    with pytest.raises(UserError, match="already has rows of the source pairs; give the new ones another source"):
        add(folder, corpora.write(folder / "pairs.jsonl", corpora.rows(30, 9)))
    with pytest.raises(UserError, match="No row is left"):
        add(folder, corpora.write(folder / "same.jsonl", corpora.rows(80, 1)))
    with pytest.raises(UserError, match="run `f2jax prepare"):
        AddedTo.open(folder / "nothing")
    path = folder / "corpus/corpus.json"
    path.write_text(json.dumps({name: x for name, x in json.loads(path.read_text()).items() if name != "inputs"}))
    with pytest.raises(UserError, match="comes from an earlier version or from a cluster; prepare it here again"):
        AddedTo.open(folder / "corpus")
