"""Vectorised, compiled and plain forms of the kernel prices are one model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.cost.compute import gemm, kernel_s, kernels
from clustersim.cost.compute import reference as twin
from clustersim.cost.compute.attention import AttentionShapes, attention_row, attention_s
from clustersim.cost.compute.gemm import SPLITS, TILES, gemm_row, gemm_s
from clustersim.spec.resolve import load_device, load_profile
from clustersim.workload.operators import Category, Kernel, KernelKind

NAMES = ("a100_sxm", "h100_sxm", "b200_sxm")
PROFILES = {name: load_profile(name) for name in NAMES}
DEVICES = {name: load_device(PROFILES[name].device) for name in NAMES}

sizes = st.one_of(
    st.integers(1, 700), st.integers(1, 128).map(lambda i: 64 * i), st.integers(1, 9000)
)


@st.composite
def products(draw) -> twin.Product:
    m, n, k = draw(sizes), draw(sizes), draw(sizes)
    batch = draw(st.integers(1, 4))
    extra = draw(st.sampled_from([0.0, 6.0])) * m * n * batch
    traffic = 2.0 * batch * (m * k + k * n + m * n) + extra
    return twin.Product(m, n, k, batch, traffic, draw(st.sampled_from([1.0, 1.08, 1.25, 2.0])))


@st.composite
def cores(draw) -> twin.Core:
    q_len, causal = draw(sizes), draw(st.booleans())
    kv_len = q_len + draw(st.sampled_from([0, 0, 0, 1, 500])) if causal else draw(sizes)
    kv_heads = draw(st.sampled_from([1, 2, 8]))
    return twin.Core(
        batch=draw(st.integers(1, 16)),
        q_len=q_len,
        kv_len=kv_len,
        heads=kv_heads * draw(st.sampled_from([1, 4])),
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([16, 40, 64, 96, 108, 128, 192, 256])),
        causal=causal,
        window=draw(st.sampled_from([0, 0, 1, 100, 1024, 100_000])),
        work=draw(st.sampled_from([1.0, 2.5])),
    )


def columns(rows: list[twin.Product]) -> tuple:
    shape = tuple(
        np.array([float(getattr(row, name)) for row in rows]) for name in ("m", "n", "k", "batch")
    )
    traffic = np.array([row.traffic_bytes for row in rows])
    return shape, traffic, np.array([row.slow for row in rows])


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(products(), min_size=1, max_size=5),
    name=st.sampled_from(NAMES),
    sustained=st.booleans(),
)
def test_products_tile_by_tile(rows, name, sustained):
    row = gemm_row(DEVICES[name], PROFILES[name], "bf16", sustained)
    machine = twin.ProductMachine(int(row[0]), *map(float, row[1:]))
    expected = [twin.gemm_s(one, machine) for one in rows]
    np.testing.assert_allclose(gemm_s(*columns(rows), row)[0], expected, rtol=1e-9)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(products(), min_size=1, max_size=20),
    name=st.sampled_from(NAMES),
    sustained=st.booleans(),
)
def test_compiled_products_equal_vectorised_ones(rows, name, sustained):
    row = gemm_row(DEVICES[name], PROFILES[name], "bf16", sustained)
    shape, traffic, slow = columns(rows)
    out = np.empty((3, len(rows)))
    kernels.gemm_s(*shape, traffic, slow, row, TILES, SPLITS, out)
    np.testing.assert_allclose(out, np.array(gemm_s(shape, traffic, slow, row)), rtol=1e-12)


@settings(deadline=None, max_examples=100)
@given(core=cores(), name=st.sampled_from(NAMES))
def test_attention_block_by_block(core, name):
    generation = "flash_2"
    row = attention_row(DEVICES[name], PROFILES[name], "bf16", generation, core.work > 1)
    machine = twin.AttentionMachine(
        int(row[0]), float(row[1]), float(row[2]), int(row[3]), *map(float, row[4:7])
    )
    shapes = AttentionShapes(
        *(
            np.array([float(getattr(core, field))])
            for field in ("batch", "q_len", "kv_len", "heads", "kv_heads", "head_dim")
        ),
        causal=np.array([core.causal]),
        window=np.array([float(core.window)]),
    )
    assert attention_s(shapes, row)[0][0] == pytest.approx(
        twin.attention_s(core, machine), rel=1e-9
    )


def test_long_lists_cost_what_short_ones_do(monkeypatch):
    rng = np.random.default_rng(0)
    shapes = rng.integers(1, 20_000, size=(300, 3)).tolist()
    rows = [
        Kernel("g", KernelKind.GEMM, Category.MATMUL, "bf16", 2.0 * m * n * k, 0.0, m=m, n=n, k=k)
        for m, n, k in shapes
    ]
    short = kernel_s(rows, DEVICES["a100_sxm"], PROFILES["a100_sxm"])
    monkeypatch.setattr(gemm, "COMPILED_ROWS", 1)
    long = kernel_s(rows, DEVICES["a100_sxm"], PROFILES["a100_sxm"])
    np.testing.assert_allclose(long.alone_s, short.alone_s, rtol=1e-12)
    np.testing.assert_array_equal(long.bound, short.bound)
