"""How fast requests are made: real traces read, and Poisson arrivals with random lengths drawn.

The traces are `../shared/traces`; where they are absent, those entries are left out.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from clustersim.spec.workload import Workload
from clustersim.workload.requests import build_requests
from clustersim.workload.traces import read_trace

TRACES = Path(__file__).parents[2] / ".." / "shared" / "traces"
REAL = {
    "read_mooncake": ("mooncake/conversation_trace.jsonl.gz", 0.5),
    "read_azure": ("azure2023/AzureLLMInferenceTrace_conv.csv", 0.25),
}
DRAWN, DRAWN_BAR_S = 100_000, 0.1
LONG, LONG_BAR_PER_S = 500_000, 300_000.0
SPREAD = {"kind": "lognormal", "mean": 500, "variation": 1.0}


def best_of(call: Callable[[], object], times: int = 5) -> float:
    """Least wall time of several calls after one to warm up. [s]"""
    call()
    seconds = []
    for _ in range(times):
        started_s = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started_s)
    return min(seconds)


def entry(name: str, seconds: float, work: int, **bars: float) -> dict[str, object]:
    """One line of `make bench`."""
    rate = work / seconds
    return {
        "name": name, "seconds": seconds, "work": work, "unit": "requests", "rate": rate, **bars,
    }  # fmt: skip


def long_trace(folder: str) -> Path:
    """A trace of many lines, as BurstGPT has them."""
    path = Path(folder) / "burstgpt.csv"
    lines = (f"{i},ChatGPT,{i % 900 + 1},{i % 400},1,API log\n" for i in range(LONG))
    path.write_text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n" + "".join(lines)
    )
    return path


def benchmarks() -> list[dict[str, object]]:
    """Measure."""
    arrivals = {"kind": "poisson", "rate": 10.0}
    lengths = {"input": SPREAD, "output": SPREAD}
    asked = Workload.model_validate({"arrivals": arrivals, "lengths": lengths, "requests": DRAWN})
    found = [
        entry("draw_poisson", best_of(partial(build_requests, asked, 0)), DRAWN, bar_s=DRAWN_BAR_S)
    ]
    with tempfile.TemporaryDirectory() as folder:
        seconds = best_of(partial(read_trace, long_trace(folder)), 2)
    found.append(entry("read_burstgpt", seconds, LONG, bar_rate=LONG_BAR_PER_S))
    for name, (file, bar_s) in REAL.items():
        if (TRACES / file).exists():
            requests = read_trace(TRACES / file).arrival_s.size
            seconds = best_of(partial(read_trace, TRACES / file))
            found.append(entry(name, seconds, requests, bar_s=bar_s))
    return found


if __name__ == "__main__":
    for line in benchmarks():
        print(line)
