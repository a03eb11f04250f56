"""Coefficients and shapes of serving attention that several tests share."""

import numpy as np

from clustersim.cost.compute.attention import AttentionShapes
from clustersim.cost.compute.decode import DecodeShapes
from clustersim.spec.profile_attention import DecodeCoefficients, PrefillCoefficients
from clustersim.spec.resolve import load_device, load_profile

DEVICES = {name: load_device(name) for name in ("a100_sxm_80gb", "h100_sxm_80gb", "b200_sxm_180gb")}

PREFILL = PrefillCoefficients(
    efficiency=0.7,
    q_tile=128,
    head_step=32,
    head_exponent=0.1,
    tail_ratio=1.3,
    exponentials_per_cycle=20.0,
    masked_keys=20.0,
    block_setup_s=3e-6,
    dim_setup_s=1e-9,
    passes=0.6,
    memory_efficiency=0.8,
    l2_ratio=2.5,
    l2_fraction=0.6,
    kernel_floor_s=12e-6,
)

NARROW = PREFILL.model_copy(update={"tile_by_head": True, "head_powers": True, "q_tile": 64})

GROUPED = DecodeCoefficients(
    group_least=2,
    group_limit=32,
    block_setup_s=3.6e-6,
    dim_setup_s=7.5e-9,
    element_setup_s=6e-10,
    block_bandwidth=5e10,
    split_waves=2.5,
    wave_share=0.3,
    split_keys=156.0,
    split_root=8.0,
    split_overhead_s=3.4e-6,
    element_combine_s=3e-11,
    miss_s=4e-6,
    memory_efficiency=0.87,
    l2_ratio=3.0,
    l2_fraction=0.58,
    kernel_floor_s=4e-6,
)

SINGLE = GROUPED.model_copy(
    update={"group_least": 1, "group_limit": 1, "block_setup_s": 1.2e-6, "split_waves": 0.5}
)

HOPPER = GROUPED.model_copy(update={"crowd_elements": 2048, "rotate_heads": 64, "rotate_s": 2e-6})
WHOLE = GROUPED.model_copy(update={"splits": False, "split_root": None})

PROFILE = load_profile("h100_sxm").model_copy(
    update={
        "prefill": {"bf16": PREFILL},
        "bidirectional": {"bf16": PREFILL},
        "decode": {"bf16": GROUPED, "bf16_single": SINGLE},
    }
)


def prefill_shapes(
    batch=1.0, q=1024.0, kv=None, heads=8.0, kv_heads=8.0, d=128.0, causal=True, window=0.0
) -> AttentionShapes:
    """Shapes from numbers or arrays; keys are as many as queries unless told."""
    values = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(x, float)) for x in (batch, q, heads, kv_heads, d, window)),
        np.atleast_1d(np.asarray(q if kv is None else kv, float)),
    )
    b, n, h, g, width, w, keys = values
    return AttentionShapes(b, n, keys, h, g, width, np.full(b.shape, causal), w)


def decode_shapes(
    sequences=8.0, keys=1024.0, heads=32.0, kv_heads=8.0, d=128.0, window=0.0
) -> DecodeShapes:
    """Batches whose sequences have equal contexts."""
    values = (sequences, keys, heads, kv_heads, d, window)
    n, context, h, g, width, w = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(x, float)) for x in values)
    )
    seen = np.where(w > 0, np.minimum(context, w), context)
    return DecodeShapes(n, n * seen, seen, context, h, g, width)
