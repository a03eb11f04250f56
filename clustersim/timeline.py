"""What happened: start and end of every op of every class of replicas.

A timeline is columns beside the rows of a program: nothing here is computed, only recorded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Timeline:
    """Start and end of each op for each simulated class of replicas.

    Attributes
    ----------
    start_s, end_s : ndarray of float64 (ops, classes)
        Simulated time. [s]
    multiplicity : ndarray of int64 (classes,)
        How many replicas each class stands for.
    engine : str
        "event" or "compiled".
    engine_ops : int
        Ops replayed (ops x classes).
    engine_s : float
        Wall time of the replay. [s]
    """

    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    multiplicity: NDArray[np.int64]
    engine: str
    engine_ops: int
    engine_s: float

    @property
    def step_time_s(self) -> float:
        """End of the last op. [s]"""
        return float(self.end_s.max()) if self.end_s.size else 0.0
