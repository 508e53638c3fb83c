"""The model card says what a run did: read from its config, the data card of its corpus, and its scores."""

import json
from dataclasses import replace

import pytest
import yaml

from f2jax import cli
from f2jax import config as configs
from f2jax.checkpoints import workdir
from f2jax.checkpoints.model_card import NOTHING, RunHistory, TrainingStage, model_meta, render_model_card
from f2jax.checkpoints.package import read_earlier_card
from f2jax.configs import stage2
from f2jax.errors import UserError
from f2jax.evaluation import builtin
from f2jax.model.sizes import size
from f2jax.release.export import read_background, read_scores, read_stages
from tests import tiny, tiny_model

DATASETS = [
    {"name": "webfaq", "kind": "retrieval", "rows": {"train": 1_200}, "languages": {"de": 900, "fr": 300}},
    {"name": "sib", "kind": "clustering", "rows": {"train": 70}, "languages": {"fr": 50, "yor_Latn": 20, "": 7}},
]


def text_of(about: RunHistory) -> str:
    return render_model_card(size("80m"), 1_024, (320, 256, 8), {"query": "Query: "}, about)


def write_run(folder, **fields) -> str:
    """A workdir without weights; `data__sources` stands for the field data.sources."""
    config = stage2.get_config("size=80m,teacher=none")
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    folder.mkdir()
    (folder / "config.json").write_text(configs.to_json(config))
    workdir.write_architecture(folder, size("80m"))
    return str(folder)


@pytest.fixture
def stages(tmp_path) -> tuple[TrainingStage, ...]:
    """A second stage on a prepared corpus, started from a first one on plain files."""
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared/corpus.json").write_text(json.dumps({"datasets": DATASETS}))
    first = write_run(tmp_path / "first", init_from="Qwen/Qwen3-0.6B", data__sources=("/data/raw/*.parquet",))
    second = write_run(
        tmp_path / "second",
        init_from=first,
        teacher__path=str(tmp_path / "big"),
        data__sources=(f"corpus:{tmp_path}/prepared",),
    )
    return read_stages(second)


def test_the_stages_are_told_in_the_order_of_training(stages):
    text = text_of(RunHistory(stages))
    first, second = text.split("### Stage ")[1:]
    assert "started from | Qwen/Qwen3-0.6B" in first and "`*.parquet`" in first and "teacher | none" in first
    assert "started from | first" in second and "teacher | big" in second
    for fact in ("steps | 4 epochs", "peak learning rate 4e-05, cosine", "retrieval 7", "temperature | 0.05"):
        assert fact in second


def test_data_sets_and_languages_are_those_of_the_data_card(stages):
    text = text_of(RunHistory(stages))
    assert "| webfaq | retrieval | 1,200 | 2 |" in text and "| sib | clustering | 70 | 3 |" in text
    assert "the most frequent first: de, fr, yor_Latn." in text
    assert 'language: ["de", "fr"]' in text.split("---")[1], "the hub knows codes alone"


def test_no_path_of_the_machine_stands_in_the_card(stages, tmp_path):
    text = text_of(RunHistory(stages))
    assert str(tmp_path) not in text and "/data" not in text


def test_runs_that_are_gone_or_go_in_a_circle_end_the_history(tmp_path):
    alone = write_run(tmp_path / "alone", init_from=str(tmp_path / "gone"))
    assert len(read_stages(alone)) == 1
    circle = write_run(tmp_path / "circle", init_from=str(tmp_path / "circle"))
    assert len(read_stages(circle)) == 1
    assert read_stages(str(tmp_path)) == ()


def test_scores_of_f2jax_evaluate_are_a_table_by_dimension(tmp_path):
    found = {"cldr-names": {"queries": 9, "dims": {"8": 0.25, "320": 0.5}}, "stdlib-code": {"dims": {"320": 0.125}}}
    (tmp_path / "results.json").write_text(json.dumps({"revision": "r1", "tasks": found}))
    text = text_of(RunHistory(scores=read_scores(tmp_path, "r1")))
    assert "| main score | 8 dims | 320 dims |" in text
    assert "| cldr-names | 25.0% | 50.0% |" in text and "| stdlib-code |  | 12.5% |" in text


def test_scores_are_found_though_another_model_was_scored_since(tmp_path):
    scores = {"queries": 2, "documents": 2, "tfidf": 0.25, "dims": {8: 0.5}}
    for revision in ("r1", "r2"):
        builtin.write_results({"cldr-names": scores}, tmp_path, revision)
    assert read_scores(tmp_path, "r1") == {"cldr-names": {"8": 0.5}}


@pytest.mark.parametrize("content", [{"revision": "r2", "tasks": {}}, {"cldr-names": {"dims": {"8": 0.25}}}])
def test_scores_of_another_model_are_an_error(tmp_path, content):
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="has scores, but not of exactly this model; evaluate what is exported"):
        read_scores(tmp_path, "r1")


@pytest.mark.parametrize(
    "content", [[], {"revision": "r1"}, {"revision": "r1", "tasks": {"a": 1}}, {"revision": "r1", "tasks": {"a": {}}}]
)
def test_scores_of_another_shape_are_an_error(tmp_path, content):
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"(holds|lacks|has)"):
        read_scores(tmp_path, "r1")


@pytest.mark.parametrize("name", ["data", "loss", "optim", "teacher", "init_from"])
def test_a_run_of_another_version_is_an_error_that_names_the_field(embedder_run, name):
    config = json.loads((embedder_run / "config.json").read_text())
    for content, message in (
        ({k: v for k, v in config.items() if k != name}, f"lacks '{name}'"),
        (config | {name: 3}, f"has a '{name}' that is not"),
    ):
        (embedder_run / "config.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=message):
            read_stages(str(embedder_run))


@pytest.fixture
def embedder_run(tmp_path):
    tiny_model.write_workdir(tmp_path / "run", tiny_model.make_embedder(tmp_path / "tokenizer"))
    return tmp_path / "run"


def test_scores_that_are_not_there_are_an_error(tmp_path):
    with pytest.raises(UserError, match="give the --output of f2jax evaluate"):
        read_scores(tmp_path / "nowhere", "r1")


def test_a_package_with_a_golden_set_says_how_to_verify_it():
    assert "f2jax verify" in text_of(RunHistory(golden=True)) and "f2jax verify" not in text_of(NOTHING)


def test_the_licence_is_stated_or_said_to_be_missing():
    assert "license: apache-2.0\n" in text_of(RunHistory(license="apache-2.0")).split("---")[1]
    assert "licence | not stated" in text_of(NOTHING) and "license:" not in text_of(NOTHING)


def test_a_licence_without_an_identifier_keeps_its_name_and_link(tmp_path):
    """The hub takes `license: other` together with these two alone."""
    metadata = "license: other\nlicense_name: qwen-research\nlicense_link: https://example.org/LICENSE"
    (tmp_path / "README.md").write_text(f"---\n{metadata}\ntags: [x]\n---\n\nBest.\n")
    for _ in range(2):  # the second time from a card of f2jax
        about = read_earlier_card(tmp_path)
        text = text_of(about)
        head = yaml.safe_load(text.split("---")[1])
        assert head["license"] == "other" and head["license_name"] == "qwen-research"
        assert head["license_link"] == "https://example.org/LICENSE"
        assert "| licence | [qwen-research](https://example.org/LICENSE) |" in text
        meta = model_meta(size("80m"), "float32", 1_024, "cosine", about)
        assert meta["license"] == "https://example.org/LICENSE", "mteb takes an identifier or an address"
        (tmp_path / "README.md").write_text(text)


@pytest.mark.parametrize(
    "given,license,details",
    [
        ([], "other", {"license_name": "qwen-research"}),
        (["--license", "mit"], "mit", {}),
        (["--license", "other", "--license-name", "Ours"], "other", {"license_name": "Ours"}),
    ],
)
def test_an_export_states_the_licence_that_is_given_or_that_of_the_model(tmp_path, given, license, details):
    tiny_model.make_embedder(tmp_path).save_pretrained(tmp_path / "model")
    card = tmp_path / "model/README.md"
    card.write_text(card.read_text().replace("---\n", "---\nlicense: other\nlicense_name: qwen-research\n", 1))
    assert cli.main(["export", "--model", str(tmp_path / "model"), "--output", str(tmp_path / "out"), *given]) == 0
    about = read_earlier_card(tmp_path / "out")
    assert (about.license, about.license_details) == (license, details)


@pytest.mark.parametrize("given", [["--license", "other"], ["--license-name", "A"], ["--license-link", "https://a"]])
def test_half_of_a_licence_is_refused(capsys, given):
    assert cli.main(["export", "--model", "m", "--output", "o", *given]) == 1
    assert "--license other, --license-name NAME and perhaps --license-link URL go together." in capsys.readouterr().err


BACKGROUND = {
    "summary": "A small model.",
    "teacher": "big (MIT)",
    "licenses": {"b": "CC0", "a": "CC BY 4.0"},
    "limits": ["Short."],
}


def test_what_no_config_says_comes_from_a_file(tmp_path):
    (tmp_path / "about.json").write_text(json.dumps(BACKGROUND))
    text = text_of(RunHistory(background=read_background(tmp_path / "about.json")))
    assert "---\n\nA small model.\n\n| " in text and "trained with f2jax" not in text
    assert "## Limits\n\n- Short.\n\n## Data and licences\n\nTeacher: big (MIT).\n\n" in text
    assert text.index("| a | CC BY 4.0 |") < text.index("| b | CC0 |")


def test_a_package_that_is_exported_again_keeps_its_origin_and_licence_but_not_its_scores(stages, tmp_path):
    (tmp_path / "about.json").write_text(json.dumps(BACKGROUND))
    scores = {"cldr-names": {"320": 0.5}}
    first = RunHistory(stages, scores, "mit", background=read_background(tmp_path / "about.json"))
    (tmp_path / "README.md").write_text(text_of(first))
    meta = model_meta(size("80m"), "float32", 1_024, "cosine", RunHistory(stages))
    (tmp_path / "model_meta.json").write_text(json.dumps(meta))

    earlier = read_earlier_card(tmp_path)
    again = replace(earlier, formats=("gguf",))
    text = text_of(again)
    assert "## Scores" not in text and "gguf/model.gguf" in text
    without_scores = text_of(RunHistory(stages, {}, "mit", ("gguf",), first.background))
    assert sorted(text.split("\n")) == sorted(without_scores.split("\n")), "in another order"
    assert model_meta(size("80m"), "float32", 1_024, "cosine", again) == meta | {"license": "mit"}

    other = text_of(
        RunHistory(
            (), scores, "cc0-1.0", background=replace(first.background, limits=("Long.",)), earlier=earlier.earlier
        )
    )
    assert "license: cc0-1.0" in other and "50.0%" in other and "- Long." in other and "- Short." not in other
    assert other.count("## Limits") == 1 and other.count("### Stage ") == 2


@pytest.mark.parametrize("listed", ["[mit, 'cc-by-4.0']", "\n- mit\n- cc-by-4.0", '\n  - mit\n  - "cc-by-4.0" # data'])
def test_several_licences_of_a_card_are_kept_as_the_name_of_another(tmp_path, listed):
    """The hub takes a list, but other formats and mteb do not."""
    (tmp_path / "README.md").write_text(f"---\nlicense: {listed}\ntags: [x]\n---\n\nBest.\n")
    assert yaml.safe_load((tmp_path / "README.md").read_text().split("---")[1])["license"] == ["mit", "cc-by-4.0"]
    expected = RunHistory(license="other", license_details={"license_name": "mit, cc-by-4.0"})
    assert read_earlier_card(tmp_path) == expected
    text = text_of(expected)
    (tmp_path / "README.md").write_text(text)
    assert read_earlier_card(tmp_path).license_details == expected.license_details


def test_of_the_card_of_another_tool_only_the_licence_is_taken(tmp_path):
    assert read_earlier_card(tmp_path) == NOTHING
    (tmp_path / "README.md").write_text("---\nlicense: 'apache-2.0'\ntags: [x]\n---\n\nBest.\n\n## Training\n\nOurs.\n")
    assert read_earlier_card(tmp_path) == RunHistory(license="apache-2.0")
    (tmp_path / "README.md").write_bytes(b"---\r\nlicense: mit\r\n---\r\nBest.\r\n")
    assert read_earlier_card(tmp_path) == RunHistory(license="mit")
    (tmp_path / "README.md").write_text("---\nlicense:\n- 'mit'  # one\ntags:\n- x\n---\nBest.\n")
    assert read_earlier_card(tmp_path) == RunHistory(license="mit")
    (tmp_path / "README.md").write_bytes(b"no metadata \xff\n---\n[rules](between\n---\nparagraphs")
    assert read_earlier_card(tmp_path) == NOTHING


def test_metadata_that_is_not_yaml_is_refused_with_its_line(tmp_path):
    (tmp_path / "README.md").write_text("---\ntags: [x]\nlicense: [mit\n---\n\nBest.\n")
    with pytest.raises(UserError, match=rf"^The metadata of {tmp_path}/README.md is not YAML, line \d; correct it"):
        read_earlier_card(tmp_path)


def test_mini_in_another_form_keeps_the_licences_of_its_data():
    text = text_of(read_earlier_card(tiny.ROOT / "f2jax/models/mini"))
    assert "license: cc-by-sa-4.0\n" in text and "| afriqa | CC BY 4.0 |" in text and "multilingual-e5-small" in text
    assert "refuse this one" not in text and "## Scores" not in text


def test_the_card_of_mini_has_a_licence_for_each_set_of_its_data(shared_data):
    background = read_background(tiny.ROOT / "configs/mini_card.json")
    trained_on = {path.parent.name for path in shared_data.glob("*/train.parquet")}
    assert len(trained_on) > 20 and trained_on <= background.licenses.keys()


@pytest.mark.parametrize(
    "content,message",
    [
        ({"summary": "A"}, "lacks 'teacher', 'licenses', 'limits'"),
        (BACKGROUND | {"limits": "Short."}, "has a 'limits' that is not a list of strings"),
        (BACKGROUND | {"licences": {}}, "has the field licences; a model card has summary, teacher, licenses, limits"),
    ],
)
def test_such_a_file_of_another_shape_is_an_error(tmp_path, content, message):
    (tmp_path / "about.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_background(tmp_path / "about.json")


@pytest.mark.parametrize(
    "formats,inside,outside",
    [
        ((), [], ["onnx/", "gguf/"]),
        (("onnx", "onnx-int8"), ["onnx/model.onnx"], ["gguf/"]),
        (("onnx-int8", "gguf-q8"), ["onnx/model_quantized.onnx", "gguf/model-q8_0.gguf"], ["model.onnx"]),
        (("gguf",), ["gguf/model.gguf"], ["onnx/"]),
    ],
)
def test_the_ways_to_use_it_are_those_of_the_formats_in_the_package(formats, inside, outside):
    text = text_of(RunHistory(formats=formats))
    assert all(name in text for name in inside) and not any(name in text for name in outside)
    assert all(tool in text for tool in ("SentenceTransformer", "vllm serve", "text-embeddings-router", "from f2jax"))


@pytest.mark.parity
def test_mteb_reads_the_metadata(stages):
    models = pytest.importorskip("mteb.models")
    content = model_meta(size("80m"), "bfloat16", 1_024, "cosine", RunHistory(stages, license="mit"))
    meta = models.ModelMeta(**content)
    assert (meta.n_parameters, meta.embed_dim, meta.max_tokens) == (80_084_288, 320, 1_024)
    assert meta.memory_usage_mb == round(80_084_288 * 2 / 2**20) and meta.license == "mit"
    assert meta.languages == ["yor-Latn"] and meta.training_datasets == {"sib", "webfaq"}
    empty = models.ModelMeta(**model_meta(size("80m"), "float32", 1_024, "dot", NOTHING))
    assert empty.languages is empty.training_datasets is empty.license is None
