"""Hard negatives are those of sentence-transformers' `mine_hard_negatives`, on the same vectors."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from f2jax.inference.top_k import SearchBlocks
from f2jax.mine.negatives import mine_negatives
from f2jax.mine.options import MiningInput, MiningOptions
from f2jax.mine.run import FileVectors, mine_folder
from tests.mine.test_negatives import make_answers

torch = pytest.importorskip("torch")
datasets = pytest.importorskip("datasets")
pytest.importorskip("sentence_transformers")
pytestmark = pytest.mark.parity

QUERIES, DOCUMENTS, DIM = 150, 400, 24
SETTINGS = {
    "recipe": {},
    "few": {"top": 20, "skip": 2, "keep": 5},
    "no_skip": {"top": 40, "skip": 0, "keep": 10},
    "all_of_top": {"top": 30, "skip": 6, "keep": 24},
    "no_max_score": {"max_score": None},
    "no_relative": {"relative": None},
    "no_limits": {"max_score": None, "relative": None},
    "strict": {"top": 200, "max_score": 0.6, "relative": 0.7},
    "as_good_as_right": {"max_score": None, "relative": 1.0},
    "wide": {"top": 1_000, "skip": 20, "keep": 100},  # more than there are documents
}


class Vectors:
    """What `mine_hard_negatives` asks of a model."""

    device = torch.device("cpu")

    def __init__(self, queries: np.ndarray, documents: np.ndarray):
        self.vectors = {f"q{i}": x for i, x in enumerate(queries)} | {f"d{i}": x for i, x in enumerate(documents)}

    def encode_query(self, texts, **_):
        return np.stack([self.vectors[text] for text in texts])

    encode_document = encode_query

    def similarity(self, a, b):
        return torch.as_tensor(a) @ torch.as_tensor(b).T

    def similarity_pairwise(self, a, b):
        return (torch.as_tensor(a) * torch.as_tensor(b)).sum(-1)


def example(most_right: int, seed: int = 0):
    """Unit vectors in clusters of about 100, which the limits cut through; each query has 1 to `most_right` answers."""
    rng = np.random.default_rng(seed)

    def unit(x):
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    centres = rng.normal(size=(4, DIM))
    d = unit(centres[rng.integers(4, size=DOCUMENTS)] + 0.5 * rng.normal(size=(DOCUMENTS, DIM)))
    right = [rng.choice(DOCUMENTS, rng.integers(1, most_right + 1), replace=False).tolist() for _ in range(QUERIES)]
    q = unit(d[[numbers[0] for numbers in right]] + rng.uniform(0, 0.4, (QUERIES, 1)) * rng.normal(size=(QUERIES, DIM)))
    return q, d, right


def peer(q, d, right, options: MiningOptions, output_format: str) -> list[dict]:
    from sentence_transformers.util import mine_hard_negatives

    pairs = [{"query": f"q{i}", "positive": f"d{n}"} for i, numbers in enumerate(right) for n in numbers]
    found = mine_hard_negatives(
        datasets.Dataset.from_list(pairs),
        Vectors(q, d),
        corpus=[f"d{i}" for i in range(len(d))],
        range_min=options.skip,
        range_max=options.top,
        max_score=options.max_score,
        relative_margin=None if options.relative is None else 1 - options.relative,
        num_negatives=options.keep,
        sampling_strategy="top",
        output_format=output_format,
        output_scores=output_format == "labeled-list",
        verbose=False,
    )
    return found.to_list()


def same_but_for_ties(q, d, found: dict[str, list[str]], expected: dict[str, list[str]]) -> bool:
    """The same documents for each key, a query or query and positive; where scores are equal but for rounding, one
    document may stand for another.
    """

    def scores(answers):
        """float64, of all documents one after the other."""
        pairs = [(int(key.split()[0][1:]), int(document[1:])) for key in expected for document in answers[key]]
        return np.array([q[i].astype(np.float64) @ d[n] for i, n in pairs])

    alike = found.keys() == expected.keys() and all(len(found[key]) == len(expected[key]) for key in expected)
    distinct = all(len(set(documents)) == len(documents) for documents in found.values())
    return alike and distinct and np.allclose(scores(found), scores(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("most_right", [1, 3])
@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_equal_to_sentence_transformers(changes, most_right):
    q, d, right = example(most_right)
    options = MiningOptions(**changes)
    expected = {}
    for row in peer(q, d, right, options, "labeled-list"):
        expected[row["query"]] = row["positive"][1:], row["scores"][1:]
    blocks = list(mine_negatives(q, d, make_answers(right), options, blocks=SearchBlocks(64, 128, 1)))
    documents, scores = (np.concatenate([getattr(b, name) for b in blocks]) for name in ("documents_qj", "scores_qj"))
    found = {
        f"q{i}": ([f"d{n}" for n in row[row >= 0]], scores[i][row >= 0])
        for i, row in enumerate(documents)
        if row[0] >= 0
    }
    assert same_but_for_ties(q, d, *({query: some for query, (some, _) in x.items()} for x in (found, expected)))
    assert len(found) > 20, "the setting shows something"
    for query, (_, some) in expected.items():
        np.testing.assert_allclose(found[query][1], some, atol=1e-6)


@pytest.mark.parametrize("most_right", [1, 3])
def test_the_command_writes_the_rows_of_sentence_transformers(tmp_path, most_right):
    """Rows with fewer negatives are dropped by both; a query with several right documents has a row for each."""
    q, d, right = example(most_right)
    options = MiningOptions()
    rows = [{"query": f"q{i}", "positive": f"d{n}"} for i, numbers in enumerate(right) for n in numbers]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "corpus.txt").write_text("".join(f"d{i}\n" for i in range(DOCUMENTS)))
    positives = list(dict.fromkeys(n for numbers in right for n in numbers))
    order = [*positives, *(n for n in range(DOCUMENTS) if n not in positives)]
    np.save(tmp_path / "q.npy", q)
    np.save(tmp_path / "d.npy", d[order])
    given = FileVectors(str(tmp_path / "q.npy"), str(tmp_path / "d.npy"))
    output = tmp_path / "out"
    mine_folder(MiningInput([str(tmp_path / "rows.jsonl")], str(tmp_path / "corpus.txt")), given, str(output), options)

    found = pq.read_table(output, columns=["query", "positive", "negatives"]).to_pylist()
    expected = peer(q, d, right, options, "n-tuple")
    ours = {f"{row['query']} {row['positive']}": row["negatives"] for row in found}
    theirs = {f"{row['query']} {row['positive']}": [row[f"negative_{k}"] for k in range(1, 25)] for row in expected}
    assert len(ours) == len(found) and same_but_for_ties(q, d, ours, theirs)
    assert 20 < len(found) < len(rows)
