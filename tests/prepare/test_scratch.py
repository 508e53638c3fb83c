"""Records that are written are read as they were, whatever they hold."""

from hypothesis import given
from hypothesis import strategies as st

from f2jax.data.record import KINDS, Record
from f2jax.prepare import scratch as lib

text = st.text(st.sampled_from("ab \0\ud800é😀\n"), max_size=5)
records = st.builds(
    Record,
    query=text,
    positive=text,
    negatives=st.lists(text, max_size=3).map(tuple),
    kind=st.sampled_from(KINDS),
    language=text,
    source=text,
    label=st.none() | text,
    instruction=st.none() | text,
    symmetric=st.booleans(),
)


@given(st.lists(st.tuples(records, text), max_size=6), st.sampled_from([1, 1000, 1 << 20]))
def test_records_and_places_come_back_in_order(tmp_path_factory, rows, batch_bytes):
    path, whole = tmp_path_factory.mktemp("records") / "x", lib.BATCH_BYTES
    lib.BATCH_BYTES = batch_bytes
    try:
        with lib.RecordWriter(path) as writer:
            for record, where in rows:
                writer.add(record, where)
    finally:
        lib.BATCH_BYTES = whole
    assert list(lib.read_records(path)) == rows
