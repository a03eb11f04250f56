"""What would change the answer: better hardware, no stragglers, plans that need less memory.

Every what-if re-prices or replays the same program; nothing is extrapolated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from clustersim.cost.platform import Platform
from clustersim.parallel.memory import memory_of
from clustersim.run.prepare import Draw, Prepared, make_draw
from clustersim.run.replicate import Replications, replay_draw
from clustersim.spec.checks import check_scenario
from clustersim.spec.scenario import Scenario

MORE = 1.1  # "+10 %"
DUST = 1e-12  # changes below it are rounding
MOST_NAMED = 5  # stragglers that are looked at one by one


def sensitivities(prepared: Prepared, replications: Replications) -> list[dict[str, Any]]:
    """Relative change of the step time for 10 % more of each resource, largest first.

    Parameters
    ----------
    prepared : Prepared
    replications : Replications
        Its median draw is replayed with every change.

    Returns
    -------
    list of dict
        `change` in words and `step_time_change`: -0.05 is 5 % shorter.
    """
    base_s = replications.timeline.step_time_s
    rows = []
    for label, change in _CHANGES.items():
        changed = prepared.repriced(change(prepared.platform))
        after_s = replay_draw(changed, replications.draw, "auto").step_time_s
        rows.append({"change": label, "step_time_change": _change(after_s, base_s)})
    return sorted(rows, key=lambda row: row["step_time_change"])


def _change(after_s: float, before_s: float) -> float:
    """Relative change, zero where it is rounding: the two may come from different engines."""
    change = after_s / before_s - 1.0
    return 0.0 if abs(change) < DUST else change


def _scaled_device(*fields: str) -> Callable[[Platform], Platform]:
    def change(platform: Platform) -> Platform:
        device = platform.device
        update: dict[str, Any] = {
            field: {key: peak * MORE for key, peak in device.matrix_peak.items()}
            if field == "matrix_peak"
            else getattr(device, field) * MORE
            for field in fields
        }
        return replace(platform, device=device.model_copy(update=update))

    return change


def _scaled_paths(field: str) -> Callable[[Platform], Platform]:
    def change(platform: Platform) -> Platform:
        paths = {
            name: replace(path, **{field: getattr(path, field) * MORE})
            for name, path in platform.paths.items()
        }
        return replace(platform, paths=paths)

    return change


def _faster_host(platform: Platform) -> Platform:
    host = platform.profile.host
    update = {name: getattr(host, name) / MORE for name in ("operator_s", "step_s", "input_s")}
    faster = host.model_copy(update=update)
    return replace(platform, profile=platform.profile.model_copy(update={"host": faster}))


_CHANGES: dict[str, Callable[[Platform], Platform]] = {
    "+10 % matrix peak": _scaled_device("matrix_peak"),
    "+10 % memory bandwidth": _scaled_device("memory_bandwidth"),
    "+10 % scale-up bandwidth": _scaled_paths("scale_up_bytes_per_s"),
    "+10 % NIC bandwidth": _scaled_paths("nic_bytes_per_s"),
    "+10 % host speed": _faster_host,
}


def straggler_report(prepared: Prepared, replications: Replications) -> dict[str, Any]:
    """Which GPUs are slow in the median draw, and what the step would be without them.

    Parameters
    ----------
    prepared : Prepared
    replications : Replications
        Its median draw is looked at.

    Returns
    -------
    dict
        `uniform_step_time_s` of nominal, quiet GPUs [s], `slowdown` (step time over that),
        `slow_ranks` (how many GPUs are slower than nominal), and under `without` a row for each of
        the slowest hosts: the step with that host at nominal speed, everything else as drawn.
    """
    draw, step_s = replications.draw, replications.timeline.step_time_s
    uniform_s = replay_draw(prepared, make_draw(np.ones_like(draw.rank_factor)), "auto")
    report: dict[str, Any] = {
        "uniform_step_time_s": uniform_s.step_time_s,
        "slowdown": step_s / uniform_s.step_time_s,
        "slow_ranks": 0,
        "without": [],
    }
    grid = prepared.mesh.rank_grid()
    slow = draw.rank_factor > 1.0 + 1e-12
    report["slow_ranks"] = int(slow.sum())
    if not slow.any():
        return report
    hosts = grid // prepared.mesh.gpus_per_node
    worst = _worst_hosts(draw, hosts)
    for host in worst:
        healed = np.where(hosts == host, 1.0, draw.rank_factor)
        after_s = replay_draw(prepared, make_draw(healed, draw.noise), "auto").step_time_s
        stage, replica, _ = (int(i) for i in np.argwhere(hosts == host)[0])
        report["without"].append(
            {
                "host": host,
                "first_rank": int(grid[hosts == host].min()),
                "stage": stage,
                "replica": replica,
                "slowdown": float(draw.rank_factor[hosts == host].max() - 1.0),
                "step_time_s": after_s,
                "step_time_change": _change(after_s, step_s),
            }
        )
    return report


def _worst_hosts(draw: Draw, hosts: np.ndarray[Any, np.dtype[np.int64]]) -> list[int]:
    """Hosts with the slowest GPUs, slowest first, a few at most."""
    worst: dict[int, float] = {}
    for index in np.argsort(-draw.rank_factor, axis=None, kind="stable")[: 64 * MOST_NAMED]:
        host, factor = int(hosts.flat[index]), float(draw.rank_factor.flat[index])
        if factor > 1.0 + 1e-12:
            worst.setdefault(host, factor)
        if len(worst) == MOST_NAMED:
            break
    return list(worst)


def nearest_knobs(scenario: Scenario) -> list[dict[str, Any]]:
    """Single changes of the plan that need less memory, and the memory each would need.

    Those that fit come first, the nearest of them (most memory) at the top, then the others, least
    memory first. Changes that the plan does not allow are left out. A change that also halves the
    replicas, where the file fixes their number, names both fields.

    Parameters
    ----------
    scenario : Scenario

    Returns
    -------
    list of dict
        `change` as fields of the scenario, `total_bytes` of the worst stage [bytes], and `fits`.
    """
    now = float(memory_of(scenario).needed_bytes.max())
    candidates: list[dict[str, Any]] = []
    for label, update in _memory_changes(scenario):
        changed = scenario.model_copy(update=update)
        if check_scenario(changed).problems:
            continue
        memory = memory_of(changed)
        needed = float(memory.needed_bytes.max())
        if needed < now:
            candidates.append({"change": label, "total_bytes": needed, "fits": memory.fits})
    fitting = [row for row in candidates if row["fits"]]
    others = [row for row in candidates if not row["fits"]]
    fitting.sort(key=lambda row: -row["total_bytes"])
    return fitting + sorted(others, key=lambda row: row["total_bytes"])


def _memory_changes(scenario: Scenario) -> list[tuple[str, dict[str, Any]]]:
    """Knobs one notch further, each as an update of the scenario."""
    training, parallel = scenario.training, scenario.parallelism
    changes: list[tuple[str, dict[str, Any]]] = []

    def train(label: str, **update: Any) -> None:
        changes.append((label, {"training": training.model_copy(update=update)}))

    def split(label: str, **update: Any) -> None:
        changes.append((label, {"parallelism": parallel.model_copy(update=update)}))

    kinds = ["none", "selective", "full"]
    for kind in kinds[kinds.index(training.recompute.kind) + 1 :]:
        recompute = training.recompute.model_copy(update={"kind": kind, "layers": None})
        train(f"training.recompute: {kind}", recompute=recompute)
    if training.micro_batch > 1:
        half = training.micro_batch // 2
        train(f"training.micro_batch: {half}", micro_batch=half)
    if parallel.zero_stage == 0 and scenario.data_parallel > 1:
        split("parallelism.zero_stage: 1", zero_stage=1)
    if parallel.tensor_parallel > 1 and not parallel.sequence_parallel:
        split("parallelism.sequence_parallel: true", sequence_parallel=True)
    replicas = scenario.data_parallel
    if replicas % 2 == 0:
        fixed = {"data_parallel": replicas // 2} if parallel.data_parallel else {}
        for axis in ("tensor_parallel", "pipeline_parallel"):
            update = {axis: 2 * getattr(parallel, axis), **fixed}
            label = ", ".join(f"parallelism.{name}: {value}" for name, value in update.items())
            split(label, **update)
    return changes
