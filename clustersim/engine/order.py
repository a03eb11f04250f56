"""The static order in which the compiled engine walks the rows of a program.

First in, first out on a stream is one more dependency, on the row before. With it a program is a
plain graph of rows; one topological order serves every class and every replication.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.engine.durations import describe_row
from clustersim.errors import SimulationError
from clustersim.kernel_cache import prepare_numba_cache
from clustersim.workload.program import Program

MOST_NAMED = 8  # streams named in a deadlock's message


@dataclass(frozen=True)
class Order:
    """Rows in an order in which each one comes after everything it waits for.

    Attributes
    ----------
    rows : ndarray of int64 (ops,)
        The order; ops of the pipe and data streams stand as early as they can.
    after_start : ndarray of int64 (ops + 1,)
    after : ndarray of int64 (edges,)
        Row ``i`` waits for ``after[after_start[i]:after_start[i + 1]]``: its dependencies and the
        row before it on its stream.
    """

    rows: NDArray[np.int64]
    after_start: NDArray[np.int64]
    after: NDArray[np.int64]


def compile_order(program: Program) -> Order:
    """Order the rows of a program once; every replay of it can use the result.

    Parameters
    ----------
    program : Program
        Of its columns, streams and dependencies are read; durations play no part.

    Returns
    -------
    Order

    Raises
    ------
    SimulationError
        A dependency names no row, or rows wait for each other in a circle.
    """
    prepare_numba_cache()
    from clustersim.engine.kernels import order_rows

    after_start, after = waits(program)
    rows = np.empty(program.ops, dtype=np.int64)
    placed = order_rows(after_start, after, program.stream.astype(np.int64), rows)
    if placed < program.ops:
        finished = np.zeros(program.ops, dtype=np.bool_)
        finished[rows[:placed]] = True
        raise deadlock(program, finished)
    return Order(rows, after_start, after)


def waits(program: Program) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What each row waits for, its stream included.

    Parameters
    ----------
    program : Program

    Returns
    -------
    after_start : ndarray of int64 (ops + 1,)
    after : ndarray of int64 (edges,)
        The row before on the same stream and the dependencies; those that the stream already
        implies are left out.

    Raises
    ------
    SimulationError
        A dependency names a row that the program does not have.
    """
    ops, stream = program.ops, program.stream
    owner = np.repeat(np.arange(ops), np.diff(program.dep_start))
    dep = program.dep.astype(np.int64)
    wrong = (dep < 0) | (dep >= ops)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise SimulationError(
            f"{describe_row(program, int(owner[first]))}: waits for row {dep[first]}"
            f"\n  fix: the program has rows 0 to {ops - 1}"
        )
    told = (stream[dep] != stream[owner]) | (dep >= owner)
    by_stream = np.argsort(stream, kind="stable")
    follows = stream[by_stream[1:]] == stream[by_stream[:-1]]
    owners = np.concatenate([by_stream[1:][follows], owner[told]])
    others = np.concatenate([by_stream[:-1][follows], dep[told]])
    after_start = np.zeros(ops + 1, dtype=np.int64)
    np.cumsum(np.bincount(owners, minlength=ops), out=after_start[1:])
    after = others[np.argsort(owners, kind="stable")].astype(np.int64)
    return after_start, after


def deadlock(program: Program, finished: NDArray[np.bool_]) -> SimulationError:
    """The error that names the first unfinished row of each stream and what it waits for.

    Parameters
    ----------
    program : Program
    finished : ndarray of bool (ops,)
        Rows that ran in every class.
    """
    after_start, after = waits(program)
    stuck = np.flatnonzero(~finished)
    heads = stuck[np.sort(np.unique(program.stream[stuck], return_index=True)[1])]
    lines = [f"deadlock: {stuck.size} of {program.ops} ops can never start"]
    for row in heads[:MOST_NAMED]:
        others = after[after_start[row] : after_start[row + 1]]
        waited = ", ".join(describe_row(program, int(i)) for i in others[~finished[others]])
        lines.append(f"  {describe_row(program, int(row))} waits for {waited}")
    if heads.size > MOST_NAMED:
        lines.append(f"  and {heads.size - MOST_NAMED} more streams")
    lines.append("  fix: remove a dependency of this circle, or reorder the rows of a stream")
    return SimulationError("\n".join(lines))
