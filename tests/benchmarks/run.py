"""Runs every benchmark beside this file and prints one JSON document.

A benchmark is a module ``bench_*.py`` with a function ``benchmarks()`` that returns entries: a
`name`, the `seconds` of the best of several runs, the `work` done in them and its `unit`. Entries
may have bars: `bar_s` and `bar_bytes` are upper limits, `bar_rate` a lower one, and `met` says
whether all of them are kept.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import clustersim

HERE = Path(__file__).parent


def machine() -> dict[str, Any]:
    """What the speeds were measured on."""
    return {
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {
            "clustersim": clustersim.__version__,
            **{name: version(name) for name in ("numpy", "numba", "simpy")},
        },
    }


def cpu_name() -> str:
    """Name of the processor, as the system tells it."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def version(package: str) -> str:
    """Installed version of a package, `unknown` where it is not installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed(package)
    except PackageNotFoundError:
        return "unknown"


def met(entry: dict[str, Any]) -> bool | None:
    """Whether an entry keeps its bars; None where it has none."""
    sides = [
        entry[value] <= entry[bar] if is_upper else entry[value] >= entry[bar]
        for bar, value, is_upper in (
            ("bar_s", "seconds", True),
            ("bar_bytes", "peak_bytes", True),
            ("bar_rate", "rate", False),
        )
        if bar in entry
    ]
    return all(sides) if sides else None


def main() -> int:
    """Run the benchmarks whose names contain one of the words given, or all."""
    words = sys.argv[1:]
    entries = []
    for path in sorted(HERE.glob("bench_*.py")):
        if words and not any(word in path.stem for word in words):
            continue
        print(f"{path.stem} ...", file=sys.stderr)
        entries += importlib.import_module(f"tests.benchmarks.{path.stem}").benchmarks()
    for entry in entries:
        entry["met"] = met(entry)
    print(json.dumps({"machine": machine(), "benchmarks": entries}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
