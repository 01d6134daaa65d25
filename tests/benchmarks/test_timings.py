"""The report of a benchmark run and its regression gate."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import conftest as hooks
from benchmarks.measuring.roofline import Roofline
from benchmarks.timings import main
from sdst.errors import InputError
from sdst.memory import peak_memory

RUN = {
    "benchmarks": [
        {
            "name": "bench_fast[forward]",
            "fullname": "benchmarks/bench_fast.py::bench_fast[forward]",
            "stats": {"median": 0.002},
            "extra_info": {
                "against loop": {"median": 12.0, "min": 9.0, "max": 15.0},
                "flops": 4_000_000,
                "bytes": 1_000_000,
                "peak bytes": {"fast": 3 * 2**20, "loop": 90 * 2**20},
                "device": "cpu",
                "dtype": "float32",
                "threads": 2,
            },
        },
        {
            "name": "bench_plain",
            "fullname": "benchmarks/bench_plain.py::bench_plain",
            "stats": {"median": 3.5},
            "extra_info": {},
        },
    ]
}


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, content: dict) -> Path:
        (tmp_path / name).write_text(json.dumps(content))
        return tmp_path / name

    return write


def test_a_run_becomes_a_table_and_a_figure(write, capsys) -> None:
    file = write("run.json", RUN)
    assert main([str(file)]) == 0
    header, _, fast, plain = file.with_suffix(".md").read_text().splitlines()
    assert header.count("|") == fast.count("|") == plain.count("|")
    assert "| 2 ms | loop 12.0 (9.0-15.0) | 2.00 | 0.50 |" in fast
    assert "| fast 3 MiB, loop 90 MiB | cpu, float32, 2 threads |" in fast
    assert "| 3.5 s |" in plain
    assert fast in capsys.readouterr().out
    with Image.open(file.with_suffix(".png")) as figure:
        assert figure.getextrema() != ((255, 255),) * 4


def test_a_run_as_fast_as_before_passes_the_gate(write) -> None:
    old, new = write("old.json", RUN), write("new.json", RUN)
    assert main([str(new), "--compare", str(old)]) == 0


def changed(path: list, value: float) -> dict:
    run = copy.deepcopy(RUN)
    at = run["benchmarks"]
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return run


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ([0, "extra_info", "against loop", "median"], 9.7, 0),
        ([0, "extra_info", "against loop", "median"], 9.5, 1),
        ([0, "stats", "median"], 9.9, 0),  # a busy machine: the ratio held
        ([1, "stats", "median"], 4.1, 0),
        ([1, "stats", "median"], 4.3, 1),
        ([1, "fullname"], "renamed", 1),
    ],
)
def test_the_gate_closes_when_something_got_slower(write, path, value, code: int, capsys) -> None:
    old, new = write("old.json", RUN), write("new.json", changed(path, value))
    assert main([str(new), "--compare", str(old)]) == code
    assert ("slower: " in capsys.readouterr().out) == bool(code)


@pytest.mark.parametrize("content", [{}, {"benchmarks": []}, []])
def test_a_file_without_benchmarks_is_one_line(write, content) -> None:
    with pytest.raises(InputError, match=r"run\.json"):
        main([str(write("run.json", content))])


def test_the_share_of_the_roofline_is_of_the_bound_that_binds(monkeypatch) -> None:
    run = copy.deepcopy(RUN)
    monkeypatch.setattr(hooks, "measure", lambda device, dtype: Roofline(1e9, 1e10))
    hooks.pytest_benchmark_update_json(output_json=run)
    # 1 MB at 1 GB/s is 1 ms, 4 MFLOP at 10 GFLOP/s is 0.4 ms; it took 2 ms.
    found = run["benchmarks"][0]["extra_info"]["roofline"]
    assert (found["percent"], found["bound"]) == (pytest.approx(50), "memory")
    assert "roofline" not in run["benchmarks"][1]["extra_info"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_peak_memory_counts_what_is_freed_before_the_end() -> None:
    size = 64 * 2**20

    def call() -> None:
        for _ in range(3):
            torch.ones(size // 4)

    assert size * 0.9 < peak_memory(call) < size * 2
