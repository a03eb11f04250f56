"""How long an answer takes: whole commands as a user starts them, and the replay of a large step.

Commands run as processes of their own; `seconds` is the best of a few, `peak_bytes` the largest.
The bars are upper limits on a laptop-sized machine with two free cores.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from clustersim.cli.validate import SUFFIXES, shipped_cases
from clustersim.engine.durations import Durations
from clustersim.engine.simulation import replay
from clustersim.run.prepare import Prepared, draw_fleet, durations_of, prepare
from clustersim.spec.files import files_in
from clustersim.spec.resolve import load_scenario
from clustersim.validate.predictor import SimulatorPredictor
from clustersim.validate.runner import validate_files
from tests.benchmarks.child import run_child

MIB, GIB = 2**20, 2**30
LARGE, LARGEST = "175b_12k_gpus", "175b_100k_gpus"
EVERY_GPU_DIFFERS = "fleet.speed_spread=0.02"
EVENT_BAR_PER_S = 200_000.0
REPLAY_WORD = "replay"  # runs this module as the child of the replay benchmark

Entry = dict[str, object]


def best_of(call: Callable[[], object], times: int) -> float:
    """Least wall time of several calls after one to warm up. [s]"""
    call()
    seconds = []
    for _ in range(times):
        started_s = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started_s)
    return min(seconds)


def entry(name: str, seconds: float, work: float, unit: str, **more: object) -> Entry:
    """One line of `make bench`."""
    rate = work / seconds
    return {"name": name, "seconds": seconds, "work": work, "unit": unit, "rate": rate, **more}


def command(
    name: str,
    words: list[str],
    work: float,
    unit: str,
    bar_s: float,
    bar_bytes: float | None = None,
    times: int = 3,
    environment: dict[str, str] | None = None,
) -> Entry:
    """Time one command line; `times` of 1 is a first run, otherwise one run warms up."""
    program = [sys.executable, "-m", "clustersim", *words]
    if times > 1:
        run_child(program, environment)
    taken = [run_child(program, environment) for _ in range(times)]
    more: Entry = {
        "bar_s": bar_s,
        "cpu_s": min(run["cpu_s"] for run in taken),
        "peak_bytes": max(run["peak_bytes"] for run in taken),
    }
    if bar_bytes is not None:
        more["bar_bytes"] = bar_bytes
    return entry(name, min(run["seconds"] for run in taken), work, unit, **more)


def commands() -> list[Entry]:
    """Whole commands; the large ones are warm unless their name says cold."""
    run_large = ["run", LARGE, "--json"]
    large, largest = (load_scenario(name).gpus for name in (LARGE, LARGEST))
    with tempfile.TemporaryDirectory() as empty:
        cold = command(
            "run_12k_gpus_cold", run_large, large, "GPUs", 25.0,
            times=1, environment={"NUMBA_CACHE_DIR": empty},
        )  # fmt: skip
    run_largest = ["run", LARGEST, "--json"]
    differing = [*run_large, "--set", EVERY_GPU_DIFFERS]
    return [
        command("help", ["--help"], 1, "runs", 0.4),
        command("run_smallest", ["run", "smallest", "--json"], 1, "GPUs", 1.0),
        cold,
        command("run_12k_gpus", run_large, large, "GPUs", 3.0, 500 * MIB),
        command("run_100k_gpus", run_largest, largest, "GPUs", 5.0, GIB),
        command("run_12k_gpus_all_different", differing, large, "GPUs", 5.0, GIB, times=2),
    ]


def large_step() -> tuple[Prepared, Durations]:
    """The step of 12,288 GPUs with a speed for each, and its durations."""
    prepared = prepare(load_scenario(LARGE, (EVERY_GPU_DIFFERS,)))
    draw = draw_fleet(prepared, 0)
    assert np.unique(draw.rank_factor).size == prepared.mesh.ranks
    return prepared, durations_of(prepared, draw)


def replay_seconds() -> float:
    """One replay of the large step after compilation; data-parallel collectives included. [s]"""
    prepared, durations = large_step()
    assert prepared.program.rendezvous.any()
    call = partial(replay, prepared.program, durations, "compiled", prepared.order)
    return best_of(call, 5)


def compiled_replay() -> Entry:
    """The replay in this process for its time, in a process of its own for its memory."""
    taken = run_child([sys.executable, "-m", "tests.benchmarks.bench_run", REPLAY_WORD])
    prepared, durations = large_step()
    ops = durations.ops * durations.classes
    return entry(
        "replay_12k_gpus_all_different", replay_seconds(), ops, "ops",
        bar_s=1.0, peak_bytes=taken["peak_bytes"], bar_bytes=2 * GIB, gpus=prepared.mesh.ranks,
    )  # fmt: skip


def event_replay(classes: int, times: int) -> Entry:
    """The event engine on some replicas of the large step."""
    prepared, durations = large_step()
    program = replace(prepared.program, replicas=classes)
    alone_s = np.ascontiguousarray(durations.alone_s[:, :classes])
    some = Durations(alone_s, durations.drag, np.ones(classes, dtype=np.int64))
    seconds = best_of(partial(replay, program, some, "event"), times)
    name = f"event_replay_{classes}_replicas"
    return entry(name, seconds, program.ops * classes, "ops", bar_rate=EVENT_BAR_PER_S)


def validation() -> Entry:
    """Published cases that ship with the package, one after the other."""
    paths: list[Path] = files_in([shipped_cases()], SUFFIXES, "cases")
    report = validate_files(paths, SimulatorPredictor())
    seconds = best_of(lambda: validate_files(paths, SimulatorPredictor()), 1)
    rows = len({item.id for item in report.entries})
    return entry("validate", seconds, rows, "rows", entries=len(report.entries))


def benchmarks() -> list[Entry]:
    """Measure; compilation is warm-up and not counted, except where the name says cold."""
    return [
        *commands(),
        compiled_replay(),
        event_replay(16, 3),
        event_replay(192, 1),
        validation(),
    ]


if __name__ == "__main__":
    import json

    print(json.dumps(replay_seconds() if REPLAY_WORD in sys.argv else benchmarks(), indent=1))
