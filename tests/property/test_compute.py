"""Laws of kernel prices: finite, above the roofline, more work is never cheaper."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.cost.compute import kernel_s
from clustersim.spec.resolve import list_names, load_device, load_profile
from clustersim.workload.operators import Category, Kernel, KernelKind
from tests.kernel_cases import product

PROFILES = {name: load_profile(name) for name in list_names("profile")}
DEVICES = {name: load_device(profile.device) for name, profile in PROFILES.items()}
WITH_ATTENTION = sorted(name for name, profile in PROFILES.items() if profile.attention)

names = st.sampled_from(sorted(PROFILES))
any_size = st.one_of(st.integers(1, 2**20), st.integers(0, 20).map(lambda i: 2**i))
smooth_size = st.integers(1, 2**14).map(lambda i: 64 * i)  # rows of whole 64-byte pieces


def attention(q_len, kv_heads, share, head_dim, causal, backward=False, batch=1) -> Kernel:
    heads = kv_heads * share
    pairs = q_len * (q_len + 1) / 2 if causal else float(q_len) * q_len
    return Kernel(
        name="attention",
        kind=KernelKind.ATTENTION_BACKWARD if backward else KernelKind.ATTENTION_FORWARD,
        category=Category.ATTENTION,
        dtype="fp16",
        flop=(10.0 if backward else 4.0) * batch * heads * pairs * head_dim,
        bytes=2.0 * batch * q_len * head_dim * 2 * (heads + kv_heads),
        batch=batch,
        q_len=q_len,
        kv_len=q_len,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        causal=causal,
        variant="flash_2",
    )


cores = st.builds(
    attention,
    q_len=st.integers(1, 2**17),
    kv_heads=st.integers(1, 16),
    share=st.sampled_from([1, 2, 8]),
    head_dim=st.integers(1, 256),
    causal=st.booleans(),
    backward=st.booleans(),
    batch=st.integers(1, 64),
)


def seconds(rows, name, **more):
    return kernel_s(rows, DEVICES[name], PROFILES[name], **more).alone_s


@settings(deadline=None)
@given(m=any_size, n=any_size, k=any_size, batch=st.integers(1, 64), name=names, s=st.booleans())
def test_products_are_finite_and_never_beat_the_roofline(m, n, k, batch, name, s):
    kernel, device = product(m, n, k, batch, "fp16"), DEVICES[name]
    roof_s = max(kernel.flop / device.matrix_peak["fp16"], kernel.bytes / device.memory_bandwidth)
    time_s = seconds([kernel], name, sustained=s)[0]
    assert np.isfinite(time_s)
    assert time_s >= roof_s


@settings(deadline=None)
@given(kernel=cores, name=st.sampled_from(WITH_ATTENTION))
def test_attention_is_finite_and_never_beats_the_roofline(kernel, name):
    device = DEVICES[name]
    roof_s = max(kernel.flop / device.matrix_peak["fp16"], kernel.bytes / device.memory_bandwidth)
    time_s = seconds([kernel], name)[0]
    assert np.isfinite(time_s)
    assert time_s >= roof_s


@given(size=st.floats(1, 1e12), name=names)
def test_passes_never_beat_the_memory(size, name):
    for kind in PROFILES[name].elementwise:
        row = Kernel(
            "pass", KernelKind.ELEMENTWISE, Category.ELEMENTWISE, "fp16", 0.0, size, variant=kind
        )
        assert seconds([row], name)[0] >= size / DEVICES[name].memory_bandwidth


@settings(deadline=None)
@given(
    m=any_size, n=smooth_size, k=smooth_size, more=smooth_size, grow=st.sampled_from("mnk"),
    name=names,
)  # fmt: skip
def test_a_larger_aligned_product_is_never_cheaper(m, n, k, more, grow, name):
    small = product(m, n, k, dtype="fp16")
    large = product(
        dtype="fp16", **({"m": m, "n": n, "k": k} | {grow: getattr(small, grow) + more})
    )
    before_s, after_s = seconds([small, large], name)
    assert after_s >= before_s * (1 - 1e-9)


@settings(deadline=None)
@given(kernel=cores, more=st.integers(1, 5000), name=st.sampled_from(WITH_ATTENTION))
def test_a_longer_core_is_never_cheaper(kernel, more, name):
    length = kernel.q_len + more
    longer = dataclasses.replace(kernel, q_len=length, kv_len=length)
    before_s, after_s = seconds([kernel, longer], name)
    assert after_s >= before_s * (1 - 1e-9)


@settings(deadline=None)
@given(kernel=cores, name=st.sampled_from(WITH_ATTENTION))
def test_a_window_never_costs(kernel, name):
    windows = [dataclasses.replace(kernel, window=w) for w in (1, 64, 1000, 2**18)]
    times_s = seconds([*windows, kernel], name)
    assert np.all(np.diff(times_s) >= -1e-9 * times_s[1:])


@given(m=any_size, n=any_size, k=any_size, name=names)
def test_training_clocks_never_help(m, n, k, name):
    kernel = product(m, n, k, dtype="fp16")
    assert seconds([kernel], name)[0] >= seconds([kernel], name, sustained=False)[0] * (1 - 1e-9)
