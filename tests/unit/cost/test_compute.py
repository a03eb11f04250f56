"""Kernel prices: known answers, refusals, and measured shapes that training uses."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clustersim.cost.compute import Bound, kernel_s
from clustersim.cost.compute.gemm import COLUMNS, SPLITS, TILES, alignment_factor, gemm_row, gemm_s
from clustersim.cost.measured.gemm import FAMILY
from clustersim.errors import ModelDomainError
from clustersim.spec.profile import Profile
from clustersim.spec.resolve import list_names, load_device, load_profile
from clustersim.workload.operators import Category, Kernel, KernelKind
from tests.kernel_cases import product

MEASURED = Path(__file__).parents[3] / ".." / "shared" / "measured"


@pytest.fixture(scope="module")
def device():
    return load_device("a100_sxm_80gb")


@pytest.fixture(scope="module")
def profile():
    return load_profile("a100_sxm")


def attention(q_len=2048, heads=16, kind=KernelKind.ATTENTION_FORWARD, **more) -> Kernel:
    fields = {"kv_len": q_len, "kv_heads": heads, "head_dim": 128, "causal": True} | more
    return Kernel(
        name="attention",
        kind=kind,
        category=Category.ATTENTION,
        dtype="bf16",
        flop=2.0 * q_len * q_len * heads * 128,
        bytes=8.0 * q_len * heads * 128,
        q_len=q_len,
        heads=heads,
        **{"variant": "flash_2"} | fields,
    )


def stream(size=1e8, **more) -> Kernel:
    return Kernel("pass", KernelKind.ELEMENTWISE, Category.ELEMENTWISE, "bf16", 0.0, size, **more)


def one(kernel, device, profile, **more) -> float:
    return float(kernel_s([kernel], device, profile, **more).alone_s[0])


def idle_row(device, profile):
    """A machine with nothing but tiles: no floor, no fill, free memory, unlimited power."""
    row = gemm_row(device, profile, "bf16", sustained=True)
    for name, value in {
        "memory_bytes_per_s": 1e30,
        "raw_memory_bytes_per_s": 1e-30,  # a split never pays
        "sm_bytes_per_s": 1e30,
        "tile_fill_s": 0.0,
        "tile_edge_penalty": 1e9,  # small tiles never pay
        "power_flop_per_s": 1e30,
        "kernel_floor_s": 0.0,
    }.items():
        row[COLUMNS.index(name)] = value
    return row


def tiles_s(m, n, k, row) -> float:
    shape = tuple(np.array([float(size)]) for size in (m, n, k, 1))
    traffic = np.array([2.0 * (m * k + k * n + m * n)])
    return float(gemm_s(shape, traffic, np.ones(1), row)[0][0])


def test_one_tile_more_than_the_sms_costs_a_second_wave(device, profile):
    row = idle_row(device, profile)
    full = tiles_s(108 * 256, 128, 4096, row)  # 108 tiles of 256 x 128 on 108 SMs
    more = tiles_s(109 * 256, 128, 4096, row)
    assert full == pytest.approx(2 * 256 * 128 * 4096 / row[COLUMNS.index("sm_flop_per_s")])
    assert more == pytest.approx(2 * full)


def test_a_wave_takes_as_long_when_it_is_not_full(device, profile):
    row = idle_row(device, profile)
    assert tiles_s(256, 128, 4096, row) == pytest.approx(tiles_s(108 * 256, 128, 4096, row))


def test_a_large_product_trains_at_the_power_limited_rate(device, profile):
    kernel = product(8192, 12288, 12288)
    c = profile.gemm["bf16"]
    share = kernel.flop / one(kernel, device, profile) / device.matrix_peak["bf16"]
    limit = c.power_fraction * profile.training_clock_fraction
    assert 0.94 * limit < share < limit


def test_training_clocks_are_slower_than_those_of_a_micro_benchmark(device, profile):
    kernel = product(4096, 4096, 4096)
    assert one(kernel, device, profile, sustained=False) < one(kernel, device, profile)


def test_launches_multiply(device, profile):
    costs = kernel_s([product(512, 512, 512), product(512, 512, 512, launches=7)], device, profile)
    assert costs.alone_s[1] == pytest.approx(7 * costs.alone_s[0])
    assert costs.ideal_s[1] == pytest.approx(7 * costs.ideal_s[0])
    assert list(costs.launches) == [1, 7]


def test_order_of_the_rows_does_not_matter(device, profile):
    rows = [product(512, 512, 512), stream(), attention(), product(4096, 4096, 4096)]
    forth = kernel_s(rows, device, profile).alone_s
    back = kernel_s(rows[::-1], device, profile).alone_s
    np.testing.assert_array_equal(forth, back[::-1])


def test_no_kernels_cost_nothing(device, profile):
    assert kernel_s([], device, profile).alone_s.shape == (0,)


def test_bounds_are_told_apart(device, profile):
    rows = [product(8192, 8192, 8192), stream(1e9), stream(1e3), product(16, 16384, 16384)]
    bounds = list(kernel_s(rows, device, profile).bound)
    assert bounds == [Bound.COMPUTE, Bound.MEMORY, Bound.LAUNCH, Bound.MEMORY]


def test_rows_of_1800_elements_are_slower_than_1792(device, profile):
    odd, even = product(2048, 1800, 14400), product(2048, 1792, 14400)
    ratio = one(odd, device, profile) / one(even, device, profile)
    assert 1.1 < ratio < 1.25


def test_alignment_counts_bytes(device, profile):
    a = profile.alignment
    elements = np.array([64, 32, 16, 8, 4, 1])
    single = np.zeros(elements.size, dtype=np.bool_)
    np.testing.assert_array_equal(
        alignment_factor(elements, single, "bf16", device, profile),
        [1.0, 1.0, a.bytes_32, a.bytes_16, a.below_16, a.below_16],
    )


def test_batched_products_that_16_byte_loads_do_not_fit_run_on_the_vector_units(device, profile):
    elements, batched = np.array([64, 8, 4]), np.ones(3, dtype=np.bool_)
    factors = alignment_factor(elements, batched, "bf16", device, profile)
    matrix = device.matrix_peak["bf16"] * profile.gemm["bf16"].matmul_efficiency
    vector = device.vector_peak * profile.alignment.vector_efficiency
    np.testing.assert_allclose(factors, [1.0, profile.alignment.bytes_16, matrix / vector])


def test_heads_of_108_cost_many_times_heads_of_112(device, profile):
    scores = [product(2048, 2048, d, batch=64) for d in (104, 108, 112)]
    padded, odd, even = (one(kernel, device, profile) for kernel in scores)
    assert odd > 4.0 * even
    assert padded < 1.3 * even
    assert 2.0 * 64 * 2048 * 2048 * 108 / odd < device.vector_peak


def test_a_weight_gradient_of_odd_token_count_is_aligned(device, profile):
    dgrad, wgrad = (product(4096, 4096, 2052, variant=kind) for kind in ("dgrad", "wgrad"))
    assert one(wgrad, device, profile) < one(dgrad, device, profile)


def test_accumulating_in_fp32_costs_traffic(device, profile):
    plain = product(4096, 4096, 2048, variant="wgrad")
    summed = dataclasses.replace(plain, bytes=plain.bytes + 6.0 * 4096 * 4096)
    assert one(summed, device, profile) > one(plain, device, profile)


def test_backward_attention_costs_two_to_four_forwards(device, profile):
    forward = one(attention(4096, 64), device, profile)
    backward = one(attention(4096, 64, KernelKind.ATTENTION_BACKWARD), device, profile)
    assert 2.0 < backward / forward < 4.0


def test_causal_attention_is_about_half_of_full(device, profile):
    causal = one(attention(8192, 64), device, profile)
    full = one(attention(8192, 64, causal=False), device, profile)
    assert 0.5 < causal / full < 0.6


def test_a_window_saves_and_grouped_keys_save(device, profile):
    whole = one(attention(8192, 64), device, profile)
    assert one(attention(8192, 64, window=1024), device, profile) < 0.4 * whole
    assert one(attention(8192, 64, kv_heads=8), device, profile) < whole


def test_a_head_of_108_runs_like_one_of_128(device, profile):
    odd = one(attention(4096, 64, head_dim=108), device, profile)
    even = one(attention(4096, 64, head_dim=128), device, profile)
    assert odd == pytest.approx(even, rel=0.03)


def test_a_newer_generation_of_attention_is_faster(device, profile):
    old = one(attention(4096, 64, variant="flash_1"), device, profile)
    assert one(attention(4096, 64), device, profile) < 0.7 * old


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (product(0, 16, 16), "m is 0"),
        (attention(0), "q_len is 0"),
        (attention(variant="flash_9"), "no attention coefficients for 'flash_9'"),
        (stream(variant="sort"), "no elementwise coefficients for 'sort'"),
        (dataclasses.replace(product(16, 16, 16), dtype="fp8"), "no matrix peak for 'fp8'"),
        (dataclasses.replace(product(16, 16, 16), dtype="fp7"), "unknown datatype 'fp7'"),
    ],
)
def test_outside_the_domain_is_refused_with_the_value(kernel, message, device, profile):
    with pytest.raises(ModelDomainError, match=message):
        kernel_s([kernel], device, profile)


@pytest.mark.parametrize("name", list_names("profile"))
def test_every_profile_says_where_each_group_comes_from(name):
    profile = load_profile(name)
    about = {"name", "device", "derived", "pedigree"}
    held = {name for name in Profile.model_fields if getattr(profile, name)} - about
    assert held <= set(profile.pedigree.origins)
    assert profile.derived == (not profile.pedigree.fitted_to)
    fitted = "fitted" in profile.pedigree.origins.values()
    assert bool(profile.pedigree.errors) == fitted or profile.derived


def test_short_lists_never_load_numba():
    code = (
        "import sys; from clustersim.cost.compute import kernel_s; "
        "from clustersim.spec.resolve import load_device, load_profile; "
        "from clustersim.workload.operators import *; "
        "k = Kernel('g', KernelKind.GEMM, Category.MATMUL, 'bf16', 2.0, 6.0, m=1, n=1, k=1); "
        "kernel_s([k], load_device('a100_sxm_80gb'), load_profile('a100_sxm')); "
        "sys.exit('numba' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_tiles_come_in_the_order_of_the_docs():
    assert TILES.shape == (6, 2)
    assert SPLITS[0] == 0


@pytest.mark.parametrize(
    ("name", "limit"), [("a100_sxm", 0.06), ("h100_sxm", 0.08), ("b200_sxm", 0.10)]
)
def test_measured_products_of_training_size_are_met(name, limit):
    if not MEASURED.is_dir():
        pytest.skip("measured kernels (shared/measured) are not beside the repository")
    pandas = pytest.importorskip("pandas")
    rows = pandas.read_parquet(
        MEASURED / "gemm.parquet", filters=[("device", "==", name), ("dtype", "==", "bf16")]
    )
    rows = rows[rows.m >= 4096].sample(400, random_state=0)
    profile = load_profile(name)
    columns = {name: rows[name].to_numpy() for name in rows}
    predicted_s = FAMILY.predict(columns, load_device(profile.device), profile)
    assert np.mean(np.abs(predicted_s / rows.latency_s.to_numpy(float) - 1)) < limit
