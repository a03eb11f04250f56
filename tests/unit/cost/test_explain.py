"""An explanation is the price, taken apart without a remainder."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.cost.compute.gemm import alignment_factor, gemm_row, gemm_s
from clustersim.cost.compute.pricing import kernel_s
from clustersim.cost.compute.tile_choice import best_tile
from clustersim.cost.explain.checks import check_divides, key_of
from clustersim.cost.explain.collective import group_members
from clustersim.cost.explain.gemm import _product
from clustersim.cost.explain.parts import pairs_seen
from clustersim.cost.explain.record import Explanation, Site, check_dtype
from clustersim.cost.explain.table import EXPLAINERS
from clustersim.errors import ModelDomainError
from clustersim.spec.resolve import list_names, load_device, load_profile, load_topology

DEVICES = ("a100_sxm", "h100_sxm", "b200_sxm", "rtx4090", "v100")


def site(device: str = "h100_sxm", dtype: str | None = None, topology: str | None = None) -> Site:
    """A shipped device with its profile."""
    found = load_device(device)
    cluster = load_topology(topology) if topology else None
    return Site(found, load_profile(found.profile), check_dtype(found, dtype), cluster)


def sums_up(found: Explanation) -> None:
    """Terms are positive and add up to the time; every figure is finite."""
    assert all(term.seconds > 0.0 for term in found.terms)
    assert sum(term.seconds for term in found.terms) == pytest.approx(found.time_s, rel=1e-6)
    document = found.document()
    figures = [value for value in document.values() if isinstance(value, float)]
    assert all(math.isfinite(value) for value in figures)


dims = st.integers(1, 20_000)


@settings(deadline=None, max_examples=60)
@given(m=dims, n=dims, k=dims, batch=st.sampled_from([1, 1, 1, 8]), device=st.sampled_from(DEVICES))
def test_the_tile_that_is_named_is_the_one_that_is_priced(m, n, k, batch, device):
    here = site(device)
    row = gemm_row(here.device, here.profile, here.dtype, sustained=False)
    shape = tuple(np.array([float(v)]) for v in (m, n, k, batch))
    traffic = np.array([_product(here.dtype, m, n, k, batch, "fwd").bytes])
    slow = alignment_factor(
        np.gcd(np.array([n]), k), np.array([batch > 1]), here.dtype, here.device, here.profile
    )
    taken = best_tile((float(m), float(n), float(k), float(batch)), traffic[0], slow[0], row)
    assert taken.total_s == pytest.approx(float(gemm_s(shape, traffic, slow, row)[1][0]))
    assert 0.0 < taken.last_wave_fraction <= 1.0
    assert 0.0 < taken.useful_fraction <= 1.0


@settings(deadline=None, max_examples=25)
@given(
    m=dims,
    n=dims,
    k=dims,
    batch=st.sampled_from([1, 1, 4]),
    layout=st.sampled_from(["fwd", "dgrad", "wgrad"]),
    device=st.sampled_from(DEVICES),
)
def test_parts_of_a_product_are_its_price(m, n, k, batch, layout, device):
    here = site(device)
    found = EXPLAINERS["gemm"](here, m=m, n=n, k=k, batch=batch, layout=layout)
    sums_up(found)
    kernel = _product(here.dtype, m, n, k, batch, layout)
    for sustained, seconds in ((False, found.time_s), (True, found.training_s)):
        priced = kernel_s([kernel], here.device, here.profile, sustained)
        assert seconds == pytest.approx(float(priced.alone_s[0]))


@settings(deadline=None, max_examples=25)
@given(
    batch=st.integers(1, 8),
    q_len=st.integers(1, 9000),
    more=st.integers(0, 3000),
    heads=st.sampled_from([1, 2, 8, 32]),
    head_dim=st.sampled_from([40, 64, 128, 256]),
    causal=st.booleans(),
    window=st.sampled_from([0, 1024]),
    backward=st.booleans(),
    device=st.sampled_from(DEVICES[:4]),
)
def test_parts_of_attention_are_its_price(device, q_len, more, heads, **shape):
    found = EXPLAINERS["attention"](
        site(device), q_len=q_len, kv_len=q_len + more, heads=heads, kv_heads=1, **shape
    )
    sums_up(found)


@settings(deadline=None, max_examples=25)
@given(size=st.floats(1.0, 1e11), variant=st.sampled_from(["stream", "rms_norm", "add"]))
def test_parts_of_a_pass_are_its_price(size, variant):
    here = site()
    found = EXPLAINERS["elementwise"](here, bytes=size, variant=variant)
    sums_up(found)
    peak_s = size / here.device.memory_bandwidth
    assert found.terms[0].seconds == pytest.approx(peak_s)  # nothing of the class is left in it


def test_small_heads_slow_the_inner_loop_not_the_mask():
    shape = {"batch": 1, "q_len": 4096, "heads": 32, "causal": True}
    shares = []
    for head_dim in (128, 64):
        found = EXPLAINERS["attention"](site(), head_dim=head_dim, **shape)
        terms = {term.name: term.seconds for term in found.terms}
        shares.append(terms["masked tiles, uneven blocks"] / terms["arithmetic at peak"])
    assert shares[1] == pytest.approx(shares[0])


@settings(deadline=None, max_examples=40)
@given(
    collective=st.sampled_from(["all_reduce", "all_gather", "all_to_all", "broadcast"]),
    size=st.floats(1.0, 1e10),
    ranks=st.integers(2, 64),
    per_node=st.sampled_from([None, 1, 2, 8]),
    topology=st.sampled_from(["dgx_a100", "dgx_h100", "gb200_nvl72"]),
)
def test_parts_of_a_collective_are_its_price(topology, size, ranks, collective, per_node):
    cluster = load_topology(topology)
    if per_node is not None and per_node > cluster.node.gpus:
        per_node = 1
    if per_node is not None and ranks > per_node * cluster.nodes:
        ranks = 2
    here = site(cluster.node.device.name, topology=topology)
    shape = {"bytes": size, "ranks": ranks, "per_node": per_node}
    found = EXPLAINERS["collective"](here, collective=collective, **shape)
    sums_up(found)
    assert all(term.seconds >= found.time_s * (1.0 - 1e-9) for term in found.rejected)


def test_a_large_product_names_its_roof_and_its_waves():
    found = EXPLAINERS["gemm"](site(), m=4096, n=12288, k=4608)
    assert found.bound in ("compute", "power limit")
    assert found.flop == 2.0 * 4096 * 12288 * 4608
    assert found.intensity > found.roof.ridge
    blocks, waves = found.facts["thread_blocks"], found.facts["waves"]
    assert (waves - 1) * 132 < blocks <= waves * 132


def test_a_vector_times_a_matrix_is_bound_by_memory():
    found = EXPLAINERS["gemm"](site(), m=1, n=16384, k=16384)
    assert found.bound == "memory"
    assert found.intensity < found.roof.ridge


def test_a_tiny_product_is_bound_by_its_launch():
    assert EXPLAINERS["gemm"](site(), m=1, n=64, k=64).bound == "launch"


def test_rows_that_are_not_aligned_are_told_to_be_padded():
    found = EXPLAINERS["gemm"](site(), m=4096, n=4100, k=4096)
    assert any(term.name == "alignment" for term in found.terms)
    padded = next(hint for hint in found.hints if "n padded to 4,128" in hint.change)
    assert padded.seconds < found.time_s


def test_of_equal_dims_the_nearest_is_told():
    hints = EXPLAINERS["gemm"](site(), m=4096, n=6000, k=4096).hints
    told = [hint.change for hint in hints if hint.change.startswith("n = ")]
    assert told == ["n = 6,208 (1.03 x the work)"]  # 5,184 columns run as fast


def test_hints_hold_what_they_promise():
    here = site("a100_sxm")
    found = EXPLAINERS["gemm"](here, m=2048, n=6016, k=2048)
    twice = EXPLAINERS["gemm"](here, m=4096, n=6016, k=2048)
    for hint in found.hints:
        assert hint.gain_fraction > 0.01
        if hint.change == "twice the tokens (m)":
            assert hint.seconds == pytest.approx(twice.time_s)


def test_coefficients_of_another_datatype_are_confessed():
    found = EXPLAINERS["gemm"](site(dtype="int8"), m=512, n=512, k=512)
    assert any("stand in for int8" in note for note in found.notes)
    assert found.trust.error_fraction >= 0.2


def test_a_derived_profile_is_not_trusted():
    trust = EXPLAINERS["gemm"](site("rtx4090"), m=512, n=512, k=512).trust
    assert trust.evidence.startswith("assumed")


@given(q=st.integers(1, 40), more=st.integers(0, 40), window=st.integers(0, 50))
def test_pairs_of_queries_and_keys_are_counted_one_by_one(q, more, window):
    kv = q + more
    seen = [min(more + i + 1, window or kv) for i in range(q)]
    assert pairs_seen(q, kv, True, window) == sum(seen)
    assert pairs_seen(q, kv, False, window) == q * min(kv, window or kv)


def test_a_device_without_fused_attention_says_what_to_do():
    with pytest.raises(ModelDomainError, match="no coefficients of fused attention"):
        EXPLAINERS["attention"](site("v100"), batch=1, q_len=64, heads=8, head_dim=64)


def test_only_links_that_are_crossed_are_answered_for():
    here = site("gb200", topology="gb200_nvl72")
    shape = {"collective": "all_gather", "bytes": 1e6, "per_node": None}
    assert EXPLAINERS["collective"](here, ranks=8, **shape).trust.source == "nvlink5"
    assert EXPLAINERS["collective"](here, ranks=8, **shape).facts["slowest_link"] == "nvlink5"


def test_a_collective_of_one_device_is_refused_by_its_name():
    with pytest.raises(ModelDomainError, match="h100_sxm_80gb stands alone"):
        EXPLAINERS["collective"](site(), collective="all_reduce", bytes=1.0, ranks=2)


def test_members_stand_on_the_first_gpus_of_each_node():
    cluster = load_topology("dgx_h100")
    assert group_members(cluster, 4, 2).tolist() == [0, 1, 8, 9]
    assert group_members(cluster, 3, None).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("kind", "shape", "said"),
    [
        ("attention", {"q_len": 8, "heads": 7, "kv_heads": 2}, "does not divide"),
        ("attention", {"q_len": 8, "heads": 8, "kv_len": 4, "causal": True}, "below --q-len"),
        ("attention", {"q_len": 8, "heads": 8, "head_dim": 512}, "1 to 256"),
        ("elementwise", {"bytes": 0.0}, "at least one byte"),
        ("collective", {"collective": "all_reduc", "bytes": 1.0, "ranks": 8}, "`all_reduce`"),
        ("collective", {"collective": "all_reduce", "bytes": 1.0, "ranks": 1}, "at least 2"),
        ("collective", {"collective": "send_recv", "bytes": 1.0, "ranks": 8}, "2 ranks"),
        ("collective", {"collective": "broadcast", "bytes": 0.0, "ranks": 8}, "one byte"),
    ],
)
def test_what_cannot_be_is_refused_with_what_was_seen(kind, shape, said):
    given_shape = {"batch": 1, "head_dim": 128} | shape if kind == "attention" else shape
    with pytest.raises(ModelDomainError, match=said):
        EXPLAINERS[kind](site(topology="dgx_h100"), **given_shape)


@pytest.mark.parametrize("device", list_names("device"))
def test_every_device_that_has_a_profile_explains_a_product(device):
    found = load_device(device)
    if found.profile not in list_names("profile"):
        pytest.skip(f"profile {found.profile} is not shipped")
    sums_up(EXPLAINERS["gemm"](site(device), m=2048, n=4096, k=1024))


def test_coefficients_of_another_profile_have_no_key():
    table = load_profile("h100_sxm").gemm
    assert key_of(table, table["bf16"]) == "bf16"
    with pytest.raises(ModelDomainError, match=r"not those of this profile\n  fix: .*bf16"):
        key_of(table, table["bf16"].model_copy())


@pytest.mark.parametrize("part", [0, -2, 3])
def test_a_part_that_does_not_divide_is_refused(part):
    with pytest.raises(ModelDomainError, match=f"--kv-heads {part} does not divide --heads 8"):
        check_divides("--kv-heads", part, "--heads", 8)
