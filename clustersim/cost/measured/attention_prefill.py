"""Measured attention over whole prompts, priced by `clustersim.cost.compute.prefill`."""

from __future__ import annotations

from clustersim.cost.compute.prefill import prefill_s
from clustersim.cost.measured.attention_rows import prompt_family
from clustersim.spec.profile_attention import prefill_sections

FAMILY = prompt_family(
    stem="attention_prefill",
    required=(
        *("dtype", "kv_dtype", "batch", "q_len", "kv_len"),
        *("q_heads", "kv_heads", "head_dim", "window", "causal"),
    ),
    group="prefill",
    name=prefill_sections,
    price=prefill_s,
)
