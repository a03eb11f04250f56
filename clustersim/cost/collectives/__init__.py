"""How long a collective takes alone: NCCL's algorithms and protocols over a group's links."""

from clustersim.cost.collectives.algorithms import COLLECTIVES, Candidate, Links, candidates
from clustersim.cost.collectives.pricing import (
    Explanation,
    bus_factor,
    collective_s,
    explain_collective,
)
from clustersim.cost.collectives.table import LineTable, line_table, price_calls

__all__ = [
    "COLLECTIVES",
    "Candidate",
    "Explanation",
    "LineTable",
    "Links",
    "bus_factor",
    "candidates",
    "collective_s",
    "explain_collective",
    "line_table",
    "price_calls",
]
