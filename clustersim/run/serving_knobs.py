"""Changes of a serving scenario that would leave room for a KV cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from clustersim.parallel.replica import memory_of_replica
from clustersim.spec.serving import ServingScenario
from clustersim.spec.serving_checks import check_serving

HIGHEST_FRACTION = 0.95  # of the memory that an engine can take; the rest is for other processes


def nearest_serving_knobs(scenario: ServingScenario) -> list[dict[str, Any]]:
    """Single changes that need less memory a GPU, or allow more of it.

    Those that fit come first, each group from the smallest change on; what the scenario's checks
    refuse is left out. Each has its `change` in words, `fixed_bytes` (all but the cache),
    `kv_tokens` (of one attention rank) and whether it `fits`.

    Parameters
    ----------
    scenario : ServingScenario

    Returns
    -------
    list of dict
        Empty where the scenario fits. [bytes], [tokens]
    """
    before = memory_of_replica(scenario)
    if before.fits:
        return []
    rows = []
    for change, changed in _changes(scenario):
        if check_serving(changed).problems:
            continue
        memory = memory_of_replica(changed)
        if memory.fixed < before.fixed or memory.budget > before.budget:
            tokens = memory.kv_blocks * memory.layout.block_tokens
            rows.append(
                {
                    "change": change,
                    "fixed_bytes": memory.fixed,
                    "kv_tokens": tokens,
                    "fits": memory.fits,
                }
            )
    return sorted(rows, key=lambda row: not row["fits"])


def _changes(scenario: ServingScenario) -> Iterator[tuple[str, ServingScenario]]:
    """Knobs one notch further."""

    def changed(section: str, **update: Any) -> tuple[str, ServingScenario]:
        words = ", ".join(f"{section}.{key}: {value}" for key, value in update.items())
        part = getattr(scenario, section).model_copy(update=update)
        return words, scenario.model_copy(update={section: part})

    engine, p, weights = scenario.engine, scenario.parallelism, scenario.precision.weights
    if engine.memory_fraction < HIGHEST_FRACTION:
        yield changed("engine", memory_fraction=HIGHEST_FRACTION)
    if engine.token_budget > 1024:
        yield changed("engine", token_budget=engine.token_budget // 2)
    if p.attention_data_parallel > 1:
        width = p.tensor_parallel * p.attention_data_parallel
        yield changed("parallelism", tensor_parallel=width, attention_data_parallel=1)
    for degree in (2, 4, 8):
        yield changed("parallelism", tensor_parallel=degree * p.tensor_parallel)
    yield changed("parallelism", pipeline_parallel=2 * p.pipeline_parallel)
    if weights in ("bf16", "fp16"):
        peaks = scenario.cluster.node.device.matrix_peak
        yield changed("precision", weights="fp8" if "fp8" in peaks else "int8")
    if weights != "w4a16_int":
        yield changed("precision", weights="w4a16_int")
