"""The prompts that a run releases are those that its data has."""

import json
from pathlib import Path

import pytest

from f2jax.checkpoints.package import read_settings
from f2jax.checkpoints.workdir import write_architecture
from f2jax.data.dataset import build_datasets
from f2jax.data.instructions import Instructions, add_instruction
from f2jax.data.prompts import read_prompts, released_prompts, write_prompts
from f2jax.data.record import Record
from f2jax.data.tokenizer_training import train_sentencepiece
from f2jax.model.sizes import SIZES
from tests.tiny import WORDS

NO, FIND, SORT = "", add_instruction("", "Find the colour."), add_instruction("", "Sort by colour.")
DEMO = {"query": FIND, "document": "", "names": FIND, "kinds": SORT}


@pytest.fixture(scope="module")
def tokenizer():
    texts = [
        f"{prompt}{a} {b}" for prompt in (NO, FIND, SORT, "query: ", "passage: ") for a in WORDS for b in WORDS[:9]
    ]
    return train_sentencepiece(texts, 370, None)


def datasets(tokenizer, instructions=None, **prompts: str):
    """Data sets of ten rows each, {name: text before its queries}."""
    records = [
        Record(f"{prompt}{WORDS[i]} {i}", f"passage: {WORDS[-i]}", source=name)
        for name, prompt in prompts.items()
        for i in range(10)
    ]
    return build_datasets(records, tokenizer, 64, instructions or Instructions(enabled=False))


@pytest.mark.parametrize(
    "configured,data,expected",
    [
        (DEMO, {"own": NO}, {"query": "", "document": ""}),
        (DEMO, {"names": FIND}, {"query": FIND, "document": "", "names": FIND}),
        (DEMO, {"names": FIND, "kinds": SORT, "own": NO}, DEMO),
        (DEMO, {"own": SORT}, {"query": SORT, "document": "", "kinds": SORT}),
        ({"query": FIND, "document": ""}, {"own": SORT}, {"query": SORT, "document": ""}),
        (
            {"query": add_instruction("", "Another task."), "document": ""},
            {"a": FIND, "b": SORT, "c": SORT},
            {"query": add_instruction("", "Another task."), "document": "", "a": FIND, "b": SORT},
        ),
        (
            {"query": "query: ", "document": "passage: "},
            {"own": "query: "},
            {"query": "query: ", "document": "passage: "},
        ),
        ({"query": "query: ", "document": "text: "}, {"own": NO}, {"query": "", "document": ""}),
        ({"query": "", "document": ""}, {"a": FIND, "b": SORT, "c": SORT}, {"query": SORT, "document": "", "a": FIND}),
    ],
)
def test_what_is_released_is_what_the_data_has(tokenizer, configured, data, expected):
    assert released_prompts(configured, datasets(tokenizer, **data), tokenizer) == expected


def test_instructions_that_a_run_adds_or_leaves_out_are_seen_too(tokenizer):
    task = {"own": "Find the colour."}
    added = datasets(tokenizer, Instructions(by_name=task), own=NO)
    left_out = datasets(tokenizer, Instructions(enabled=False, by_name=task), own=NO)
    found = [released_prompts({"query": "", "document": ""}, data, tokenizer)["query"] for data in (added, left_out)]
    assert found == [FIND, ""]


def test_they_are_kept_in_the_workdir_and_what_is_dropped_is_named(tokenizer, tmp_path, caplog):
    assert read_prompts(tmp_path) is None
    write_prompts(tmp_path, DEMO, datasets(tokenizer, own=NO), tokenizer)
    assert (
        read_prompts(tmp_path)
        == {"query": "", "document": ""}
        == json.loads(Path(tmp_path, "prompts.json").read_text())
    )
    assert "no text of the data begins with it: prompts.kinds, prompts.names, prompts.query." in caplog.text


@pytest.mark.parametrize("kept,expected", [(None, DEMO), ({"query": ""}, {"query": ""})])
def test_a_workdir_has_the_prompts_of_its_data_and_else_those_of_its_config(tmp_path, kept, expected):
    architecture = SIZES["nano"]
    write_architecture(tmp_path, architecture)
    sections = {"loss": {"matryoshka": False}, "data": {"max_length": 48}, "prompts": DEMO}
    (tmp_path / "config.json").write_text(json.dumps(sections))
    if kept is not None:
        (tmp_path / "prompts.json").write_text(json.dumps(kept))
    assert read_settings(str(tmp_path), architecture).prompts == expected
