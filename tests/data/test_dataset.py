"""Records → tokenized rows: the right tokens, each text once, a held-out share that shares nothing, instructions."""

from dataclasses import replace
from random import Random

import pytest

from f2jax.data import dataset as dataset_module
from f2jax.data.dataset import build_datasets
from f2jax.data.instructions import Instructions, add_instruction
from f2jax.data.record import KINDS, Record, in_share, stable_id
from f2jax.data.tokenizer_training import train_sentencepiece
from f2jax.errors import UserError
from tests.data.corpora import listed

TASK = "Find the same colour."
WORDS = ["red", "green", "blue", "black", "white", "small", "large", "quick", "slow", "old"]
PLAIN = Instructions(enabled=False)


def phrase(*numbers: int) -> str:
    return " ".join(WORDS[n % len(WORDS)] for n in numbers)


def records(count=200, **changes) -> list[Record]:
    """Every fourth query comes twice, with another positive; documents are used by many rows."""
    numbers = [i - 1 if i % 4 == 3 else i for i in range(count)]
    return [
        Record(f"{phrase(n, n // 10)} {n}", phrase(i, 2 * i), (phrase(i + 1), phrase(i + 2, i)), **changes)
        for i, n in enumerate(numbers)
    ]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = [add_instruction(record.query, TASK) for record in records()]
    return train_sentencepiece(texts, 400, tmp_path_factory.mktemp("tokenizer"))


class Counting:
    """A tokenizer that remembers what it was given."""

    def __init__(self, inner):
        self.inner, self.texts = inner, []

    def encode(self, texts, max_length):
        self.texts += texts
        return self.inner.encode(texts, max_length)


def texts_of(row, tokenizer) -> tuple[str, str, list[str]]:
    return tokenizer.decode(row.query), tokenizer.decode(row.positive), [tokenizer.decode(n) for n in row.negatives]


def all_rows(dataset) -> list:
    """Every row, with all its negatives in order."""
    return listed(dataset.rows(range(len(dataset)), range(dataset.max_negatives), dataset.max_negatives))


def contents(dataset, tokenizer) -> list:
    return [texts_of(row, tokenizer) for row in all_rows(dataset)]


# Rows


@pytest.mark.parametrize("at_once", [1, 7, 10_000])
def test_a_row_gives_the_tokens_and_ids_of_its_texts(tokenizer, monkeypatch, at_once):
    monkeypatch.setattr(dataset_module, "TOKENIZED_TOGETHER", at_once)
    given = [*records(20, source="s"), Record("only a pair", "red", (), source="s")]
    (dataset,) = build_datasets(given, tokenizer, 64, PLAIN)
    assert (dataset.name, dataset.kind, len(dataset), dataset.max_negatives) == ("s", "retrieval", 21, 2)
    for record, row in zip(given, all_rows(dataset), strict=True):
        query, positive, *negatives = tokenizer.encode([record.query, record.positive, *record.negatives], 64)
        assert row.query.tolist() == query.tolist() and row.positive.tolist() == positive.tolist()
        assert [n.tolist() for n in row.negatives] == [n.tolist() for n in negatives]
        assert row.positive_id == stable_id(record.positive)
        assert row.negative_ids == [stable_id(text) for text in record.negatives]


@pytest.mark.parametrize("max_length", [1, 2, 5])
def test_tokens_are_cut_to_the_length_and_keep_the_end_token(tokenizer, max_length):
    (dataset,) = build_datasets(records(20), tokenizer, max_length, PLAIN)
    for row in all_rows(dataset):
        for ids in (row.query, row.positive, *row.negatives):
            assert 1 <= len(ids) <= max_length and ids[-1] == tokenizer.eos_id


def test_each_distinct_text_is_tokenized_and_stored_once(tokenizer):
    given, counting = records(200), Counting(tokenizer)
    (dataset,) = build_datasets(given, counting, 64, PLAIN)
    distinct = {text for record in given for text in (record.query, record.positive, *record.negatives)}
    assert sorted(counting.texts) == sorted(distinct)
    other = next(i for i in range(1, 200) if given[i].positive == given[0].positive)
    row, again = listed(dataset.rows([0, other], [], 0))
    assert row.positive.base is again.positive.base and row.positive.ctypes.data == again.positive.ctypes.data


@pytest.mark.parametrize("columns,chosen", [([2, 0, 1], [2, 0]), ([0, 1, 2], [0, 1]), ([1], [1])])
def test_a_row_takes_the_first_columns_that_it_has(tokenizer, columns, chosen):
    given = [Record("q", "p", ("a", "b", "c")), Record("r", "p", ("a",))]
    (dataset,) = build_datasets(given, tokenizer, 64, PLAIN)
    many, one = listed(dataset.rows([0, 1], columns, 2))
    assert many.negative_ids == [stable_id("abc"[c]) for c in chosen]
    assert [tokenizer.decode(text) for text in many.negatives] == ["abc"[c] for c in chosen]
    assert one.negative_ids == [stable_id("a")] * (0 in columns)


def test_equal_labels_have_equal_ids(tokenizer):
    given = [Record(f"q{i}", "p", ("n",), label=label) for i, label in enumerate(["b", "a", None, "b", ""])]
    (dataset,) = build_datasets(given, tokenizer, 64, PLAIN)
    b, a, empty = (stable_id(label) for label in ("b", "a", ""))
    assert [row.label_id for row in all_rows(dataset)] == [b, a, -1, b, empty]


CHANGES = {
    "a token": lambda a, b: [replace(a, negatives=("black", "whiter")), b],
    "the order": lambda a, b: [b, a],
    "which negatives": lambda a, b: [replace(a, negatives=("white", "black")), b],
    "whose negative": lambda a, b: [replace(a, negatives=("black",)), replace(b, negatives=("white",))],
    "a label": lambda a, b: [replace(a, label="colour"), b],
    "a language": lambda a, b: [replace(a, language="sw"), b],
    "a row more": lambda a, b: [a, b, b],
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_fingerprint_of_a_data_set_changes_with_its_rows(tokenizer, change):
    rows = Record("red", "green", ("black", "white"), source="s"), Record("blue", "red", source="s")

    def fingerprint(given):
        return build_datasets(given, tokenizer, 64, PLAIN)[0].fingerprint()

    assert fingerprint(rows) == fingerprint(list(rows)) != fingerprint(CHANGES[change](*rows))


def test_there_is_one_data_set_for_each_source_and_kind_in_the_order_in_which_they_come(tokenizer):
    order = [("b", "retrieval"), ("a", "clustering"), ("b", "clustering"), ("b", "retrieval"), ("c", "classification")]
    given = [Record(f"query {i}", "p", ("n",), kind, source=source) for i, (source, kind) in enumerate(order)]
    datasets = build_datasets(iter(given), tokenizer, 64, PLAIN)
    assert [(d.name, d.kind, len(d)) for d in datasets] == [
        ("b-retrieval", "retrieval", 2),
        ("a", "clustering", 1),
        ("b-clustering", "clustering", 1),
        ("c", "classification", 1),
    ]
    assert [text for text, _, _ in contents(datasets[0], tokenizer)] == ["query 0", "query 3"]


def test_no_records_are_an_error(tokenizer):
    with pytest.raises(UserError, match=r"hold no rows; check data\.sources"):
        build_datasets([], tokenizer, 64, PLAIN)


# The held-out share


def test_held_out_and_training_rows_are_all_rows_and_share_no_query(tokenizer):
    (dataset,) = build_datasets(records(400), tokenizer, 64, PLAIN)
    training, held = dataset.split(0.2, seed=0)
    rows = [contents(part, tokenizer) for part in (training, held)]
    assert sorted(rows[0] + rows[1]) == sorted(contents(dataset, tokenizer))
    assert not {query for query, _, _ in rows[0]} & {query for query, _, _ in rows[1]}
    assert 40 < len(held) < 120, "80 expected"


def test_the_held_out_share_does_not_depend_on_the_order_of_rows_or_on_other_rows(tokenizer):
    def held_out(given, seed=0):
        (dataset,) = build_datasets(given, tokenizer, 64, PLAIN)
        return {query for query, _, _ in contents(dataset.split(0.2, seed)[1], tokenizer)}

    given = records(200)
    shuffled = Random(0).sample(given, len(given))
    found = held_out(given)
    assert held_out(shuffled) == found != held_out(given, seed=1)
    assert held_out(given[:100]) == found & {record.query for record in given[:100]}


def test_a_query_is_held_out_with_and_without_its_instruction(tokenizer):
    (plain,) = build_datasets(records(100), tokenizer, 64, PLAIN)
    (instructed,) = build_datasets(records(100, instruction=TASK), tokenizer, 64, Instructions())
    held = [part.split(0.3, 0)[1] for part in (plain, instructed)]
    queries = [[query for query, _, _ in contents(part, tokenizer)] for part in held]
    assert queries[1] == [add_instruction(query, TASK) for query in queries[0]]


@pytest.mark.parametrize("share,held", [(0.0, 0), (1.0, 50)])
def test_none_or_all_can_be_held_out(tokenizer, share, held):
    (dataset,) = build_datasets(records(50), tokenizer, 64, PLAIN)
    training, held_out = dataset.split(share, 0)
    assert (len(training), len(held_out)) == (50 - held, held)
    assert len(held_out) or held_out.max_negatives == 0


def test_a_share_of_ids_is_about_that_share():
    for share in (0.01, 0.3, 0.9):
        chosen = sum(in_share(number, share, "purpose", 0) for number in range(5000)) / 5000
        assert abs(chosen - share) < 4 * (share * (1 - share) / 5000) ** 0.5


# Instructions


def instructed(given, instructions, tokenizer) -> list[tuple[bool, list[bool]]]:
    """Of each row, in the order of its records: has the query an instruction, and which of the documents?"""
    (dataset,) = build_datasets(given, tokenizer, 64, instructions)
    start = f"Instruct: {TASK}\nQuery: "
    return [
        (query.startswith(start), [text.startswith(start) for text in (positive, *negatives)])
        for query, positive, negatives in contents(dataset, tokenizer)
    ]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "texts"])
def test_in_stage_2_every_query_and_no_document_carries_the_instruction(tokenizer, kind):
    """Clustering is symmetric, so there some documents do."""
    flags = instructed(records(200, kind=kind), Instructions(by_name={kind: TASK}), tokenizer)
    assert all(query for query, _ in flags)
    assert any(any(documents) for _, documents in flags) == (kind == "clustering")


def many(**changes) -> list[Record]:
    """1,000 distinct documents, half of them negatives."""
    return [Record(f"q{i}", f"positive {i}", (f"negative {i}",), instruction=TASK, **changes) for i in range(500)]


@pytest.mark.parametrize(
    "changes,instructions",
    [
        ({"kind": "clustering"}, Instructions()),
        ({"symmetric": True}, Instructions()),
        ({"source": "sts"}, Instructions(symmetric_sources=("sts",))),
    ],
)
def test_30_percent_of_the_documents_of_symmetric_tasks_carry_it(tokenizer, changes, instructions):
    flags = instructed(many(**changes), instructions, tokenizer)
    for column in (0, 1):
        share = sum(documents[column] for _, documents in flags) / len(flags)
        assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 500) ** 0.5, "positives as well as negatives"


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_share_of_documents_can_be_set(tokenizer, share):
    flags = instructed(many(symmetric=True), Instructions(symmetric_share=share), tokenizer)
    assert {flag for _, documents in flags for flag in documents} == {share == 1}


def test_which_documents_carry_it_depends_on_text_and_seed_alone(tokenizer):
    def chosen(given, seed):
        instructions = Instructions(seed=seed)
        return {
            record.positive for record in given if instructions.document(record.positive, record) != record.positive
        }

    given = many(symmetric=True)
    assert chosen(given, 0) == chosen(given[::-1], 0) != chosen(given, 1)


def test_in_stage_1_no_text_carries_an_instruction(tokenizer):
    given = records(100, kind="clustering", symmetric=True, instruction=TASK)
    flags = instructed(given, Instructions(enabled=False, by_name={"clustering": TASK}), tokenizer)
    assert not any(query or any(documents) for query, documents in flags)


def test_a_released_row_that_has_its_instruction_gets_no_second(tokenizer):
    query = add_instruction("red", TASK)
    record = Record(query, query, (query,), "clustering", instruction="Another task.")
    (dataset,) = build_datasets([record], tokenizer, 64, Instructions(symmetric_share=1.0))
    assert contents(dataset, tokenizer) == [(query, query, [query])]


@pytest.mark.parametrize(
    "record,by_name,task",
    [
        (Record("q", "p", source="s", instruction="own"), {"s": "source", "retrieval": "kind"}, "own"),
        (Record("q", "p", source="s"), {"s": "source", "retrieval": "kind"}, "source"),
        (Record("q", "p", source="s"), {"s": "source", "s-retrieval": "both"}, "both"),
        (Record("q", "p", source="s"), {"s": "source", "s-clustering": "both"}, "source"),
        (Record("q", "p", source="other"), {"s": "source", "retrieval": "kind"}, "kind"),
        (Record("q", "p", source="other"), {"s": "source", "clustering": "kind"}, None),
        (Record("q", "p"), {}, None),
    ],
)
def test_the_instruction_of_the_record_comes_first_then_of_source_and_kind_then_of_either(record, by_name, task):
    instructions = Instructions(by_name=by_name)
    assert instructions.task(record) == task
    assert instructions.query(record) == (f"Instruct: {task}\nQuery: q" if task else "q")


def test_a_document_with_and_without_instruction_is_one_document(tokenizer):
    """So that it is never its own negative."""
    record = Record("q", "red", ("red", "green"), "clustering", instruction=TASK)
    for share in (0.0, 1.0):
        (dataset,) = build_datasets([record], tokenizer, 64, Instructions(symmetric_share=share))
        (row,) = all_rows(dataset)
        assert row.positive_id == row.negative_ids[0] == stable_id("red")
