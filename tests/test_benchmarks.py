"""What the comparisons of benchmarks/ share: the table of all of them, and the highest value during a block."""

import ast
import dataclasses
import json
import subprocess
import sys
import threading
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as bench
from benchmarks import plans, report
from benchmarks.peaks import highest
from benchmarks.useful_tokens import LONGEST, most_useful
from f2jax.data.shapes import SHORTEST, UNIT, Sample
from tests.tiny import ROOT


def test_a_ratio_says_how_many_times_better_ours_is_whichever_way_is_better_and_on_what(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    monkeypatch.setattr(report, "processor", lambda: "2 x AVX2")
    report.add(path, "encode", "texts/s", {"f2jax": 300.0}, {"a": 100.0, "b": 600.0}, "nano")
    report.add(path, "step", "s", {"f2jax": 2.0}, {"a": 3.0})
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in report.table([path]).splitlines()[2:]]
    assert [(what, peer, ratio) for what, _, _, peer, _, ratio, *_ in cells] == [
        ("encode", "a", "3.00"),
        ("encode", "b", "0.50"),
        ("step", "a", "1.50"),
    ]
    assert cells[0][2] == "300 texts/s" and cells[0][-2:] == ["nano", "2 x AVX2"]


def test_the_highest_value_of_a_block_is_kept_wherever_in_it_it_was():
    value, seen = [1], threading.Event()

    def read() -> int:
        if value[0] == 9:
            seen.set()
        return value[0]

    with highest(read, seconds=0.001) as most:
        value[0] = 9
        assert seen.wait(60)
        value[0] = 2
    assert most[0] == 9


def test_lines_of_versions_that_did_not_name_the_processor_are_shown(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(["encode", "f2jax", "300 texts/s", "a", "100 texts/s", 3.0, "nano"]) + "\n")
    line = report.table([path]).splitlines()[-1]
    assert line == "| encode | f2jax | 300 texts/s | a | 100 texts/s | 3.00 | nano | unknown |"


@cache
def names_in(module: str) -> set[str]:
    """The names that a module of this repository has, told from its source: some need libraries that are not here."""
    path = ROOT / module.replace(".", "/")
    beside = {file.stem for file in path.iterdir()} if path.is_dir() else set()
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    nodes = list(ast.walk(ast.parse(source.read_text() if source.exists() else "")))
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    imported = {node.asname or node.name for node in nodes if isinstance(node, ast.alias)}
    return beside | stored | imported | {getattr(node, "name", "") for node in nodes}


def test_what_a_benchmark_imports_from_here_is_there():
    missing = [
        f"{path.name}: {node.module}.{name.name}"
        for path in sorted((ROOT / "benchmarks").glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("benchmarks", "f2jax")
        for name in node.names
        if name.name not in names_in(node.module)
    ]
    assert missing == []


def test_without_a_file_nothing_is_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report.add(None, "encode", "texts/s", {"f2jax": 1.0}, {"a": 1.0})
    assert not list(tmp_path.iterdir())


def test_a_quick_run_does_not_count_as_a_whole_one(tmp_path, monkeypatch):
    runs = []

    def run(command, check, timeout):
        runs.append(command)
        report.add(Path(command[-1]), "search", "s", {"f2jax": 1.0}, {"a": 1.0})

    monkeypatch.setattr(subprocess, "run", run)
    for options in (["--quick"], [], ["--quick"], []):
        monkeypatch.setattr(sys, "argv", ["benchmarks", "--output", str(tmp_path), "--only", "search", *options])
        bench.main()
    assert ["5000" in command for command in runs] == [True, False]


@pytest.mark.parametrize(
    "cpuinfo,found",
    [
        ("processor\t: 0\nflags\t\t: fpu avx2\nprocessor\t: 1\nflags\t\t: fpu avx2\n", "2 x AVX2"),
        ("processor : 0\nflags : avx avx2 avx512f avx512_bf16 amx_bf16", "1 x AVX2, AVX-512, bfloat16, AMX"),
        ("processor : 0\nFeatures : asimd", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_processor_is_named_by_the_units_that_it_multiplies_with(cpuinfo, found):
    assert report.units(cpuinfo) == found


def test_runs_end_with_the_time_a_failed_one_does_not_stop_the_others_and_the_next_call_goes_on(tmp_path, monkeypatch):
    begun, outcome = [], {"search": subprocess.CalledProcessError(1, "search")}

    def run(command, check, timeout):
        assert 0 < timeout <= 120
        name = next(name for name, (module, *_) in bench.RUNS.items() if f"benchmarks.{module}" in command)
        begun.append(name)
        if name in outcome:
            raise outcome[name]
        Path(command[-1]).touch()

    monkeypatch.setattr(subprocess, "run", run)
    argv = ["benchmarks", "--output", str(tmp_path), "--minutes", "2", "--only", "search", "loader", "mine"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit, match=r"These runs failed: search\."):
        bench.main()
    assert begun == ["search", "loader", "mine"]
    outcome["search"] = subprocess.TimeoutExpired("search", 120)
    bench.main()
    del outcome["search"]
    bench.main()
    assert begun[3:] == ["search", "search"]


def test_each_run_has_a_module_and_options_that_it_knows():
    """Of a GPU too, where there is none."""
    folders = {"model": "m", "output": "o", "data": "d", "tokenizer": "t"}
    for module, options, quick in (bench.RUNS | bench.GPU_RUNS).values():
        source = Path(bench.__file__).with_name(f"{module}.py").read_text()
        for word in (word.format(**folders) for word in [*options, *quick]):
            assert not word.startswith("--") or f'"{word}"' in source


def test_plans_are_made_anew_in_the_layouts_of_earlier_ones_go_on_where_they_stopped_and_change_for_faster_ones(
    tmp_path, monkeypatch
):
    mesh = {"replica": 1, "data": 2, "fsdp": 4, "tensor": 1}
    earlier = {"mesh": mesh, "remat": "qkv", "chunk_rows": 0, "unroll": 1}
    old, new, tried = tmp_path / "old.json", tmp_path / "new.json", []
    old.write_text(json.dumps({"80m 2 v5p:2x2x2": earlier, "160m 2 v5p:2x2x2": earlier | {"remat": "full"}}))

    def plan_slice(config, topology, tokens_per_text):
        model = config.model
        tried.append((model.size, config.mesh.data, config.mesh.fsdp, model.remat, model.unroll))
        seconds = 3.0 if model.unroll == 1 else 2.0 if model.unroll == 8 else 4.0
        return Planned(True, {"step": seconds}, 0.5, "", config.mesh.to_dict(), model.remat, 0, model.unroll)

    monkeypatch.setattr("f2jax.plan.run.plan_slice", plan_slice)
    both = plans.chosen(["80m 2 v5p", "160m 2 v5p"])
    plans.fill(new, both[:1], layouts=old)
    plans.fill(new, both, layouts=old)
    assert tried == [("80m", 2, 4, "qkv", 1), ("160m", 2, 4, "full", 1)]
    for unroll in (8, 4):
        plans.fill(new, both[:1], changes=dict([plans.field(f"model.unroll={unroll}")]))
    assert tried[2:] == [("80m", 2, 4, "qkv", 8), ("80m", 2, 4, "qkv", 4)]
    assert [plan["unroll"] for plan in plans.read(new).values()] == [8, 1]


@dataclasses.dataclass
class Planned:
    """As much of a `SlicePlan` as is looked at."""

    fits: bool
    seconds: dict
    mfu: float
    advice: str
    mesh: dict
    remat: str
    chunk_rows: int
    unroll: int


def most_useful_of_all(steps: list[Sample], chips: int, limit: int) -> tuple[float, float]:
    """The largest share of useful tokens that any `limit` chunks of up to a row can have, and a chip's tokens then."""
    sizes = [(kind, size) for kind in {step.kind for step in steps} for size in range(SHORTEST, LONGEST + 1, UNIT)]
    cost_oi = np.array([[cost(step, chips, kind, size) for step in steps] for kind, size in sizes])
    least = min(cost_oi[list(chosen)].min(axis=0).sum() for chosen in combinations(range(len(sizes)), limit))
    return sum(step.lengths_u.sum() for step in steps) / chips / least, least


def cost(step: Sample, chips: int, kind: str, size: int) -> float:
    """The tokens of a chip for a batch in chunks of this size."""
    fits = kind == step.kind and step.lengths_u.max() <= size
    return -(-step.lengths_u.sum() // (chips * size)) * size if fits else np.inf


@pytest.mark.parametrize("chips,limit,kinds", [(1, 1, "a"), (4, 2, "a"), (4, 2, "ab"), (16, 2, "ab"), (8, 2, "aaab")])
def test_no_programs_have_more_useful_tokens_than_the_bound_says_and_it_is_near_them(chips, limit, kinds):
    rng = np.random.default_rng(chips)
    steps = [Sample(kinds[i % len(kinds)], 1.0, rng.integers(20, 300, rng.integers(20, 90))) for i in range(12)]
    share, tokens = most_useful_of_all(steps, chips, limit)
    bound = most_useful(steps, chips, 1, limit, tokens)
    assert share - 1e-9 <= bound <= share + 0.03 and share < 0.99
