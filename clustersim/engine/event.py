"""The event engine: SimPy processes that read like the streams they model.

One process per (class of replicas, stream); they run their rows first in, first out. An op is one
event, its end, which its own stream and every stream that needs it wait for; it is scheduled when
the op starts, so an op that nobody waits for costs one event and an op whose dependencies are done
costs its start nothing. There are no resources: a stream is one process.

Processes are created class by class, streams in ascending order. The order of simultaneous events
cannot change a result: starts are maxima of ends, and progress is an integral over time.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import simpy
from numpy.typing import NDArray

from clustersim.engine.durations import LEAST_RATE, STREAM_KINDS, Durations, check_durations
from clustersim.engine.order import deadlock, waits
from clustersim.workload.program import COMPUTE, Program

Floats = NDArray[np.float64]
StreamProcess = Generator[simpy.Event, None, None]


class End(simpy.Event):
    """The end of an op; others may wait for it before anyone knows when it comes."""

    def come_in(self, delay_s: float) -> End:
        """Schedule this end `delay_s` from now.

        Parameters
        ----------
        delay_s : float
            At least 0. [s]

        Returns
        -------
        End
            This event, so that a process can yield it.
        """
        self._ok, self._value = True, None
        self.env.schedule(self, delay=delay_s)
        return self


class ComputeShare:
    """The compute stream of one stage and class, slowed by the communication beside it.

    Keeps what is left of the running op as time at full rate, up to `since_s`. The alarm rings at
    or before its end: a drag that starts leaves the alarm, which then rings early and is set
    again; one that ends sets a new alarm if the op now ends sooner. An alarm of an older
    generation is ignored.
    """

    __slots__ = ("alarm_s", "drags", "end", "env", "generation", "left_s", "rate", "since_s")

    def __init__(self, env: simpy.Environment):
        self.env = env
        self.drags: list[float] = []
        self.rate = 1.0
        self.end: End | None = None  # of the running op
        self.left_s = 0.0
        self.since_s = 0.0
        self.alarm_s = 0.0
        self.generation = 0

    def run(self, end: End, alone_s: float) -> End:
        """Start an op of `alone_s` now; `end` comes when it is done.

        Parameters
        ----------
        end : End
            Of the op; scheduled here once its time is known.
        alone_s : float
            Time at full rate. [s]

        Returns
        -------
        End
            The same `end`.
        """
        self.end, self.left_s, self.since_s = end, alone_s, self.env.now
        self._set_alarm()
        return end

    def enter(self, drag: float) -> None:
        """A dragging op starts.

        Parameters
        ----------
        drag : float
            Share of the rate that the op takes, above 0 and below 1.

        Notes
        -----
        The rate is 1 less all drags, at least `LEAST_RATE`. The alarm stays: the op cannot end
        sooner.
        """
        self._progress()
        self.drags.append(drag)
        self.rate = max(1.0 - sum(self.drags), LEAST_RATE)

    def leave(self, drag: float) -> None:
        """A dragging op ends.

        Parameters
        ----------
        drag : float
            The value that `enter` was given.

        Notes
        -----
        A new alarm is set only where the op now ends before the old one rings.
        """
        self._progress()
        self.drags.remove(drag)
        self.rate = max(1.0 - sum(self.drags), LEAST_RATE)
        if self.end is not None and self.since_s + self.left_s / self.rate < self.alarm_s:
            self._set_alarm()

    def _progress(self) -> None:
        now_s = self.env.now
        self.left_s -= self.rate * (now_s - self.since_s)
        if self.left_s < 0.0:  # by rounding
            self.left_s = 0.0
        self.since_s = now_s

    def _set_alarm(self) -> None:
        self.generation += 1
        alarm = simpy.Timeout(self.env, self.left_s / self.rate, self.generation)
        alarm.callbacks.append(self._ring)
        self.alarm_s = self.since_s + self.left_s / self.rate

    def _ring(self, alarm: simpy.Event) -> None:
        end = self.end
        if end is None or alarm.value != self.generation:
            return
        if self.since_s + self.left_s / self.rate > self.alarm_s:
            self._progress()
            self._set_alarm()
        else:
            self.end = None
            end.come_in(0.0)


@dataclass
class Replica:
    """One class of replicas: its times, and its ends that somebody waits for, by row."""

    alone_s: list[float]
    start_s: list[float]
    end_s: list[float]
    ends: list[End | None]
    shares: dict[int, ComputeShare]  # by stage; stages without drags have none


@dataclass
class Meeting:
    """A rendezvous of all classes: whoever comes last starts it for everyone."""

    row: int
    drag: float
    stage: int
    missing: int
    longest_s: float
    end: End
    replicas: list[Replica]

    def arrive(self, alone_s: float) -> End:
        """One class is ready; the end comes `longest_s` after the last one is.

        Parameters
        ----------
        alone_s : float
            Time alone of the op in this class. [s]

        Returns
        -------
        End
            One event for all classes.
        """
        self.missing -= 1
        self.longest_s = max(self.longest_s, alone_s)
        if self.missing == 0:
            self.end.come_in(self.longest_s)
            for replica in self.replicas:
                replica.start_s[self.row] = self.end.env.now
                if self.drag > 0.0:
                    replica.shares[self.stage].enter(self.drag)
        return self.end


def run_stream(
    env: simpy.Environment,
    rows: list[int],
    after: list[tuple[int, ...]],
    replica: Replica,
    past: End,
) -> StreamProcess:
    """Replay one stream of one class, first in first out; nothing slows it or meets it.

    The process holds its stream from the start of an op to its end, one op at a time.

    Parameters
    ----------
    env : simpy.Environment
    rows : list of int
        Rows of the stream, in their order.
    after : list of tuple of int (ops,)
        Rows of other streams that each row waits for.
    replica : Replica
        Its times are filled.
    past : End
        An end that has come; it replaces the ends of finished rows.
    """
    alone_s, start_s, end_s, ends = replica.alone_s, replica.start_s, replica.end_s, replica.ends
    for row in rows:
        for other in after[row]:  # rows of other streams; already-done ones cost nothing
            end = ends[other]
            if end is None:
                end = ends[other] = End(env)
            if end.callbacks is not None:
                yield end
        start_s[row] = env.now
        end = ends[row]
        if end is None:
            end = ends[row] = End(env)
        yield end.come_in(alone_s[row])
        end_s[row] = env.now
        ends[row] = past  # lets go of the event


def run_shared_stream(
    env: simpy.Environment,
    rows: list[int],
    after: list[tuple[int, ...]],
    replica: Replica,
    past: End,
    drag: list[float],
    share: ComputeShare | None,
    slowed: bool,
    meetings: dict[int, Meeting],
) -> StreamProcess:
    """Replay one stream of one class that meets other classes, is slowed or slows compute.

    The process holds its stream from an op's readiness for a rendezvous to the op's end, and
    takes its drag off the compute stream of its stage from start to end.

    Parameters
    ----------
    env, rows, after, replica, past
        As in `run_stream`.
    drag : list of float (ops,)
        Share of the compute rate that each row takes.
    share : ComputeShare or None
        Compute of the stream's stage; None where nothing drags on it.
    slowed : bool
        Whether this is the compute stream: drags slow it.
    meetings : dict of int to Meeting
        By row; rows without one start alone.
    """
    alone_s, ends = replica.alone_s, replica.ends
    for row in rows:
        for other in after[row]:
            end = ends[other]
            if end is None:
                end = ends[other] = End(env)
            if end.callbacks is not None:
                yield end
        meeting = meetings.get(row)
        if meeting is not None:
            yield meeting.arrive(alone_s[row])
        else:
            replica.start_s[row] = env.now
            end = ends[row] = ends[row] or End(env)
            if slowed and share is not None:
                yield share.run(end, alone_s[row])
            else:
                if drag[row] > 0.0 and share is not None:
                    share.enter(drag[row])
                yield end.come_in(alone_s[row])
        if drag[row] > 0.0 and share is not None:
            share.leave(drag[row])
        replica.end_s[row] = env.now
        ends[row] = past


def replay_events(
    program: Program,
    durations: Durations,
    process_order: Sequence[tuple[int, int]] | None = None,
) -> tuple[Floats, Floats]:
    """Start and end of every op for every class, event by event.

    Parameters
    ----------
    program : Program
    durations : Durations
    process_order : sequence of (class, stream), optional
        The order in which processes are created; by default classes ascending, then streams.
        It decides the order of simultaneous events and nothing else.

    Returns
    -------
    start_s, end_s : ndarray of float64 (ops, classes)
        [s]

    Raises
    ------
    SimulationError
        The durations do not fit the program, or ops wait for each other in a circle.
    """
    check_durations(program, durations)
    env = simpy.Environment()
    past = End(env).come_in(0.0)  # stands for every end that has come
    env.run()
    after = _other_streams(program)
    replicas = _replicas(env, program, durations)
    meetings = _meetings(env, program, durations, replicas)
    rows_of = {
        int(k): np.flatnonzero(program.stream == k).tolist() for k in np.unique(program.stream)
    }
    if process_order is None:
        process_order = [(c, k) for c in range(durations.classes) for k in sorted(rows_of)]
    drag = durations.drag.tolist()
    for c, k in process_order:
        rows, replica = rows_of[k], replicas[c]
        share = replica.shares.get(k // STREAM_KINDS)
        if share is None and meetings.keys().isdisjoint(rows):
            env.process(run_stream(env, rows, after, replica, past))
        else:
            slowed = k % STREAM_KINDS == COMPUTE
            env.process(
                run_shared_stream(env, rows, after, replica, past, drag, share, slowed, meetings)
            )
    env.run()
    start_s = np.array([replica.start_s for replica in replicas], dtype=np.float64).T.copy()
    end_s = np.array([replica.end_s for replica in replicas], dtype=np.float64).T.copy()
    finished = ~np.isnan(end_s.max(axis=1))
    if not finished.all():
        raise deadlock(program, finished)
    return start_s, end_s


def _other_streams(program: Program) -> list[tuple[int, ...]]:
    """What each row waits for besides the row before it on its stream."""
    after_start, after = waits(program)
    bounds, others = after_start.tolist(), after.tolist()
    stream = program.stream.tolist()
    return [
        tuple(
            other
            for other in others[bounds[row] : bounds[row + 1]]
            if stream[other] != stream[row] or other >= row
        )
        for row in range(program.ops)
    ]


def _replicas(env: simpy.Environment, program: Program, durations: Durations) -> list[Replica]:
    unknown = [float("nan")] * program.ops
    nobody: list[End | None] = [None] * program.ops
    dragged = np.unique(program.stage[durations.drag > 0.0]).tolist()
    return [
        Replica(
            alone_s=durations.alone_s[:, c].tolist(),
            start_s=unknown.copy(),
            end_s=unknown.copy(),
            ends=nobody.copy(),
            shares={stage: ComputeShare(env) for stage in dragged},
        )
        for c in range(durations.classes)
    ]


def _meetings(
    env: simpy.Environment, program: Program, durations: Durations, replicas: list[Replica]
) -> dict[int, Meeting]:
    meetings = {}
    for row in np.flatnonzero(program.rendezvous).tolist():
        end = End(env)
        for replica in replicas:
            replica.ends[row] = end
        drag, stage = float(durations.drag[row]), int(program.stage[row])
        meetings[row] = Meeting(row, drag, stage, len(replicas), 0.0, end, replicas)
    return meetings
