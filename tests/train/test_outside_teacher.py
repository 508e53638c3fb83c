"""Vectors of another tool become a cache: matched by text, checked, centred, reduced, and shared in bitext."""

import json
import shutil

import numpy as np
import pytest

from f2jax.cli import main
from f2jax.data.corpus import PreparedCorpus, Reader
from f2jax.data.record import stable_id
from f2jax.data.teacher_vectors import TeacherVectors, pieces, read_info
from f2jax.train.outside_teacher import from_file
from tests.data import corpora
from tests.data.test_original_texts import bitext


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus of three data sets, one of them bitext, and the list of its texts. Read only."""
    folder = tmp_path_factory.mktemp("outside")
    first, second, _, more = corpora.write_inputs(folder / "in")
    pairs = [bitext(f"{word} {i}", "deu", f"word {i}", "eng", source="bitext") for i, word in enumerate("abc" * 5)]
    corpora.make(folder, [first, second, more, corpora.write(folder / "in/bitext.jsonl", pairs)])
    assert main(["cache_teacher", "--corpus", str(folder / "corpus"), "--list-texts", str(folder / "t.jsonl")]) == 0
    return folder


@pytest.fixture(scope="module")
def corpus(folder):
    return PreparedCorpus(folder / "corpus")


def listed(path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def vector(text: str, width: int = 6) -> np.ndarray:
    """What the teacher of these tests makes of a text, of length 1 and with a mean that is not 0."""
    v = np.random.default_rng(stable_id(text)).normal(size=width) * np.arange(width, 0, -1) + 3
    return (v / np.linalg.norm(v)).astype(np.float32)


def cache(folder, output, texts, *options, vectors=None, scale=1.0) -> int:
    """Runs the command on the vectors of some texts."""
    lines = [json.dumps({"text": text}) for text in texts]
    output.with_suffix(".jsonl").write_text("\n".join(lines) + "\n")
    vectors = np.array([vector(text) * scale for text in texts]) if vectors is None else vectors
    np.save(output.with_suffix(".npy"), vectors)
    files = ["--vectors", str(output.with_suffix(".npy")), "--texts", str(output.with_suffix(".jsonl"))]
    how = [*files, "--output", str(output), "--store", "float32", *options]
    return main(["cache_teacher", "--corpus", str(folder / "corpus"), *how])


def stored(corpus, output) -> np.ndarray:
    """All vectors, in the order of the corpus."""
    vectors = TeacherVectors(output, corpus)
    return np.concatenate(
        [vectors.read(piece.entry, piece.part, np.arange(piece.start, piece.stop)) for piece in pieces(output, corpus)]
    )


def originals(folder, corpus) -> list[str]:
    """The original text of each text of the corpus, found by its tokens among all texts, with and without a task."""
    from f2jax.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(corpus.tokenizer_folder)
    texts = listed(folder / "t.jsonl")
    written = {f"Instruct: {corpora.TASK}\nQuery: {text}": text for text in texts} | {text: text for text in texts}
    by_tokens = dict(zip(map(tuple, tokenizer.encode(list(written), 32)), written.values(), strict=True))
    return [by_tokens[tuple(ids)] for piece in pieces("", corpus) for ids in piece.tokens(Reader())]


def test_rows_are_found_by_text_in_any_order_among_any_others(folder, corpus, tmp_path):
    """A query has the vector of its text without the instruction that the corpus put before it."""
    texts = listed(folder / "t.jsonl")
    assert not any(text.startswith("Instruct: ") for text in texts) and len(set(texts)) == len(texts)
    shuffled = np.random.default_rng(0).permutation(["not in the corpus", *texts, texts[0], "nor is this"]).tolist()
    assert cache(folder, tmp_path / "v", shuffled) == 0
    np.testing.assert_array_equal(stored(corpus, tmp_path / "v"), [vector(text) for text in originals(folder, corpus)])
    info = read_info(tmp_path / "v")
    assert (info.width, info.unit, info.centered, info.reduced) == (6, True, False, "")


def test_raw_vectors_are_known_by_their_length(folder, tmp_path):
    assert cache(folder, tmp_path / "v", listed(folder / "t.jsonl"), scale=3) == 0
    assert not read_info(tmp_path / "v").unit


def test_principal_components_are_those_of_the_distinct_texts(folder, corpus, tmp_path, capsys):
    """NumPy's SVD of one vector for each distinct text, up to the sign of each axis."""
    texts = listed(folder / "t.jsonl")
    assert cache(folder, tmp_path / "v", [*texts, "another"], "--width", "4", "--reduce", "pca") == 0
    x_ie = np.array([vector(text) for text in texts], np.float64)
    _, s_e, vt_ee = np.linalg.svd(x_ie - x_ie.mean(0), full_matrices=False)
    all_ie = np.array([vector(text) for text in originals(folder, corpus)])
    expected_ie = (all_ie - x_ie.mean(0)) @ vt_ee[:4].T
    found_ie = stored(corpus, tmp_path / "v")
    np.testing.assert_allclose(found_ie, expected_ie * np.sign((found_ie * expected_ie).sum(0)), atol=1e-5)
    info = read_info(tmp_path / "v")
    assert info.explained == pytest.approx((s_e[:4] ** 2).sum() / (s_e**2).sum(), abs=1e-4)
    assert (info.width, info.centered, info.reduced, info.unit) == (4, True, "pca", True)
    assert f"components with {info.explained:.1%} of the variance" in capsys.readouterr().out


@pytest.mark.parametrize("whiten", ["0.5", "1"])
def test_whitened_components_vary_by_a_power_of_their_deviations(folder, corpus, tmp_path, capsys, whiten):
    texts = listed(folder / "t.jsonl")
    for name, options in (("v", ["--whiten", whiten]), ("plain", [])):
        assert cache(folder, tmp_path / name, texts, "--width", "4", "--reduce", "pca", *options) == 0
    x_ie = np.array([vector(text) for text in texts], np.float64)
    s_e = np.linalg.svd(x_ie - x_ie.mean(0), compute_uv=False)[:4]
    expected_ie = stored(corpus, tmp_path / "plain") * (s_e / s_e[0]) ** -float(whiten)
    np.testing.assert_allclose(stored(corpus, tmp_path / "v"), expected_ie, rtol=1e-4, atol=1e-5)
    assert read_info(tmp_path / "v").whitened == float(whiten)
    assert f"whitened by {whiten}" in capsys.readouterr().out


def test_vectors_can_be_reduced_as_others_were(folder, corpus, tmp_path, capsys):
    """A text has the same vector, whatever other texts there are."""
    texts, how = listed(folder / "t.jsonl"), ["--width", "4", "--reduce", "pca", "--whiten", "0.5"]
    assert cache(folder, tmp_path / "v", texts, *how) == 0
    other = np.array([vector(text + " and more") for text in texts])
    assert cache(folder, tmp_path / "again", texts, "--like", str(tmp_path / "v"), vectors=other) == 0
    assert "less their mean, components of other vectors, whitened by 0.5" in capsys.readouterr().out
    x_ie = np.array([vector(text) for text in texts], np.float64)
    _, s_e, vt_ee = np.linalg.svd(x_ie - x_ie.mean(0), full_matrices=False)
    all_ie = np.array([vector(text + " and more") for text in originals(folder, corpus)])
    expected_ie = (all_ie - x_ie.mean(0)) @ vt_ee[:4].T * (s_e[:4] / s_e[0]) ** -0.5
    found_ie = stored(corpus, tmp_path / "again")
    np.testing.assert_allclose(found_ie, expected_ie * np.sign((found_ie * expected_ie).sum(0)), atol=1e-4)
    info = read_info(tmp_path / "again")
    assert (info.width, info.centered, info.reduced, info.whitened) == (4, True, "like", 0.5)
    assert cache(folder, tmp_path / "third", texts, "--like", str(tmp_path / "again")) == 0
    np.testing.assert_array_equal(stored(corpus, tmp_path / "third"), stored(corpus, tmp_path / "v"))


@pytest.mark.parametrize(
    "options,message",
    [
        (["--like", "{v}", "--width", "3"], "--like {v} says how vectors are reduced; leave out --width"),
        (["--like", "{all}"], "{all}/components.npz is missing; f2jax cache-teacher writes it with --reduce pca."),
        (["--like", "{damaged}"], "{damaged}/components.npz is damaged"),
        (["--like", "{v}"], "--like {v} is for vectors of 6 dimensions; "),
    ],
)
def test_vectors_that_others_cannot_be_reduced_like_are_refused(folder, tmp_path, capsys, options, message):
    texts = listed(folder / "t.jsonl")
    places = {name: tmp_path / name for name in ("v", "all", "damaged")}
    assert cache(folder, places["v"], texts, "--width", "4", "--reduce", "pca") == 0
    assert cache(folder, places["all"], texts) == 0
    shutil.copytree(places["v"], places["damaged"])
    (places["damaged"] / "components.npz").write_bytes(b"PK")
    narrow = np.array([vector(text, 5) for text in texts])
    vectors = narrow if "6 dimensions" in message else None
    assert cache(folder, tmp_path / "w", texts, *(x.format(**places) for x in options), vectors=vectors) == 1
    assert message.format(**places) in capsys.readouterr().err


def test_centred_vectors_lack_the_mean_of_the_distinct_texts(folder, corpus, tmp_path):
    texts = listed(folder / "t.jsonl")
    assert cache(folder, tmp_path / "v", texts, "--width", "4", "--reduce", "first", "--center") == 0
    mean_e = np.mean([vector(text) for text in texts], axis=0)
    expected = np.array([vector(text) for text in originals(folder, corpus)]) - mean_e
    np.testing.assert_allclose(stored(corpus, tmp_path / "v"), expected[:, :4], atol=1e-6)
    assert read_info(tmp_path / "v").reduced == "first"


def test_in_bitext_both_sides_have_the_vector_of_the_named_one(folder, corpus, tmp_path, capsys):
    """So the other side need not be embedded: the list with the pivot lacks it."""
    options = ["--pivot", "eng", "--pivot-sources", "bit*"]
    path = tmp_path / "t.jsonl"
    assert main(["cache_teacher", "--corpus", str(folder / "corpus"), "--list-texts", str(path), *options]) == 0
    sides = {f"{word} {i}": f"word {i}" for i, word in enumerate("abc" * 5)}
    assert set(listed(folder / "t.jsonl")) - set(listed(path)) == sides.keys()
    assert cache(folder, tmp_path / "v", listed(path), *options) == 0
    expected = [vector(sides.get(text, text)) for text in originals(folder, corpus)]
    np.testing.assert_array_equal(stored(corpus, tmp_path / "v"), expected)
    assert (read_info(tmp_path / "v").pivot, read_info(tmp_path / "v").pivoted) == ("eng", 15)
    assert "15 texts with the vector of their side in eng" in capsys.readouterr().out


# Mistakes


def change(row: int, value: float):
    def changed(vectors):
        vectors[row] = value
        return vectors

    return changed


@pytest.mark.parametrize(
    "options,vectors,message",
    [
        ([], change(7, np.nan), "row 7 holds values that are not finite"),
        ([], change(7, np.inf), "row 7 holds values that are not finite"),
        ([], change(7, 0), "row 7 is zero"),
        ([], lambda vectors: vectors[1:], "texts; give the texts that were embedded, in their order"),
        (["--width", "4"], None, "has 6 dimensions; say how they become 4: --reduce pca, or --reduce first"),
        (["--width", "7"], None, "--width 7 is out of range"),
        (["--pivot", "french"], None, "No text of the corpus has the language 'french'"),
        (["--reduce", "svd"], None, "reduce='svd' is not a choice"),
        (["--reduce", "pca", "--whiten", "2"], None, "--whiten 2.0 is out of range; it is between 0 and 1"),
        (["--center", "--whiten", "1"], None, "--whiten evens out principal components; add --reduce pca"),
    ],
    ids=[
        "nan",
        "inf",
        "zero",
        "too few",
        "reduced how",
        "too wide",
        "no such language",
        "no such reduction",
        "too white",
        "white without axes",
    ],
)
def test_what_cannot_be_is_one_line(folder, tmp_path, capsys, options, vectors, message):
    texts = listed(folder / "t.jsonl")
    given = vectors and vectors(np.array([vector(text) for text in texts]))
    assert cache(folder, tmp_path / "v", texts, *options, vectors=given) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "v").exists()


def test_a_text_without_a_vector_is_named(folder, tmp_path, capsys):
    texts = listed(folder / "t.jsonl")
    assert cache(folder, tmp_path / "v", [*texts[:3], *texts[5:]]) == 1
    assert (
        f"lacks 2 texts of {folder / 'corpus'}, first {texts[3]!a}; embed what --list-texts" in capsys.readouterr().err
    )


def test_vectors_come_with_their_texts_and_a_model_with_none_of_these_options(folder, capsys):
    start = ["cache_teacher", "--corpus", str(folder / "corpus"), "--output", "out"]
    assert main([*start, "--vectors", "v.npy"]) == 1
    assert "--vectors and --texts go together" in capsys.readouterr().err
    assert main([*start, "--model", "m", "--reduce", "pca", "--center"]) == 1
    assert "--reduce and --center is for --vectors" in capsys.readouterr().err


def test_other_options_do_not_continue_what_these_began(folder, tmp_path):
    texts = listed(folder / "t.jsonl")
    assert cache(folder, tmp_path / "v", texts) == 0
    assert cache(folder, tmp_path / "v", texts) == 1  # the .npy was written again
    path = str(tmp_path / "v.npy"), str(tmp_path / "v.jsonl")
    corpus = PreparedCorpus(folder / "corpus")
    infos = [from_file(*path, corpus, **how).info for how in ({}, {"center": True}, {"pivot": "eng"})]
    assert len({json.dumps(info.__dict__) for info in infos}) == 3


def test_options_of_a_model_are_refused_without_one(folder, capsys):
    given = ["--vectors", "v.npy", "--texts", "t.jsonl", "--output", "out", "--dtype", "bfloat16"]
    assert main(["cache-teacher", "--corpus", str(folder / "corpus"), *given]) == 1
    assert "--dtype would change nothing without --model; leave that out." in capsys.readouterr().err
