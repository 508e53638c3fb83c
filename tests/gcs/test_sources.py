"""Data on gs:// is the data that lies here: the same records from the same files, globs and folders."""

from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from f2jax import files
from f2jax.data.skip_list import SkipList
from f2jax.data.sources import open_source
from f2jax.errors import Restart, UserError
from tests import tiny


@pytest.fixture(scope="module")
def copies(server, tmp_path_factory) -> tuple[str, str]:
    """A local folder of data, and the same on gs://."""
    folder = tmp_path_factory.mktemp("data")
    pairs, colours = tiny.write_rows(folder)
    rows = [{"query": f"query {i}", "positive": f"passage {i} ключ", "negative_1": f"no {i}"} for i in range(9_000)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "big.parquet", row_group_size=2_000)
    (folder / "nested").mkdir()
    pq.write_table(pa.Table.from_pylist(rows[:9]), folder / "nested/small.parquet")
    fsspec.filesystem("file").copy(pairs, str(folder / "nested/more.jsonl"))
    with fsspec.open(str(folder / "packed.jsonl.gz"), "wb", compression="gzip") as file:
        file.write(Path(colours).read_bytes())
    bucket = server.new_bucket()
    fsspec.filesystem("gs").put(f"{folder}/", f"{bucket}/data/", recursive=True)
    return str(folder), f"{bucket}/data"


@pytest.mark.parametrize(
    "spec,count",
    [
        ("pairs.jsonl", 96),
        ("packed.jsonl.gz", 96),
        ("big.parquet", 9_000),
        ("*.jsonl", 192),
        ("n*/[ms]*.*", 105),
        ("nested", 105),
        ("nested/", 105),
        ("", 9_393),
    ],
)
def test_the_records_are_those_of_the_local_files(copies, spec, count):
    here, there = (list(open_source(files.join(folder, spec), "train", SkipList())) for folder in copies)
    assert len(here) == count
    assert there == here


@pytest.mark.parametrize("spec", ["no.jsonl", "no*.parquet", "no/folder/"])
def test_a_source_that_is_not_there_is_named(copies, spec):
    path = files.join(copies[1], spec)
    with pytest.raises(UserError) as error:
        list(open_source(path, "train", SkipList()))
    assert str(error.value) == f"There is no data file {path}; check the path."


@pytest.mark.parametrize("name", ["pairs.jsonl", "packed.jsonl.gz", "big.parquet"])
def test_a_server_that_fails_while_a_file_is_read_asks_for_a_restart(copies, refusing, monkeypatch, name):
    path = files.join(copies[1], name)
    open_file = files.open_file

    def opened(path):
        file = open_file(path)
        refusing(503, "Try again later")
        return file

    monkeypatch.setattr(files, "open_file", opened)
    with pytest.raises(Restart, match=rf"^{path} cannot be read just now .*; run the same command again\.$"):
        list(open_source(path, "train", SkipList()))


def test_a_missing_bucket_is_named(server):
    with pytest.raises(UserError, match=r"^There is no bucket gs://no-bucket; check its name, or create it\.$"):
        list(open_source("gs://no-bucket/*.jsonl", "train", SkipList()))


def test_a_parquet_file_cut_short_is_named(copies, bucket):
    content = files.read_range(f"{copies[1]}/nested/small.parquet", 0, 500)
    files.write_atomically(f"{bucket}/cut.parquet", content)
    with pytest.raises(UserError, match=rf"^{bucket}/cut\.parquet is .*cut short.*; fetch it again"):
        list(open_source(f"{bucket}/cut.parquet", "train", SkipList()))
