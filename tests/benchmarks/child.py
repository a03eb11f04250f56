"""Runs one command and prints what it took: wall and processor time, peak memory, exit status.

``python child.py COMMAND [WORD]...``; it is a program of its own because a child starts with the
peak memory of the process that starts it, and one that has run benchmarks is large. The command's
output goes to stderr.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TypedDict


class Taken(TypedDict):
    """What a command took. [s], [bytes]"""

    seconds: float
    cpu_s: float
    peak_bytes: int
    status: int


def measure(command: list[str]) -> Taken:
    """Run a command to its end."""
    started_s = time.perf_counter()
    process = subprocess.Popen(command, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started_s
    unit = 1 if sys.platform == "darwin" else 1024
    return Taken(
        seconds=seconds,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_bytes=usage.ru_maxrss * unit,
        status=os.waitstatus_to_exitcode(status),
    )


def run_child(command: list[str], environment: dict[str, str] | None = None) -> Taken:
    """Measure a command from a small process.

    Raises
    ------
    RuntimeError
        The command failed; its messages are part of the error.
    """
    done = subprocess.run(
        [sys.executable, "-I", "-S", __file__, *command],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **(environment or {})},
    )
    taken: Taken = json.loads(done.stdout)
    if taken["status"]:
        raise RuntimeError(f"{' '.join(command)} ended with {taken['status']}:\n{done.stderr}")
    return taken


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1:])))
