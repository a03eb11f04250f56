"""Rows of ``host_io``: copies over the host link and to drives, by `cost.transfers`.

Fourteen rows of two logs: enough to fix a latency and three bandwidths, not to test them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.measured.columns import numbers, words
from clustersim.cost.measured.family import Coefficient, Columns, Family, Floats
from clustersim.cost.transfers import DRIVE, LINK, transfer_s
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile

STEM = "host_io"
BOUNCED = "CPU bounce buffer"
COEFFICIENTS = (
    Coefficient("link_efficiency", 0.1, 1.0),
    Coefficient("latency_s", 1e-7, 1e-4),
    Coefficient("drive_read_bandwidth", 1e8, 2e10),
    Coefficient("drive_write_bandwidth", 1e8, 2e10),
)


def _sections(columns: Columns) -> NDArray[np.str_]:
    known = np.isin(words(columns, "op"), sorted(LINK | DRIVE)) & (columns["bytes"] > 0)
    return np.where(known, "transfer", "")


def _bounced(columns: Columns) -> NDArray[np.bool_]:
    """Rows by way of host memory; where the method is not known, storage is direct."""
    return np.asarray(words(columns, "method") == BOUNCED)


def _predict(columns: Columns, device: Device, profile: Profile) -> Floats:
    seconds = np.full(columns["op"].size, np.nan)
    if profile.transfer is None:
        return seconds
    ops, known, bounced = words(columns, "op"), _sections(columns) != "", _bounced(columns)
    size_bytes, drives = numbers(columns, "bytes", "units")
    drives = np.maximum(drives, 1.0)
    for op in np.unique(ops[known]):
        for way in (False, True):
            mine = np.flatnonzero(known & (ops == op) & (bounced == way))
            if mine.size:
                seconds[mine] = transfer_s(
                    str(op), size_bytes[mine], drives[mine], device, profile.transfer, way
                )
    return seconds


FAMILY = Family(
    stem=STEM,
    required=("op", "bytes", "units"),
    sections=_sections,
    coefficients=lambda section: COEFFICIENTS,
    predict=_predict,
    size=lambda columns: numbers(columns, "bytes")[0],
    variant=lambda columns: words(columns, "op"),
)
