"""Measured attention without a mask, priced by `clustersim.cost.compute.prefill`."""

from __future__ import annotations

from clustersim.cost.compute.prefill import bidirectional_s
from clustersim.cost.measured.attention_rows import prompt_family
from clustersim.spec.profile_attention import bidirectional_sections

FAMILY = prompt_family(
    stem="attention_bidirectional",
    required=("dtype", "batch", "q_len", "kv_len", "q_heads", "kv_heads", "head_dim", "causal"),
    group="bidirectional",
    name=lambda dtype, _, head_dim: bidirectional_sections(dtype, head_dim),
    price=lambda shapes, device, profile, dtype, _: bidirectional_s(shapes, device, profile, dtype),
)
