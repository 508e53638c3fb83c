"""What is there already, and was not written by the command that is run, is not overwritten; and odd options."""

import pytest

from tests import tiny
from tests.faults.conftest import contents

TRAIN = ("train", "--config", str(tiny.ROOT / "configs/nano.py:stage=2"), "--workdir")
# Each command up to its output, which comes last.
TO_FOLDER = {
    "train": TRAIN,
    "prepare": ("prepare", "--input", "rows.jsonl", "--tokenizer", "tokenizer", "--output"),
    "export": ("export", "--model", "model", "--output"),
    "prune": ("prune", "--model", "model", "--layers", "1", "--layers-by", "first", "--output"),
    "merge": ("merge", "model", "model", "--output"),
    "mine": ("mine", "--input", "rows.jsonl", "--model", "model", "--output"),
    "cache_teacher": ("cache_teacher", "--corpus", "corpus", "--model", "model", "--output"),
}
TO_FILE = {
    "encode": ("encode", "--model", "model", "--input", "texts.txt", "--output"),
    "search": ("search", "--vectors", "documents.npy", "--queries", "queries.npy", "--output"),
}


@pytest.mark.parametrize("output", ["notes", "texts.txt", "texts.txt/inside"])
@pytest.mark.parametrize("command", TO_FOLDER)
def test_a_folder_of_something_else_is_left_as_it_is(inputs, refused, command, output):
    (inputs / "notes").mkdir()
    for name in ("README.md", "config.json", "model.safetensors", "info.json", "corpus.json"):
        (inputs / "notes" / name).write_text("notes that nobody else has")
    arguments = [*TO_FOLDER[command], output, *(tiny.overrides(inputs) if command == "train" else [])]
    assert output.split("/")[0] in refused(*arguments)


@pytest.mark.parametrize("output", ["notes", "texts.txt/out.npy", "nowhere/\0.npy", "x" * 300 + ".npy", "out.docx"])
@pytest.mark.parametrize("command", TO_FILE)
def test_an_output_that_cannot_be_written(inputs, run, command, output):
    (inputs / "notes").mkdir()
    code, _ = run(*TO_FILE[command], output)
    assert code or command == "search", "search writes lines into a file of any name"


OPTIONS = [
    (*TO_FILE["encode"], "out.npy", "--batch-size", "0"),
    (*TO_FILE["encode"], "out.npy", "--batch-size", "-3"),
    (*TO_FILE["encode"], "out.npy", "--truncate-dim", "0"),
    (*TO_FILE["encode"], "out.npy", "--truncate-dim", "65"),
    (*TO_FILE["encode"], "out.npy", "--truncate-dim", "1e3"),
    (*TO_FILE["encode"], "out.npy", "--prompt-name", "nobody"),
    (*TO_FILE["encode"], "out.npy", "--precision", "int4"),
    (*TO_FILE["encode"], "out.npy", "--fsdp", "0"),
    (*TO_FILE["encode"], "out.npy", "--fsdp", "3"),
    (*TO_FILE["encode"], "out.npy", "--column", "body", "--input", "rows.jsonl"),
    (*TO_FILE["search"], "hits.jsonl", "--k", "0"),
    (*TO_FILE["search"], "hits.jsonl", "--dims", "0"),
    (*TO_FILE["search"], "hits.jsonl", "--dims", "65"),
    (*TO_FILE["search"], "hits.jsonl", "--candidates", "-1"),
    (*TO_FILE["search"], "hits.jsonl", "--precision", "int4"),
    (*TO_FILE["search"], "hits.jsonl", "--approximate", "2"),
    (*TO_FOLDER["mine"], "out", "--top", "0"),
    (*TO_FOLDER["mine"], "out", "--skip", "-1"),
    (*TO_FOLDER["mine"], "out", "--keep", "0"),
    (*TO_FOLDER["mine"], "out", "--max-score", "nan"),
    (*TO_FOLDER["mine"], "out", "--relative", "x"),
    (*TO_FOLDER["mine"], "out", "--only", "retreival"),
    (*TO_FOLDER["prune"], "out", "--width", "-1"),
    (*TO_FOLDER["prune"], "out", "--width", "65"),
    (*TO_FOLDER["prune"], "out", "--layers", "3"),
    (*TO_FOLDER["prune"], "out", "--mlp", "161"),
    (*TO_FOLDER["prune"], "out", "--size", "9t"),
    (*TO_FOLDER["prune"], "out", "--keep-layers", "5"),
    (*TO_FOLDER["merge"], "out", "--weights", "1"),
    (*TO_FOLDER["merge"], "out", "--weights", "nan", "1"),
    (*TO_FOLDER["merge"], "out", "--weights", "0", "0"),
    (*TO_FOLDER["merge"], "out", "--decay", "-1"),
    (*TO_FOLDER["merge"], "out", "--last", "0"),
    (*TO_FOLDER["merge"], "out", "--method", "sum"),
    (*TO_FOLDER["export"], "out", "--format", "pickle"),
    (*TO_FOLDER["export"], "out", "--truncate-layers", "3"),
    (*TO_FOLDER["export"], "out", "--table-rank", "-4"),
    (*TO_FOLDER["export"], "out", "--scores", "texts.txt"),
    (*TO_FOLDER["cache_teacher"], "out", "--batch-size", "0"),
    (*TO_FOLDER["cache_teacher"], "out", "--width", "-1"),
    (*TO_FOLDER["cache_teacher"], "out", "--width", "65"),
    ("verify", "notes"),
    ("verify", "texts.txt"),
    ("report", "nowhere", "--output", "page"),
    ("report", "texts.txt", "--output", "page"),
    ("evaluate", "--model", "model", "--tasks", "nothing"),
    ("evaluate", "--model", "model", "--tasks", "cldr-names", "--dims", "0"),
    ("evaluate", "--model", "model", "--data", "nowhere"),
    ("plan", "--config", "stage2:size=80m", "--topology", "v99:2x2"),
    ("plan", "--config", "stage2:size=80m", "--topology", "v5e:0x2"),
    ("plan", "--config", "stage2:size=80m", "--topology", "v5e"),
    ("start", "--corpus", "nowhere", "--teacher-vectors", "x", "--output", "out"),
    ("start", "--corpus", "corpus", "--teacher-vectors", "texts.txt", "--output", "out"),
]


@pytest.mark.parametrize("arguments", OPTIONS, ids=lambda arguments: f"{arguments[0]} {' '.join(arguments[-2:])}")
def test_an_option_out_of_range_begins_nothing(inputs, refused, arguments):
    before = contents(inputs).keys()
    refused(*arguments)
    assert contents(inputs).keys() == before


CONFIG = {
    "steps": ["-1", "1.5", "x", "None"],
    "data.batch_size": ["0", "-2", "7.5"],
    "data.row_length": ["0", "1"],
    "data.max_length": ["0", "-1"],
    "data.validation_share": ["1", "-0.1", "nan"],
    "data.sources": ["()", "('nowhere.jsonl',)", "('tokenizer/tokenizer.model',)", "3", "(3,)"],
    "data.negatives.retrieval": ["-1"],
    "optim.peak_lr": ["nan", "-1.0", "inf", "'a'"],
    "optim.warmup_steps": ["-1", "99"],
    "optim.clip_norm": ["-1.0"],
    "optim.schedule": ["'zigzag'"],
    "loss.temperature": ["0.0", "-1.0", "nan"],
    "loss.matryoshka_min": ["0", "-1"],
    "model.size": ["'9t'", "''", "None"],
    "model.dtype": ["'float8'", "'complex64'"],
    "model.remat": ["'some'"],
    "model.chunk_rows": ["-1"],
    "mesh.fsdp": ["0", "3", "-2"],
    "tokenizer.train_vocab": ["3", "-1", "999999"],
    "checkpoint.every": ["0", "-1"],
    "checkpoint.keep_last": ["0", "-1"],
    "log.every": ["0", "-1"],
    "init_from": ["'nowhere'", "'texts.txt'", "'tokenizer'"],
    "teacher.path": ["'nowhere'", "'tokenizer'"],
    "teacher.cache": ["'nowhere'", "'corpus'"],
    "nosuch": ["1"],
}


@pytest.mark.parametrize("field,value", [(field, value) for field, values in CONFIG.items() for value in values])
def test_a_config_with_an_odd_value(inputs, refused, field, value):
    options = tiny.overrides(inputs, **{"optim.schedule": "cosine", field: value})
    refused(*TRAIN, "new", *options)
    assert not (inputs / "new/checkpoints").exists()
