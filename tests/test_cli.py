"""The `f2jax` command: help, a run from training to scores, and one line for each mistake."""

import errno
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from importlib import util
from io import StringIO
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from f2jax import Embedder, __version__, cli
from f2jax.cli import main
from f2jax.errors import Restart
from f2jax.evaluation.builtin import TASKS, RetrievalTask
from tests import tiny, tiny_model

CONFIG = str(tiny.ROOT / "configs/nano.py:stage=2")
GOOD = [{"query": f"red {i}", "positive": f"a red stone {i}", "negative_1": f"a blue river {i}"} for i in range(40)]
BAD = [{"query": "", "positive": "x"}, {"query": " ", "positive": "x"}, {"query": "x", "positive": None}]


def run(capsys, *argv) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `f2jax ARGV`, in this process."""
    capsys.readouterr()
    return main([str(arg) for arg in argv]), *capsys.readouterr()


def subprocess_run(*argv, stdout=subprocess.PIPE, **environment) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "f2jax", *map(str, argv)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(tiny.ROOT)} | environment
    return subprocess.run(command, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


def write_jsonl(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train_arguments(workdir: Path, source: Path, **changes) -> list[str]:
    """A training of one step on one file."""
    values = {"steps": 1, "optim.warmup_steps": 0, "data.validation_share": 0.0, "loss.matryoshka": False}
    values |= {"data.sources": f"('{source}',)", "prompts.query": "Find: ", "tokenizer.train_vocab": 300}
    return ["train", "--config", CONFIG, "--workdir", str(workdir), *tiny.overrides(source.parent, **values | changes)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, int, str]:
    """The workdir of `f2jax train`, its exit code, and what it printed."""
    folder = tmp_path_factory.mktemp("trained")
    source = write_jsonl(folder / "names.jsonl", GOOD + BAD)
    printed = StringIO()
    with redirect_stdout(printed):
        code = main(train_arguments(folder / "run", source))
    return folder / "run", code, printed.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """An exported folder."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model.make_embedder(folder / "tokenizer").save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture
def texts(tmp_path) -> Path:
    (tmp_path / "in.txt").write_text("red stone\nblue river\n\n", encoding="utf-8")
    return tmp_path / "in.txt"


# Help


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]], ids=str)
def test_without_a_command_the_commands_are_listed(capsys, argv):
    code, out, err = run(capsys, *argv)
    assert (code, err) == (0, "")
    assert out.startswith("usage: f2jax COMMAND")
    for command in cli.COMMANDS:
        assert re.search(rf"^  {command} +\w+", out, re.M)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_each_command_has_help(capsys, command):
    code, out, err = run(capsys, command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: f2jax {command}") and run(capsys, "help", command) == (code, out, err)
    options = re.findall(r"^  (--[\w-]+|[A-Z]+)(?:,? .*?)?(?:  +(\S.*)|\n {10,}(\S.*))$", out, re.M)
    assert {name for name, *_ in options} >= set(re.findall(r"--(?!no-)[a-z-]+", out.partition("\n\n")[0]))
    assert options and all(first or second for _, first, second in options), "every option says what it does"
    assert re.search(rf"^example: f2jax {command} \S", out, re.M)


def test_a_command_of_two_words_is_taken_with_either_sign(capsys):
    assert run(capsys, "cache-teacher", "--help") == run(capsys, "cache_teacher", "--help")


def test_the_version(capsys):
    assert run(capsys, "--version") == (0, f"f2jax {__version__}\n", "")


# From training to scores


def test_training_shows_the_rows_it_skipped(trained):
    _, code, printed = trained
    assert code == 0
    assert re.search(r"Skipped 2 rows: .*empty query", printed)
    assert re.search(r"Skipped 1 row: .*empty positive", printed)
    assert re.search(r"^names +retrieval +40 ", printed, re.M)


def test_a_trained_model_is_exported_and_both_encode_alike(trained, capsys, texts, tmp_path):
    workdir, *_ = trained
    code, out, _ = run(capsys, "export", "--model", workdir, "--output", tmp_path / "release")
    assert code == 0 and out.startswith(f"{tmp_path}/release: ") and "64 dimensions, float32" in out
    for name, origin in (("a.npy", workdir), ("b.npy", tmp_path / "release")):
        code, out, _ = run(capsys, "encode", "--model", origin, "--input", texts, "--output", tmp_path / name)
        assert (code, out) == (0, f"{tmp_path}/{name}: 3 vectors of 64 x float32.\n")
    found = np.load(tmp_path / "a.npy")
    np.testing.assert_array_equal(found, np.load(tmp_path / "b.npy"))
    np.testing.assert_array_equal(found, Embedder.from_pretrained(workdir).encode(["red stone", "blue river", ""]))


def test_every_option_of_encode_reaches_the_embedder(model, capsys, tmp_path):
    write_jsonl(tmp_path / "in.jsonl", [{"body": "red stone"}, {"body": "blue river"}])
    argv = ["encode", "--model", model, "--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.parquet"]
    argv += ["--column", "body", "--truncate-dim", 16, "--dtype", "bfloat16", "--batch-size", 1]
    embedder = Embedder.from_pretrained(model, "bfloat16")
    texts = ["red stone", "blue river"]
    for options, prompt in (
        (["--prompt-name", "query"], {"prompt_name": "query"}),
        (["--prompt", "P"], {"prompt": "P"}),
    ):
        code, out, _ = run(capsys, *argv, *options, "--precision", "ubinary")
        assert (code, out) == (0, f"{tmp_path}/out.parquet: 2 vectors of 2 x ubinary.\n")
        table = pq.read_table(tmp_path / "out.parquet")
        expected = embedder.encode(texts, truncate_dim=16, precision="ubinary", batch_size=1, **prompt)
        assert table.to_pydict() == {"text": texts, "embedding": expected.tolist()}


def test_evaluate_prints_the_table_and_writes_the_files(model, capsys, tmp_path, monkeypatch):
    task = RetrievalTask("names", ["Kenia"], ["Kenya", "Togo"], [{0}], ["de"])
    monkeypatch.setitem(TASKS, "names", lambda: task)
    argv = ["evaluate", "--model", model, "--tasks", "names"]
    code, table, _ = run(capsys, *argv)
    assert code == 0 and table.splitlines()[2].startswith("names") and "100.0%" in table
    code, out, _ = run(capsys, *argv, "--output", tmp_path / "results")
    assert (code, out) == (0, f"{table}Table and plot: {tmp_path}/results\n")
    assert (tmp_path / "results/results.txt").read_text() == table
    assert (tmp_path / "results/dimensions.png").exists() and (tmp_path / "results/results.json").exists()


# Mistakes: one line on stderr, exit code 1, no traceback


def complaint(capsys, *argv) -> str:
    code, out, err = run(capsys, *argv)
    assert code == 1 and out == "", (code, out)
    assert err.startswith("f2jax: ") and err.count("\n") == 1 and err.endswith("\n"), err
    return err


NEEDED = ["--model", "m", "--input", "in.txt", "--output", "out.npy"]
TRAIN = ["train", "--config", CONFIG, "--workdir", "w"]


@pytest.mark.parametrize(
    "argv,message",
    [
        (["trian"], "There is no command 'trian'; did you mean 'train'?"),
        (["xyzzy"], f"There is no command 'xyzzy'; choose from {', '.join(sorted(cli.COMMANDS))}"),
        (["--modle"], "There is no command '--modle'"),
        (["encode"], "f2jax: encode needs --model, --input, --output; see f2jax encode --help."),
        (["encode", *NEEDED, "--truncate=8"], "has no option '--truncate'; did you mean '--truncate-dim'?"),
        (["encode", *NEEDED, "--promt", "x"], "f2jax: encode has no option '--promt'; did you mean '--prompt'?"),
        (
            ["encode", *NEEDED, "--prompt", "find", "it"],
            "'it' belongs to no option of f2jax encode; put a value with spaces",
        ),
        ([*TRAIN, "5"], "'5' belongs to no option of f2jax train; put a value with spaces in quotes."),
        (["verify", "a", "b"], "'b' belongs to no option of f2jax verify"),
        (["export", "--model", "m", "--output", "o", "--prec", "x"], "f2jax: export has no option '--prec'"),
        (["encode", *NEEDED, "--truncate-dim", "8x"], "invalid int value: '8x'; see f2jax encode --help."),
        (["train", "--config", CONFIG], "f2jax: train needs --workdir; see f2jax train --help."),
        ([*TRAIN, "--batch-size=8"], "'--batch-size'; fields of the config are set by --config.data.batch_size=VALUE."),
        ([*TRAIN, "--xyzzy=8"], "no option '--xyzzy'; fields of the config are set by --config.NAME=VALUE."),
        (
            ["plan", "--config", "stage2", "--topology", "v5e:2x2", "--serch"],
            "f2jax: plan has no option '--serch'; did you mean '--search'?",
        ),
        (["fine-tune"], "There is no command 'fine-tune'; use f2jax train --config finetune:data=FILE"),
        ([*TRAIN, "--learning_rate", "1"], "fields of the config are set by --config.optim.peak_lr=VALUE."),
        ([*TRAIN, "--seed=1"], "no option '--seed'; fields of the config are set by --config.seed=VALUE."),
    ],
)
def test_a_mistyped_command_line(capsys, argv, message):
    assert message in complaint(capsys, *argv)


@pytest.mark.parametrize("command", cli.COMMANDS)
@pytest.mark.parametrize("argv,said", [([], "needs "), (["--nonsense", "x"], "has no option '--nonsense'")], ids=str)
def test_a_mistake_is_prefixed_once_and_names_the_command(capsys, command, argv, said):
    """An unknown option is named before those that are missing: it may be one of them, mistyped."""
    found = complaint(capsys, command, *argv)
    assert found.startswith(f"f2jax: {command}") and said in found and found.count("f2jax: ") == 1


@pytest.mark.parametrize(
    "config,override,message",
    [
        (CONFIG, "--config.optim.peek_lr=1", "The config has no field 'optim.peek_lr'; did you mean 'optim.peak_lr'?"),
        (
            CONFIG,
            "--config.optim.qqqqqqqqqqq=1",
            "no field 'optim.qqqqqqqqqqq'; choose from optim.b1, optim.b2, optim.clip_norm, ",
        ),
        (CONFIG, "--config.q=1", "no field 'q'; choose from checkpoint.…, data.…, epochs, "),
        (CONFIG, "--config.steps=many", "steps"),
        (CONFIG.replace("stage", "stagee"), "--config.seed=1", "no option 'stagee'; did you mean 'stage'?"),
        ("finetune:faq.csv", "--config.seed=1", "option 'faq.csv' has no value; write NAME=VALUE, of data, model, "),
        ("nothing.py", "--config.seed=1", "There is no config file nothing.py"),
    ],
)
def test_a_config_that_is_wrong(capsys, tmp_path, config, override, message):
    found = complaint(capsys, "train", "--config", config, "--workdir", tmp_path / "run", override)
    assert message in found
    assert not (tmp_path / "run").exists()


def bad_source(folder: Path, kind: str) -> Path:
    """A data file that cannot be trained on."""
    path = folder / ("bad.jsonl" if kind in ("all rows bad", "a folder", "not readable") else "bad.parquet")
    if kind == "all rows bad":
        write_jsonl(path, BAD)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "not readable":
        write_jsonl(path, GOOD).chmod(0)
    elif kind == "lacks a column":
        pq.write_table(pa.table({"Frage": ["a"], "passage": ["b"]}), path)
    elif kind == "cut short":
        pq.write_table(pa.table({"query": ["a"] * 50, "passage": ["b"] * 50}), path)
        path.write_bytes(path.read_bytes()[:200])
    return path


@pytest.mark.parametrize(
    "kind,message",
    [
        ("missing", r"There is no data file \S+/bad\.parquet; check the path\."),
        ("a folder", r"bad\.jsonl"),
        ("not readable", r"bad\.jsonl cannot be \w+.*Permission denied"),
        ("lacks a column", r"bad\.parquet has no column query; it has Frage, passage: rename one .*query=COLUMN\)\."),
        ("cut short", r"bad\.parquet is \S*.*cut short or no parquet file"),
        ("all rows bad", r"bad\.jsonl has no usable row \(.*2 .*empty query.*1 .*empty positive"),
    ],
)
def test_data_that_cannot_be_trained_on(capsys, tmp_path, kind, message):
    if kind == "not readable" and os.geteuid() == 0:
        pytest.skip("root may read every file")
    argv = train_arguments(tmp_path / "run", bad_source(tmp_path, kind))
    assert re.search(message, complaint(capsys, *argv))


def test_a_tokenizer_that_does_not_fit_the_model_to_train(capsys, tmp_path):
    source = write_jsonl(
        tmp_path / "names.jsonl", [{"query": f"word{i}", "passage": f"{i * i} words"} for i in range(500)]
    )
    argv = train_arguments(tmp_path / "run", source, **{"tokenizer.train_vocab": 700})
    assert "has ids up to 699, but the model's token table has 512 rows" in complaint(capsys, *argv)


def test_a_workdir_that_is_a_file(capsys, tmp_path):
    source = write_jsonl(tmp_path / "names.jsonl", GOOD)
    found = complaint(capsys, *train_arguments(source, source))
    assert "names.jsonl is a file; name a folder." in found


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"--truncate-dim": 0}, "truncate_dim=0 is out of range; this model has 1 to 64 dimensions."),
        ({"--truncate-dim": 65}, "truncate_dim=65 is out of range; this model has 1 to 64 dimensions."),
        ({"--truncate-dim": -8}, "truncate_dim=-8 is out of range; this model has 1 to 64 dimensions."),
        ({"--batch-size": 0}, "batch_size=0 should be at least 1."),
        ({"--precision": "int4"}, "precision='int4' is not a choice; did you mean 'int8'?"),
        ({"--prompt-name": "qurey"}, "The model has no prompt named 'qurey'; did you mean 'query'?"),
        ({"--dtype": "float16"}, "dtype='float16' is not a choice; did you mean 'bfloat16'?"),
        ({"--input": "nothing.txt"}, "There is no file nothing.txt; check the path."),
        ({"--input": "/"}, "/ is not a known kind of file; data files end in .parquet,"),
        ({"--output": "out.csv"}, "out.csv should end in .npy or .parquet."),
        ({"--model": "nowhere"}, "There is no model folder nowhere; give a folder, a gs:// path, a hub id"),
        ({"--model": "/"}, "config.json; check the path."),
    ],
    ids=str,
)  # fmt: skip
def test_encode_with_a_wrong_option(capsys, model, texts, tmp_path, changes, message):
    options = {"--model": model, "--input": texts, "--output": tmp_path / "out.npy"} | changes
    found = complaint(capsys, "encode", *[f"{name}={value}" for name, value in options.items()])
    assert message in found
    assert not (tmp_path / "out.npy").exists()


def test_encode_with_a_file_of_the_wrong_shape(capsys, model, tmp_path):
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "in.parquet")
    write_jsonl(tmp_path / "in.jsonl", [{"text": "a"}, {"body": "b"}])
    argv = ["encode", "--model", model, "--output", tmp_path / "out.npy", "--input"]
    assert "has no column 'text'; it has body. Choose one with --column." in complaint(
        capsys, *argv, tmp_path / "in.parquet"
    )
    assert "in.jsonl: row 2 has no text in 'text'; fix it or choose another --column." in complaint(
        capsys, *argv, tmp_path / "in.jsonl"
    )


def test_a_tokenizer_that_does_not_fit_the_model_to_encode_with(capsys, model, texts, tmp_path):
    folder = tmp_path / "model"
    embedder = Embedder.from_pretrained(model)
    embedder.save_pretrained(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": 700, "content": "<new>"})
    tokenizer["model"]["vocab"]["<new>"] = 700
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    for command, *rest in (["encode", "--input", texts, "--output", "out.npy"], ["export", "--output", tmp_path / "x"]):
        found = complaint(capsys, command, "--model", folder, *rest)
        assert "has ids up to 700, but the model's token table has 512 rows" in found


def test_an_unknown_task_and_an_output_that_cannot_be_written(capsys, model, tmp_path):
    (tmp_path / "file").touch()
    found = complaint(capsys, "evaluate", "--model", model, "--tasks", "stdlib-cod")
    assert "There is no task 'stdlib-cod'; did you mean 'stdlib-code'?" in found
    found = complaint(capsys, "export", "--model", model, "--output", tmp_path / "file")
    assert f"{tmp_path}/file is a file; name a folder." in found


@pytest.mark.parametrize(
    "argv,expected",
    [
        (["evaluate"], "f2jax: evaluate needs --model."),
        (
            ["evaluate", "--model", "m", "--dims", "8"],
            "--dims does not apply to the built-in tasks; leave it out",
        ),
        (["evaluate", "--model", "m", "--prompt", "query=Find it."], "--prompt does not apply to the built-in tasks"),
        (
            ["evaluate", "--model", "m", "--benchmark", "english"],
            "f2jax: evaluate on these tasks needs mteb; install with",
        ),
        (
            ["evaluate", "--model", "m", "--tasks", "STS12", "--output", "o"],
            "all others need pip install 'f2jax[mteb]'",
        ),
        (
            ["report", "scores", "--output", "page"],
            "f2jax: report needs mteb; install with pip install 'f2jax[mteb]'",
        ),
    ],
)
def test_what_an_evaluation_lacks_is_told_before_a_model_is_looked_for(capsys, monkeypatch, argv, expected):
    find_spec = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "mteb" else find_spec(name))
    assert expected in complaint(capsys, *argv)


def test_an_interruption_is_one_line_and_exit_code_130(capsys, monkeypatch):
    def stop(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr("f2jax.commands.encode.main", stop)
    assert run(capsys, "encode") == (130, "", "f2jax: interrupted.\n")


# In a process of its own


def test_python_m_f2jax_works():
    done = subprocess_run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: f2jax COMMAND")


def test_a_mistake_leaves_the_process_with_one_line(model, texts, tmp_path):
    """No traceback and no chatter of the libraries beside the line."""
    argv = ["encode", "--model", model, "--input", texts, "--output", tmp_path / "out.npy"]
    done = subprocess_run(*argv, "--truncate-dim", 0)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "f2jax: truncate_dim=0 is out of range; this model has 1 to 64 dimensions.\n"


def test_a_mistake_in_training_leaves_the_process_with_one_line(tmp_path):
    done = subprocess_run(*train_arguments(tmp_path / "run", bad_source(tmp_path, "all rows bad")))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and "has no usable row" in done.stderr


@pytest.mark.parametrize("argv", [["--help"], ["encode", "--help"]], ids=str)
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_reader_that_has_gone_is_no_traceback(argv, unbuffered):
    """As after `f2jax --help | head -1`."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess_run(*argv, PYTHONUNBUFFERED=unbuffered, stdout=write)
    os.close(write)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConnectionResetError("reset by peer"), 75, "f2jax: the network failed (reset by peer); run the same command"),
        (TimeoutError("timed out"), 75, "f2jax: the network failed (timed out); run the same command again.\n"),
        (
            OSError(errno.ESTALE, "Stale file handle", "x"),
            75,
            "f2jax: x: Stale file handle; run the same command again.\n",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "x"),
            1,
            "f2jax: x: No space left on device; fix that and run",
        ),
        (OSError("9 requested and 4 written"), 1, "f2jax: the disk is full (9 requested and 4 written); fix that"),
        (OSError("tea was requested and refused"), 1, "f2jax: tea was requested and refused; fix that"),
        (Restart("The others are gone; start again."), 75, "f2jax: The others are gone; start again.\n"),
        (RuntimeError("a bug"), 70, "Traceback (most recent call last):\n"),
        (ValueError("RESOURCE_EXHAUSTED: No space left on device"), 70, "Traceback (most recent call last):\n"),
    ],
)
def test_what_a_restart_may_fix_has_other_exit_codes_than_a_user_error(monkeypatch, capsys, error, code, message):
    def fail(argv):
        raise error

    monkeypatch.setattr("f2jax.commands.encode.main", fail)
    found, _, err = run(capsys, "encode")
    assert found == code
    assert err.startswith(message)


def test_a_computation_that_does_not_fit_the_device_is_a_mistake_and_no_crash(monkeypatch, capsys):
    """A crash would be tried again, ten times on a slice, and run out of memory each time."""
    monkeypatch.setattr("f2jax.commands.encode.main", lambda argv: jax.numpy.zeros(1 << 46))
    code, _, err = run(capsys, "encode")
    assert code == 1 and err.count("\n") == 1
    assert re.match(r"f2jax: the device has too little memory \(Out of memory .*\); .* model.chunk_rows=8, then", err)
