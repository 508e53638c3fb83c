"""Parquet files in either schema of `schema.py`, read in batches so that memory does not grow with the file."""

from collections import Counter
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from f2jax import files
from f2jax.data.record import Record
from f2jax.data.sources import schema
from f2jax.errors import UserError

ROWS = 4_096  # of one read


def read(path: str, skipped: Counter, kinds: Iterable[str] = ()) -> Iterator[Record]:
    """Records of a parquet file, local or gs://; only the needed columns are read.

    Raises:
        UserError: the file cannot be read, lacks a column, or has no good row.
    """
    return schema.to_records(path, _rows(path), skipped, kinds)


def _rows(path: str) -> Iterator[dict]:
    with files.open_file(path) as file:
        try:
            table = pq.ParquetFile(file)
            for batch in table.iter_batches(ROWS, columns=schema.columns(path, table.schema_arrow.names)):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} is damaged, cut short or no parquet file ({reason}); fetch it again.") from error
