"""The original texts of a corpus: each once, as they were in the input, and whose vector each takes."""

import dataclasses

import numpy as np
import pytest

from f2jax.data.corpus import PreparedCorpus
from f2jax.data.original_texts import ROLES, iter_original_texts, pivot_ids, survey_texts
from f2jax.data.record import stable_id
from f2jax.errors import UserError
from tests.data import corpora


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """All inputs of `corpora`, hostile texts and instructions included. Read only."""
    folder = tmp_path_factory.mktemp("originals")
    corpora.make(folder)
    return PreparedCorpus(folder / "corpus")


def all_rows() -> list[dict]:
    """What `corpora.write_inputs` writes, but for the row without a query."""
    colours = corpora.rows(60, 3, kind="clustering", source="colours")
    hostile = [
        row | {"positive": corpora.HOSTILE[i % 6], "query": corpora.HOSTILE[-1 - i % 6], "source": "../hostile name"}
        for i, row in enumerate(corpora.rows(24, 4))
    ]
    pairs = corpora.rows(80, 1, source="pairs") + corpora.rows(40, 2, source="pairs")
    return [row | {"kind": row.get("kind", "retrieval")} for row in colours + hostile + pairs]


def test_each_text_is_given_back_once_and_exactly(corpus):
    """Without its instruction, not cut at 32 tokens, with lone surrogates; 30% of the documents of colours have one."""
    survey = survey_texts(corpus)
    found = list(iter_original_texts(corpus, survey, np.ones(len(survey.id_i), bool)))
    texts, roles, origins = [], {}, {}
    for row in all_rows():
        for role, text in [(0, row["query"]), (1, row["positive"]), *((2, text) for text in row["negatives"])]:
            texts.append(text)
            roles[text] = min(role, roles.get(text, 2))
            origins.setdefault(text, set()).add((row["source"], row["kind"], row["language"]))
    assert len(found) == len(set(texts)) and {text.text for text in found} == set(texts)
    for text in found:
        assert text.id == f"{stable_id(text.text):016x}" and text.role == ROLES[roles[text.text]]
        assert (text.source, text.kind, text.language) in origins[text.text]
    assert {text.role for text in found} == set(ROLES)


def test_texts_are_those_of_the_tokens(corpus):
    """Every text of the corpus, by number: its id is that of the text stored for it."""
    survey = survey_texts(corpus)
    chosen = np.arange(len(survey.id_i)) % 3 == 0
    by_id = {text.id: text for text in iter_original_texts(corpus, survey, chosen)}
    _, first = np.unique(survey.id_i, return_index=True)
    assert by_id.keys() == {f"{survey.id_i[i]:016x}" for i in first if chosen[i]}


def test_a_corpus_without_its_texts_is_one_sentence(tmp_path):
    inputs = corpora.write_inputs(tmp_path / "in")[:1]
    kept = corpora.make(tmp_path, inputs)
    without = corpora.make(tmp_path, inputs, dataclasses.replace(corpora.OPTIONS, keep_texts=False))
    assert not list((tmp_path / "corpus/texts").iterdir())
    assert [entry["content"] for entry in kept["datasets"]] == [entry["content"] for entry in without["datasets"]]
    with pytest.raises(UserError, match="does not hold its original texts"):
        survey_texts(PreparedCorpus(tmp_path / "corpus"))
    corpora.make(tmp_path, inputs)
    assert len(survey_texts(PreparedCorpus(tmp_path / "corpus")).id_i)


# The pivot


def bitext(query, language, positive, positive_language, negatives=("x",), **more):
    named = {"language": language, "positive_language": positive_language, "negatives": list(negatives)}
    return {"query": query, "positive": positive} | named | more


ROWS = [
    bitext("Hund", "deu", "dog", "eng"),
    bitext("Hund", "deu", "hound", "eng"),  # its second English side
    bitext("cat", "eng", "Katze", "deu"),  # the English side is the query
    bitext("perro", "spa", "Hund", "deu"),  # no side is English
    bitext("gift", "deu", "poison", "eng"),  # "gift" is an English text too
    bitext("gift", "eng", "Geschenk", "deu"),
    bitext("Sortiere", "deu", "sorted(x)", "code:python"),
    bitext("sort", "eng", "sorted(x)", "code:python"),
    bitext("Tier", "deu", "animal", "eng", kind="clustering"),
    bitext("Frage", "deu", "a paragraph", "eng", source="questions"),
    bitext("chat", "fra", "cat", "eng", negatives=["Hund"]),  # a negative has its vector by its text
]
EXPECTED = {"Hund": "dog", "Katze": "cat", "Geschenk": "gift", "Frage": "a paragraph", "chat": "cat"}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pivot")
    rows = [{"source": "words"} | row for row in ROWS]
    corpora.make(folder, [corpora.write(folder / "words.jsonl", rows)])
    return PreparedCorpus(folder / "corpus")


def mapped(corpus, *how) -> dict[str, str]:
    """{text: another one whose vector it takes}."""
    survey = survey_texts(corpus)
    names = {stable_id(text): text for row in ROWS for text in (row["query"], row["positive"], *row["negatives"])}
    taken = zip(survey.id_i.tolist(), pivot_ids(survey, corpus, *how).tolist(), strict=True)
    return {names[own]: names[other] for own, other in taken if own != other}


def test_in_bitext_the_other_side_takes_the_vector_of_the_named_one(pairs):
    assert mapped(pairs, "eng") == EXPECTED


def test_only_the_named_data_sets_are_bitext(pairs):
    assert mapped(pairs, "eng", ["words*"]) == {text: side for text, side in EXPECTED.items() if text != "Frage"}
    assert mapped(pairs, "spa") == {"Hund": "perro"}


def test_what_no_text_has_is_refused(pairs):
    with pytest.raises(UserError, match="has the language 'en'"):
        mapped(pairs, "en")
    with pytest.raises(UserError, match="has no data set 'word'; choose from"):
        mapped(pairs, "eng", ["word"])
