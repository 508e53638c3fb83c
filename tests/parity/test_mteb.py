"""Our model inside mteb: scores against those of the exported model in sentence-transformers, run by mteb itself."""

import functools
import json
import re
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from f2jax import cli
from f2jax.errors import Restart, UserError
from f2jax.inference.embedder import Embedder
from tests import tiny_model

mteb = pytest.importorskip("mteb")
pytest.importorskip("sentence_transformers")
instruct = pytest.importorskip("mteb.models.instruct_wrapper")
codefuse = pytest.importorskip("mteb.models.model_implementations.codefuse_models")
command, encoder, local, prompts, run, selection = (
    pytest.importorskip(f"f2jax.evaluation.{name}")
    for name in ("run", "encoder", "local", "prompts", "runner", "selection")
)
PromptType = encoder.PromptType
pytestmark = pytest.mark.parity

Options = functools.partial(command.EvaluationOptions, baseline=("none",))
REFERENCE = {"instruction_template": "Instruct: {instruction}\nQuery: ", "apply_instruction_to_passages": False}


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> str:
    """A released folder of a tiny model whose vectors of different texts differ much."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model.make_embedder(folder / "tokenizer").save_pretrained(folder / "tiny")
    return str(folder / "tiny")


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """One embedder for all tests of a folder, so that its programs are compiled once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Embedder, "from_pretrained", functools.cache(Embedder.from_pretrained))
        yield


def head(table: pa.Table, rows: int, *columns: str) -> pa.Table:
    """The first rows of each combination of values of the columns."""
    kept, seen = [], {}
    for i, key in enumerate(zip(*(table[column].to_pylist() for column in columns), strict=True)):
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= rows:
            kept.append(i)
    return table.take(kept)


@pytest.fixture(scope="module")
def data(shared_data, tmp_path_factory) -> str:
    """Slices of the six sets: two languages of each, some dozen rows."""
    folder = tmp_path_factory.mktemp("data")

    def write(path: str, table: pa.Table) -> pa.Table:
        (folder / path).parent.mkdir(exist_ok=True)
        pq.write_table(table, folder / path)
        return table

    def of(path: str, column: str, values: list[str]) -> pa.Table:
        table = pq.read_table(shared_data / path)
        return table.filter(pc.is_in(table[column], pa.array(values)))

    write(
        "eval-tatoeba/bitext.parquet", head(of("eval-tatoeba/bitext.parquet", "language", ["deu", "jpn"]), 60, "subset")
    )
    stsb = of("eval-stsb-multi/sts.parquet", "language", ["deu", "zho"])
    write("eval-stsb-multi/sts.parquet", head(stsb, 60, "language", "split"))
    intents = ["card_arrival", "age_limit", "lost_or_stolen_card", "pin_blocked", "edit_personal_details"]
    banking = of("eval-banking77/data.parquet", "label", intents)
    write("eval-banking77/data.parquet", head(banking, 12, "label", "split"))
    write("eval-sib200-dev/data.parquet", of("eval-sib200-dev/data.parquet", "language", ["deu", "ace"]))
    topics = of("sib200-topics/train.parquet", "language", ["deu", "ace"])
    write("sib200-topics/train.parquet", topics)
    for name, languages in (("xquad", ["ara", "deu"]), ("humaneval-x", ["code:rust", "code:python"])):
        corpus = head(of(f"eval-{name}/corpus.parquet", "language", languages), 30, "language")
        write(f"eval-{name}/corpus.parquet", corpus)
        qrels = pq.read_table(shared_data / f"eval-{name}/qrels.parquet")
        queries = pq.read_table(shared_data / f"eval-{name}/queries.parquet")
        asked = head(qrels.filter(pc.is_in(qrels["corpus_id"], corpus["_id"])), 2, "corpus_id")
        write(f"eval-{name}/qrels.parquet", qrels)
        write(f"eval-{name}/queries.parquet", queries.filter(pc.is_in(queries["_id"], asked["query_id"])))
    return str(folder)


@pytest.fixture
def encoded(monkeypatch) -> list[str]:
    """The texts that a model encodes, prompts and all."""
    texts: list[str] = []
    encode = Embedder.encode
    monkeypatch.setattr(Embedder, "encode", lambda self, some, **kw: texts.extend(some) or encode(self, some, **kw))
    return texts


def files_of(output: Path, name: str) -> dict[str, dict]:
    """{folder of experiment, or `.`: content} of all result files of a task."""
    (revision,) = (output / "results").glob("*/*")
    return {
        str(path.parent.relative_to(revision)): json.loads(path.read_text()) for path in revision.rglob(f"{name}.json")
    }


def main_scores(result: dict) -> dict[str, float]:
    return {entry["hf_subset"]: entry["main_score"] for entry in result["scores"]["test"]}


# Parity


@pytest.fixture(scope="module")
def ours(release, data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("ours")
    command.evaluate(Options(str(output), model=release, data=(data,), dims=[64, 16], precisions=["binary"]))
    return output


@pytest.mark.parametrize("dim,folder", [(64, "."), (16, "experiments/embed_dim_16")])
@pytest.mark.parametrize("name", local.TASKS)
def test_scores_are_those_of_sentence_transformers_under_mteb(ours, release, data, name, dim, folder):
    """Normalized after truncation, which mteb leaves to the caller there."""
    instructions = codefuse.F2LLM_v2_80M.loader_kwargs["prompts_dict"]
    original = local.TASKS[name].metadata.adapted_from[0]
    own = {name: instructions[original]} if original in instructions else {}
    peer = instruct.InstructSentenceTransformerModel(
        release, None, prompts_dict=instructions | own, embed_dim=dim, **REFERENCE
    )
    kwargs = {"normalize_embeddings": True, "show_progress_bar": False}
    result = mteb.evaluate(peer, local.TASKS[name](data), cache=None, co2_tracker=False, encode_kwargs=kwargs)
    expected = {entry["hf_subset"]: entry["main_score"] for entry in result.task_results[0].scores["test"]}
    assert main_scores(files_of(ours, name)[folder]) == pytest.approx(expected, abs=1e-3)
    assert len(expected) == len(local.TASKS[name](data).hf_subsets) >= 1


@pytest.mark.parametrize("benchmark", ["english", "code", "german"])
def test_instructions_are_those_of_the_reference_in_mteb(release, benchmark):
    peer = instruct.InstructSentenceTransformerModel(
        release, None, prompts_dict=codefuse.F2LLM_v2_80M.loader_kwargs["prompts_dict"], **REFERENCE
    )
    tasks = selection.select_tasks(benchmark=benchmark)
    ours = encoder.Encoder(None, encoder.empty_meta("f2jax/x"), command.Variant(8), prompts.read_instructions())
    query, document = mteb.types.PromptType.query, mteb.types.PromptType.document
    for task in tasks:
        for kind in (None, query):
            assert ours.prompt(task.metadata, kind) == peer.get_task_instruction(task.metadata, kind), task
        assert ours.prompt(task.metadata, document) == ""
    assert len({ours.prompt(task.metadata, None) for task in tasks}) > 5


# One encoding


def test_a_text_is_encoded_once_for_all_tasks_dimensions_and_precisions(release, data, tmp_path, encoded):
    tasks = ["SIB200.local", "SIB200Clustering.local"]
    command.evaluate(Options(str(tmp_path), model=release, data=(data,), tasks=tasks, dims=["all"]))
    assert len(encoded) == len(set(encoded)) > 200
    folders = set(files_of(tmp_path, tasks[0]))
    dims = {f"experiments/embed_dim_{dim}" for dim in (8, 16, 32)}
    assert folders == {".", *dims, "experiments/output_dtypes_int8", "experiments/output_dtypes_binary"}


def test_a_second_run_encodes_and_scores_nothing(release, data, tmp_path, encoded, monkeypatch):
    options = Options(str(tmp_path), model=release, data=(data,), tasks=["Tatoeba.local"])
    first = command.evaluate(options)
    encoded.clear()
    monkeypatch.setattr(mteb, "evaluate", None)  # would fail
    assert command.evaluate(options) == first
    assert encoded == []


def test_a_result_that_is_lost_or_cut_off_is_scored_again_from_the_same_vectors(release, data, tmp_path, encoded):
    options = Options(str(tmp_path), model=release, data=(data,), tasks=["XQuAD.local"], dims=[64, 8], precisions=[])
    first = command.evaluate(options)
    lost, cut = sorted(tmp_path.glob("results/**/XQuAD.local.json"))
    lost.unlink()
    cut.write_text(cut.read_text()[:100])
    encoded.clear()
    assert command.evaluate(options) == first
    assert encoded == []


def test_new_data_of_a_task_is_scored_again(release, data, tmp_path):
    options = Options(
        str(tmp_path / "out"), model=release, data=(str(tmp_path),), tasks=["STSB.local"], dims=[64], precisions=[]
    )
    path = tmp_path / "eval-stsb-multi/sts.parquet"
    path.parent.mkdir()
    table = pq.read_table(Path(data, "eval-stsb-multi/sts.parquet"))
    pq.write_table(table, path)
    (first,) = command.evaluate(options)
    local.read_parquet.cache_clear()
    flipped = table.set_column(table.schema.get_field_index("score"), "score", pc.subtract(5.0, table["score"]))
    pq.write_table(flipped, path)
    (second,) = command.evaluate(options)
    assert second.value == pytest.approx(-first.value, abs=1e-5)


@pytest.mark.parametrize("name", local.TASKS)
def test_all_texts_of_a_prompt_are_encoded_at_once(data, tmp_path, name):
    calls = []

    class Fake:
        dim = encoder.RANDOM_WIDTH

        def encode(self, texts, **options):
            calls.append(len(texts))
            return encoder.random_encode("", texts)

    cached = encoder.CachedEncode(Fake(), encoder.VectorCache(tmp_path / "x.sqlite"), lambda done: None)
    model = encoder.Encoder(cached, encoder.empty_meta("f2jax/x"), command.Variant(8), prompts.read_instructions())
    task = local.TASKS[name](data)
    model.encode_ahead(task)
    assert len(calls) == (2 if task.metadata.type == "Retrieval" else 1)
    mteb.evaluate(model, task, cache=None, co2_tracker=False, encode_kwargs={"show_progress_bar": False})
    assert len(calls) == (2 if task.metadata.type == "Retrieval" else 1), "nothing was left"


# What is recorded


def test_results_say_all_that_is_needed_to_make_them_again(ours, release):
    embedder = Embedder.from_pretrained(release)
    (folder,) = (ours / "results").glob("*/*")
    assert (folder.parent.name, folder.name) == ("f2jax__tiny", embedder.fingerprint)
    settings = {one["task"]: one for one in map(json.loads, (folder / "settings.jsonl").read_text().splitlines())}
    assert set(settings) == set(local.TASKS)
    common = {"revision": embedder.fingerprint, "dtype": "float32", "max_seq_length": 96, "precision": "float32"}
    ask = "Instruct: Retrieve the most relevant code snippet for the given query.\nQuery: "
    expected = {"task": "HumanEvalX.local", "dim": 64, "prompts": {"query": ask, "document": ""}}
    assert settings["HumanEvalX.local"] == common | expected
    similar = {"text": "Instruct: Retrieve semantically similar text.\nQuery: "}
    assert settings["STSB.local"]["prompts"] == similar
    meta = json.loads((folder / "experiments/output_dtypes_binary/model_meta.json").read_text())
    assert (meta["name"], meta["embed_dim"], meta["max_tokens"]) == ("f2jax/tiny", 64, 96)
    assert meta["experiment_kwargs"] == {"output_dtypes": "binary"}


def test_mteb_itself_reads_the_results(ours):
    cache = mteb.ResultCache(ours)
    found = cache.load_results(load_experiments="match_name", validate_and_filter=False)
    assert {name for model in found.model_results for name in model.task_names} == set(local.TASKS)
    assert len(found.model_results) == 3


# Prompts


def test_own_instructions_go_before_the_texts_and_have_results_of_their_own(release, data, tmp_path, encoded):
    common = {"model": release, "data": (data,), "tasks": ["HumanEvalX.local"], "dims": [64], "precisions": []}
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"template": "{instruction} >> ", "query": "ask", "HumanEvalX.local": "code"}))
    command.evaluate(Options(str(tmp_path / "out"), **common, prompts=str(file)))
    assert any(text.startswith("code >> ") for text in encoded) and not any("Instruct:" in text for text in encoded)
    encoded.clear()
    command.evaluate(Options(str(tmp_path / "out"), **common, prompt={"HumanEvalX.local": "Find it."}))
    assert all(text.startswith("Instruct: Find it.\nQuery: ") for text in encoded), "documents are there already"
    encoded.clear()
    command.evaluate(Options(str(tmp_path / "out"), **common, prompts="none"))
    assert encoded and not any(text.startswith("Instruct") for text in encoded)
    folders = set(files_of(tmp_path / "out", "HumanEvalX.local"))
    assert len(folders) == 3 and "experiments/prompts_none" in folders and "." not in folders


@pytest.mark.parametrize(
    "given,expected",
    [
        ({}, ["Find code.", "", "Detect cheese."]),
        ({"query": "Ask."}, ["Ask.", "", "Detect cheese."]),
        ({"Classification": "Sort.", "document": "Keep."}, ["Find code.", "Keep.", "Sort."]),
        ({"query": "Ask.", "Search": "", "Banking77": "Own.", "Classification": "Sort."}, ["", "", "Own."]),
    ],
)
def test_an_instruction_of_ones_own_comes_before_those_of_the_reference(given, expected):
    """However general it is: a type of task, or the queries of all."""
    known = {"Search": "Find code.", "Banking77": "Detect cheese.", "document": ""}
    own = prompts.Prompts(known | given, given, template="{instruction}")
    model = encoder.Encoder(None, encoder.empty_meta("f2jax/x"), command.Variant(8), own)
    search = SimpleNamespace(name="Search", type="Retrieval", prompt=None)
    banking = SimpleNamespace(name="Banking77", type="Classification", prompt=None)
    asked = [(search, PromptType.query), (search, PromptType.document), (banking, None)]
    assert [model.prompt(*one) for one in asked] == expected


# Baselines and selection


def test_baselines_are_scored_by_the_same_code(release, data, tmp_path):
    options = {"output": str(tmp_path), "model": release, "data": (data,), "dims": [64], "precisions": []}
    options |= {"tasks": ["XQuAD.local", "SIB200.local"]}
    found = command.evaluate(Options(**options, baseline=["untrained", "tfidf", "random"]))
    models = ["f2jax/tiny", "f2jax/tiny-untrained", "f2jax/tfidf", "f2jax/random"]
    assert [score.model for score in found] == 2 * models
    scores = {score.model: score.value for score in found[:4]}
    assert scores.pop("f2jax/tfidf") > 0.5 > max(scores.values()) and len(set(scores.values())) == 3
    assert {score.majority for score in found[:4]} == {None} and {score.majority for score in found[4:]} == {
        round(25 / 99, 6)
    }
    assert command.evaluate(Options(**options, baseline=())) == [score for score in found if "un" not in score.model]


def test_languages_choose_subsets(data):
    tasks = selection.select_tasks(data=[data], languages=["deu"])
    assert {task.metadata.name: task.hf_subsets for task in tasks} == {
        "Tatoeba.local": ["deu-eng"],
        "STSB.local": ["deu"],
        "SIB200.local": ["deu_Latn"],
        "SIB200Clustering.local": ["deu_Latn"],
        "XQuAD.local": ["deu"],
    }


# The 17 benchmarks of the paper, with the numbers of their tasks (recipe 4.1); mteb has 31 of the 32 Chinese ones.
SIZES = {
    "multilingual": 131, "english": 41, "code": 12, "medical": 12, "european": 73, "scandinavian": 28, "indic": 20,
    "german": 19, "french": 25, "korean": 6, "polish": 17, "chinese": 31, "japanese": 28, "dutch": 40, "russian": 23,
    "persian": 52, "vietnamese": 50,
}  # fmt: skip


def test_the_benchmarks_of_the_paper_have_short_names():
    assert {name: len(selection.select_tasks(benchmark=name)) for name in SIZES} == SIZES
    assert list(selection.published.load_published()["benchmarks"]) == list(SIZES)


# What is refused


@pytest.mark.parametrize(
    "argv,complaint",
    [
        (["--tasks", "STSB.local"], "STSB.local is a local task; name the folder of its data with --data."),
        (["--tasks", "cldr-names", "--baseline", "tfidf"], "without other tasks, --data, --benchmark and --baseline."),
        (
            ["--tasks", "CIFAR10Clustering"],
            "There is more than text in CIFAR10Clustering, such as images",
        ),
        (["--tasks", "STSBenchmrk"], "There is no task 'STSBenchmrk'; did you mean 'STSBenchmark'?"),
        (["--benchmark", "germna"], "There is no benchmark 'germna'; did you mean 'german'?"),
        (["--data", "nowhere"], "nowhere/eval-tatoeba/bitext.parquet cannot be read"),
        (["--baseline", "tfidf"], "--baseline needs tasks of --tasks, --benchmark or --data; the built-in ones always"),
        (["--data", ".", "--baseline", "tfdf"], "There is no baseline 'tfdf'; did you mean 'tfidf'?"),
        (["--data", ".", "--baseline", "none", "random"], "--baseline none cannot be combined with another"),
        (["--data", ".", "--cache", "gs://bucket/vectors"], "--cache gs://bucket/vectors should be a local folder."),
        (["--data", ".", "--dims", "half"], "invalid int or all value: 'half'"),
        (["--tasks", "STSBenchmark", "--prompts", "none", "--prompt", "query=x"], "--prompts none cannot be combined"),
    ],
)
def test_a_wrong_option_is_told_in_one_sentence(capsys, tmp_path, argv, complaint):
    assert cli.main(["evaluate", "--model", "m", "--output", str(tmp_path / "out"), *argv]) == 1
    assert complaint in (said := capsys.readouterr().err) and said.count("\n") == 1


def test_prompts_that_cannot_be_used_are_refused(tmp_path):
    for content, complaint in (
        ("{", "is no JSON"),
        ('["a"]', "JSON object"),
        ('{"template": "x"}', "should hold {instruction}"),
        ('{"template": "{instruction} {query}"}', "no braces but {instruction}"),
    ):
        (tmp_path / "p.json").write_text(content)
        with pytest.raises(UserError, match=complaint):
            prompts.read_instructions(str(tmp_path / "p.json"))


@pytest.mark.parametrize(
    "name,hint",
    [("qurey", "did you mean 'query'?"), ("XQuAD.locl", "did you mean 'XQuAD.local'?"), ("#", "give a task, its type")],
)
def test_an_instruction_for_an_unknown_name_is_refused(tmp_path, name, hint):
    (tmp_path / "p.json").write_text(json.dumps({name: "Find it."}))
    complaint = re.escape(f"An instruction is for '{name}', which is not a task or type; {hint}")
    for arguments in ({"given": {name: "Find it."}}, {"path": str(tmp_path / "p.json")}):
        with pytest.raises(UserError, match=complaint):
            prompts.read_instructions(**arguments)


def test_instructions_are_for_tasks_types_and_parts_of_a_task():
    own = dict.fromkeys(("XQuAD.local", "STSBenchmark", "Code1Retrieval", "Retrieval", "query", "document"), "Find it.")
    assert own.items() <= prompts.read_instructions(given=own).instructions.items()


@pytest.mark.parametrize(
    "cause,error,advice",
    [
        (FileNotFoundError("gone"), UserError, ""),
        (RuntimeError("gone"), UserError, ""),  # of datasets, for a data set with a script
        (httpx.ConnectError("gone"), Restart, "; run the same command again"),
    ],
)
def test_a_task_without_data_does_not_stop_the_others(release, data, tmp_path, monkeypatch, cause, error, advice):
    monkeypatch.setattr(local.TASKS["Tatoeba.local"], "load_data", Mock(side_effect=cause))
    options = Options(str(tmp_path), model=release, data=(data,), tasks=["Tatoeba.local", "XQuAD.local"], dims=[8])
    complaint = rf"1 of 2 tasks have no data: Tatoeba\.local \(gone\); the scores of the others are in .*{advice}\.$"
    with pytest.raises(error, match=complaint):
        command.evaluate(options)
    assert files_of(tmp_path, "XQuAD.local")


def test_ctrl_c_says_how_to_go_on(release, data, tmp_path, capsys, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(run.mteb, "evaluate", stop)
    argv = ["evaluate", "--model", release, "--data", data, "--output", str(tmp_path)]
    assert cli.main(argv) == 130
    assert "the same command continues from the results in" in capsys.readouterr().err
