"""`make bench` is no test; that its modules still load is one."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

MODULES = sorted(Path(__file__).parents[1].glob("benchmarks/bench_*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_benchmark_loads(path: Path) -> None:
    module = importlib.import_module(f"tests.benchmarks.{path.stem}")
    assert callable(module.benchmarks)
