"""Metrics of a run on gs://: appended in parts, never lost before a checkpoint, cut back to the step of a resume."""

import json
import struct
import time

import pytest
from tensorboardX.proto.event_pb2 import Event

from f2jax import files
from f2jax.errors import Restart
from f2jax.train import metrics
from f2jax.train.metrics import MetricsWriter


def read(path: str) -> bytes:
    return files.read_range(path, 0, files.file_size(path))


def steps(run: str) -> list[int]:
    return [json.loads(line)["step"] for line in read(f"{run}/metrics.jsonl").splitlines()]


def board_steps(run: str) -> list[list[int]]:
    """The steps in each TensorBoard event file: records of length, checksum, content, checksum."""
    filesystem, name = files.filesystem(f"{run}/tensorboard")
    found = []
    for path in sorted(filesystem.find(name)):
        content, at, one = read(f"gs://{path}"), 0, []
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            one += [event.step] if event.summary.value else []
            at += length + 16
        found.append(one)
    return found


def test_lines_are_there_after_publishing_and_at_the_end(bucket):
    with MetricsWriter(f"{bucket}/run", 0, tensorboard=True) as writer:
        writer.write(1, {"loss": 2.0})
        assert not files.exists(f"{bucket}/run/metrics.jsonl")
        writer.publish()
        assert steps(f"{bucket}/run") == [1] and files.exists(f"{bucket}/run/tensorboard")
        writer.write(2, {"loss": 1.0})
        assert steps(f"{bucket}/run") == [1]
    assert steps(f"{bucket}/run") == [1, 2] and board_steps(f"{bucket}/run") == [[1, 2]]


def test_they_are_published_about_once_a_minute_without_being_asked(bucket, monkeypatch):
    monkeypatch.setattr(metrics, "PUBLISH_SECONDS", -1)
    with MetricsWriter(f"{bucket}/run", 0, tensorboard=False) as writer:
        for step in (1, 2):
            writer.write(step, {})
            assert steps(f"{bucket}/run") == list(range(1, step + 1))


@pytest.mark.parametrize("status, reason", [(503, "Try again later"), (403, "You may not")])
def test_where_that_fails_the_run_goes_on_and_tries_again_a_minute_later(
    server, bucket, refusing, monkeypatch, capsys, status, reason
):
    with MetricsWriter(f"{bucket}/run", 0, tensorboard=False) as writer:
        writer.write(1, {})
        refusing(status, reason)
        writer.publish()
        (warning,) = capsys.readouterr().out.splitlines()
        assert warning.startswith(f"Metrics could not be written to {bucket}/run ({reason}")
        assert warning.endswith("; the next try is in a minute.")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        writer.write(2, {})
        assert not files.exists(f"{bucket}/run/metrics.jsonl")
        monkeypatch.setattr(metrics, "PUBLISH_SECONDS", -1)  # it has passed
        writer.write(3, {})
        assert steps(f"{bucket}/run") == [1, 2, 3]
    assert not capsys.readouterr().out


def test_at_the_end_it_is_tried_a_few_times(server, bucket, refusing, monkeypatch, capsys):
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)

    monkeypatch.setattr(metrics.time, "sleep", sleep)
    with MetricsWriter(f"{bucket}/run", 0, tensorboard=False) as writer:
        writer.write(1, {})
        refusing(503, "Try again later")
    assert waits == [5, 30] and steps(f"{bucket}/run") == [1]
    assert not writer.folder.exists() and not capsys.readouterr().out


@pytest.mark.parametrize("status, tries", [(503, 3), (403, 1)])
def test_what_is_not_there_in_the_end_is_said_and_kept_here(bucket, refusing, monkeypatch, capsys, status, tries):
    waits = []
    monkeypatch.setattr(metrics.time, "sleep", waits.append)
    with MetricsWriter(f"{bucket}/run", 0, tensorboard=False) as writer:
        writer.write(1, {})
        refusing(status, "It does not go")
    assert len(waits) == tries - 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"The last metrics are not in {bucket}/run (It does not go")
    assert line.endswith(f"; they are in {writer.folder}.")
    assert json.loads((writer.folder / "metrics.jsonl").read_text()) == {"step": 1}


def test_it_hides_no_error_of_the_run(bucket, refusing):
    with pytest.raises(ZeroDivisionError), MetricsWriter(f"{bucket}/run", 0, tensorboard=False) as writer:
        writer.write(1, {})
        refusing(403, "You may not")
        raise ZeroDivisionError


def test_a_run_does_not_start_where_its_lines_cannot_be_read(bucket, refusing):
    refusing(503, "Try again later")
    with pytest.raises(Restart, match=r"metrics\.jsonl cannot be opened just now"):
        MetricsWriter(f"{bucket}/run", 0, tensorboard=False)


def test_they_are_published_when_the_run_fails(bucket):
    with pytest.raises(ZeroDivisionError), MetricsWriter(f"{bucket}/run", 0, tensorboard=True) as writer:
        writer.write(1, {"loss": 2.0})
        raise ZeroDivisionError
    assert steps(f"{bucket}/run") == [1] and board_steps(f"{bucket}/run") == [[1]]


def test_a_resume_keeps_the_lines_up_to_its_step(bucket):
    with MetricsWriter(f"{bucket}/run", 0, tensorboard=True) as writer:
        for step in range(1, 7):
            writer.write(step, {"loss": 1.0})
    time.sleep(1.1)  # event files are named by the second
    with MetricsWriter(f"{bucket}/run", 4, tensorboard=True) as writer:
        writer.write(5, {"loss": 1.0})
    assert steps(f"{bucket}/run") == [1, 2, 3, 4, 5]
    assert board_steps(f"{bucket}/run") == [[1, 2, 3, 4, 5, 6], [5]], "TensorBoard itself drops what a resume repeats"


def test_what_has_not_changed_is_not_uploaded_again(server, bucket):
    with MetricsWriter(f"{bucket}/run", 0, tensorboard=False) as writer:
        writer.write(1, {})
        writer.publish()
        since = server.mark()
        writer.publish()
        assert not server.requests(since)
        writer.write(2, {})
        writer.publish()
        assert server.requests(since)


@pytest.mark.parametrize("remote", [False, True])
def test_a_process_that_is_not_the_first_writes_nothing(tmp_path, bucket, monkeypatch, remote):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    run = f"{bucket}/run" if remote else str(tmp_path / "run")
    with MetricsWriter(run, 0, tensorboard=True) as writer:
        writer.write(1, {"loss": 2.0})
    assert not files.exists(run)


@pytest.fixture
def sent(monkeypatch) -> list[int]:
    """The bytes of each upload by gcsfs from here on."""
    from gcsfs.core import GCSFileSystem

    found, request = [], GCSFileSystem._request

    async def counted(self, method, path, *args, **options):
        if "upload" in path and method == "POST":
            found.append(len(options["data"]) if isinstance(options.get("data"), bytes) else 0)
        return await request(self, method, path, *args, **options)

    monkeypatch.setattr(GCSFileSystem, "_request", counted)
    return found


def test_only_what_is_new_is_uploaded(bucket, sent):
    long = {"loss": 1.0, "x" * 10_000: 0.0}
    with MetricsWriter(f"{bucket}/run", 0, tensorboard=True) as writer:
        for step in range(1, 6):
            writer.write(step, long)
            writer.publish()
    assert steps(f"{bucket}/run") == [1, 2, 3, 4, 5]
    assert board_steps(f"{bucket}/run") == [[step for step in range(1, 6) for _ in long]]
    assert 90_000 < sum(sent) < 150_000, "all five lines and events once, not 300,000 bytes"
    filesystem, name = files.filesystem(f"{bucket}/run")
    assert not [path for path in filesystem.find(name) if path.endswith(".part")]
    with MetricsWriter(f"{bucket}/run", 3, tensorboard=False) as writer:
        writer.write(4, {})
    assert steps(f"{bucket}/run") == [1, 2, 3, 4]


def test_an_object_of_another_length_than_it_should_have_is_written_whole_again(bucket, monkeypatch, capsys):
    """As after a request that was sent twice, because the answer to the first was lost."""
    with MetricsWriter(f"{bucket}/run", 0, tensorboard=False) as writer:
        writer.write(1, {})
        writer.publish()
        files.write_atomically(f"{bucket}/run/metrics.jsonl", 2 * read(f"{bucket}/run/metrics.jsonl"))
        writer.write(2, {})
        writer.publish()
        assert "metrics.jsonl has 36 bytes instead of 24" in capsys.readouterr().out
        writer.publish()
        assert steps(f"{bucket}/run") == [1, 2]
