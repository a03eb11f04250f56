"""A serving scenario to its result: requests in, tokens out, where the time went."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustersim.analysis.serving import Answered
from clustersim.parallel.replica import ReplicaMemory, memory_of_replica
from clustersim.run.replicas import PriceBook, draw_requests, misfit, play, with_budget
from clustersim.run.serving_answer import answer_serving, refuse_serving
from clustersim.spec.serving import ServingScenario

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ServingResult:
    """The answer to one serving scenario.

    Attributes
    ----------
    document : dict
        What ``clustersim run --json`` prints.
    answered : Answered
        Every request of the first replication.
    series : ndarray (samples, 6)
        Time, running, waiting, share of the cache, tokens and time of a step: the first replica.
    """

    scenario: ServingScenario
    memory: ReplicaMemory
    answered: Answered
    series: Floats
    document: dict[str, Any]


def simulate_serving(
    scenario: ServingScenario, base: Path | None = None, book: PriceBook | None = None
) -> ServingResult:
    """Simulate the replicas of a serving scenario under their load.

    Parameters
    ----------
    scenario : ServingScenario
    base : Path, optional
        Folder of the scenario's file.
    book : PriceBook, optional
        Prices shared with other runs.

    Returns
    -------
    ServingResult
        Also where the model does not fit; ``document["fits"]`` says so.
    """
    book = book or PriceBook()
    memory = memory_of_replica(scenario)
    requests = draw_requests(scenario, memory, base, 0)
    memory = memory_of_replica(with_budget(scenario, requests))
    if not memory.fits:
        no_s, none = np.zeros(0), np.zeros(0, dtype=np.int64)
        nothing = Answered(no_s, no_s, no_s, no_s, none, none, none, none, none, none)
        document = refuse_serving(scenario, memory, misfit(memory))
        return ServingResult(scenario, memory, nothing, np.zeros((0, 6)), document)
    first = play(scenario, base, 0, book, requests)
    others = [play(scenario, base, k, book) for k in range(1, scenario.run.replications)]
    document = answer_serving(first, others, base, book)
    series = first.replicas[0].series()
    return ServingResult(scenario, first.memory, first.answered, series, document)
