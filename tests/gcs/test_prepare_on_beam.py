"""`prepare` as one graph of Apache Beam, by workers that share nothing but gs://: the hashes of a local run."""

import json
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import metadata
from importlib.util import find_spec
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
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # it starts workers by `python`
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


def prepare(inputs, output: str, folder: Path, *runner: str, evaluation: str | None = None) -> int:
    command = ["prepare", "--input", *inputs, "--output", output, "--tokenizer", str(folder / "tokenizer")]
    command += ["--max-length", "32", "--validation-share", "0.2", "--tasks", f"retrieval={corpora.TASK}"]
    command += ["--cap", "50", "--evaluation-sets", *filter(None, [evaluation]), "--near-duplicates", "0.8"]
    return main([*command, "--beam-runner", *runner])


def on(cluster: str) -> list[str]:
    """The runner, and its options."""
    known = ["--job_endpoint=embed", "--environment_type=EXTERNAL", f"--environment_config={cluster}"]
    return ["PortableRunner", "--", *known]


def test_workers_that_share_only_the_bucket_write_what_one_process_writes(
    cluster, bucket, tmp_path, capsys, monkeypatch
):
    """Two workers: duplicates, rows over the cap or in evaluation sets, and all files, are those of the local run."""
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    run = FnApiRunner.run_via_runner_api

    def with_two_workers(runner, *rest):
        runner._num_workers = 2  # which no option says where the job service is embedded
        return run(runner, *rest)

    monkeypatch.setattr(FnApiRunner, "run_via_runner_api", with_two_workers)
    evaluation = tmp_path / "held.txt"
    evaluation.write_text(max((row["positive"] for row in corpora.rows(80, 1)), key=len))
    options = replace(OPTIONS, curate=replace(OPTIONS.curate, evaluation_sets=(str(evaluation),)))
    card = corpora.make(tmp_path, corpora.write_inputs(tmp_path / "in"), options)
    assert card["skipped"]["positive is in evaluation set held (whole)"]
    names = [path.name for path in (tmp_path / "in").iterdir()]
    fsspec.filesystem("gs").put(f"{tmp_path}/in/", f"{bucket}/in/", recursive=True)
    inputs = [f"{bucket}/in/{name}" for name in ("pairs.jsonl", "pairs_part2.jsonl", "mixed.jsonl", "more.jsonl")]
    assert len(names) == len(inputs)
    made = prepare(inputs, f"{bucket}/corpus", tmp_path, *on(cluster), evaluation=str(evaluation))
    assert made == 0, capsys.readouterr().err
    made = files.read_json_object(f"{bucket}/corpus/{CARD}")
    without = [{name: value for name, value in entry.items() if name != "fingerprint"} for entry in card["datasets"]]
    assert made["datasets"] == without and len(without) == 3
    for name in ("skipped", "noted", "identified", "tokenizer"):
        assert made[name] == card[name]
    assert sum(made["skipped"].values()) > 1 and not files.exists(f"{bucket}/corpus/work")
    monkeypatch.setenv("F2JAX_CACHE", str(tmp_path / "cache"))
    corpus = PreparedCorpus(f"{bucket}/corpus")
    corpus.fetch(texts=True)
    shards, index = (list((tmp_path / "corpus").rglob(name)) for name in ("*.array_record-*", "index/**/*.npy"))
    assert len(shards) == 3 * 6, "of three data sets the documents, rows of two splits, and the texts of all these"
    for path in shards + index:
        assert (corpus.folder / path.relative_to(tmp_path / "corpus")).read_bytes() == path.read_bytes()
    rows = [len(training) for training, _ in corpus.splits()]
    assert rows == [entry["rows"]["train"] for entry in card["datasets"]]


@pytest.mark.slow
def test_a_damaged_input_is_one_clear_error(cluster, bucket, tmp_path, capsys):
    corpora.make_tokenizer(tmp_path / "tokenizer")
    files.write_atomically(f"{bucket}/cut.parquet", b"PAR1 and no more")
    assert prepare([f"{bucket}/cut.parquet"], f"{bucket}/corpus", tmp_path, *on(cluster)) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{bucket}/cut.parquet is damaged, cut short or no parquet file" in last and "while running" not in last


@pytest.mark.parametrize(
    "runner,message",
    [
        (("NoRunner",), "--beam-runner NoRunner cannot be used: Unexpected pipeline runner: NoRunner"),
        (
            ("PortableRunner", "--", "--job_endpoint=127.0.0.1:9", "--job_server_timeout=1"),
            "--beam-runner PortableRunner cannot be used: ",
        ),
    ],
)
def test_a_runner_that_cannot_be_reached_is_one_clear_line(tmp_path, capsys, runner, message):
    corpora.make_tokenizer(tmp_path / "tokenizer")
    (path,) = corpora.write_inputs(tmp_path / "in")[:1]
    assert prepare([path], str(tmp_path / "corpus"), tmp_path, *runner) == 1
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def documented_runners() -> list[list[str]]:
    """The runner and what follows it in each command of the page."""
    page = (ROOT / "docs/tasks/prepare.md").read_text().replace("\\\n", " ")
    commands = map(shlex.split, re.findall(r"^f2jax prepare .*--beam-runner .*", page, re.M))
    return [command[command.index("--beam-runner") + 1 :] for command in commands]


@pytest.mark.parametrize("runner", documented_runners(), ids=lambda runner: runner[0])
def test_options_behind_two_dashes_reach_the_runner_as_beam_knows_them(tmp_path, capsys, monkeypatch, runner):
    """Those that the page names for Dataflow, Flink and Spark, each with its value, and no other."""
    found = []

    def pipeline(runner, options):
        found.append((runner, options.get_all_options(drop_default=True)))
        raise ValueError("no runner here")

    monkeypatch.setattr("apache_beam.Pipeline", pipeline)
    corpora.make_tokenizer(tmp_path / "tokenizer")
    (path,) = corpora.write_inputs(tmp_path / "in")[:1]
    assert prepare([path], str(tmp_path / "corpus"), tmp_path, *runner) == 1
    assert f"--beam-runner {runner[0]} cannot be used: no runner here" in capsys.readouterr().err
    expected = dict(option.removeprefix("--").split("=", 1) for option in runner[2:])
    assert len(expected) >= 3 and runner[1] == "--"
    assert found == [(runner[0], {name: [v] if name == "experiments" else v for name, v in expected.items()})]


def test_the_container_of_the_workers_has_one_python_and_extras_that_exist():
    recipe = (ROOT / "launch/beam/Dockerfile").read_text()
    versions = re.findall(r"^FROM .*python:?(\d\.\d+)", recipe, re.M)
    extras = re.search(r"/src\[(.+?)\]", recipe)[1].split(",")
    known = re.findall(r'^ +"([\w-]+)": ', (ROOT / "setup.py").read_text(), re.M)
    assert len(versions) == 2 and len(set(versions)) == 1 and {"gcp", *extras} <= set(known)


def test_the_recipe_is_one_that_docker_can_follow_and_takes_files_from_where_beam_has_them():
    """Each line is an instruction; what is copied and started is there; the page builds it with the argument it has."""
    lines = (ROOT / "launch/beam/Dockerfile").read_text().splitlines()
    steps = [line.split(" ", 1) for line in lines if line and not line.startswith("#")]
    assert [name for name, _ in steps] == ["ARG", "FROM", "FROM", "ARG", "COPY", "RUN", "COPY", "ENTRYPOINT"]
    boot = json.loads(dict(steps)["ENTRYPOINT"])
    stage, source, target = shlex.split(steps[-2][1])
    assert boot == [f"{target}/boot"] and source == target and steps[1][1].endswith(f" AS {stage.split('=')[1]}")
    assert "${BEAM}" in steps[1][1] and shlex.split(steps[5][1])[:2] == ["pip", "install"]
    builds = [line for line in (ROOT / "docs/tasks/prepare.md").read_text().splitlines() if "docker build" in line]
    assert all("-f launch/beam/Dockerfile --build-arg BEAM=" in line for line in builds) and builds


def test_the_container_is_made_of_what_the_package_is_built_from_alone():
    """Without .dockerignore, its COPY would take the environment and runs of the checkout too."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    taken = {line.removeprefix("!") for line in lines if line.startswith("!")}
    read = set(re.findall(r'here / "([\w.]+)', (ROOT / "setup.py").read_text()))
    links = {link.resolve().name for link in (ROOT / "f2jax").iterdir() if link.is_symlink()}
    assert lines[0] == "*" and {"pyproject.toml", "setup.py", "f2jax", *read, *links} <= taken
    assert all((ROOT / name).exists() for name in taken)


def test_what_the_extra_for_dataflow_asks_for_is_there_in_beam():
    known = metadata("apache-beam").get_all("Provides-Extra")
    wanted = re.search(r"^gcp = .*apache-beam\[(\w+)\]", (ROOT / "setup.py").read_text(), re.M)[1]
    assert wanted in known and find_spec("apache_beam.runners.dataflow.dataflow_runner")


def test_an_output_that_holds_files_and_options_without_a_runner_are_refused(tmp_path, capsys):
    corpora.make_tokenizer(tmp_path / "tokenizer")
    (path,) = corpora.write_inputs(tmp_path / "in")[:1]
    assert prepare([path], str(tmp_path / "in"), tmp_path, "DirectRunner") == 1
    assert f"--output {tmp_path}/in holds " in capsys.readouterr().err and Path(path).exists()
    needed = ["prepare", "--input", path, "--output", str(tmp_path / "c"), "--tokenizer", str(tmp_path / "tokenizer")]
    assert main([*needed, "--", "--project=x"]) == 1
    assert "give --beam-runner too" in capsys.readouterr().err
    assert main([*needed, "--beam-runner", "DirectRunner", "--jobs", "2"]) == 1
    assert "cannot be combined with --add, --skipped or --jobs" in capsys.readouterr().err


def test_a_data_set_has_shards_of_whole_blocks_and_documents_by_size(monkeypatch):
    """Against a loop: the blocks of a split in order, a new shard where the next block would not fit."""
    from f2jax.prepare import beam_graph, datasets

    monkeypatch.setattr(beam_graph, "SHARD_ROWS", 10)
    monkeypatch.setattr(datasets, "SHARD_BYTES", 100)
    a, b = (b"a", "retrieval"), (b"b", "retrieval")
    counts = {(a, "train"): {0: 4, 2: 6, 3: 1, 7: 10, 9: 12, 10: 1}, (a, "validation"): {2: 3}, (b, "train"): {1: 2}}
    sums = [
        ((key, split, block), (rows, 30, block << beam_graph.BLOCK_BITS))
        for (key, split), blocks in counts.items()
        for block, rows in blocks.items()
    ]
    plan = beam_graph.make_plan(sums[::-1])
    assert plan[a].starts == {"train": [0, 3, 7, 9, 10], "validation": [2]}
    assert plan[b].starts == {"train": [1], "validation": []}
    assert [(data.name, data.buckets) for data in plan.values()] == [("a", 3), ("b", 1)]
