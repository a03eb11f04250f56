"""What a benchmark says of a command is of the command alone."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.benchmarks.child import run_child
from tests.benchmarks.run import met

MIB = 2**20


def test_peak_memory_is_the_childs_own() -> None:
    large = np.ones(100 * MIB // 8)
    taken = run_child([sys.executable, "-S", "-c", "pass"])
    assert taken["peak_bytes"] < large.nbytes
    more = run_child([sys.executable, "-S", "-c", f"b = b'b' * {100 * MIB}"])
    assert more["peak_bytes"] > taken["peak_bytes"] + 90 * MIB


def test_environment_reaches_the_child_and_failures_are_told() -> None:
    code = "import os, sys; sys.exit(os.environ.get('WORD') != 'yes')"
    assert run_child([sys.executable, "-c", code], {"WORD": "yes"})["status"] == 0
    with pytest.raises(RuntimeError, match="ended with 1"):
        run_child([sys.executable, "-c", code])


@pytest.mark.parametrize(
    ("bars", "kept"),
    [
        ({}, None),
        ({"bar_s": 1.0}, True),
        ({"bar_s": 0.4}, False),
        ({"bar_s": 1.0, "bar_bytes": 99}, False),
        ({"bar_s": 1.0, "bar_bytes": 100, "bar_rate": 2.0}, True),
        ({"bar_rate": 2.1}, False),
    ],
)
def test_bars_are_limits_from_above_or_below(bars: dict[str, float], kept: bool | None) -> None:
    assert met({"seconds": 0.5, "peak_bytes": 100, "rate": 2.0, **bars}) is kept
