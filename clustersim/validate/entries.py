"""What a validation run says of one row: entries, and whether the run fits in memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One measured quantity of one row, predicted or skipped.

    `measured` is in SI units; `error` is ``predicted / measured - 1``.
    """

    id: str
    source: str
    device: str | None
    status: str
    reason: str | None
    metric: str | None
    predicted: float | None = None
    measured: float | None = None
    error: float | None = None
    assumed: tuple[str, ...] = ()
    quantity: str | None = None
    derived_from: str | None = None
    inferred: tuple[str, ...] = ()
    evidence: str | None = None
    tolerance: float | None = None
    known_miss: str | None = None
    gpus: int | None = None
    micro_batches: int | None = None
    series: str | None = None
    mfu_predicted: float | None = None
    mfu_printed: float | None = None
    mfu_difference: float | None = None
    concurrency: int | None = None

    @property
    def outside_tolerance(self) -> bool:
        """Whether the entry has a tolerance and misses it."""
        return (
            self.tolerance is not None
            and self.error is not None
            and abs(self.error) > self.tolerance
        )

    def document(self) -> dict[str, Any]:
        """The entry as JSON; optional keys only where they have a value."""
        data = asdict(self)
        always = list(data)[: list(data).index("assumed") + 1]
        return {
            key: value for key, value in data.items() if key in always or value not in (None, ())
        }


@dataclass(frozen=True)
class Fit:
    """Whether a case fits in memory, against what its source says or implies."""

    id: str
    expected: bool
    predicted: bool
    memory_bytes: float
    limit_bytes: float


@dataclass(frozen=True)
class Outcome:
    """All that one case gives."""

    entries: tuple[Entry, ...]
    fit: Fit | None = None
