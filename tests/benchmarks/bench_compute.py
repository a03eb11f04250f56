"""How fast kernels are priced: a million products of random shapes in one call, and a program's."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from clustersim.cost.compute import kernel_s, kernels
from clustersim.cost.compute.gemm import SPLITS, TILES, gemm_row, gemm_s
from clustersim.spec.resolve import load_device, load_profile
from clustersim.workload.operators import Category, Kernel, KernelKind

PRODUCTS = 1_000_000
SHORT_LIST = 100


def best_of(call: Callable[[], object], times: int = 5) -> float:
    """Least wall time of several calls after one to warm up. [s]"""
    call()
    seconds = []
    for _ in range(times):
        started_s = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started_s)
    return min(seconds)


def entry(name: str, seconds: float, work: int) -> dict[str, object]:
    """One line of `make bench`."""
    return {
        "name": name,
        "seconds": seconds,
        "work": work,
        "unit": "kernels",
        "rate": work / seconds,
    }


def benchmarks() -> list[dict[str, object]]:
    """Measure; compilation is warm-up and not counted."""
    device, profile = load_device("a100_sxm_80gb"), load_profile("a100_sxm")
    row = gemm_row(device, profile, "bf16", sustained=True)
    rng = np.random.default_rng(0)
    m, n, k = (64.0 * rng.integers(1, 256, PRODUCTS) for _ in range(3))
    ones = np.ones(PRODUCTS)
    traffic = 2.0 * (m * k + k * n + m * n)
    out = np.empty((3, PRODUCTS))

    def compiled() -> None:
        kernels.gemm_s(m, n, k, ones, traffic, ones, row, TILES, SPLITS, out)

    def plain() -> None:
        gemm_s((m, n, k, ones), traffic, ones, row)

    rows = [
        Kernel("g", KernelKind.GEMM, Category.MATMUL, "bf16", 1.0, 0.0, m=64 * i, n=4096, k=4096)
        for i in range(1, SHORT_LIST + 1)
    ]
    return [
        entry("gemm_compiled", best_of(compiled), PRODUCTS),
        entry("gemm_numpy", best_of(plain, 2), PRODUCTS),
        entry("kernel_s_short_list", best_of(lambda: kernel_s(rows, device, profile)), SHORT_LIST),
    ]


if __name__ == "__main__":
    for line in benchmarks():
        print(line)
