"""Scenario in, result out: a training step, or the requests of a serving run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.platform import Platform
from clustersim.cost.program import ProgramCosts
from clustersim.parallel.memory import Memory, memory_of
from clustersim.parallel.mesh import Mesh
from clustersim.run.answer import answer, digest_of
from clustersim.run.prepare import Floats, prepare
from clustersim.run.replicate import run_replications
from clustersim.run.whatif import sensitivities, straggler_report
from clustersim.spec.scenario import Scenario
from clustersim.spec.serving import ServingScenario
from clustersim.timeline import Timeline
from clustersim.workload.program import Program

if TYPE_CHECKING:
    from clustersim.run.serving import ServingResult


@dataclass(frozen=True)
class Result:
    """The answer to one scenario, and everything it was derived from.

    Attributes
    ----------
    document : dict
        What ``clustersim run --json`` prints.
    timeline : Timeline
        Of the median replication, one column a class of replicas.
    factor : ndarray of float64 (stages, classes)
        Slowness of each class in that replication.
    first_replica : ndarray of int64 (classes,)
        A replica of each class.
    """

    scenario: Scenario
    mesh: Mesh
    program: Program
    platform: Platform
    costs: ProgramCosts
    memory: Memory
    timeline: Timeline
    factor: Floats
    first_replica: NDArray[np.int64]
    document: dict[str, Any]

    @property
    def step_time_s(self) -> float:
        """Median step time. [s]"""
        return float(self.document["step_time_s"])


@overload
def simulate(scenario: Scenario, what_ifs: bool = True, base: Path | None = None) -> Result: ...


@overload
def simulate(
    scenario: ServingScenario, what_ifs: bool = True, base: Path | None = None
) -> ServingResult: ...


@overload
def simulate(
    scenario: Scenario | ServingScenario, what_ifs: bool = True, base: Path | None = None
) -> Result | ServingResult: ...


def simulate(
    scenario: Scenario | ServingScenario, what_ifs: bool = True, base: Path | None = None
) -> Result | ServingResult:
    """Simulate what a scenario asks.

    Parameters
    ----------
    scenario : Scenario or ServingScenario
    what_ifs : bool
        Training: whether to re-price and replay for sensitivities and stragglers.
    base : Path, optional
        Serving: folder in which files with a relative path are looked for first. Paths of a loaded
        scenario are absolute already.

    Returns
    -------
    Result or ServingResult
        Also where the job does not fit in memory; ``document["fits"]`` says so.
    """
    if isinstance(scenario, ServingScenario):
        from clustersim.run.serving import simulate_serving

        return simulate_serving(scenario, base)
    return _simulate_step(scenario, what_ifs)


def _simulate_step(scenario: Scenario, what_ifs: bool) -> Result:
    """Simulate one optimizer step."""
    prepared = prepare(scenario)
    memory = memory_of(scenario)
    replications = run_replications(prepared)
    document = answer(prepared, memory, replications)
    if what_ifs:
        document["sensitivities"] = sensitivities(prepared, replications)
        document["stragglers"] = straggler_report(prepared, replications)
    document["result_digest"] = digest_of(document)
    return Result(
        scenario=scenario,
        mesh=prepared.mesh,
        program=prepared.program,
        platform=prepared.platform,
        costs=prepared.costs,
        memory=memory,
        timeline=replications.timeline,
        factor=replications.draw.factor,
        first_replica=replications.draw.first,
        document=document,
    )
