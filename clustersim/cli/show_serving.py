"""Stages of a serving scenario that ``clustersim show`` prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clustersim.spec.serving import ServingScenario

Document = dict[str, Any]

LEGENDS = {
    "memory": "kv cache: of one GPU; blocks and tokens: of one attention rank",
    "costs": "a batch of each attention rank: sequences x context that decode, or a prompt with "
    "nothing before it;\nparts sum to the step; host: what is not hidden behind the GPU",
}


def memory_document(scenario: ServingScenario) -> Document:
    """Terms of one GPU, and the cache that they leave.

    Parameters
    ----------
    scenario : ServingScenario

    Returns
    -------
    dict
        Sizes of one GPU [bytes]. `engine_takes_bytes` is the part of its capacity that the engine
        allows itself; `kv_tokens`, of one attention rank, is None where no layer keeps every token.
        It answers also where the model does not fit: `fits` tells.
    """
    from clustersim.parallel.replica import kv_dtype, memory_of_replica

    memory = memory_of_replica(scenario)
    layout, terms = memory.layout, memory.terms()
    held = {name: size for name, size in terms.items() if name != "total"}
    return {
        "capacity_bytes": memory.capacity,
        "engine_takes_bytes": memory.budget,
        "total_bytes": terms["total"],
        "fits": memory.fits,
        "kv_dtype": kv_dtype(scenario),
        "kv_blocks": memory.kv_blocks,
        "block_tokens": layout.block_tokens,
        "block_bytes": layout.block_bytes,
        "kv_tokens": memory.kv_blocks * layout.block_tokens if layout.full else None,
        "needed": [{"term": name.replace("_", " "), "size_bytes": s} for name, s in held.items()],
    }


def costs_document(scenario: ServingScenario, base: Path) -> Document:
    """Prices of an iteration for a few batches, part by part.

    Parameters
    ----------
    scenario : ServingScenario
    base : Path
        Folder of the scenario's file, where `routing.counts` is looked for.

    Returns
    -------
    dict
        Names of device, profile and engine; `batches` as `iteration_costs` gives them. [s]

    Raises
    ------
    CapacityError
        If there is no room for a cache.
    """
    from clustersim.run.serving_costs import iteration_costs

    device = scenario.cluster.node.device
    return {
        "device": device.name,
        "profile": device.profile,
        "engine": scenario.engine.name,
        "batches": iteration_costs(scenario, base),
    }


def without_zeros(rows: list[Document]) -> list[Document]:
    """Rows without the columns that are zero in all of them.

    Parameters
    ----------
    rows : list of dict
        At least one; all have the keys of the first.

    Returns
    -------
    list of dict
        Columns in the same order.
    """
    kept = [key for key in rows[0] if any(row[key] for row in rows)]
    return [{key: row[key] for key in kept} for row in rows]
