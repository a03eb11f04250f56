"""The text that nccl-tests print, as rows of the measured schema.

The table gives sizes and out-of-place times, the comments above it the ranks and hosts. The kind
of collective stands in the comments of newer versions, else in the name of the file. The adapters
between hosts stand nowhere, so only logs of one host become rows that can be priced.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from clustersim.cost.measured.rows import Rows
from clustersim.errors import Problem, SpecError
from clustersim.spec.device import Device

NAMES = {
    "all_reduce": "all_reduce",
    "allreduce": "all_reduce",
    "all_gather": "all_gather",
    "allgather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "reducescatter": "reduce_scatter",
    "alltoall": "all_to_all",
    "all_to_all": "all_to_all",
    "broadcast": "broadcast",
    "sendrecv": "send_recv",
    "send_recv": "send_recv",
}
TYPES = {"float": "fp32", "half": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "int8"}
RANK = re.compile(r"#\s+Rank\s+\d+.*?\bon\s+(?P<host>\S+)")
TABLE = re.compile(r"#\s+size\s.*\btime\b")
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def read_nccl_log(path: Path, device: Device) -> Rows:
    """Read one log.

    Parameters
    ----------
    path : Path
        What an nccl-tests program printed.
    device : Device
        The device that it ran on.

    Returns
    -------
    Rows
        Of the family ``collective``; `lines` are those of the file.

    Raises
    ------
    SpecError
        For everything that is missing: the table, the ranks, the kind of collective, and for each
        row of the table that cannot be read.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    comments = [line for line in lines if line.lstrip().startswith("#")]
    hosts = [found["host"] for line in comments if (found := RANK.match(line.strip()))]
    kind = _collective(comments, path)
    header = next((i for i, line in enumerate(lines) if TABLE.match(line.strip())), None)
    problems = []
    if header is None:
        fix = "give the whole output, with the line that starts `#  size  count  type`"
        problems.append(Problem("there is no table of nccl-tests", fix, str(path)))
    if not hosts:
        fix = "keep the comment lines `#  Rank  0 ... on HOST`"
        problems.append(Problem("the ranks are not stated", fix, str(path)))
    if kind is None:
        fix = "name the file after the collective, such as all_reduce.txt"
        problems.append(Problem("the kind of collective is not stated", fix, str(path)))
    if problems or header is None or kind is None:
        raise SpecError(problems)
    sizes, times, types, numbers = _table(path, lines, header)
    return _rows(path, device, (kind, hosts), (sizes, times, types, numbers))


def _collective(comments: list[str], path: Path) -> str | None:
    """The kind from a comment, else from the name of the file; the longest word wins."""
    stated = [line for line in comments if "Collective test starting" in line or "_perf" in line]
    for text in (*stated, path.name):
        for word in sorted(NAMES, key=len, reverse=True):
            if word in text.lower():
                return NAMES[word]
    return None


def _table(
    path: Path, lines: list[str], header: int
) -> tuple[list[float], list[float], list[str], list[int]]:
    """Sizes in bytes, times in seconds, types and line numbers of the table."""
    names = lines[header].replace("#wrong", "wrong").lstrip("# ").split()
    size_at, time_at = names.index("size"), names.index("time")
    type_at = names.index("type") if "type" in names else None
    unit = re.search(r"\((us|ms|s)\)", lines[header + 1]) if header + 1 < len(lines) else None
    scale = UNITS[unit[1]] if unit else 1e-6
    sizes, times, types, numbers, problems = [], [], [], [], []
    for number, line in enumerate(lines[header + 1 :], header + 2):
        cells = line.split()
        if not cells or not cells[0].isdigit():
            continue
        try:
            sizes.append(float(cells[size_at]))
            times.append(float(cells[time_at]) * scale)
        except (IndexError, ValueError):
            shown = cells[time_at] if len(cells) > time_at else "nothing"
            fix = "remove the row or give the whole line"
            problem = Problem(f"{shown!r} is not a time", fix, str(path), number, 0, "time")
            problems.append(problem)
            sizes = sizes[: len(times)]
            continue
        types.append(TYPES.get(cells[type_at], cells[type_at]) if type_at is not None else "")
        numbers.append(number)
    if not numbers and not problems:
        problems.append(Problem("the table has no rows", "", str(path), header + 1))
    if problems:
        raise SpecError(problems)
    return sizes, times, types, numbers


def _rows(
    path: Path,
    device: Device,
    run: tuple[str, list[str]],
    table: tuple[list[float], list[float], list[str], list[int]],
) -> Rows:
    kind, hosts = run
    sizes, times, types, numbers = table
    count = len(sizes)

    def same(value: Any) -> Any:
        return np.full(count, value)

    columns = {
        "device": same(device.name),
        "collective": same(kind),
        "dtype": np.array(types, dtype=np.str_),
        "bytes": np.array(sizes),
        "ranks": same(len(hosts)),
        "nodes": same(len(set(hosts))),
        "library": same("nccl"),
        "topology": same(_word(device, len(set(hosts)))),
        "latency_s": np.array(times),
    }
    keep = columns["bytes"] > 0  # sizes that round down to nothing are printed as 0
    return Rows("collective", str(path), columns, np.array(numbers, dtype=np.int64)).take(keep)


def _word(device: Device, nodes: int) -> str:
    """The schema's word for the links of one node of this device."""
    link = device.scale_up_link or ""
    if nodes > 1:
        return "unstated"
    if link.startswith("nvlink"):
        return "nvlink_mesh" if link in ("nvlink1", "nvlink2") else "nvswitch"
    return link
