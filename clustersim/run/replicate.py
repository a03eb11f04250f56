"""Replications of a random fleet: step time of each, and the timeline of the median one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.engine.simulation import FEW_OPS, replay
from clustersim.run.prepare import Draw, Floats, Prepared, draw_fleet, durations_of
from clustersim.spec.scenario import EngineName
from clustersim.timeline import Timeline


@dataclass(frozen=True)
class Replications:
    """Step time of every draw, and the draw that is the median.

    Attributes
    ----------
    step_time_s : ndarray of float64 (replications,)
        [s]
    draw : Draw
        The median one (lower median where their number is even).
    timeline : Timeline
        Of that draw.
    engine_ops : int
        Ops replayed over all replications.
    engine_s : float
        Wall time of all replays. [s]
    """

    step_time_s: Floats
    draw: Draw
    timeline: Timeline
    engine_ops: int
    engine_s: float

    def percentile_s(self, fraction: float) -> float:
        """Percentile of the step time by nearest rank. [s]

        Parameters
        ----------
        fraction : float
            0 to 1; 0 gives the shortest step.

        Returns
        -------
        float
            One of the drawn step times. [s]
        """
        ordered = np.sort(self.step_time_s)
        rank = max(1, int(np.ceil(fraction * ordered.size)))
        return float(ordered[rank - 1])


def replay_draw(prepared: Prepared, draw: Draw, engine: EngineName) -> Timeline:
    """Replay one draw with the chosen engine.

    Parameters
    ----------
    prepared : Prepared
    draw : Draw
    engine : {"auto", "event", "compiled"}
        "auto" takes the event engine below 2,000 ops x classes.

    Returns
    -------
    Timeline
        One column a class of the draw.

    Raises
    ------
    SimulationError
        Ops wait for each other in a circle.
    """
    durations = durations_of(prepared, draw)
    few = durations.ops * durations.classes < FEW_OPS
    order = None if engine == "event" or (engine == "auto" and few) else prepared.order
    return replay(prepared.program, durations, engine, order)


def run_replications(prepared: Prepared) -> Replications:
    """Replay as many draws as the scenario asks for; one where nothing is random.

    Draws whose classes of replicas are the same are replayed once.

    Parameters
    ----------
    prepared : Prepared

    Returns
    -------
    Replications
        `engine_ops` and `engine_s` leave out draws that were known, and the last replay of the
        median.
    """
    scenario = prepared.scenario
    count = scenario.run.replications if scenario.fleet.is_random else 1
    known: dict[bytes, float] = {}
    times: list[float] = []
    ops, wall_s = 0, 0.0
    for replication in range(count):
        draw = draw_fleet(prepared, replication)
        key = _signature(draw)
        if key not in known:
            timeline = replay_draw(prepared, draw, scenario.run.engine)
            known[key] = timeline.step_time_s
            ops += timeline.engine_ops
            wall_s += timeline.engine_s
        times.append(known[key])
    step_time_s = np.array(times)
    median = int(np.argsort(step_time_s, kind="stable")[(count - 1) // 2])
    draw = draw_fleet(prepared, median)
    timeline = replay_draw(prepared, draw, scenario.run.engine)
    return Replications(step_time_s, draw, timeline, ops, wall_s)


def _signature(draw: Draw) -> bytes:
    noise: NDArray[np.float64] = np.zeros(0) if draw.noise is None else draw.noise
    return draw.factor.tobytes() + draw.multiplicity.tobytes() + noise[:64].tobytes()
