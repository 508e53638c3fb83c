"""How texts are put on rows: nearly full ones where there are many, short ones where there are few."""

import jax
import numpy as np
import pytest

from f2jax.data.packing import pack
from f2jax.data.shapes import best_fit
from f2jax.errors import UserError
from f2jax.inference.encode import BATCH_SHAPES, plan_batches

LENGTHS = {
    "alike": [39] * 2_000,
    "over half of a power of two": [130] * 500,
    "from short to long": list(range(1, 513)),
    "few short ones among long": [700] * 20 + [3] * 500,
}


def packed(lengths: list[int], max_sequences: int = 1_024):
    """(numbers of the texts, packed rows) of each device batch."""
    for chunk, row_length in plan_batches(lengths, max_sequences):
        yield chunk, pack([np.full(lengths[i], i, np.int32) for i in chunk], row_length, 0, row_count=lambda rows: rows)


@pytest.fixture(autouse=True, params=["cpu", "gpu", "tpu"])
def backend(monkeypatch, request):
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)
    return request.param


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_each_text_is_encoded_once_in_batches_that_start_with_the_longest_that_is_left(lengths):
    chunks = [chunk for chunk, _ in packed(lengths)]
    assert sorted(np.concatenate(chunks)) == list(range(len(lengths)))
    longest = [max(lengths[i] for i in chunk) for chunk in chunks]
    assert longest == sorted(longest, reverse=True)


def test_shorter_texts_fill_the_gaps_that_longer_ones_leave(backend):
    gap = 640 - 600 if backend == "cpu" else 1_024 - 600
    assert all(rows.segments_bt.all() for _, rows in packed([600] * 64 + [gap] * 64))


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_a_batch_holds_no_more_tokens_than_it_should(backend, lengths):
    most = BATCH_SHAPES[backend].tokens
    assert max(rows.tokens_bt.size for _, rows in packed(lengths)) <= most


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_many_texts_leave_little_room_on_their_rows(backend, lengths):
    least = 0.8 if backend == "cpu" else 0.75  # texts of 700 tokens have rows of 1,024 there
    assert sum(lengths) >= least * sum(rows.tokens_bt.size for _, rows in packed(lengths))


@pytest.mark.parametrize("parts", [1, 4])
def test_a_few_texts_leave_little_room_although_the_rows_of_a_device_are_a_power_of_two(backend, parts):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(3, rng.integers(8, 200), rng.integers(20, 60) * parts).tolist()
        tokens = 0
        for chunk, row_length in plan_batches(lengths, 1_024, parts):
            rows = best_fit(np.array(lengths)[chunk], row_length)[3]
            tokens += parts * (1 << (-(-rows // parts) - 1).bit_length()) * row_length
        assert sum(lengths) >= (0.75 if backend == "cpu" else 0.5) * tokens


@pytest.mark.parametrize(
    "length,on_cpu,elsewhere",
    [(1, 16, 64), (17, 32, 64), (64, 64, 64), (65, 80, 128), (2_000, 2_048, 2_048), (4_342, 4_608, 8_192)],
)
def test_a_single_text_gets_a_row_of_its_own_size(backend, length, on_cpu, elsewhere):
    assert [rows.tokens_bt.shape for _, rows in packed([length])] == [(1, on_cpu if backend == "cpu" else elsewhere)]


def test_long_rows_take_no_more_memory_for_attention_than_short_ones(backend):
    lengths = [2_000] * 64 + [4_000] * 64 + [900] * 64
    squares = [rows.tokens_bt.shape[0] * rows.tokens_bt.shape[1] ** 2 for _, rows in packed(lengths)]
    assert max(squares) <= max(BATCH_SHAPES[backend].tokens * 1_024, 4_096**2), "or that of a single text"


def test_a_batch_has_no_more_texts_than_asked_for():
    assert [len(chunk) for chunk, _ in packed([2] * 100, max_sequences=40)] == [40, 40, 20]


def test_an_empty_sequence_is_refused():
    with pytest.raises(UserError, match="A sequence has 0 tokens"):
        list(packed([3, 0]))
