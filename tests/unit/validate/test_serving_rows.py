"""Published serving rows as scenarios: degrees, engines, formats, loads, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from clustersim.cost.serving.site import _under_limit
from clustersim.spec.resolve import load_profile
from clustersim.validate.capabilities import NotComparableError
from clustersim.validate.serving_points import convert_point
from clustersim.validate.serving_rows import convert_row
from clustersim.validate.serving_stack import (
    Stock,
    pick_engine,
    published_by,
    shipped_stock,
    split_words,
    version_of,
)
from tests.published_rows import EXPERTS, SMALL, point, serving_row


@pytest.fixture(scope="module")
def stock() -> Stock:
    return shipped_stock()


REFUSALS = {
    "incomplete: batch; tp": {"complete": False, "incomplete_because": ["batch", "tp"]},
    "offload is not simulated yet": {"engine.weight_offload": "cpu"},
    "host memory": {"engine.name": "FlexGen with another policy"},
    "2 nodes: several nodes are not simulated yet": {
        "gpus": 16,
        "parallel.tp": 8,
        "parallel.dp": 2,
    },
    "device Abacus is not in the catalogue": {"device": "Abacus"},
    "the device is not stated": {"device": None},
    "protocol ratio is not simulated": {"protocol": "ratio"},
    "number format q4_k_m is not known": {"quantisation": "q4_k_m"},
    "a KV cache in 2-bit is not simulated": {"quantisation": "fp16 weights / 2-bit kv"},
    "is not 4 GPUs": {"gpus": 4},
    "8 does not divide": {"gpus": 8, "parallel.tp": 8, "model": {**SMALL, "heads": 12}},
    "model.layers: Field required": {"model": {"name": "no shape"}},
    "workload.batch: Input should be a valid number": {"workload.batch": "many"},
    "parallel.tp is not stated": {"parallel.tp": None},
    "lengths are not stated": {"workload.input_len": None},
    "speculation without its accept length": {"engine.speculative": "MTP 3 layers"},
    "has no 4-bit matrix units": {"quantisation": "nvfp4"},
    "rule 9: none.csv is neither": {
        "protocol": "open_loop_trace",
        "workload.trace": "none.csv",
    },
    "the rate is not stated": {"protocol": "open_loop_poisson"},
    "the concurrency is not stated": {"protocol": "closed_loop", "workload.batch": None},
    "layers of kind spiral": {"model": {**SMALL, "layer_pattern": ["spiral"]}},
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_what_cannot_run_says_why(stock, reason):
    with pytest.raises(NotComparableError) as error:
        convert_row(serving_row(REFUSALS[reason]), stock)
    assert reason in str(error.value)


def test_dense_replicas_share_the_load(stock):
    run = convert_row(serving_row({"gpus": 4, "parallel.tp": 2, "parallel.dp": 2}), stock)
    p = run.scenario.parallelism
    assert (p.tensor_parallel, p.attention_data_parallel, p.replicas) == (2, 1, 2)


def test_experts_over_all_gpus_make_attention_ranks(stock):
    row = serving_row({"gpus": 4, "model": EXPERTS, "parallel.dp": 4, "parallel.ep": 4})
    p = convert_row(row, stock).scenario.parallelism
    assert (p.tensor_parallel, p.attention_data_parallel, p.expert_parallel) == (1, 4, 4)
    assert p.replicas == 1


def test_open_dp_with_experts_over_all_gpus_is_one_tensor_parallel_engine(stock):
    row = serving_row({"gpus": 4, "model": EXPERTS, "parallel.dp": None, "parallel.ep": 4})
    p = convert_row(row, stock).scenario.parallelism
    assert (p.tensor_parallel, p.attention_data_parallel, p.expert_parallel) == (4, 1, 4)


def test_tables_of_tensorrt_llm_1_0_spread_whole_experts(stock):
    changes = {"gpus": 4, "model": EXPERTS, "parallel.tp": 4}
    named = changes | {"engine.name": "TensorRT-LLM 1.0 (PyTorch backend)"}
    assert convert_row(serving_row(named), stock).scenario.parallelism.expert_parallel == 4
    assert convert_row(serving_row(changes), stock).scenario.parallelism.expert_parallel == 1


def test_the_row_wins_over_the_table_of_its_engine(stock):
    changes = {
        "engine.max_num_seqs": 7,
        "engine.max_num_batched_tokens": 999,
        "engine.block_size": 32,
        "engine.cuda_graphs": False,
        "engine.static_batching": True,
        "engine.kv_tokens_capacity": 3200,
    }
    run = convert_row(serving_row(changes), stock)
    engine = run.scenario.engine
    assert (engine.max_sequences, engine.token_budget, engine.block_tokens) == (7, 999, 32)
    assert (engine.graph_sizes, engine.policy, run.kv_tokens) == ((), "static", 3200)


def test_a_dense_batch_bounds_tokens_and_sequences(stock):
    engine = convert_row(serving_row({"engine.dense_batch_tokens": 64}), stock).scenario.engine
    assert (engine.token_budget, engine.max_sequences) == (64, 64)


@pytest.mark.parametrize(
    ("name", "version", "measured_on", "table"),
    [
        ("vllm", "0.18.0", "", "vllm-0.18"),
        ("vLLM", "0.13.1", "", "vllm-0.12"),
        ("vllm", "0.0.1", "", "vllm-0.1"),
        ("vllm", "nightly-5b8c30d62b754b57", "2025-12-10", "vllm-0.12"),
        ("trtllm", "1.0.0rc3", "", "tensorrt_llm-1.0"),
        ("TensorRT-LLM 0.6.1", "TensorRT-LLM 0.6.1", "", "tensorrt_llm-0.6.1"),
        ("SGLang 0.4.6+", "SGLang 0.4.6+", "", "sglang-0.4.6"),
        ("DeepSpeed-FastGen", "", "", "deepspeed-mii"),
        ("Deepspeed", "", "", "hf-static"),
    ],
)
def test_engines_are_picked_by_version_else_by_date(stock, name, version, measured_on, table):
    assert pick_engine(stock, name, version, measured_on, []).name == table


def test_an_engine_without_a_table_is_the_newest_vllm(stock):
    notes: list[str] = []
    chosen = pick_engine(stock, "NanoFlow", "", "", notes)
    newest = max(
        (one for one in stock.engines if one.family == "vllm"), key=lambda one: one.released
    )
    assert chosen.name == newest.name
    assert "NanoFlow has no table" in notes[0]


def test_versions_are_numbers_with_a_dot():
    assert version_of("1.0.0rc3") == (1, 0, 0)
    assert version_of("nightly-5b8c30d6") == ()
    assert version_of("v0.6.1 of 2024") == (0, 6, 1)


@pytest.mark.parametrize(
    ("words", "formats"),
    [
        ("fp8", ("fp8", None)),
        ("nvfp4 weights / fp8 kv", ("nvfp4", "fp8")),
        ("bfloat16", ("bfloat16", None)),
        ("int4 g128", ("int4", None)),
        ("fp8 gemm / bf16 attention", ("fp8", None)),
        ("unstated", ("unstated", None)),
        ("", (None, None)),
    ],
)
def test_words_of_formats(words, formats):
    assert split_words(words) == formats


def test_tensorrt_llm_keeps_eight_bits_with_narrow_weights(stock):
    fp8 = {"quantisation": "fp8"}
    kv = convert_row(serving_row(fp8), stock).scenario.precision.kv_cache
    assert kv == "bf16"
    fp8["engine.name"] = "TensorRT-LLM"
    assert convert_row(serving_row(fp8), stock).scenario.precision.kv_cache == "fp8"


def test_a_power_limit_slows_products_only(stock):
    full = convert_row(serving_row(), stock).scenario.cluster.node.device
    run = convert_row(serving_row({"power_limit_w": 350}), stock)
    device = run.scenario.cluster.node.device
    assert device.power_limit == 350
    assert device.memory_bandwidth == full.memory_bandwidth
    assert device.matrix_peak == full.matrix_peak
    sustained = [_sustained(one) for one in (device, full)]
    assert 0.6 < sustained[0] / sustained[1] < 0.8
    assert any("rule 17" in note for note in run.assumed)


def _sustained(device):
    profile = load_profile(device.profile)
    return _under_limit(device, profile).gemm["bf16"].power_fraction


def test_links_without_nvlink_are_pcie(stock):
    row = serving_row({"gpus": 2, "parallel.tp": 2, "interconnect": "PCIe 5.0 (no NVLink)"})
    scale_up = convert_row(row, stock).scenario.cluster.node.scale_up
    assert (scale_up.kind, scale_up.link) == ("pcie", "pcie5")


def test_two_of_eight_joined_gpus_use_one_of_seven_links(stock):
    changes = {"device": "MI300X-192GB", "interconnect": "Infinity Fabric"}
    pair = changes | {"gpus": 2, "parallel.tp": 2}
    all_eight = changes | {"gpus": 8, "parallel.tp": 8, "model": {**SMALL, "kv_heads": 8}}
    rates = [
        convert_row(serving_row(one), stock).scenario.cluster.node.scale_up.bandwidth
        for one in (pair, all_eight)
    ]
    assert rates[1] == pytest.approx(7 * rates[0])


def test_lengths_of_a_file_are_drawn_five_times(stock, tmp_path):
    (tmp_path / "traces").mkdir()
    (tmp_path / "published").mkdir()
    (tmp_path / "traces" / "pairs.csv").write_text("input,output\n10,20\n30,40\n")
    origin = {"file": "pairs.csv", "input_mean": "row", "output_mean": "file", "assumed": True}
    row = serving_row({"lengths_from": origin}, tmp_path / "published")
    run = convert_row(row, stock)
    lengths = run.scenario.workload.lengths
    assert lengths is not None
    assert Path(lengths.file or "").name == "pairs.csv"
    assert (lengths.input_mean, lengths.output_mean, run.draws) == (256, None, 5)
    assert any("rule 10" in note for note in run.assumed)
    assert run.scenario.workload.sampling == "engine"
    assert "rule 12: sampling filtered, by the engine" in run.assumed
    assert convert_row(serving_row({}), stock).scenario.workload.sampling == "greedy"


def test_a_source_bounds_the_age_of_its_engine(stock):
    changes = {"engine.name": "vLLM", "source": {"key": "paper", "ref": "arXiv:2411.00136; MIT"}}
    run = convert_row(serving_row(changes), stock)
    assert run.scenario.engine.name == "vllm-0.6"
    assert "rule 12: engine table vllm-0.6, measured by 2024-11-30" in run.assumed
    undated = changes | {"source": {"key": "paper", "ref": None}}
    assert convert_row(serving_row(undated), stock).scenario.engine.name == "vllm-0.19"


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("vLLM", "vllm-0.11"),
        ("vLLM 0.15.1", "vllm-0.15"),
        ("vLLM 0.8.5", "vllm-0.8"),
        ("TensorRT-LLM 1.2", "tensorrt_llm-1.2"),
        ("SGLang", "sglang-0.5.6"),
    ],
)
def test_a_version_that_a_source_states_elsewhere_fills_a_gap(stock, name, table):
    source = {"key": "mlenergy-v3", "ref": "data 2026-02-16"}
    run = convert_row(serving_row({"engine.name": name, "source": source}), stock)
    assert run.scenario.engine.name == table


@pytest.mark.parametrize(
    ("name", "words", "experts"),
    [
        ("Qwen3-235B-A22B", "fp8", "fp8_block"),
        ("DeepSeek-V3", "fp8", "fp8_block"),
        ("deepseek v3", "fp8", "fp8_block"),
        ("kimi_k2", "fp8", "fp8_block"),
        ("Qwen3-235B-A22B", "bf16", "bf16"),
        ("Llama-4-Maverick", "fp8", "fp8"),
    ],
)
def test_eight_bit_experts_are_in_blocks_where_the_checkpoint_is(stock, name, words, experts):
    moe = {"experts": 16, "topk": 2, "expert_ffn": 512}
    changes = {"model": {**SMALL, "name": name, "moe": moe}, "quantisation": words}
    run = convert_row(serving_row(changes), stock)
    assert run.scenario.precision.experts == experts


@pytest.mark.parametrize(
    ("reference", "date"),
    [
        ("arXiv:2411.00136; MIT", "2024-11-30"),
        ("arXiv:2505.06371; data 2026-02-16", "2026-02-16"),
        ("blog of 2024-01-02; arXiv:2402.1", "2024-02-29"),
        ("arXiv:2413.00001", ""),
        ("", ""),
    ],
)
def test_dates_of_references(reference, date):
    assert published_by(reference) == date


def test_offline_without_a_count_asks_for_eight_batches(stock):
    row = serving_row({"protocol": "offline", "workload.batch": None, "engine.max_num_seqs": 200})
    assert convert_row(row, stock).scenario.workload.requests == 1600


def test_batches_count_by_their_scope(stock):
    changes = {"gpus": 2, "parallel.dp": 2, "batch_scope": "per_gpu_sequences"}
    assert convert_row(serving_row(changes), stock).scenario.workload.requests == 8


def test_drafts_come_from_the_words_and_the_accept_length(stock):
    changes = {
        "engine.speculative": "MTP 3 draft tokens",
        "measured": {"mean_accept_length": 2.2},
    }
    speculation = convert_row(serving_row(changes), stock).scenario.speculation
    assert speculation is not None
    assert (speculation.draft_tokens, speculation.accept_length) == (3, 2.2)


def test_balanced_routing_means_even_loads(stock):
    changes = {"model": EXPERTS, "engine.balanced_routing": "perfectly balanced"}
    assert convert_row(serving_row(changes), stock).scenario.routing.popularity == "balanced"


POINT_REFUSALS = {
    "incomplete: precision": {"complete": "0", "incomplete_because": "precision"},
    "separate workers": {"mode": "disagg"},
    "concurrency: Field required": {"concurrency": ""},
    "device abacus is not in the catalogue": {"system": "abacus"},
}


@pytest.mark.parametrize("reason", POINT_REFUSALS)
def test_points_that_cannot_run_say_why(stock, reason):
    with pytest.raises(NotComparableError, match=reason):
        convert_point(point(POINT_REFUSALS[reason]), stock)


def test_a_point_without_a_shape_says_where_it_is_looked_for(stock):
    with pytest.raises(NotComparableError, match=r"no shape of maker/small in models\.yaml"):
        convert_point(point(shape={}), stock)


def test_a_point_is_a_closed_loop_of_fixed_lengths(stock):
    workload = convert_point(point(), stock).scenario.workload
    assert (workload.arrivals.kind, workload.arrivals.concurrency) == ("closed_loop", 4)
    assert workload.lengths is not None
    assert workload.lengths.input is not None
    assert workload.lengths.input.mean == 128


def test_gpt_oss_has_four_bit_experts_whatever_the_columns_print(stock):
    row = point({"model": "openai/gpt-oss-120b", "backend": "trtllm"}, EXPERTS)
    precision = convert_point(row, stock).scenario.precision
    assert (precision.weights, precision.experts, precision.kv_cache) == ("bf16", "mxfp4", "bf16")


def test_a_note_bounds_what_four_bits_cover(stock):
    shape = {**EXPERTS, "note": "routed experts only (group 32), attention bf16"}
    row = point({"gemm_quant": "int4_wo", "moe_quant": "int4_wo"}, shape)
    precision = convert_point(row, stock).scenario.precision
    assert (precision.weights, precision.experts) == ("bf16", "w4a16_int")


def test_latent_attention_takes_the_ranks_of_its_entry(stock):
    ranks = {"kind": "mla", "q_lora_rank": 96, "kv_lora_rank": 64, "qk_nope_head_dim": 32}
    shape = {**SMALL, "attention": {**ranks, "qk_rope_head_dim": 16, "v_head_dim": 32}}
    latent = convert_point(point(shape=shape), stock).scenario.model.latent
    assert latent is not None
    assert (latent.query_rank, latent.kv_rank, latent.rotary_dim) == (96, 64, 16)
