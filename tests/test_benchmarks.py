"""The table that the comparisons of benchmarks/ are gathered in."""

import subprocess
import sys
from pathlib import Path

from benchmarks import __main__ as bench
from benchmarks import report


def test_a_ratio_says_how_many_times_better_ours_is_whichever_way_is_better(tmp_path):
    path = tmp_path / "rows.jsonl"
    report.add(path, "encode", "texts/s", {"f2jax": 300.0}, {"a": 100.0, "b": 600.0}, "nano")
    report.add(path, "step", "s", {"f2jax": 2.0}, {"a": 3.0})
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in report.table([path]).splitlines()[2:]]
    assert [(what, peer, ratio) for what, _, _, peer, _, ratio, _ in cells] == [
        ("encode", "a", "3.00"),
        ("encode", "b", "0.50"),
        ("step", "a", "1.50"),
    ]
    assert cells[0][2] == "300 texts/s" and cells[0][-1] == "nano"


def test_without_a_file_nothing_is_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report.add(None, "encode", "texts/s", {"f2jax": 1.0}, {"a": 1.0})
    assert not list(tmp_path.iterdir())


def test_a_quick_run_does_not_count_as_a_whole_one(tmp_path, monkeypatch):
    runs = []

    def run(command, check):
        runs.append(command)
        report.add(Path(command[-1]), "search", "s", {"f2jax": 1.0}, {"a": 1.0})

    monkeypatch.setattr(subprocess, "run", run)
    for options in (["--quick"], [], ["--quick"], []):
        monkeypatch.setattr(sys, "argv", ["benchmarks", "--output", str(tmp_path), "--only", "search", *options])
        bench.main()
    assert ["5000" in command for command in runs] == [True, False]
