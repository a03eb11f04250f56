"""Latent attention and memory-bound passes against their plain twins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustersim.cost.compute import reference_elementwise, reference_mla
from clustersim.cost.compute.elementwise import Passes, warm_pass_s
from clustersim.cost.compute.mla import (
    DECODE_L2_FRACTION,
    MlaShapes,
    MlaSizes,
    mla_decode_s,
    mla_prefill_s,
)
from clustersim.spec.profile_elementwise import ElementwiseCoefficients
from clustersim.spec.resolve import load_device, load_profile
from tests.latent_cases import DECODE, PREFILL

DEVICE = load_device("h100_sxm_80gb")
ROWS = ElementwiseCoefficients(
    bandwidth_efficiency=0.9, kernel_floor_s=1e-6, sm_bandwidth=4e10, l2_fraction=0.7, ramp_s=4e-7,
    row_setup_s=5e-7, row_bandwidth=1e10,
)  # fmt: skip

batches, heads = st.integers(1, 300), st.integers(1, 128)
lengths = st.integers(1, 6000)


def shapes(batch: int, q_len: int, kv_len: int, heads: int) -> MlaShapes:
    return MlaShapes(*(np.array([float(x)]) for x in (batch, q_len, kv_len, heads)))


def machine(l2_share: float, memory_share: float, efficiency: float) -> reference_mla.LatentMachine:
    return reference_mla.LatentMachine(
        sms=DEVICE.sms,
        flop_per_s=DEVICE.matrix_peak["bf16"] * efficiency,
        memory_bytes_per_s=DEVICE.memory_bandwidth * memory_share,
        l2_bytes=DEVICE.l2_cache * l2_share,
    )


@given(batches, lengths, st.integers(0, 6000), heads)
def test_prompt_is_its_twin(batch: int, q_len: int, before: int, heads: int) -> None:
    kernel = reference_mla.PromptKernel(
        PREFILL.q_tile, PREFILL.block_setup_s, PREFILL.tail_ratio, PREFILL.serial_passes,
        PREFILL.l2_ratio, PREFILL.kernel_floor_s,
    )  # fmt: skip
    core = reference_mla.LatentCore(batch, q_len, q_len + before, heads)
    met = machine(PREFILL.l2_fraction, PREFILL.memory_efficiency, PREFILL.efficiency)
    one = shapes(batch, q_len, q_len + before, heads)
    fast = mla_prefill_s(one, MlaSizes(), "bf16", DEVICE, PREFILL)[0]
    assert fast == pytest.approx(reference_mla.prompt_s(core, met, kernel), rel=1e-9)


@given(batches, st.integers(1, 40000), heads)
def test_cache_is_its_twin(batch: int, kv_len: int, heads: int) -> None:
    kernel = reference_mla.CacheKernel(
        2.0, DEVICE.memory_bandwidth, DECODE.l2_ratio, DECODE.key_s, DECODE.tail_fraction,
        int(DECODE.splits), DECODE.split_overhead_s, DECODE.group_s, DECODE.query_passes,
        DECODE.kernel_floor_s, DECODE.head_tile, DECODE.group_reads,
    )  # fmt: skip
    core = reference_mla.LatentCore(batch, 1, kv_len, heads)
    met = machine(DECODE_L2_FRACTION, DECODE.memory_efficiency, DECODE.efficiency)
    one = shapes(batch, 1, kv_len, heads)
    fast = mla_decode_s(one, MlaSizes(), "bf16", DEVICE, DECODE)[0]
    assert fast == pytest.approx(reference_mla.cache_s(core, met, kernel), rel=1e-9)


@given(st.integers(1, 40000), st.floats(2.0, 2e5), st.integers(1, 2))
def test_pass_is_its_twin(rows: int, row_bytes: float, kernels: int) -> None:
    profile = load_profile("h100_sxm").model_copy(update={"elementwise": {"gated": ROWS}})
    met = reference_elementwise.PassMachine(
        sms=DEVICE.sms,
        memory_bytes_per_s=DEVICE.memory_bandwidth * ROWS.bandwidth_efficiency,
        l2_bytes=DEVICE.l2_cache * ROWS.l2_fraction,
        l2_ratio=4e10 * DEVICE.sms / (DEVICE.memory_bandwidth * ROWS.bandwidth_efficiency),
        ramp_s=ROWS.ramp_s,
        row_setup_s=ROWS.row_setup_s,
        row_bytes_per_s=ROWS.row_bandwidth or np.inf,
        kernel_floor_s=ROWS.kernel_floor_s,
    )
    passes = Passes(*(np.array([float(x)]) for x in (rows, row_bytes, kernels)))
    fast = warm_pass_s(passes, "gated", DEVICE, profile)[0]
    slow = reference_elementwise.repeated_pass_s(rows, row_bytes, kernels, met)
    assert fast == pytest.approx(slow, rel=1e-9)
