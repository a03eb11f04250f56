"""A small family of measurements with a model that has a known answer, and files of its rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clustersim.cost.measured.family import Coefficient, Family
from clustersim.spec.resolve import load_device

TRUE_EFFICIENCY, TRUE_FLOOR_S = 0.6, 7e-6
HEADER = "device,dtype,m,n,k,latency_s"


def _predict(columns, device, profile):
    """Main loop at a share of the peak, and a floor: two coefficients."""
    m, n, k = (columns[name].astype(np.float64) for name in "mnk")
    found = np.full(m.size, np.nan)
    for dtype, record in profile.gemm.items():
        own = columns["dtype"] == dtype
        if not own.any():
            continue
        peak = record.matmul_efficiency * device.matrix_peak[dtype]
        found[own] = record.kernel_floor_s + 2 * (m * n * k)[own] / peak
    return found


def _sections(columns):
    known = np.isin(columns["dtype"], ["bf16", "fp16"])
    return np.where(known, np.char.add("gemm/", columns["dtype"].astype(str)), "")


SMALL_GEMM = Family(
    stem="gemm",
    required=("dtype", "m", "n", "k"),
    sections=_sections,
    coefficients=lambda section: (
        Coefficient("matmul_efficiency", 0.05, 1.0),
        Coefficient("kernel_floor_s", 1e-7, 1e-4),
    ),
    predict=_predict,
    size=lambda columns: columns["m"].astype(np.float64) * columns["n"] * columns["k"],
    variant=lambda columns: np.full(columns["m"].size, ""),
)


def with_small_gemm(shipped):
    """A lookup of families in which `gemm` is `SMALL_GEMM`."""

    def families(stems):
        found, missing = shipped(stems)
        return {**found, **{stem: SMALL_GEMM for stem in stems if stem == "gemm"}}, missing

    return families


SHAPES = (
    (1024, 1024),
    (4096, 1024),
    (2048, 8192),
    (8192, 8192),
    (512, 4096),
    (3072, 768),
    (1536, 6144),
    (5120, 5120),
    (640, 2560),
    (7168, 2048),
)


def gemm_rows(noise: float = 0.03, dtype: str = "bf16", device: str = "h100_sxm") -> list[str]:
    """CSV rows that follow the model but for some noise."""
    peak = TRUE_EFFICIENCY * load_device("h100_sxm").matrix_peak[dtype]
    rng = np.random.default_rng(1)
    rows = []
    for n, k in SHAPES:
        for m in (16, 128, 512, 2048, 8192):
            latency_s = (TRUE_FLOOR_S + 2 * m * n * k / peak) * (1 + noise * rng.normal())
            rows.append(f"{device},{dtype},{m},{n},{k},{latency_s:.6g}")
    return rows


def write_csv(path: Path, rows: list[str], header: str = HEADER) -> Path:
    """A CSV file of these rows."""
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def write_parquet(path: Path, rows: list[str], header: str = HEADER) -> Path:
    """A Parquet file of these rows, text in dictionaries as measured files have it."""
    import pandas as pd

    names = header.split(",")
    frame = pd.DataFrame([row.split(",") for row in rows], columns=names)
    for name in names:
        try:
            frame[name] = pd.to_numeric(frame[name])
        except ValueError:
            frame[name] = frame[name].astype("category")
    frame["remark"] = "extra columns are ignored"
    frame.to_parquet(path)
    return path


NCCL_LOG = """\
# nThread 1 nGpus 8 minBytes 8 maxBytes 4294967296 step: 2(factor) warmup iters: 5 iters: 20
#
# Using devices
{ranks}
#
#                                                              out-of-place
#       size         count      type   redop    root     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)
{table}
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 123.4
"""


def nccl_log(times: dict[int, str], hosts: int = 1) -> str:
    """What all_reduce_perf prints for eight GPUs a host."""
    ranks = "\n".join(
        f"#  Rank {rank:2d} Group  0 Pid  41 on  node{rank // 8} device  {rank % 8} [0x1b] NVIDIA"
        for rank in range(8 * hosts)
    )
    table = "\n".join(
        f"{size:12d} {size // 4:12d}     float     sum      -1 {time:>8s}    1.00    1.75      0"
        for size, time in times.items()
    )
    return NCCL_LOG.format(ranks=ranks, table=table)
