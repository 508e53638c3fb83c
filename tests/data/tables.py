"""Files of rows in every format that f2jax reads, written by other libraries than those that read them."""

import bz2
import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda content: pa.compress(content, "zstd", asbytes=True),
}


def content(name: str, rows: list[dict]) -> bytes:
    """The bytes of a file of rows, in the format that its name says."""
    path = Path(name)
    if path.suffix in COMPRESS:
        return COMPRESS[path.suffix](content(path.stem, rows))
    if path.suffix in (".parquet", ".arrow"):
        buffer, table = io.BytesIO(), pa.Table.from_pylist(rows)
        if path.suffix == ".parquet":
            pq.write_table(table, buffer)
        else:
            with pa.ipc.new_stream(buffer, table.schema) as stream:
                stream.write_table(table)
        return buffer.getvalue()
    text = io.StringIO(newline="")
    if path.suffix == ".json":
        json.dump(rows, text, ensure_ascii=False, indent=1)
    elif path.suffix == ".csv":
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    elif path.suffix == ".tsv":
        lines = [list(rows[0]), *(row.values() for row in rows)]
        text.write("".join("\t".join(map(str, line)) + "\n" for line in lines))
    elif path.suffix == ".txt":
        text.write("".join(f"{row['text']}\n" for row in rows))
    else:
        text.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return text.getvalue().encode("utf-8", "surrogatepass")


def write(path: Path, rows: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content(path.name, rows))
    return str(path)
