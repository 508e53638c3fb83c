"""`f2jax prepare` on the command line, and a run that trains from what it wrote."""

import json
from dataclasses import asdict

import pytest

from f2jax import cli
from f2jax.data.corpus import PreparedCorpus
from f2jax.data.texts import source_texts
from f2jax.data.tokenizer import load_tokenizer
from f2jax.data.tokenizer_training import train_sentencepiece
from f2jax.prepare.curate import CurationOptions as Curation
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
    assert prepare(folder, "--no-instructions", "--no-curation", *options.split(), *lists) == 0
    card = PreparedCorpus(folder / "corpus").card
    assert card["options"] == {
        "stage": 0,
        "max_length": 9,
        "validation_share": 0.5,
        "seed": 4,
        "cap": 30,
        "keep_texts": True,
        "own_spaces": False,
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
    assert "Skipped 1 row: empty query." in printed and "corpus:" in printed
    assert all(sum(entry["rows"].values()) <= 30 for entry in card["datasets"])


def test_the_steps_that_need_nothing_are_on_by_default(folder):
    assert prepare(folder) == 0
    expected = asdict(Curation(evaluation_sets=("cldr-names", "stdlib-code", "mteb")))
    assert PreparedCorpus(folder / "corpus").card["options"]["curate"] == json.loads(json.dumps(expected))


def test_every_step_of_curation_is_an_option_by_the_name_of_its_field(folder, tmp_path):
    pytest.importorskip("rensa")
    (tmp_path / "eval.txt").write_text("an evaluation text\n")
    changed = {
        "unicode_form": "NFKC",
        "max_characters": 900,
        "too_long": "drop",
        "drop_trivial": False,
        "excluded_sources": ["a*", "b"],
        "evaluation_sets": [f"mine={tmp_path}/eval.txt"],
        "ngram": 9,
        "fewest_letters": 5,
        "identify_language": True,
        "language_confidence": 0.5,
        "drop_other_language": True,
        "exact_duplicates": True,
        "near_duplicates": 0.7,
        "shingle": 3,
        "permutations": 64,
        "band": 2,
    }
    options = []
    for name, value in changed.items():
        option = name.replace("_", "-")
        values = value if isinstance(value, list) else [] if isinstance(value, bool) else [str(value)]
        options += [f"--no-{option}" if value is False else f"--{option}", *values]
    assert prepare(folder, *options) == 0
    assert PreparedCorpus(folder / "corpus").card["options"]["curate"] == changed


def test_a_step_is_off_where_its_list_is_empty_or_it_is_said_so(folder):
    off = "--excluded-sources --evaluation-sets --unicode-form off --no-drop-trivial --no-exact-duplicates"
    assert prepare(folder, *off.split()) == 0
    found = PreparedCorpus(folder / "corpus").card["options"]["curate"]
    assert (found["excluded_sources"], found["evaluation_sets"], found["unicode_form"]) == ([], [], "")
    assert not found["drop_trivial"] and not found["exact_duplicates"]


def test_what_a_default_leaves_out_is_printed_with_its_source_and_count(folder, tmp_path, capsys):
    inputs = [corpora.write(tmp_path / f"{name}.jsonl", corpora.rows(7)) for name in ("sib200-topics", "pairs")]
    needed = ["--output", str(tmp_path / "corpus"), "--tokenizer", str(folder / "tokenizer")]
    assert cli.main(["prepare", "--input", *inputs, *needed, "--skipped", str(tmp_path / "skipped.jsonl")]) == 0
    printed = capsys.readouterr().out
    assert "Skipped 7 rows: source sib200-topics is among the excluded sources (sib200*)." in printed
    assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 7


def test_labelled_data_is_an_input_like_any_other(folder, tmp_path):
    rows = [{"utt": f"{label} {i}", "intent": label} for i in range(6) for label in ("red", "blue")]
    path = corpora.write(tmp_path / "intents.jsonl", rows)
    needed = ["--output", str(tmp_path / "corpus"), "--tokenizer", str(folder / "tokenizer")]
    assert cli.main(["prepare", "--input", f"clustering:{path}#utt,intent", *needed]) == 0
    (entry,) = PreparedCorpus(tmp_path / "corpus").card["datasets"]
    assert (entry["name"], entry["kind"], sum(entry["rows"].values())) == ("intents", "clustering", 12)


@pytest.mark.parametrize(
    "options,message",
    [
        (["--tasks", "no sentence"], "'no sentence' in --tasks should be NAME=VALUE."),
        (["--kinds", "x=retreival"], "'x=retreival' among the kinds should be SOURCE=KIND, with a kind of retrieval,"),
        (["--tokeniser", "t"], "did you mean '--tokenizer'?"),
        (["--jobs", "two"], "invalid int value: 'two'"),
        (["--jobs", "0"], "--jobs 0 should be at least 1."),
        (["--cap", "-1"], "--cap -1 should be at least 0."),
        (["--seed", "-1"], "--seed -1 should be at least 0."),
        (["--max-length", "1"], "--max-length 1 should be at least 2."),
        (["--validation-share", "1"], "--validation-share 1.0 should be from 0 to below 1."),
        (["--validation-share", "-0.1"], "--validation-share -0.1 should be from 0 to below 1."),
        (["--symmetric-share", "1.1"], "--symmetric-share 1.1 should be from 0 to 1."),
        (["--permutations", "0"], "permutations=0 is too small; give at least 1."),
        (["--unicode-form", "NFD"], "unicode_form='NFD' is not a choice"),
        (["--near-duplicates", "0.8", "--no-exact-duplicates"], "near_duplicates needs exact_duplicates"),
        (["--evaluation-sets", "nowhere.jsonl"], "There is no data file nowhere.jsonl; check the path."),
        (["--tokenizer", "/nowhere"], "no tokenizer.json or tokenizer.model in /nowhere; give a folder with one."),
        (["--skipped", f"{__file__}/x.jsonl"], f"{__file__}/x.jsonl cannot be written"),
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
    command = ["prepare", "--no-curation", "--input", *inputs, "--output", str(tmp_path / "corpus")]
    command += ["--tokenizer", tokenizer]
    assert cli.main([*command, *options, "--tasks", *tasks]) == 0
    sources = {"steps": 3, "data.sources": f"('corpus:{tmp_path / 'corpus'}',)"}
    found = loop.train(tiny.config(tmp_path, **sources), tmp_path / "corpus run")
    timed = {"tokens_per_second"}
    assert {k: v for k, v in found.items() if k not in timed} == {k: v for k, v in expected.items() if k not in timed}


@pytest.mark.parametrize("spaces", [[], ["--own-spaces"]])
def test_a_tokenizer_trained_on_the_texts_is_that_of_a_sentencepiece_run_on_them_and_is_kept(
    folder, capsys, monkeypatch, spaces
):
    texts = list(source_texts([str(folder / "in")]))
    oracle = train_sentencepiece(texts, 400, None, seed=3, own_spaces=bool(spaces))
    output = str(folder / f"own{len(spaces)}")
    command = ["prepare", "--input", str(folder / "in"), "--output", output, "--seed", "3", *spaces]
    assert cli.main([*command, "--train-vocab", "400"]) == 0
    corpus = PreparedCorpus(output)
    assert corpus.card["tokenizer"] == oracle.fingerprint()
    monkeypatch.setattr("f2jax.prepare.tokenizer.train_sentencepiece", None)  # it would be called in vain
    assert cli.main([*command, "--train-vocab", "400"]) == 0
    capsys.readouterr()
    assert cli.main(command) == 1
    assert "f2jax: prepare needs either --tokenizer or --train-vocab." in capsys.readouterr().err


def test_a_tokenizer_is_trained_on_texts_alone(tmp_path):
    rows = [{"query": f"{a} river {b} stone"} for a in "abcdefgh" for b in "stuvwxyz"]
    (tmp_path / "alone.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["prepare", "--input", str(tmp_path / "alone.jsonl"), "--output", str(tmp_path / "corpus")]
    assert cli.main([*command, "--train-vocab", "290", "--kinds", "alone=texts"]) == 0
    assert load_tokenizer(tmp_path / "corpus/tokenizer").vocab_size == 290


@pytest.mark.parametrize(
    "options,message",
    [
        (
            ["--no-curation", "--ngram", "9", "--band", "2"],
            "--ngram and --band would change nothing with --no-curation",
        ),
        (["--own-spaces"], "--own-spaces would change nothing without --train-vocab; leave that out."),
    ],
)
def test_options_of_what_is_not_done_are_refused(folder, capsys, options, message):
    assert prepare(folder, *options) == 1
    assert message in capsys.readouterr().err
