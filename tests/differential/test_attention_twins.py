"""Serving attention, vectorised against one block at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.cost.compute import reference_attention as twin
from clustersim.cost.compute.decode import DecodeShapes, batch_contexts, decode_s
from clustersim.cost.compute.gemm import dtype_bytes
from clustersim.cost.compute.prefill import prefill_s
from clustersim.cost.compute.reference import Core
from tests.attention_cases import (
    DEVICES,
    GROUPED,
    HOPPER,
    NARROW,
    PREFILL,
    PROFILE,
    SINGLE,
    WHOLE,
    prefill_shapes,
)


def machine_of(device, dtype="bf16"):
    return twin.ServingMachine(
        device.sms,
        device.boost_clock,
        device.matrix_peak[dtype],
        device.memory_bandwidth,
        device.l2_cache,
    )


heads = st.tuples(
    st.integers(1, 8), st.sampled_from([1, 2, 4, 8, 64]), st.sampled_from([64, 96, 128, 256])
)


@settings(deadline=None, max_examples=100)
@given(
    name=st.sampled_from(sorted(DEVICES)),
    batch=st.integers(1, 64),
    q_len=st.integers(1, 3000),
    before=st.integers(0, 3000),
    window=st.sampled_from([0, 128, 1024]),
    shape=heads,
    kv_dtype=st.sampled_from(["bf16", "int8"]),
    c=st.sampled_from([PREFILL, NARROW]),
)
def test_prefill_block_by_block(name, batch, q_len, before, window, shape, kv_dtype, c):
    kv_heads, group, d = shape
    device = DEVICES[name]
    core = Core(batch, q_len, q_len + before, kv_heads * group, kv_heads, d, True, window)
    shapes = prefill_shapes(
        batch, q_len, q_len + before, kv_heads * group, kv_heads, d, window=window
    )
    profile = PROFILE.model_copy(update={"prefill": {"bf16": c}})
    times = prefill_s(shapes, device, profile, "bf16", kv_dtype)
    sizes = dtype_bytes("bf16"), dtype_bytes(kv_dtype)
    assert times.total_s[0] == pytest.approx(
        twin.prefill_s(core, machine_of(device), c, *sizes), rel=1e-9
    )


@settings(deadline=None, max_examples=100)
@given(
    name=st.sampled_from(sorted(DEVICES)),
    batches=st.lists(
        st.lists(st.integers(1, 40000), min_size=1, max_size=40), min_size=1, max_size=4
    ),
    window=st.sampled_from([0, 128, 8192]),
    shape=heads,
    packed=st.sampled_from([GROUPED, HOPPER, WHOLE]),
)
def test_decode_sequence_by_sequence(name, batches, window, shape, packed):
    kv_heads, group, d = shape
    device = DEVICES[name]
    contexts = np.concatenate([np.array(batch) for batch in batches])
    starts = np.cumsum([0, *map(len, batches[:-1])])
    counts, total, longest = batch_contexts(contexts, starts, window)
    held = np.maximum.reduceat(contexts, starts).astype(float)
    same = np.ones(len(batches))
    shapes = DecodeShapes(
        counts, total, longest, held, kv_heads * group * same, kv_heads * same, d * same
    )
    c = packed if 1 < group <= 32 else SINGLE
    profile = PROFILE.model_copy(update={"decode": {"bf16": packed, "bf16_single": SINGLE}})
    expected = [
        twin.decode_s(batch, window, (kv_heads * group, kv_heads, d), machine_of(device), c, 2.0)
        for batch in batches
    ]
    np.testing.assert_allclose(decode_s(shapes, device, profile).total_s, expected, rtol=1e-9)
