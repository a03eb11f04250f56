"""Products of any datatype: widths, stand-ins, quantisation, what repetition leaves in L2."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.cost.compute.gemm import COMPILED_ROWS
from clustersim.cost.compute.quantised import (
    FORMATS,
    format_on,
    math_dtype,
    miss_fraction,
    repeated_s,
)
from clustersim.errors import ModelDomainError
from clustersim.spec.profile import Profile
from clustersim.spec.resolve import load_device, load_profile

PROFILE = load_profile("h100_sxm")
DEVICE = load_device("h100_sxm")
MEASURED_NAMES = (
    "a100_sxm", "a100_pcie", "h100_sxm", "b200_sxm", "b300_sxm", "gb200", "gb300", "a800_sxm",
    "h800_sxm", "v100_sxm", "l40s", "rtx_pro_6000_server", "a40", "b60", "mi300x",
)  # fmt: skip
sizes = st.one_of(st.integers(1, 2**17), st.integers(0, 17).map(lambda i: 2**i))


def profile_with(section: str, base: Profile = PROFILE, **changes) -> Profile:
    table = dict(base.gemm)
    plain = {"step_latency_s": 0.0, "cache_fraction": 0.0, "cache_speedup": 1.0, "issue_s": 0.0}
    plain |= {"quantise_floor_s": 0.0, "quantise_row_s": 0.0, "write_ratio": 1.0}
    table[section] = base.gemm["bf16"].model_copy(update={**plain, **changes})
    return base.model_copy(update={"gemm": table})


def time_s(dtype, m, n, k, batch=1, profile=None, device=DEVICE, **more) -> float:
    shape = tuple(np.array([float(size)]) for size in (m, n, k, batch))
    return float(repeated_s(shape, dtype, device, profile or profile_with(dtype), **more)[0])


@pytest.mark.parametrize("name", MEASURED_NAMES)
def test_a_measured_name_is_a_device(name):
    assert load_device(name).matrix_peak["fp16"] > 0


def test_narrow_weights_nearly_halve_a_product_that_reads_little_else():
    wide = time_s("w8a16_int", 1, 65536, 16384)
    narrow = time_s("w4a16_int", 1, 65536, 16384)
    assert wide / 2 <= narrow < 0.65 * wide


def test_weights_alone_are_narrow_on_a_device_without_narrow_units():
    b60 = load_device("b60")
    assert math_dtype(b60, "fp8") == "bf16"
    assert format_on(b60, "fp8").activation_bytes == 2.0
    assert format_on(b60, "fp8").quantise_bytes == 0.0
    assert format_on(DEVICE, "fp8").quantise_bytes > 0.0


def test_an_unknown_datatype_is_refused_by_name():
    with pytest.raises(ModelDomainError, match="fp7"):
        time_s("fp7", 1, 1, 1, profile=PROFILE)


def test_quantising_costs_its_launches_and_its_traffic():
    free = profile_with("fp8", quantise_efficiency=1.0)
    launches = profile_with("fp8", quantise_efficiency=1.0, quantise_floor_s=1e-5)
    slow = profile_with("fp8", quantise_efficiency=0.5)
    shape = (4096, 128, 8192)
    base_s = time_s("fp8", *shape, profile=free)
    assert time_s("fp8", *shape, profile=launches) == pytest.approx(base_s + 1e-5)
    moved_s = 5.0 * 4096 * 8192 / DEVICE.memory_bandwidth
    assert time_s("fp8", *shape, profile=slow) == pytest.approx(base_s + moved_s)


def test_weights_whose_sets_fill_l2_stay_there():
    l40s = load_device("l40s")
    warm = profile_with("bf16", cache_fraction=1.0, cache_speedup=3.0)
    fills = l40s.l2_cache / 2 / 2 / 4096  # columns: two sets of weights are the whole cache
    inside_s = time_s("bf16", 1, fills, 4096, profile=warm, device=l40s)
    beyond_s = time_s("bf16", 1, fills * 1.25, 4096, profile=warm, device=l40s)
    cold_s = time_s("bf16", 1, fills, 4096, profile=profile_with("bf16"), device=l40s)
    assert inside_s < 0.7 * cold_s
    assert beyond_s > 1.2 * cold_s


def test_a_cyclic_working_set_turns_from_hits_to_misses():
    found = miss_fraction(np.array([0.5, 1.0, 1.05, 1.2]), 1.0)
    np.testing.assert_allclose(found, [0.0, 0.0, 0.5, 1.0])
    assert np.all(miss_fraction(np.array([0.0, 1.0]), 0.0) == 1.0)


def test_an_eager_loop_never_beats_its_interval():
    eager = profile_with("bf16", issue_s=3e-5)
    assert time_s("bf16", 1, 64, 64, profile=eager) == pytest.approx(3e-5, rel=0.01)


def test_short_and_long_lists_have_one_price():
    rng = np.random.default_rng(0)
    shape = tuple(np.exp(rng.uniform(0, 9, COMPILED_ROWS)).round() for _ in range(3))
    shape = (*shape, np.ones(COMPILED_ROWS))
    profile = profile_with("fp8_block", step_latency_s=1e-9, overlap_norm=2)
    whole = repeated_s(shape, "fp8_block", DEVICE, profile)
    part = repeated_s(tuple(dim[:50] for dim in shape), "fp8_block", DEVICE, profile)
    np.testing.assert_allclose(whole[:50], part, rtol=1e-12)


@settings(deadline=None, max_examples=100)
@given(m=sizes, n=sizes, k=sizes, dtype=st.sampled_from(sorted(FORMATS)))
def test_any_product_is_finite_and_below_no_roof(m, n, k, dtype):
    b200 = load_device("b200_sxm")
    profile = profile_with(dtype)
    found_s = time_s(dtype, m, n, k, profile=profile, device=b200)
    form = FORMATS[dtype]
    peak = b200.matrix_peak[math_dtype(b200, dtype)]
    moved = float(m) * k * form.activation_bytes + float(k) * n * form.weight_bytes
    roof_s = max(2.0 * m * n * k / peak, (moved + 2.0 * m * n) / b200.memory_bandwidth)
    assert np.isfinite(found_s)
    assert found_s >= roof_s * (1 - 1e-9)


@settings(deadline=None, max_examples=100)
@given(m=sizes, n=sizes, k=sizes, dtype=st.sampled_from(sorted(FORMATS)), axis=st.integers(0, 2))
def test_more_work_is_never_cheaper(m, n, k, dtype, axis):
    b200 = load_device("b200_sxm")
    profile = profile_with(dtype, step_latency_s=1e-9)
    larger = [m, n, k]
    larger[axis] *= 2
    once = time_s(dtype, m, n, k, profile=profile, device=b200)
    assert time_s(dtype, *larger, profile=profile, device=b200) >= once * (1 - 1e-9)
