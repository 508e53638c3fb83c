"""Packing loses, splits, doubles and reorders nothing, at any mix of lengths, and wastes little."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2jax.data.dataset import Row, texts_of
from f2jax.data.packing import PACKED, RowShare, assemble, pack
from f2jax.data.shapes import RowRules, RowShape, best_fit, round_up
from f2jax.errors import UserError

PAD = 999_999


def numbered(lengths, row_length=None):
    """Sequences whose tokens are all different, so that each token says where it came from; None where length is 0."""
    starts = np.cumsum([0, *lengths])
    return [np.arange(a, a + n, dtype=np.int32) if n else None for a, n in zip(starts, lengths, strict=False)]


@given(st.integers(1, 40).flatmap(lambda t: st.tuples(st.just(t), st.lists(st.integers(0, t), max_size=60))))
def test_every_sequence_comes_back_whole(case):
    """Length 1 is the empty text (its end token), the row length is a truncated one, 0 stands for an absent slot."""
    row_length, lengths = case
    sequences = numbered(lengths)
    packed = pack(sequences, row_length, PAD)
    found = 0
    for s, ids in enumerate(sequences):
        row, col = packed.row_s[s], packed.col_s[s]
        if ids is None:
            assert (row, col) == (0, 0)
            continue
        segment = packed.segments_bt[row, col]
        columns = np.flatnonzero(packed.segments_bt[row] == segment)
        assert columns.tolist() == list(range(col - len(ids) + 1, col + 1)), "contiguous, and the end token is last"
        assert packed.tokens_bt[row, columns].tolist() == ids.tolist()
        assert packed.positions_bt[row, columns].tolist() == list(range(len(ids)))
        found += len(ids)
    padding = packed.segments_bt == 0
    assert (~padding).sum() == found == packed.useful_tokens
    assert (packed.tokens_bt[padding] == PAD).all() and (packed.positions_bt[padding] == 0).all()


@given(st.lists(st.one_of(st.none(), st.lists(st.integers(0, 2), min_size=1, max_size=4)), max_size=40))
def test_equal_sequences_share_one_segment(ids):
    """Few tokens and short sequences, so that many are equal."""
    sequences = [None if x is None else np.array(x, np.int32) for x in ids]
    packed = pack(sequences, 4, PAD)
    place = {}
    for s, x in enumerate(ids):
        if x is None:
            continue
        row, col = packed.row_s[s], packed.col_s[s]
        columns = packed.segments_bt[row] == packed.segments_bt[row, col]
        assert packed.tokens_bt[row, columns].tolist() == x and np.flatnonzero(columns)[-1] == col
        assert place.setdefault(tuple(x), (row, col)) == (row, col)
    assert packed.useful_tokens == sum(len(x) for x in place)


@given(st.lists(st.integers(0, 30), max_size=40))
def test_the_same_sequences_give_the_same_rows(lengths):
    a, b = pack(numbered(lengths), 30, PAD), pack(numbered(lengths), 30, PAD)
    assert all(np.array_equal(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)


@pytest.mark.parametrize("sigma", [0.3, 0.8, 1.2])
def test_a_batch_of_the_recipe_is_at_least_95_percent_useful(sigma):
    lengths = np.clip(np.random.default_rng(0).lognormal(5, sigma, 512 * 9), 1, 1024).astype(int)
    packed = pack(numbered(lengths), 1024, PAD)
    assert packed.useful_tokens / packed.tokens_bt.size >= 0.95


@pytest.mark.parametrize("length", [0, 11])
def test_a_sequence_that_fits_no_row_is_refused(length):
    with pytest.raises(UserError, match=f"{length} tokens; a row takes 1 to 10"):
        pack([np.zeros(length, np.int32)], 10, PAD)


def tokens(*ids):
    return np.array(ids, np.int32)


ROWS = [
    Row(tokens(1, 2), tokens(3), [tokens(7), tokens(4)], 2**62, [12, 10], 2**62),
    Row(tokens(8), tokens(9, 9), [tokens(3)], 77, [2**62]),
]
BARE = [Row(row.query, row.positive, [], row.positive_id, []) for row in ROWS]


def sequence(batch, s):
    """The tokens of sequence s, read back from the rows."""
    row, col = batch.row_s[s], batch.col_s[s]
    return batch.tokens_bt[row, batch.segments_bt[row] == batch.segments_bt[row, col]].tolist()


def test_a_batch_lays_out_queries_positives_then_negatives():
    batch = assemble(texts_of(ROWS), 2, kind="retrieval", batch_size=3, rules=RowRules(8), pad_id=0)
    assert batch.row_mask_b.tolist() == [True, True, False]
    assert [sequence(batch, s) for s in (0, 1)] == [[1, 2], [8]]
    assert [sequence(batch, s) for s in (3, 4)] == [[3], [9, 9]]
    assert batch.negative_mask_bj.tolist() == [[True, True], [True, False], [False, False]]
    assert [sequence(batch, s) for s in (6, 7, 8)] == [[7], [4], [3]]
    assert batch.label_b.tolist() == [0, -1, -1]
    assert batch.useful_tokens == 2 + 1 + 1 + 2 + 1 + 1, "[3] takes its token once, as positive and as negative"
    assert batch.squared_tokens == 4 + 1 + 1 + 4 + 1 + 1


def rows_of_length(*lengths) -> list[Row]:
    """Rows of a query of one token and a positive of so many; all different."""
    return [Row(tokens(-i), np.full(n, i, np.int32), [], i, []) for i, n in enumerate(lengths, 1)]


def test_a_batch_has_the_packed_rows_that_it_needs():
    batch = assemble(texts_of(rows_of_length(7, 7, 7)), 0, kind="retrieval", batch_size=64, rules=RowRules(8), pad_id=0)
    assert (batch.rows, batch.tokens) == (3, 3 * 8)


@pytest.mark.parametrize("row_length,rows,lengths", [(512, 8, [200] * 16), (1024, 32, [*range(20, 420, 5)])])
@pytest.mark.parametrize("parts", [1, 4])
def test_every_text_of_a_batch_comes_back_whole_where_rows_have_parts(row_length, rows, lengths, parts):
    given = rows_of_length(*lengths)
    rules = RowRules(row_length, programs={"retrieval": [RowShape(row_length, rows)]})
    options = {"batch_size": len(given), "rules": rules, "share": RowShare(parts, (*range(parts),)), "pad_id": 0}
    batch = assemble(texts_of(given), 0, kind="retrieval", **options)
    assert batch.squared_tokens == sum(n * n for n in lengths) + len(given), "queries have one token each"
    found = [sequence(batch, s) for s in range(2 * len(given))]
    assert found == [ids.tolist() for ids in [*(row.query for row in given), *(row.positive for row in given)]]
    columns = np.arange(row_length)
    for row, col, ids in zip(batch.row_s, batch.col_s, found, strict=True):
        of_text = columns[batch.segments_bt[row] == batch.segments_bt[row, col]]
        assert of_text.tolist() == [*range(col + 1 - len(ids), col + 1)]
        assert batch.positions_bt[row, of_text].tolist() == [*range(len(ids))]
        assert len(ids) > row_length // 2 or of_text[0] // (row_length // 2) == of_text[-1] // (row_length // 2)


def test_documents_keep_their_identity_in_32_bits():
    batch = assemble(texts_of(ROWS), 2, kind="retrieval", batch_size=2, rules=RowRules(8), pad_id=0)
    assert batch.positive_b.dtype == batch.negative_bj.dtype == np.int32
    assert batch.negative_bj[1, 0] == batch.positive_b[0], "the same document, 2**62, has one number"
    assert len({*batch.positive_b, *batch.negative_bj[0]}) == 4


def test_a_batch_without_negatives_has_no_slots():
    batch = assemble(texts_of(BARE), 0, kind="retrieval", batch_size=2, rules=RowRules(8), pad_id=0)
    assert batch.negative_mask_bj.shape == (2, 0) and len(batch.row_s) == 4


# Shares and chunks


@pytest.mark.parametrize("owners", [[(0,), (1,), (2,)], [(0, 2), (1,)]])
def test_the_shares_of_all_processes_are_the_rows_of_one(owners):
    options = {"kind": "retrieval", "batch_size": 3, "rules": RowRules(8), "pad_id": 0}
    whole = assemble(texts_of(ROWS), 2, share=RowShare(3, (0, 1, 2)), **options)
    assert whole.rows == len(whole.tokens_bt) and whole.rows % 3 == 0
    joined = {name: np.full_like(getattr(whole, name), -7) for name in PACKED}
    for own in owners:
        share = RowShare(3, own)
        part = assemble(texts_of(ROWS), 2, share=share, **options)
        assert len(part.tokens_bt) == whole.rows * len(own) // 3 and part.squared_tokens == whole.squared_tokens
        for name, array in part.arrays().items():
            if name in PACKED:
                joined[name][share.rows(whole.rows)] = array
            else:
                assert np.array_equal(array, getattr(whole, name)), name
    assert all(np.array_equal(joined[name], getattr(whole, name)) for name in PACKED)


def test_an_array_holds_chunks_of_every_device_and_says_which_have_rows():
    """Nine rows of two devices in chunks of one row each: five chunks, in arrays for eight."""
    rows = rows_of_length(*[8] * 8, 7)  # and nine queries of one token, the last of which fits beside the 7
    rules, share = RowRules(8, chunk_rows=1), RowShare(2, (0, 1))
    batch = assemble(texts_of(rows), 0, kind="retrieval", batch_size=9, rules=rules, pad_id=0, share=share)
    assert batch.chunk_mask_c.tolist() == [True] * 5 + [False] * 3
    assert (batch.rows, batch.tokens, batch.useful_tokens) == (2 * 8, 2 * 5 * 8, 8 * 8 + 7 + 9)
    in_use = batch.segments_bt.any(axis=1).reshape(2, 8)
    assert in_use.sum() == 10 and not in_use[:, 5:].any(), "row r stands in chunk r % 8"
    assert [sequence(batch, 9 + s) for s in range(9)] == [row.positive.tolist() for row in rows]


def one_by_one(lengths, row_length: int, bin_length: int):
    """`best_fit`, for one sequence after the other."""
    places, room, rows = [None] * len(lengths), [], 0
    for s in sorted(range(len(lengths)), key=lambda s: -lengths[s]):
        fitting = [x for x in room if x[0] >= lengths[s]]
        if not fitting:
            bins = next(n for n in range(1, row_length + 1) if n * bin_length >= lengths[s])
            fitting = [(bins * bin_length, rows, 0)]
            room += fitting + [(bin_length, rows, n * bin_length) for n in range(bins, row_length // bin_length)]
            rows += 1
        free, row, column = min(fitting)
        room.remove((free, row, column))
        room.append((free - lengths[s], row, column + lengths[s]))
        places[s] = (row, column)
    numbers = [1 + sum(other[0] == row and other[1] < column for other in places) for row, column in places]
    return [(*place, number) for place, number in zip(places, numbers, strict=True)], rows


ROOMS = st.tuples(st.integers(1, 40), st.integers(1, 4)).flatmap(
    lambda x: st.tuples(st.just(x[0]), st.just(x[1]), st.lists(st.integers(1, x[0] * x[1]), max_size=60))
)


@given(ROOMS)
def test_best_fit_of_equal_lengths_together_is_that_of_each_by_itself(case):
    bin_length, bins, lengths = case
    *places, rows = best_fit(np.array(lengths, np.int64), bin_length * bins, bin_length)
    expected = one_by_one(lengths, bin_length * bins, bin_length)
    assert (list(zip(*(x.tolist() for x in places), strict=True)), rows) == expected


@pytest.mark.parametrize("mean,bin_length", [(120, 256), (250, 512)])
def test_texts_lie_within_parts_of_a_row_where_that_costs_nothing(mean, bin_length):
    """Those of mean 250 would leave parts of 256 half empty."""
    rng = np.random.default_rng(0)
    lengths = np.clip(mean * rng.lognormal(-0.2, 0.65, 4608), 8, 1024).astype(np.int64)
    free_rows = best_fit(lengths, 1024)[3]
    rules = RowRules(1024, programs={"retrieval": [RowShape(1024, round_up(free_rows, 32))]})
    found = rules.place(lengths, kind="retrieval")
    assert found.tokens / 1024 == round_up(free_rows, 32) and lengths.sum() > 0.95 * found.tokens
    short = lengths <= bin_length
    within = found.start_u // bin_length == (found.start_u + lengths - 1) // bin_length
    assert short.mean() > 0.9 and within[short].all()
    used = np.zeros((found.rows, 1024), int)
    for row, start, length in zip(found.row_u, found.start_u, lengths, strict=True):
        used[row, start : start + length] += 1
    assert used.max() == 1


def test_parts_that_would_cost_rows_are_left_out():
    lengths = np.full(300, 341)  # three fill a row; a part of 512 takes one
    assert RowRules(1024).place(lengths).rows == best_fit(lengths, 1024)[3] == 100
