"""Metrics of a run on gs://: uploaded whole, never lost before a checkpoint, cut back to the step of a resume."""

import json
import struct
import time

import pytest
from tensorboardX.proto.event_pb2 import Event

from f2jax import files
from f2jax.train import metrics
from f2jax.train.metrics import MetricsWriter


def read(path: str) -> bytes:
    return files.read_range(path, 0, files.size(path))


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
