"""An explanation of a serving operator is the price of its cost model, without a remainder."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.cost.collectives.expert import Exchange, exchange_s
from clustersim.cost.compute.attention import AttentionShapes
from clustersim.cost.compute.decode import DecodeShapes, decode_s
from clustersim.cost.compute.mla import MlaShapes, MlaSizes, mla_cache_s, mla_prefill_s
from clustersim.cost.compute.mla_module import MlaBlock, mla_module_s
from clustersim.cost.compute.moe import ExpertShape, moe_row, moe_s
from clustersim.cost.compute.prefill import prefill_s
from clustersim.cost.compute.routing import expert_loads
from clustersim.cost.explain.record import Explanation, Site, check_dtype
from clustersim.cost.explain.table import EXPLAINERS
from clustersim.cost.measured.moe_all_to_all import PAYLOAD_BYTES
from clustersim.cost.transfers import DRIVE, LINK, transfer_s
from clustersim.errors import ModelDomainError
from clustersim.hardware.paths import group_path
from clustersim.spec.resolve import load_device, load_profile, load_topology

DEVICES = ("a100_sxm", "h100_sxm", "b200_sxm", "l40s", "rtx4090")


def site(device: str = "h100_sxm", dtype: str | None = None, topology: str | None = None) -> Site:
    """A shipped device with its profile."""
    found = load_device(device)
    cluster = load_topology(topology) if topology else None
    return Site(found, load_profile(found.profile), check_dtype(found, dtype), cluster)


def accounts_for(found: Explanation, seconds: float) -> None:
    """Terms are positive and add up to the time of the cost model; every figure is finite."""
    assert found.time_s == pytest.approx(seconds, rel=1e-12)
    assert all(term.seconds > 0.0 for term in found.terms)
    assert sum(term.seconds for term in found.terms) == pytest.approx(found.time_s, rel=1e-6)
    figures = [value for value in found.document().values() if isinstance(value, float)]
    assert all(math.isfinite(value) for value in figures)
    assert all(hint.gain_fraction > 0.0 for hint in found.hints)


def columns(**shape: float) -> dict[str, np.ndarray]:
    """Columns of one row."""
    return {name: np.array([float(value)]) for name, value in shape.items()}


def named(found: Explanation) -> dict[str, float]:
    """Terms by name. [s]"""
    return {term.name: term.seconds for term in found.terms}


FORMATS = (
    *(("h100_sxm", "bf16"), ("h100_sxm", "fp8_block"), ("b200_sxm", "nvfp4"), ("l40s", "fp8")),
    *(("a100_sxm", "w4a16_int"), ("b200_sxm", "nvfp4_min_latency")),
)
devices = st.sampled_from(DEVICES)
groups = st.sampled_from([(32, 32), (32, 8), (64, 1), (5, 5), (128, 8)])
caches = st.sampled_from([None, "bf16", "fp8"])
windows = st.sampled_from([0, 1, 512, 4096])


@settings(deadline=None, max_examples=60)
@given(
    device=devices,
    batch=st.integers(1, 512),
    context=st.integers(1, 200_000),
    heads=groups,
    head_dim=st.sampled_from([64, 128, 256]),
    kv_dtype=caches,
    window=windows,
)
def test_parts_of_decoding_are_its_price(device, batch, context, heads, head_dim, kv_dtype, window):
    here = site(device)
    shape = {"batch": batch, "context": context, "heads": heads[0], "kv_heads": heads[1]}
    found = EXPLAINERS["decode"](here, head_dim=head_dim, kv_dtype=kv_dtype, window=window, **shape)
    keys = min(window or context, context)
    rows = columns(
        sequences=batch,
        total_keys=batch * keys,
        longest_keys=keys,
        longest_context=context,
        heads=heads[0],
        kv_heads=heads[1],
        head_dim=head_dim,
    )
    warm, cold = (
        decode_s(DecodeShapes(**rows), here.device, here.profile, kv_dtype or "bf16", is_warm)
        for is_warm in (True, False)
    )
    accounts_for(found, float(warm.total_s[0]))
    assert found.cold_s == pytest.approx(float(cold.total_s[0]))


@settings(deadline=None, max_examples=60)
@given(
    device=devices,
    batch=st.integers(1, 16),
    q_len=st.integers(1, 20_000),
    before=st.sampled_from([0, 1, 3000, 100_000]),
    heads=groups,
    head_dim=st.sampled_from([40, 64, 128, 256]),
    kv_dtype=caches,
    window=windows,
)
def test_parts_of_a_prefill_are_its_price(device, q_len, before, heads, window, kv_dtype, **shape):
    here, keys = site(device), q_len + before
    found = EXPLAINERS["prefill"](
        here,
        q_len=q_len,
        kv_len=keys,
        heads=heads[0],
        kv_heads=heads[1],
        kv_dtype=kv_dtype,
        window=window,
        **shape,
    )
    rows = columns(
        q_len=q_len, kv_len=keys, heads=heads[0], kv_heads=heads[1], window=window, **shape
    )
    shapes = AttentionShapes(causal=np.ones(1, dtype=bool), **rows)
    cache = kv_dtype or "bf16"
    price = prefill_s(shapes, here.device, here.profile, "bf16", cache)
    accounts_for(found, float(price.total_s[0]))


@settings(deadline=None, max_examples=60)
@given(
    where=st.sampled_from(FORMATS),
    tokens=st.integers(1, 100_000),
    experts=st.sampled_from([8, 64, 256]),
    top_k=st.integers(1, 8),
    sizes=st.sampled_from([(4096, 14336), (7168, 2048), (1000, 300)]),
    expert_parallel=st.sampled_from([1, 4, 8]),
    exponent=st.sampled_from([0.0, 0.4, 1.0, 1.2]),
    ungated=st.booleans(),
)
def test_parts_of_an_expert_layer_are_its_price(where, sizes, **shape):
    here, format = site(where[0]), where[1]
    found = EXPLAINERS["moe"](here, hidden=sizes[0], expert_ffn=sizes[1], format=format, **shape)
    ranks = shape["expert_parallel"]
    rows = columns(
        tokens=shape["tokens"],
        experts=shape["experts"],
        top_k=shape["top_k"],
        ranks=ranks,
        exponent=shape["exponent"],
    )
    loads = expert_loads(**rows, computed=here.profile.moe[format].computed)
    dims = columns(hidden=sizes[0], intermediate=sizes[1], experts=shape["experts"] / ranks)
    layer = ExpertShape(gated=np.array([not shape["ungated"]]), **dims)
    price = moe_s(layer, loads, moe_row(here.device, here.profile, format))[0]
    accounts_for(found, float(price[0]))


@settings(deadline=None, max_examples=60)
@given(
    device=st.sampled_from(["a100_sxm", "h100_sxm", "b200_sxm", "l40s", "rtx_pro_6000_server"]),
    phase=st.sampled_from(["prefill", "decode"]),
    batch=st.integers(1, 300),
    q_len=st.integers(1, 9000),
    before=st.sampled_from([0, 1, 5000, 60_000]),
    heads=st.sampled_from([1, 16, 40, 128]),
    kv_dtype=st.sampled_from(["bf16", "fp8"]),
)
def test_parts_of_a_latent_core_are_its_price(device, phase, batch, q_len, before, heads, kv_dtype):
    here = site(device)
    new = q_len if phase == "prefill" else 1
    call = {"q_len": new, "kv_len": new + before, "heads": heads, "batch": batch}
    found = EXPLAINERS["mla"](here, phase=phase, kv_dtype=kv_dtype, **call)
    shapes, sizes, c = MlaShapes(**columns(**call)), MlaSizes(), here.profile.mla_prefill[kv_dtype]
    if phase == "prefill":
        price = mla_prefill_s(shapes, sizes, kv_dtype, here.device, c)
    else:
        price = mla_cache_s(shapes, sizes, kv_dtype, here.device, here.profile)
    accounts_for(found, float(price[0]))


@settings(deadline=None, max_examples=40)
@given(
    device=st.sampled_from(["h100_sxm", "b200_sxm", "l40s"]),
    phase=st.sampled_from(["prefill", "decode"]),
    batch=st.integers(1, 300),
    tokens=st.integers(1, 9000),
    heads=st.sampled_from([1, 16, 128]),
    kv_dtype=st.sampled_from(["bf16", "fp8"]),
    gemm_dtype=st.sampled_from(["bf16", "fp8", "fp8_block"]),
)
def test_parts_of_a_latent_block_are_its_price(device, phase, tokens, kv_dtype, gemm_dtype, **call):
    here = site(device)
    call |= {"q_len": tokens if phase == "prefill" else 1, "kv_len": tokens}
    dtypes = {"kv_dtype": kv_dtype, "gemm_dtype": gemm_dtype}
    found = EXPLAINERS["mla"](here, phase=phase, whole=True, **dtypes, **call)
    block = MlaBlock(phase, kv_dtype, gemm_dtype)
    price = mla_module_s(MlaShapes(**columns(**call)), block, here.device, here.profile)
    accounts_for(found, float(price[0]))


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_latent_block_over_a_cache_of_unknown_datatype_is_refused(phase):
    here = site("h100_sxm")
    shapes = MlaShapes(**columns(q_len=1, kv_len=64, heads=16, batch=1))
    said = f"no mla_{phase} coefficients for a cache of 'int4'; it has bf16, fp8"
    with pytest.raises(ModelDomainError, match=said):
        mla_module_s(shapes, MlaBlock(phase, "int4", "bf16"), here.device, here.profile)


@settings(deadline=None, max_examples=60)
@given(
    topology=st.sampled_from(["dgx_h100", "hgx_b200", "rtx_pro_6000"]),
    key=st.sampled_from([("normal", "bf16"), ("normal", "fp8"), ("low_latency", "nvfp4")]),
    phase=st.sampled_from(["dispatch", "combine"]),
    tokens=st.integers(1, 20_000),
    experts=st.sampled_from([64, 256]),
    top_k=st.integers(1, 9),
    nodes=st.sampled_from([1, 2, 4]),
    sms=st.sampled_from([0, 24]),
    balanced=st.booleans(),
)
def test_parts_of_an_exchange_are_its_price(
    topology, key, phase, tokens, experts, top_k, nodes, sms, balanced
):
    cluster = load_topology(topology)
    nodes, mode = min(nodes, cluster.nodes), key[0]
    payload = key[1] if phase == "dispatch" else "bf16"
    here = site(cluster.node.device.name, topology=topology)
    call = {"tokens": tokens, "experts": experts, "top_k": top_k, "ranks": 8 * nodes}
    names = {"mode": mode, "phase": phase, "payload": payload}
    how = {"sms": sms, "balanced": balanced}
    found = EXPLAINERS["all_to_all"](here, hidden=7168, **call, **names, **how)
    rate = group_path(cluster, np.arange(8 * nodes)).nic_bytes_per_s
    size = 7168 * PAYLOAD_BYTES[payload]
    rows = columns(**call, nodes=nodes, sms=sms, token_bytes=size, nic_bytes_per_s=rate or np.inf)
    flags = {"per_expert": np.array([mode == "low_latency"]), "spread": np.array([balanced])}
    c = here.profile.expert_exchange[f"{mode}_{phase}"]
    accounts_for(found, float(exchange_s(Exchange(**rows, **flags), here.device, c)[0]))


@settings(deadline=None, max_examples=60)
@given(
    direction=st.sampled_from(sorted(LINK | DRIVE)),
    size=st.floats(1.0, 1e12),
    drives=st.integers(1, 16),
    bounced=st.booleans(),
)
def test_parts_of_a_copy_are_its_price(direction, size, drives, bounced):
    here = site("a100_pcie")
    drives = drives if direction in DRIVE else 1
    bounced = bounced and direction in ("nvme_to_device", "device_to_nvme")
    how = {"drives": drives, "bounced": bounced}
    found = EXPLAINERS["transfer"](here, direction=direction, bytes=size, **how)
    rows = columns(size_bytes=size, drives=drives)
    price = transfer_s(
        direction, **rows, device=here.device, coefficients=here.profile.transfer, bounced=bounced
    )
    accounts_for(found, float(price[0]))


def test_long_contexts_are_bound_by_memory_and_short_ones_by_starting():
    shape = {"heads": 32, "kv_heads": 8, "head_dim": 128}
    long = EXPLAINERS["decode"](site(), batch=64, context=8192, **shape)
    short = EXPLAINERS["decode"](site(), batch=16, context=16, **shape)
    narrow = EXPLAINERS["decode"](site(), batch=1, context=16, kv_dtype="fp8", **shape)
    assert (long.bound, short.bound, narrow.bound) == ("memory", "thread blocks", "launch")
    assert named(short)["block start and end"] > 0.4 * short.time_s
    assert long.intensity < long.roof.ridge
    assert any(hint.change == "an fp8 cache" for hint in long.hints)


def test_a_few_tokens_are_bound_by_weights_and_many_by_arithmetic():
    shape = {"experts": 8, "top_k": 2, "hidden": 4096, "expert_ffn": 14336}
    few = EXPLAINERS["moe"](site(), tokens=64, **shape)
    many = EXPLAINERS["moe"](site(), tokens=16_384, **shape)
    assert (few.bound, many.bound) == ("memory", "compute")
    assert "weights and rows at peak" in named(few)
    assert named(many)["arithmetic at peak"] > 0.5 * many.time_s


def test_a_skewed_routing_is_told_to_be_balanced():
    shape = {"experts": 256, "top_k": 8, "hidden": 7168, "expert_ffn": 2048}
    layer = {"tokens": 16_384, "expert_parallel": 32, "format": "fp8_block", **shape}
    skewed = EXPLAINERS["moe"](site(), exponent=1.2, **layer)
    even = EXPLAINERS["moe"](site(), **layer)
    hint = next(hint for hint in skewed.hints if hint.change == "a balanced routing")
    assert hint.seconds == pytest.approx(even.time_s)
    assert skewed.facts["over_the_mean"] > 2.0
    assert even.facts["over_the_mean"] == pytest.approx(1.0)


def test_heads_of_latent_attention_turn_decoding_from_memory_to_compute():
    call = {"phase": "decode", "batch": 64, "kv_len": 8192}
    few, many = (EXPLAINERS["mla"](site(), heads=heads, **call) for heads in (16, 128))
    assert (few.bound, many.bound) == ("memory", "compute")
    assert many.flop == 8.0 * few.flop
    assert few.trust.operator == "mla_decode, bf16 cache"


def test_a_block_of_latent_attention_is_more_than_its_core():
    call = {"phase": "decode", "batch": 64, "kv_len": 8192, "heads": 16}
    core, whole = (EXPLAINERS["mla"](site(), whole=is_whole, **call) for is_whole in (False, True))
    assert whole.flop > core.flop
    assert {"products at the roof", "attention at the roof", "small operators"} <= set(named(whole))
    assert whole.trust.operator == "mla_module, decode"


EXCHANGE = {"phase": "dispatch", "experts": 256, "top_k": 8, "hidden": 7168, "ranks": 16}


def test_an_exchange_of_many_tokens_waits_for_the_network_and_of_one_for_its_start():
    here = site(topology="dgx_h100")
    many = EXPLAINERS["all_to_all"](here, tokens=4096, **EXCHANGE)
    one = EXPLAINERS["all_to_all"](here, tokens=1, **EXCHANGE)
    assert (many.bound, one.bound) == ("network bandwidth", "network latency")
    assert many.trust.operator == "expert exchange normal dispatch"


def test_a_rack_of_one_domain_is_one_node_of_an_exchange():
    here = site("gb200", topology="gb200_nvl72")
    call = {**EXCHANGE, "mode": "nvlink_one_sided", "tokens": 512, "ranks": 64}
    found = EXPLAINERS["all_to_all"](here, **call)
    assert found.facts["nodes_joined_by_adapters"] == 1
    with pytest.raises(ModelDomainError, match="72 on one, 8 on another"):
        EXPLAINERS["all_to_all"](here, **{**call, "ranks": 80})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ranks": 12}, "8 on one, 4 on another\n  fix: use a multiple of 8"),
        ({"top_k": 300}, "--top-k 300 is more"),
        ({"payload": "fp9"}, "did you mean `fp8`"),
        ({"phase": "combine", "payload": "fp8"}, "results travel in 16 bits"),
        ({"mode": "nvlink_one_sided"}, "for `nvlink_one_sided_dispatch`\n  fix: it has"),
        ({"ranks": 100_000}, "use at most 1024 ranks"),
    ],
)
def test_an_exchange_that_cannot_be_is_refused(change, said):
    with pytest.raises(ModelDomainError, match=said):
        EXPLAINERS["all_to_all"](site(topology="dgx_h100"), **{**EXCHANGE, "tokens": 8, **change})


def test_an_exchange_needs_a_topology_and_coefficients():
    with pytest.raises(ModelDomainError, match="h100_sxm_80gb stands alone"):
        EXPLAINERS["all_to_all"](site(), tokens=8, **EXCHANGE)
    with pytest.raises(ModelDomainError, match="no coefficients of an exchange"):
        EXPLAINERS["all_to_all"](site("a100_sxm", topology="dgx_a100"), tokens=8, **EXCHANGE)


def test_a_copy_is_bound_by_its_start_the_link_or_the_drives():
    def bound(direction: str, size: float, drives: int = 1) -> str:
        shape = {"direction": direction, "bytes": size, "drives": drives}
        return EXPLAINERS["transfer"](site("a100_pcie"), **shape).bound

    assert bound("host_to_device", 4096.0) == "latency"
    assert bound("host_to_device", 1e9) == "host link"
    assert bound("nvme_to_device", 1e9) == "drives"
    assert bound("nvme_to_device", 1e9, drives=64) == "host link"


def test_a_cache_that_stays_in_l2_is_said_to_be_faster_than_memory():
    call = {"batch": 64, "heads": 8, "head_dim": 128}
    for context, is_faster in ((256, True), (65_536, False)):
        found = EXPLAINERS["decode"](site("l40s"), context=context, **call)
        assert any("in L2" in note for note in found.notes) is is_faster


def test_a_window_bounds_what_decoding_reads():
    shape = {"batch": 64, "context": 65_536, "heads": 32, "kv_heads": 8, "head_dim": 128}
    found = EXPLAINERS["decode"](site(), window=4096, **shape)
    assert found.facts["keys_seen"] == 4096
    assert found.time_s < EXPLAINERS["decode"](site(), **shape).time_s / 8.0


def test_long_prompts_are_bound_by_compute():
    found = EXPLAINERS["prefill"](site(), q_len=8192, heads=32, kv_heads=8, head_dim=128)
    assert found.bound == "compute"
    assert found.intensity > found.roof.ridge
    assert found.trust.operator == "attention prefill bf16"


def test_a_cache_of_a_datatype_that_was_not_measured_is_confessed():
    shape = {"heads": 32, "head_dim": 128, "kv_dtype": "fp8"}
    found = EXPLAINERS["prefill"](site("a100_sxm"), q_len=512, **shape)
    assert any("stand in for bf16_kv_fp8" in note for note in found.notes)


CORE = {"heads": 32, "head_dim": 128}
COPY = {"direction": "host_to_device", "bytes": 1e6}
LATENT = {"phase": "prefill", "heads": 16, "q_len": 8}
LAYER = {"tokens": 64, "experts": 256, "top_k": 8, "hidden": 7168, "expert_ffn": 2048}


@pytest.mark.parametrize(
    ("kind", "shape", "said"),
    [
        ("decode", {"batch": 1, "context": 8, **CORE, "kv_heads": 5}, "--kv-heads 5 does not"),
        ("prefill", {"q_len": 8, **CORE, "kv_heads": 5}, "--kv-heads 5 does not divide"),
        ("prefill", {"q_len": 8, "kv_len": 4, **CORE}, "below --q-len 8"),
        ("prefill", {"q_len": 8, "heads": 8, "head_dim": 1024}, "1 to 512"),
        ("mla", {"phase": "decode", "heads": 16}, "give --kv-len"),
        ("mla", {"phase": "decode", "heads": 16, "kv_len": 8, "q_len": 2}, "leave --q-len out"),
        ("mla", {"phase": "prefill", "heads": 16}, "give --q-len"),
        ("mla", {"phase": "prefill", "heads": 16, "q_len": 8, "kv_len": 4}, "below --q-len"),
        ("mla", {**LATENT, "kv_dtype": "int8"}, "for `int8`\n  fix: it has: bf16, fp8"),
        ("mla", {**LATENT, "whole": True, "gemm_dtype": "fp8_blok"}, "mean `fp8_block`"),
        ("transfer", {**COPY, "direction": "host_to_hos"}, "did you mean"),
        ("transfer", {**COPY, "bytes": 0.0}, "at least one byte"),
        ("transfer", {**COPY, "drives": 2}, "meets no drive"),
        ("transfer", {**COPY, "bounced": True}, "not host_to_device"),
        ("moe", {**LAYER, "expert_parallel": 7}, "--expert-parallel 7 does not divide --experts"),
        ("moe", {**LAYER, "tensor_parallel": 3}, "does not divide --expert-ffn 2048"),
        ("moe", {**LAYER, "top_k": 300}, "--top-k 300 is more than --experts 256"),
        ("moe", {**LAYER, "experts": 2**20}, "1 to 16384"),
        ("moe", {**LAYER, "exponent": 9.0}, "0 .balanced. to 4"),
        ("moe", {**LAYER, "exponent": math.nan}, "nan is outside"),
        ("moe", {**LAYER, "format": "nvfp4"}, "for `nvfp4`\n  fix: it has: bf16, fp8"),
    ],
)
def test_what_cannot_be_is_refused_with_what_was_seen(kind, shape, said):
    with pytest.raises(ModelDomainError, match=said):
        EXPLAINERS[kind](site("a100_pcie" if kind == "transfer" else "h100_sxm"), **shape)


def test_arithmetic_that_no_kernel_of_prompts_has_is_refused():
    with pytest.raises(ModelDomainError, match="compute in bf16, fp16, fp8"):
        EXPLAINERS["prefill"](site(dtype="int8"), q_len=8, **CORE)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("decode", {"batch": 1, "context": 8, **CORE}),
        ("prefill", {"q_len": 8, **CORE}),
        ("mla", LATENT),
        ("moe", LAYER),
        ("transfer", COPY),
    ],
)
def test_a_device_without_coefficients_says_which_it_has(kind, shape):
    said = r"profile b60 has no coefficients of .*\n.*of this one there are .* of gemm, attention"
    with pytest.raises(ModelDomainError, match=said):
        EXPLAINERS[kind](site("b60"), **shape)
