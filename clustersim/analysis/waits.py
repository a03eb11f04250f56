"""Which op another one waited for.

An op starts when the row before it on its stream and its dependencies are done; one with a
rendezvous starts when that holds in every class of replicas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.workload.program import Program

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def rows_before(program: Program) -> Ints:
    """Row before each row on its stream, -1 for the first, (ops,).

    Parameters
    ----------
    program : Program

    Returns
    -------
    ndarray of int64 (ops,)
    """
    before = np.full(program.ops, -1, dtype=np.int64)
    order = np.argsort(program.stream, kind="stable")
    follows = program.stream[order[1:]] == program.stream[order[:-1]]
    before[order[1:][follows]] = order[:-1][follows]
    return before


@dataclass(frozen=True)
class Waits:
    """Times of one class of replicas, and what its ops waited for.

    Attributes
    ----------
    program : Program
    start_s, end_s : ndarray of float64 (ops,)
        Times of this class. [s]
    before : ndarray of int64 (ops,)
        From `rows_before`.
    """

    program: Program
    start_s: Floats
    end_s: Floats
    before: Ints

    def binding(self, row: int) -> int:
        """The op whose end made a row ready, -1 where nothing did.

        Of several that end together it is the one before on the stream, else the first named.

        Parameters
        ----------
        row : int

        Returns
        -------
        int
        """
        program = self.program
        latest = int(self.before[row])
        waited = program.dep[program.dep_start[row] : program.dep_start[row + 1]]
        if waited.size:
            other = int(waited[np.argmax(self.end_s[waited])])
            if latest < 0 or self.end_s[other] > self.end_s[latest]:
                latest = other
        return latest

    def ready_s(self, row: int) -> float:
        """When a row could have started, had it no others to meet.

        Parameters
        ----------
        row : int

        Returns
        -------
        float
            0 where it waited for nothing. [s]
        """
        latest = self.binding(row)
        return float(self.end_s[latest]) if latest >= 0 else 0.0
