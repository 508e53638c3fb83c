"""Reads the rows of files of any format as dicts, for all other readers.

NaN, which pandas writes for missing values, becomes None, and class numbers become names if the file's metadata has
them.
"""

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from f2jax import errors, files
from f2jax.data.skip_list import SkipList
from f2jax.errors import UserError

FileRow = dict[str, Any]
ChooseColumns = Callable[[list[str]], list[str]]  # the columns to read, given those of the file; may raise UserError
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
READ_ROWS = 4_096  # rows of a parquet file in memory
_ROW_ARRAYS = ("data", "rows", "examples")  # fields of a JSON object that may hold its rows
_TABLES_AS_TEXT = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")


def _with_compressions(*endings: str) -> tuple[str, ...]:
    return tuple(f"{ending}{compression}" for ending in endings for compression in ("", *COMPRESSIONS))


TABLES = (".parquet", ".arrow", *_with_compressions(*_TABLES_AS_TEXT))  # rows with columns
ENDINGS = (*TABLES, *_with_compressions(".txt"))
_KNOWN = ".parquet, .arrow, .jsonl, .ndjson, .json, .csv, .tsv{}, and text also in .gz, .bz2 or .zst"
KNOWN_TABLES, KNOWN = _KNOWN.format(""), _KNOWN.format(" or .txt")


def read_rows(path: str, skipped: SkipList, columns: ChooseColumns) -> Iterator[FileRow]:
    """Yields the rows of a file: Parquet, Arrow, JSON, JSON lines, CSV, TSV or lines of text; text may be compressed.

    Args:
        skipped: counts bad lines by reason.
        columns: chooses the columns to read; rows may contain others too.

    Raises:
        UserError: the file cannot be read, is truncated, or has an unknown ending.
    """
    if not path.endswith(ENDINGS):
        raise UserError(f"{path} is not a known kind of file; data files end in {KNOWN}.")
    ending = PurePosixPath(without_compression(path)).suffix
    if ending in (".parquet", ".arrow"):
        return _arrow_rows(path, skipped, columns)
    if ending in (".csv", ".tsv"):
        return _delimited_rows(path, skipped, columns, ending)
    if is_text_file(path):
        columns(["text"])
        return ({"text": line} for line in _lines(path, skipped))
    return _json_rows(path, skipped, columns, ending)


def is_text_file(path: str) -> bool:
    """Returns whether a file has a text on each line instead of rows with columns."""
    return without_compression(path).endswith(".txt")


def without_compression(path: str) -> str:
    """Returns the path without the ending of a compressed file."""
    return next((path.removesuffix(ending) for ending in COMPRESSIONS if path.endswith(ending)), path)


def is_missing(value: object) -> bool:
    """Returns whether a field is empty: None, NaN or blank text."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def as_name(value: object) -> str | None:
    """Returns the text of a field that is a name (a label, a language, an id), or None if it is missing.

    Whole numbers are written without a decimal point, because pandas turns 3 into 3.0 if other values are missing.

    Raises:
        ValueError: the field is a list, an object or bytes.
    """
    if is_missing(value):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int | float):
        return str(value)
    raise ValueError(f"{type(value).__name__} names nothing")


def as_id(value: object) -> str | None:
    """Returns `as_name` of an id, which is a text in some files and a number in others; None if it is neither."""
    with suppress(ValueError):
        return as_name(value)
    return None


def as_number(value: object) -> float:
    """Returns a field as a finite number.

    Raises:
        ValueError: it is none.
    """
    try:
        number = float(value)  # type: ignore[arg-type]  # what it cannot take is an error
    except (TypeError, OverflowError) as error:
        raise ValueError(error) from error
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number


@contextmanager
def _damage(path: str, kind: str) -> Iterator[None]:
    """Turns errors of a decoder inside the block into a UserError that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        if errors.is_transient(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is damaged, cut short{kind} ({reason}); fetch it again.") from error


# Parquet and Arrow


def _arrow_rows(path: str, skipped: SkipList, columns: ChooseColumns) -> Iterator[FileRow]:
    kind = " or no parquet file" if path.endswith(".parquet") else " or no Arrow file"
    with files.open_file(path) as file, files.clear_errors(path, "read"), _damage(path, kind):
        schema, batches = _parquet(file, columns) if path.endswith(".parquet") else _arrow(file, columns)
        class_names = _class_names(schema)
        numbers = [field.name for field in schema if pa.types.is_floating(field.type)]
        place = 0
        for batch in batches:
            for row in batch.to_pylist():
                for name in numbers:
                    if name in row and is_missing(row[name]):
                        row[name] = None
                for name, names in class_names.items():
                    if isinstance(number := row.get(name), int):
                        row[name] = names[number] if 0 <= number < len(names) else None
                skipped.at(f"{path}:{place}", row)
                place += 1
                yield row


def _parquet(file: BinaryIO, columns: ChooseColumns) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    table = pq.ParquetFile(file)
    return table.schema_arrow, table.iter_batches(READ_ROWS, columns=columns(table.schema_arrow.names))


def _arrow(file: BinaryIO, columns: ChooseColumns) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Yields the batches of an Arrow (Feather) file, or of a stream that the `datasets` library saved."""
    is_stream = file.read(6) != b"ARROW1"
    file.seek(0)
    reader = pa.ipc.open_stream(file) if is_stream else pa.ipc.open_file(file)
    chosen = columns(reader.schema.names)
    batches = reader if is_stream else map(reader.get_batch, range(reader.num_record_batches))
    return reader.schema, (batch.select(chosen) for batch in batches)


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Returns {column: names of its classes} from the metadata that the `datasets` library writes."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {
        column: feature["names"]
        for column, feature in features
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and _are_texts(feature.get("names"))
    }


def _are_texts(names: object) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


# JSON


def _json_rows(path: str, skipped: SkipList, columns: ChooseColumns, ending: str) -> Iterator[FileRow]:
    """Yields the rows of JSON lines; a .json file may also be an array of objects, or an object with one such array."""
    checked = False
    for row in _json_values(path, skipped, ending):
        if not isinstance(row, dict):
            skipped.skip("line is no JSON object")
            continue
        if not checked:
            columns(list(row))
            checked = True
        yield row


def _json_values(path: str, skipped: SkipList, ending: str) -> Iterator[object]:
    lines = _lines(path, skipped)
    if ending == ".json":
        first = next((line for line in lines if line.strip()), "")
        value = _parse(first)
        if not isinstance(value, dict) or _rows_in(value) is not None:  # else these are JSON lines after all
            value = _parse("\n".join([first, *lines]))
            rows = value if isinstance(value, list) else _rows_in(value)
            if rows is None:
                raise UserError(f"{path} should hold an array of objects, or one object a line; convert it.")
            for number, row in enumerate(rows):
                skipped.at(f"{path}:{number}", row if isinstance(row, dict) else {"row": row})
                yield row
            return
        lines = chain([first], lines)
    for line in lines:
        if line.strip():
            value = _parse(line)
            if value is _NO_JSON:
                skipped.skip("line is no JSON")
            else:
                yield value


_NO_JSON = object()


def _parse(text: str) -> object:
    """Returns the value of JSON text, with None for NaN and infinities; `_NO_JSON` if it is not JSON."""
    try:
        return json.loads(text, parse_constant=lambda constant: None)
    except (ValueError, RecursionError):
        return _NO_JSON


def _rows_in(value: object) -> list | None:
    """Returns the array in an object such as `{"version": 1, "data": [{…}, …]}`, or None."""
    arrays = (value.get(name) for name in _ROW_ARRAYS) if isinstance(value, dict) else ()
    return next((array for array in arrays if isinstance(array, list)), None)


# CSV, TSV and text


def _delimited_rows(path: str, skipped: SkipList, columns: ChooseColumns, ending: str) -> Iterator[FileRow]:
    """Yields the rows below a line of column names. CSV may have quotes, and semicolons as separators; TSV neither."""
    csv.field_size_limit(sys.maxsize)
    lines = _lines(path, skipped, whole=True)
    first = next(filter(str.strip, lines), "")
    if ending == ".csv":
        form: dict[str, Any] = {"delimiter": max(",;\t", key=first.count), "strict": True}
    else:
        form = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader((f"{line}\n" for line in chain([first], lines)), **form)
    names: list[str] = []
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise UserError(f"{path} ends inside a quoted field; fetch it again, or close the quotes.") from error
            skipped.skip("line is no CSV")
            continue
        if not (names or values):  # a blank line above the names
            continue
        if not _is_unicode(values):
            if not names:
                raise UserError(f"The first line of {path} is not UTF-8; save the file as UTF-8.")
            skipped.skip("line is not UTF-8")
        elif not names:
            names = values
            if twice := [name for name in columns(names) if names.count(name) > 1]:
                raise UserError(f"{path} has several columns {twice[0]}; rename all but one.")
        elif len(values) == len(names):
            yield dict(zip(names, values, strict=True))
        elif any(value.strip() for value in values):
            skipped.skip("line has other columns than the first")


def _is_unicode(values: list[str]) -> bool:
    """Returns whether fields contain none of the bytes that `_lines` keeps as half characters."""
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return False
    return True


def _lines(path: str, skipped: SkipList, whole: bool = False) -> Iterator[str]:
    """Yields each line of a text file in UTF-8 without its line ending, of whatever system.

    Args:
        whole: keep bytes that are not UTF-8 as half characters (`surrogateescape`), because a line may be part of a
            row; otherwise, such a line is skipped.

    Raises:
        UserError: the file cannot be read, or is truncated.
    """
    with files.open_file(path) as raw, files.clear_errors(path, "read"):
        for number, line in enumerate(_decompressed(path, raw), 1):
            skipped.at(f"{path}:{number}", {"line": line})
            try:
                text = line.decode("utf-8-sig", "surrogateescape" if whole else "strict")
            except UnicodeDecodeError:
                skipped.skip("line is not UTF-8")
            else:
                yield from text.rstrip("\r\n").split("\r")


def _decompressed(path: str, raw: BinaryIO) -> Iterator[bytes]:
    compression = COMPRESSIONS.get(PurePosixPath(path).suffix)
    if not compression:
        yield from raw
        return
    with _damage(path, " or not compressed"):
        yield from io.BufferedReader(pa.CompressedInputStream(raw, compression))
