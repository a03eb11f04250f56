"""The compiled replay: a topological order of rows, then passes over rows x classes.

Rows are the outer loop and classes the inner, contiguous one, which compiles to vector code.
Nothing here knows what an op is: rows, streams, predecessors and seconds.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]


@njit(cache=True)
def successors(after_start: IntArray, after: IntArray) -> tuple[IntArray, IntArray]:
    """The rows that wait for each row: the same edges, grouped by the other end.

    Parameters
    ----------
    after_start, after : ndarray of int64 (ops + 1,), (edges,)
        Row ``i`` waits for ``after[after_start[i]:after_start[i + 1]]``.

    Returns
    -------
    then_start, then : ndarray of int64 (ops + 1,), (edges,)
        Rows ``then[then_start[i]:then_start[i + 1]]`` wait for row ``i``, ascending.
    """
    ops = after_start.size - 1
    then_start = np.zeros(ops + 1, np.int64)
    for edge in range(after.size):
        then_start[after[edge] + 1] += 1
    for row in range(ops):
        then_start[row + 1] += then_start[row]
    then = np.empty(after.size, np.int64)
    fill = then_start[:-1].copy()
    for row in range(ops):
        for edge in range(after_start[row], after_start[row + 1]):
            then[fill[after[edge]]] = row
            fill[after[edge]] += 1
    return then_start, then


@njit(cache=True)
def order_rows(after_start: IntArray, after: IntArray, stream: IntArray, order: IntArray) -> int:
    """Kahn's algorithm with two queues: communication goes before compute.

    Parameters
    ----------
    after_start, after : ndarray of int64 (ops + 1,), (edges,)
        What each row waits for.
    stream : ndarray of int64 (ops,)
        Stream ``% 3`` is 0 for compute.
    order : ndarray of int64 (ops,)
        Filled with the order, as far as rows can be placed.

    Returns
    -------
    int
        Rows placed; less than all of them if some wait in a circle.

    References
    ----------
    .. [1] A. B. Kahn, "Topological sorting of large networks," Commun. ACM 5(11), 1962.
    """
    ops = order.size
    then_start, then = successors(after_start, after)
    missing = np.empty(ops, np.int64)
    ready = np.empty((2, ops), np.int64)  # queue 0 communication, queue 1 compute
    head = np.zeros(2, np.int64)
    tail = np.zeros(2, np.int64)
    for row in range(ops):
        missing[row] = after_start[row + 1] - after_start[row]
        if missing[row] == 0:
            queue = 1 if stream[row] % 3 == 0 else 0
            ready[queue, tail[queue]] = row
            tail[queue] += 1
    placed = 0
    while head[0] < tail[0] or head[1] < tail[1]:
        queue = 0 if head[0] < tail[0] else 1
        row = ready[queue, head[queue]]
        head[queue] += 1
        order[placed] = row
        placed += 1
        for edge in range(then_start[row], then_start[row + 1]):
            other = then[edge]
            missing[other] -= 1
            if missing[other] == 0:
                queue = 1 if stream[other] % 3 == 0 else 0
                ready[queue, tail[queue]] = other
                tail[queue] += 1
    return placed


@njit(cache=True)
def ready_times(
    row: int, after_start: IntArray, after: IntArray, end_s: FloatArray, start: FloatArray
) -> None:
    """Latest end of what a row waits for, for each class; 0 if it waits for nothing.

    Parameters
    ----------
    row : int
    after_start, after : ndarray of int64 (ops + 1,), (edges,)
        What each row waits for.
    end_s : ndarray of float64 (ops, classes)
        Ends so far. [s]
    start : ndarray of float64 (classes,)
        Filled. [s]
    """
    first, last = after_start[row], after_start[row + 1]
    if first == last:
        for c in range(start.size):
            start[c] = 0.0
        return
    other = end_s[after[first]]
    for c in range(start.size):
        start[c] = other[c]
    for edge in range(first + 1, last):
        other = end_s[after[edge]]
        for c in range(start.size):
            start[c] = other[c] if other[c] > start[c] else start[c]


@njit(cache=True)
def meet(start: FloatArray, alone: FloatArray, end: FloatArray) -> None:
    """A rendezvous: all classes start with the last one ready and end with the longest.

    Parameters
    ----------
    start : ndarray of float64 (classes,)
        When each class is ready; filled with the latest of them. [s]
    alone : ndarray of float64 (classes,)
        Time alone of the op in each class. [s]
    end : ndarray of float64 (classes,)
        Filled: the latest start plus the longest time. [s]
    """
    latest_s = 0.0
    longest_s = 0.0
    for c in range(start.size):
        latest_s = max(latest_s, start[c])
        longest_s = max(longest_s, alone[c])
    for c in range(start.size):
        start[c] = latest_s
        end[c] = latest_s + longest_s


@njit(cache=True)
def replay_rows(
    order: IntArray,
    after_start: IntArray,
    after: IntArray,
    rendezvous: BoolArray,
    alone_s: FloatArray,
    start_s: FloatArray,
    end_s: FloatArray,
) -> float:
    """One pass where nothing drags: start after everything waited for, end after `alone_s`.

    Parameters
    ----------
    order : ndarray of int64 (ops,)
    after_start, after : ndarray of int64 (ops + 1,), (edges,)
    rendezvous : ndarray of bool (ops,)
    alone_s : ndarray of float64 (ops, classes)
        [s]
    start_s, end_s : ndarray of float64 (ops, classes)
        Filled. [s]

    Returns
    -------
    float
        The last end. [s]
    """
    classes = alone_s.shape[1]
    latest_s = np.zeros(classes)
    for position in range(order.size):
        row = order[position]
        start = start_s[row]
        end = end_s[row]
        alone = alone_s[row]
        ready_times(row, after_start, after, end_s, start)
        if rendezvous[row]:
            meet(start, alone, end)
        else:
            for c in range(classes):
                end[c] = start[c] + alone[c]
        for c in range(classes):
            latest_s[c] = end[c] if end[c] > latest_s[c] else latest_s[c]
    return latest_s.max() if order.size > 0 else 0.0


@njit(cache=True)
def dragged_end(
    stage: int,
    c: int,
    begin_s: float,
    alone_s: float,
    drag_rows: IntArray,
    drag_stop: IntArray,
    drag: FloatArray,
    cursor: IntArray,
    start_s: FloatArray,
    end_s: FloatArray,
    least_rate: float,
) -> float:
    """End of a compute op that progresses at one less the drags beside it.

    `cursor[stream, c]` points at the first dragging row of a stream that has not ended yet; times
    on a stream only grow, so each interval is passed once. A row without a time has infinity.

    Parameters
    ----------
    stage, c : int
        Stage and class of the op.
    begin_s, alone_s : float
        Its start, and its time at full rate. [s]
    drag_rows : ndarray of int64 (dragging,)
        Rows with drag, by stream, first in first out.
    drag_stop : ndarray of int64 (streams,)
        Where the rows of each stream end in `drag_rows`.
    drag : ndarray of float64 (ops,)
        Share of the compute rate.
    cursor : ndarray of int64 (streams, classes)
        Moved on past rows that have ended by the end of the op.
    start_s, end_s : ndarray of float64 (ops, classes)
        Intervals of the dragging rows as far as they are known. [s]
    least_rate : float
        Floor of the rate.

    Returns
    -------
    float
        [s]
    """
    now_s = begin_s
    left_s = alone_s
    while True:
        rate = 1.0
        change_s = np.inf
        for stream in range(3 * stage + 1, 3 * stage + 3):
            at = cursor[stream, c]
            while at < drag_stop[stream] and end_s[drag_rows[at], c] <= now_s:
                at += 1
            cursor[stream, c] = at
            if at < drag_stop[stream]:
                row = drag_rows[at]
                if start_s[row, c] <= now_s:
                    rate -= drag[row]
                    change_s = min(change_s, end_s[row, c])
                else:
                    change_s = min(change_s, start_s[row, c])
        rate = max(rate, least_rate)
        if left_s <= rate * (change_s - now_s):
            return now_s + left_s / rate
        left_s -= rate * (change_s - now_s)
        now_s = change_s


@njit(cache=True)
def has_moved(
    old_start: FloatArray,
    old_end: FloatArray,
    start: FloatArray,
    end: FloatArray,
    reached: FloatArray,
) -> bool:
    """Whether an interval changed where compute of its stage has been carried already.

    Parameters
    ----------
    old_start, old_end, start, end : ndarray of float64 (classes,)
        The interval of the pass before and of this one. [s]
    reached : ndarray of float64 (classes,)
        Compute of the stage is known up to here. [s]

    Returns
    -------
    bool
        True if any class changed and either interval begins before `reached`.
    """
    for c in range(start.size):
        changed = start[c] != old_start[c] or end[c] != old_end[c]
        if changed and min(start[c], old_start[c]) < reached[c]:
            return True
    return False


@njit(cache=True)
def pass_dragged_rows(
    order: IntArray,
    after_start: IntArray,
    after: IntArray,
    rendezvous: BoolArray,
    stream: IntArray,
    alone_s: FloatArray,
    drag: FloatArray,
    drag_rows: IntArray,
    drag_start: IntArray,
    least_rate: float,
    start_s: FloatArray,
    end_s: FloatArray,
) -> bool:
    """One pass with the dragging intervals known so far.

    Parameters
    ----------
    order, after_start, after, rendezvous, stream, alone_s, drag, drag_rows, drag_start, least_rate
        As in `replay_dragged_rows`.
    start_s, end_s : ndarray of float64 (ops, classes)
        Times of the pass before, those of dragging rows infinite before the first; written over.
        [s]

    Returns
    -------
    bool
        Whether another pass is needed.
    """
    classes = alone_s.shape[1]
    streams = drag_start.size - 1
    drag_stop = drag_start[1:]
    cursor = np.empty((streams, classes), np.int64)
    for k in range(streams):
        cursor[k, :] = drag_start[k]
    reached_s = np.zeros((streams // 3, classes))  # compute of a stage is known up to here
    old_start, old_end = np.empty(classes), np.empty(classes)
    moved = False
    for position in range(order.size):
        row = order[position]
        stage = stream[row] // 3
        start, end, alone = start_s[row], end_s[row], alone_s[row]
        is_compute = stream[row] % 3 == 0
        if drag[row] > 0.0:
            old_start[:] = start
            old_end[:] = end
        ready_times(row, after_start, after, end_s, start)
        if rendezvous[row]:
            meet(start, alone, end)
        elif is_compute and drag_start[3 * stage] < drag_start[3 * stage + 3]:
            for c in range(classes):
                end[c] = dragged_end(
                    stage, c, start[c], alone[c], drag_rows, drag_stop, drag, cursor,
                    start_s, end_s, least_rate,
                )  # fmt: skip
        else:
            for c in range(classes):
                end[c] = start[c] + alone[c]
        if is_compute:
            reached_s[stage, :] = end
        elif drag[row] > 0.0:
            moved |= has_moved(old_start, old_end, start, end, reached_s[stage])
    return moved


@njit(cache=True)
def replay_dragged_rows(
    order: IntArray,
    after_start: IntArray,
    after: IntArray,
    rendezvous: BoolArray,
    stream: IntArray,
    alone_s: FloatArray,
    drag: FloatArray,
    drag_rows: IntArray,
    drag_start: IntArray,
    least_rate: float,
    start_s: FloatArray,
    end_s: FloatArray,
) -> int:
    """Passes where communication slows the compute beside it, until nothing moves.

    Parameters
    ----------
    order, after_start, after, rendezvous, alone_s, start_s, end_s
        As in `replay_rows`.
    stream : ndarray of int64 (ops,)
    drag : ndarray of float64 (ops,)
    drag_rows : ndarray of int64 (dragging,)
        Rows with drag, by stream, first in first out.
    drag_start : ndarray of int64 (streams + 1,)
        Rows of stream ``k`` are ``drag_rows[drag_start[k]:drag_start[k + 1]]``.
    least_rate : float
        Floor of the rate of compute.

    Returns
    -------
    int
        Passes made.

    Notes
    -----
    A compute op must know every dragging interval that overlaps it. Where dragging ops wait only
    for compute of their own stage (sends, gradient reductions), the order has them right behind
    the op that launches them and before any later compute of the stage, because communication
    goes first among ready rows; later compute cannot be waited for, since it comes after. Then
    one pass is exact.

    In general (an op dragged on stage 0 launched by stage 1 and the reverse) no static order
    exists. So a pass checks itself: when a dragging op gets a new interval after compute of its
    stage was carried past the interval's start, old or new, another pass follows with the
    intervals of this one. Passes end: if all events up to time t are right, the next pass uses
    right intervals up to t and so gets every event up to and including the next one right. What
    they end at satisfies all the rules, and causality makes it unique.
    """
    for at in range(drag_rows.size):
        start_s[drag_rows[at], :] = np.inf
        end_s[drag_rows[at], :] = np.inf
    passes = 0
    moved = True
    while moved:
        passes += 1
        moved = pass_dragged_rows(
            order, after_start, after, rendezvous, stream, alone_s, drag, drag_rows, drag_start,
            least_rate, start_s, end_s,
        )  # fmt: skip
    return passes
