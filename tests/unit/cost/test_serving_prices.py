"""Prices of serving iterations: loads of experts, and tables against the models they stand for."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from clustersim.cost.collectives.peer import engine_all_reduce_s
from clustersim.cost.compute.decode import DecodeShapes, decode_s
from clustersim.cost.serving.attention import AttentionTables, attention_tables
from clustersim.cost.serving.expert_loads import LoadTable, load_table
from clustersim.cost.serving.experts import expert_kernels
from clustersim.cost.serving.prices import (
    PARTS,
    SKEW_S,
    IterationPrices,
    exchange_s,
    pass_s,
    price_iteration,
)
from clustersim.cost.serving.site import Site, replica_site, ungrouped
from clustersim.engine.serving.reference_step import table_at
from clustersim.spec.device import Device
from clustersim.spec.model import Experts
from clustersim.spec.profile import Profile
from clustersim.spec.resolve import load_device, load_profile, load_scenario
from clustersim.spec.serving import Routing, ServingParallelism, ServingScenario
from clustersim.workload.iteration import Iteration, iteration_of

TOKENS = np.array([1.0, 2.0, 3.0, 8.0, 50.0, 256.0, 400.0, 5000.0])
FINE = Experts(experts=64, top_k=6, expert_ffn=1024)
DEEPSEEK = Experts(experts=256, top_k=8, expert_ffn=2048, groups=8, top_k_groups=4)
PANGU = Experts(experts=64, top_k=8, expert_ffn=1344, groups=8, top_k_groups=8)
SHAPES = [FINE, DEEPSEEK, PANGU]
EXPERTS = PARTS.index("experts")
POPULARITIES = ["uniform", "power_law", "dirichlet"]


def table(experts: Experts, ranks: int = 1, seed: int = 0, **routing: object) -> LoadTable:
    return load_table(
        TOKENS, experts, Routing.model_validate(routing), ranks, seed, np.ones(experts.experts)
    )


# ------------------------------------------------------------------ loads of experts


@pytest.mark.parametrize("popularity", POPULARITIES)
@pytest.mark.parametrize("experts", SHAPES)
def test_one_token_reaches_top_k_different_experts(experts: Experts, popularity: str) -> None:
    loads = table(experts, popularity=popularity)
    assert (loads.active[:, 0] == experts.top_k).all()
    assert (loads.routed[:, 0] == experts.top_k).all()


def test_few_tokens_reach_as_many_experts_as_chance_says() -> None:
    # each of n tokens misses an expert with probability 1 - k / e
    found = np.mean(
        [table(FINE, seed=seed, popularity="uniform").active for seed in range(40)], (0, 1)
    )
    expected = 64 * (1.0 - (1.0 - 6 / 64) ** TOKENS[:4])
    # at most sqrt(e) / 2 experts from draw to draw, over 40 times 16 draws
    np.testing.assert_allclose(found[:4], expected, atol=4.0 * 4.0 / np.sqrt(640))


@pytest.mark.parametrize("popularity", POPULARITIES)
@pytest.mark.parametrize("experts", SHAPES)
@pytest.mark.parametrize("ranks", [1, 8])
def test_more_tokens_never_mean_less_load(experts: Experts, popularity: str, ranks: int) -> None:
    loads = table(experts, ranks, popularity=popularity)
    assert (np.diff(loads.routed, axis=1) >= 0).all()
    if ranks == 1:
        assert (np.diff(loads.active, axis=1) >= 0).all()
        assert (np.diff(loads.row_tiles, axis=1) >= 0).all()


@pytest.mark.parametrize("experts", SHAPES)
def test_tokens_are_neither_lost_nor_made(experts: Experts) -> None:
    loads = table(experts, popularity="power_law")
    pairs = TOKENS * experts.top_k
    # drawn one by one up to 256 tokens, as independent increments above
    np.testing.assert_array_equal(
        loads.routed[:, :6], np.tile(pairs[:6], (loads.routed.shape[0], 1))
    )
    np.testing.assert_allclose(loads.routed.mean(axis=0), pairs, rtol=0.02)


def test_balanced_loads_are_the_same_everywhere() -> None:
    loads = table(FINE, ranks=8, popularity="balanced")
    np.testing.assert_allclose(loads.routed[0], TOKENS * 6 / 8)
    np.testing.assert_allclose(loads.imbalance, 1.0)
    assert loads.active[0, -1] == 8


def test_popular_experts_fill_one_rank_more_than_others() -> None:
    even = table(FINE, ranks=8, popularity="uniform").imbalance.mean(axis=0)
    skewed = table(FINE, ranks=8, popularity="power_law", exponent=1.0).imbalance.mean(axis=0)
    assert even[-1] < 1.1 < skewed[-1]
    assert (skewed[3:] > even[3:]).all()


def test_by_default_ranks_are_as_uneven_as_those_of_deepseek_r1() -> None:
    # TensorRT-LLM, wide_ep/ep_load_balancer: the fullest of 32 ranks 1.56 above the mean, 58 layers
    tables = [table(DEEPSEEK, ranks=32, seed=seed) for seed in range(8)]
    found = np.mean([one.imbalance[:, -1] for one in tables])
    np.testing.assert_allclose(found, 2.56, rtol=0.1)


@pytest.mark.parametrize("popularity", POPULARITIES)
def test_a_share_of_each_group_loads_ranks_evenly(popularity: str) -> None:
    # 8 groups on 8 ranks, one expert of each group a token
    loads = table(PANGU, ranks=8, popularity=popularity)
    np.testing.assert_array_equal(loads.routed[:, :6], np.tile(TOKENS[:6], (16, 1)))
    np.testing.assert_allclose(loads.imbalance[:, :6], 1.0)
    np.testing.assert_allclose(loads.imbalance, 1.0, atol=0.1)


def test_a_token_stays_in_the_groups_that_its_router_allows() -> None:
    # 4 of 8 groups, a group on each rank: a token reaches at most 4 ranks, 2 pairs on the mean one
    loads = table(DEEPSEEK, ranks=8, popularity="uniform")
    assert (loads.routed[:, 0] >= 2).all()
    assert (loads.routed[:, 0] <= 8).all()


def test_null_experts_take_their_share_away() -> None:
    loads = table(FINE, popularity="uniform", null_experts=32)
    np.testing.assert_allclose(loads.routed[:, -1].mean(), TOKENS[-1] * 6 * 64 / 96, rtol=0.02)
    assert (loads.routed <= TOKENS * 6).all()


# ------------------------------------------------------------------ tables


@lru_cache
def question(name: str) -> tuple[ServingScenario, Iteration, Site]:
    scenario = load_scenario(name, [])
    assert isinstance(scenario, ServingScenario)
    iteration = iteration_of(scenario)
    return scenario, iteration, replica_site(scenario, iteration)


def prices_of(name: str, budget: int) -> IterationPrices:
    scenario, iteration, site = question(name)
    limits = {"token_budget": budget, "max_sequences": min(budget, 256)}
    engine = scenario.engine.model_copy(update=limits)
    scenario = scenario.model_copy(update={"engine": engine})
    return price_iteration(scenario, iteration, site, np.ones(1))


@pytest.mark.parametrize("name", ["serve_8b_small_gpu", "serve_llama70b_8xh100"])
def test_tokens_between_nodes_cost_what_they_cost_alone(name: str) -> None:
    scenario, *_ = question(name)
    whole = prices_of(name, 8192)
    own = scenario.engine.max_sequences
    errors = []
    past_full_tiles = [257, 513, 1025, 4097]
    for tokens in [*past_full_tiles, *np.random.default_rng(2).integers(300, 8192, 40)]:
        alone = prices_of(name, int(max(tokens, own)))  # its largest batch is a node
        found_s = whole.token_s[:, alone.token_s.shape[1] - 1].sum()
        errors.append(abs(found_s / alone.token_s[:, -1].sum() - 1.0))
    assert np.mean(errors) <= 0.001
    assert np.max(errors[: len(past_full_tiles)]) <= 0.001


def changed(name: str, **engine: object) -> tuple[ServingScenario, Iteration, Site]:
    scenario, *_ = question(name)
    scenario = scenario.model_copy(update={"engine": scenario.engine.model_copy(update=engine)})
    iteration = iteration_of(scenario)
    return scenario, iteration, replica_site(scenario, iteration)


def test_ranks_wait_for_the_last_of_them() -> None:
    scenario, iteration, site = question("serve_llama70b_8xh100")
    shared = next(e for e in iteration.exchanges if e.name == "all-reduce")
    rows = np.array([1.0, 64.0, 1024.0])
    alone_s = engine_all_reduce_s(rows * shared.row_bytes, site.paths["tp"], site.links)
    found_s = exchange_s(shared, site, rows, scenario.engine)
    # the mean of the largest of 4 normals
    np.testing.assert_allclose(found_s - alone_s, SKEW_S * 1.02938, rtol=1e-4)


def test_kernels_of_one_block_a_row_are_slower_with_few_rows_only() -> None:
    rows, name = np.array([4.0, 65536.0]), "serve_llama70b_8xh100"
    entry = next(p for p in question(name)[1].passes if p.name == "activation")
    wide, narrow = (pass_s(entry, changed(name, row_kernels=old)[2], rows) for old in (False, True))
    assert narrow[0] > 1.3 * wide[0]
    assert (narrow > wide).all()


@pytest.mark.parametrize("device", ["h100_sxm_80gb", "a100_sxm_80gb"])
def test_without_grouped_kernels_query_heads_read_keys_again(device: str) -> None:
    known = load_device(device)
    packed = load_profile(known.profile)
    many, one = np.full(1, 64.0), np.ones(1)
    times: dict[tuple[bool, float], float] = {}
    for grouped in (True, False):
        profile = packed if grouped else ungrouped(known, packed)
        for heads in (8.0, 64.0):
            keys, kv_heads, dim = 4096 * one, 8 * one, 128 * one
            shapes = DecodeShapes(many, keys * many, keys, keys, heads * one, kv_heads, dim)
            times[grouped, heads] = float(
                decode_s(shapes, known, profile, "bf16", False).total_s[0]
            )
    assert times[False, 8.0] == pytest.approx(times[True, 8.0], rel=0.25)
    assert 2.0 * times[True, 64.0] < times[False, 64.0] < 8.0 * times[True, 64.0]


def test_an_engine_whose_kernels_were_measured_runs_no_other() -> None:
    name = "serve_deepseek_v3_h200"
    site, engine = device_and_profile(name), question(name)[0].engine
    own = expert_kernels("fp8_block", *site, engine, own=True)
    any_one = expert_kernels("fp8_block", *site, engine, own=False)
    assert (len(own), len(any_one)) == (1, 2)
    # a format that nobody measured is run by kernels of another
    assert expert_kernels("w4a16_int", *site, engine, own=True)


def test_padded_experts_cost_the_same_for_any_small_batch() -> None:
    name = "serve_deepseek_v3_h200"
    times = [
        prices_of_engine(name, deepgemm_experts=formats, deepgemm_padding=True)
        for formats in ((), ("fp8_block",))
    ]
    skipping_s, padded_s = (prices.all_token_s.mean(axis=0)[EXPERTS] for prices in times)
    assert padded_s[1] > 4.0 * skipping_s[1]
    assert padded_s[64] < 1.6 * padded_s[1]
    assert skipping_s[64] > 2.0 * skipping_s[1]
    assert (padded_s[1:] >= skipping_s[1:]).all()


def test_padded_rows_are_room_for_all_pairs_and_a_block_an_expert() -> None:
    loads = table(FINE, ranks=4, popularity="uniform").padded_loads(FINE, 4, 0)
    assert loads.rows.tolist() == [
        128 * -(-(tokens * 6 + 16 * 127) // 128) for tokens in TOKENS.astype(int).tolist()
    ]
    assert loads.active.min() > 1.0  # the first expert, whose weights empty blocks are given
    assert loads.active.max() == 16.0
    np.testing.assert_allclose(loads.row_tiles[:, 3] * 128, loads.rows)


@pytest.mark.parametrize("layout", [{"expert_parallel": 8}, {}], ids=["ep8", "tp8"])
@pytest.mark.parametrize("below", [None, 8, 16])
def test_tensor_parallelism_of_experts_may_bring_other_kernels(
    below: int | None, layout: dict[str, int]
) -> None:
    degrees = {"parallelism": ServingParallelism(tensor_parallel=8, **layout)}
    own = {"deepgemm_experts": ("fp8_block",), "deepgemm_below": below}
    scenario, *_ = changed("serve_deepseek_v3_h200", **own)
    experts = iteration_of(scenario.model_copy(update=degrees)).experts
    assert experts is not None
    assert experts.deepgemm is (below != 8 or "expert_parallel" in layout)
    assert not experts.padded


def test_deepgemm_runs_no_kernel_of_another_format() -> None:
    name = "serve_deepseek_v3_h200"
    own = prices_of_engine(name, deepgemm_experts=("fp8_block",)).all_token_s.mean(axis=0)
    any_one = prices_of_engine(name, deepgemm_experts=()).all_token_s.mean(axis=0)
    assert (own[EXPERTS, 1:] >= any_one[EXPERTS, 1:]).all()
    assert (own[EXPERTS] / np.maximum(any_one[EXPERTS], 1e-9)).max() > 1.1


@pytest.mark.parametrize(
    ("device", "padded"),
    [
        ("h200_sxm_141gb", True),
        ("gb200_186gb", True),
        ("l40s_48gb", False),
        ("rtx_pro_6000_server_96gb", False),
        ("mi300x_192gb", False),
    ],
)
@pytest.mark.parametrize("engine", ["vllm-0.11", "vllm-0.12"])
def test_experts_are_padded_where_deepgemm_runs(engine: str, device: str, padded: bool) -> None:
    sets = [f"engine={engine}", "model=qwen3_30b_a3b", "precision.weights=fp8_block"]
    sets += [f"cluster.node.device={device}"]
    scenario = load_scenario("serve_deepseek_v3_h200", sets)
    assert isinstance(scenario, ServingScenario)
    experts = iteration_of(scenario).experts
    assert experts is not None
    assert experts.padded is padded


def prices_of_engine(name: str, **engine: object) -> IterationPrices:
    limits = {"token_budget": 256, "max_sequences": 64}
    return price_iteration(*changed(name, **limits, **engine), np.ones(1))


def device_and_profile(name: str) -> tuple[Device, Profile]:
    site = question(name)[2]
    return site.device, site.profile


def test_sorting_the_vocabulary_costs_more_than_drawing_until_a_token_passes() -> None:
    scenario, *_ = question("serve_8b_small_gpu")
    found: dict[tuple[str, str], float] = {}
    for sampling in ("greedy", "filtered", "engine"):
        for kind in ("sort", "select", "reject"):
            engine = scenario.engine.model_copy(
                update={"token_filter": kind, "default_sampling": "filtered"}
            )
            workload = scenario.workload.model_copy(update={"sampling": sampling})
            asked = scenario.model_copy(update={"engine": engine, "workload": workload})
            passes = [p for p in iteration_of(asked).passes if p.rows == "sequences"]
            found[sampling, kind] = sum(p.row_bytes * p.count for p in passes)
    assert found["greedy", "sort"] == found["greedy", "reject"] < found["filtered", "reject"]
    assert found["filtered", "reject"] < found["filtered", "select"] < found["filtered", "sort"]
    assert found["engine", "sort"] == found["filtered", "sort"]


@lru_cache
def attention_of(name: str) -> AttentionTables:
    _, iteration, site = question(name)
    return attention_tables(iteration, site.device, site.profile, 256, 8192)


@pytest.mark.parametrize("name", ["serve_8b_small_gpu", "serve_llama70b_8xh100"])
def test_decodes_between_nodes_cost_what_they_cost_alone(name: str) -> None:
    _, iteration, site = question(name)
    tables, core = attention_of(name), iteration.cores[0]
    rng = np.random.default_rng(1)
    n = rng.integers(1, 257, 300).astype(np.float64)
    mean = np.exp(rng.uniform(np.log(16.0), np.log(32768.0), 300)).round()
    ratio = np.minimum(rng.uniform(1.0, 8.0, 300), n)
    one = np.ones(300)
    shapes = DecodeShapes(
        sequences=n,
        total_keys=n * mean,
        longest_keys=mean * ratio,
        longest_context=mean * ratio,
        heads=core.heads * one,
        kv_heads=core.kv_heads * one,
        head_dim=core.head_dim * one,
    )
    alone_s = decode_s(shapes, site.device, site.profile, iteration.kv_dtype, warm=False).total_s
    axes = (tables.sequences, tables.contexts, tables.ratios)
    found_s = [table_at(axes, tables.decode_s, row) for row in zip(n, mean, ratio, strict=True)]
    error = np.abs(np.array(found_s) / (core.count * alone_s) - 1.0)
    assert np.mean(error) <= 0.02
    assert np.quantile(error, 0.9) <= 0.05


@pytest.mark.parametrize(
    "name", ["serve_8b_small_gpu", "serve_llama70b_8xh100", "serve_deepseek_v3_h200"]
)
@pytest.mark.parametrize("prompt", [4096, 7000, 8192])
def test_pieces_of_a_prompt_cost_about_the_whole(name: str, prompt: int) -> None:
    tables, piece = attention_of(name), 2048
    axes = (tables.chunk, tables.before)
    starts = range(0, prompt, piece)
    cuts = [(float(min(piece, prompt - start)), float(start)) for start in starts]
    pieces_s = sum(table_at(axes, tables.alone_s, cut) for cut in cuts)
    whole_s = table_at(axes, tables.alone_s, (float(prompt), 0.0))
    # never less: each piece has a tail to wait for; the last 856 of 7,000 tokens are, with the 16
    # heads of a GPU, fewer blocks of 128 queries than it has SMs
    most = 1.2 if prompt % piece == 0 else 1.3
    assert whole_s * 0.98 <= pieces_s <= whole_s * most


@pytest.mark.parametrize("name", ["serve_8b_small_gpu", "serve_deepseek_v3_h200"])
def test_one_more_chunk_of_many_adds_no_more_than_it_costs_alone(name: str) -> None:
    tables = attention_of(name)
    assert (tables.added_s > 0.0).all()
    assert (tables.added_s <= tables.alone_s).all()
