"""Parquet files in either schema of `schema.py`, read in batches so that memory does not grow with the file."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from f2jax import errors, files
from f2jax.data.record import Record
from f2jax.data.skip_list import located
from f2jax.data.sources import schema
from f2jax.errors import UserError

ROWS = 4_096  # of one read


def read_parquet(path: str, skipped: Counter, kinds: Iterable[str] = (), bare: bool = False) -> Iterator[Record]:
    """Records of a parquet file, local or gs://; only the needed columns are read.

    Raises:
        UserError: the file cannot be read, lacks a column, or has no good row.
    """
    return schema.to_records(path, parquet_rows(path, skipped, partial(schema.columns, path)), skipped, kinds, bare)


def parquet_rows(path: str, skipped: Counter, columns: Callable[[list[str]], list[str]]) -> Iterator[dict]:
    """The rows of a file, with the columns that `columns` chooses of those that there are."""
    with files.open_file(path) as file, files.clear_errors(path, "read"):
        try:
            table, number = pq.ParquetFile(file), 0
            for batch in table.iter_batches(ROWS, columns=columns(table.schema_arrow.names)):
                for row in batch.to_pylist():
                    located(skipped, f"{path}:{number}", row)
                    number += 1
                    yield row
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            if errors.is_transient(error):
                raise
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} is damaged, cut short or no parquet file ({reason}); fetch it again.") from error
