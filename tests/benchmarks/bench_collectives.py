"""How fast collectives are priced: many calls of many groups at once, and one call by itself."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from clustersim.cost.collectives import COLLECTIVES, collective_s, line_table, price_calls
from tests.collective_cases import group, shipped_links

CALLS = 2_000_000


def best_of(call: Callable[[], object], times: int = 5) -> float:
    """Least wall time of several calls after one to warm up. [s]"""
    call()
    seconds = []
    for _ in range(times):
        started_s = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started_s)
    return min(seconds)


def benchmarks() -> list[dict[str, object]]:
    """Measure; compilation is warm-up and not counted."""
    links = shipped_links()
    paths = [group(width, nodes) for width in (1, 2, 4, 8) for nodes in (2, 16, 192, 1536)]
    table = line_table([(name, path) for name in COLLECTIVES for path in paths], links)
    rng = np.random.default_rng(1)
    rows = rng.integers(0, table.start.size - 1, CALLS)
    sizes = 2.0 ** rng.uniform(8, 34, CALLS)
    one = np.array([50e6])
    cases: list[tuple[str, Callable[[], object], int, str]] = [
        ("collectives_kernel", lambda: price_calls(table, rows, sizes, True), CALLS, "calls"),
        ("collectives_numpy", lambda: price_calls(table, rows, sizes, False), CALLS, "calls"),
        (
            "collectives_vector",
            lambda: collective_s("all_reduce", sizes, paths[-1], links),
            CALLS,
            "calls",
        ),
        (
            "collectives_single",
            lambda: collective_s("all_reduce", one, paths[-1], links),
            1,
            "calls",
        ),
    ]
    results: list[dict[str, object]] = []
    for name, call, work, unit in cases:
        seconds = best_of(call)
        results.append(
            {"name": name, "seconds": seconds, "work": work, "unit": unit, "rate": work / seconds}
        )
    return results


if __name__ == "__main__":
    import json

    print(json.dumps(benchmarks(), indent=1))
