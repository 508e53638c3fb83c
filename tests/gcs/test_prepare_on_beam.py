"""`prepare` as one graph of Apache Beam, by workers that share nothing but gs://: the hashes of a local run."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import fsspec
import pytest

from f2jax import files
from f2jax.cli import main
from f2jax.data.corpus import CARD, PreparedCorpus
from f2jax.prepare.curate import CurationOptions
from tests.data import corpora

pytest.importorskip("apache_beam")
ROOT = Path(__file__).parents[2]
OPTIONS = replace(corpora.OPTIONS, curate=CurationOptions(evaluation_sets=(), near_duplicates=0.8), cap=50)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(server, tmp_path_factory) -> Iterator[str]:
    """The address of two pools of workers, which work in folders of their own and take turns."""
    import grpc
    from apache_beam.portability.api import beam_fn_api_pb2_grpc as api

    processes, stubs = [], []
    for _ in range(2):
        folder, port = tmp_path_factory.mktemp("pool"), free_port()
        environment = server.environment | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "HOME": str(folder)}
        command = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}"]
        processes.append(subprocess.Popen(command, cwd=folder, env=environment, stderr=(folder / "log").open("w")))
        stubs.append(api.BeamFnExternalWorkerPoolStub(grpc.insecure_channel(f"127.0.0.1:{port}")))
    turns = cycle(stubs)

    class Turns(api.BeamFnExternalWorkerPoolServicer):
        def StartWorker(self, request, context):
            return next(turns).StartWorker(request, wait_for_ready=True)

        def StopWorker(self, request, context):
            return [stub.StopWorker(request, wait_for_ready=True) for stub in stubs][-1]

    service = grpc.server(ThreadPoolExecutor())
    api.add_BeamFnExternalWorkerPoolServicer_to_server(Turns(), service)
    port = service.add_insecure_port("127.0.0.1:0")
    service.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        service.stop(None)
        for process in processes:
            process.terminate()
            process.wait()


def beam(cluster: str) -> list[str]:
    """Options of Beam for a cluster, as they stand behind `--`."""
    known = ["--job_endpoint=embed", "--environment_type=EXTERNAL", "--sdk_worker_parallelism=2"]
    return ["--beam-runner", "PortableRunner", "--", *known, f"--environment_config={cluster}"]


def test_workers_that_share_only_the_bucket_write_what_one_process_writes(cluster, bucket, tmp_path, capsys):
    inputs = corpora.write_inputs(tmp_path / "in")
    card = corpora.make(tmp_path, inputs, OPTIONS)
    fsspec.filesystem("gs").put(f"{tmp_path}/in/", f"{bucket}/in/", recursive=True)
    command = [
        "prepare",
        "--input",
        *(f"{bucket}/in/{Path(path).name}" for path in inputs),
        "--output",
        f"{bucket}/corpus",
    ]
    command += [
        "--tokenizer",
        str(tmp_path / "tokenizer"),
        "--max-length",
        "32",
        "--validation-share",
        "0.2",
        "--cap",
        "50",
    ]
    command += ["--tasks", f"retrieval={corpora.TASK}", "--evaluation-sets", "--near-duplicates", "0.8"]
    assert main([*command, *beam(cluster)]) == 0, capsys.readouterr().err
    made = files.read_json_object(f"{bucket}/corpus/{CARD}")
    without = [{k: v for k, v in entry.items() if k != "fingerprint"} for entry in card["datasets"]]
    assert made["datasets"] == without and without
    for name in ("skipped", "noted", "identified", "tokenizer"):
        assert made[name] == card[name]
    assert not files.exists(f"{bucket}/corpus/work")
    fsspec.filesystem("gs").get(f"{bucket}/corpus/", f"{tmp_path}/copy/", recursive=True)
    for kind in ("documents", "rows", "texts"):
        for path in (tmp_path / "corpus" / kind).rglob("*"):
            assert (
                path.is_dir()
                or (tmp_path / "copy" / path.relative_to(tmp_path / "corpus")).read_bytes() == path.read_bytes()
            )
    assert PreparedCorpus(tmp_path / "copy").splits()
