"""How clustersim refuses.

Everything raised on purpose derives from `ClusterSimError`; anything else that escapes is our bug.

    ClusterSimError
    ├── SpecError            a file is wrong: carries every problem found, each with its place
    ├── UnitError            a quantity cannot be read
    ├── PlacementError       ranks do not fit the cluster
    ├── CapacityError        memory, ports or links are exceeded
    ├── ModelDomainError     a cost model is asked outside the domain it is valid in
    └── SimulationError      a program cannot be replayed (deadlock, missing dependency)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where it stands, and the change that would work."""

    message: str
    fix: str = ""
    file: str = ""
    line: int = 0
    column: int = 0
    field: str = ""
    source_line: str = ""

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        head = ": ".join(part for part in (place, self.field, self.message) if part)
        lines = [head]
        if self.source_line.strip():
            lines.append(f"    {self.source_line.rstrip()}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class ClusterSimError(Exception):
    """Base of every error that clustersim raises on purpose."""


class SpecError(ClusterSimError):
    """A file or an override is wrong; holds every problem found in one reading."""

    def __init__(self, problems: Iterable[Problem] | Problem | str):
        if isinstance(problems, str):
            problems = Problem(problems)
        if isinstance(problems, Problem):
            problems = [problems]
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UnitError(ClusterSimError, ValueError):
    """A quantity has no unit, the wrong one, or an ambiguous one."""


class PlacementError(ClusterSimError):
    """Ranks do not fit the cluster they are placed on."""


class CapacityError(ClusterSimError):
    """Something does not fit: memory, ports, links."""


class ModelDomainError(ClusterSimError):
    """A cost model is asked for a shape, device or datatype outside its domain."""


class SimulationError(ClusterSimError):
    """A program cannot be replayed to its end."""
