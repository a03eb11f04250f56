"""Scenario in, result out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
from clustersim.timeline import Timeline
from clustersim.workload.program import Program


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


def simulate(scenario: Scenario, what_ifs: bool = True) -> Result:
    """Simulate one optimizer step.

    Parameters
    ----------
    scenario : Scenario
    what_ifs : bool
        Whether to re-price and replay for sensitivities and stragglers.

    Returns
    -------
    Result
        Also where the job does not fit in memory; ``document["fits"]`` says so.
    """
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
