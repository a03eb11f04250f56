"""Each rule for blanks on a row that needs only it."""

from __future__ import annotations

import pytest

from clustersim.validate.capabilities import NotComparableError
from clustersim.validate.rules import convert, split_uneven


def always(scenario):
    return True


@pytest.fixture
def scenario_of(case, catalogue):
    def build(changes=None, fits=always):
        return convert(case(changes), catalogue, fits)

    return build


@pytest.fixture
def reason_of(scenario_of):
    def reason(changes):
        with pytest.raises(NotComparableError) as caught:
            scenario_of(changes)
        return str(caught.value)

    return reason


def test_a_complete_row_is_taken_as_it_stands(scenario_of):
    scenario = scenario_of().scenario
    assert (scenario.gpus, scenario.micro_batches, scenario.cluster.nodes) == (16, 8, 2)
    assert scenario.parallelism.schedule == "1f1b"
    assert scenario.cluster.node.nics.bandwidth == 25e9


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"kind": "scaling"}, "kind scaling"),
        ({"device": "simulated GPU"}, "no catalogue id"),
        ({"device": None}, "device is not stated"),
        ({"gpus": None}, "gpus not stated"),
        ({"model": {"layers": None, "seq_len": None}}, "model.layers, model.seq_len"),
        ({"parallel": {"pp": None}}, "parallel.pp"),
        ({"recompute": {"kind": "unknown", "detail": "swap"}}, "swap"),
    ],
)
def test_rule_1_names_what_is_missing(reason_of, changes, part):
    assert part in reason_of(changes)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"model": {"moe": {"experts": 8, "top_k": 2, "expert_ffn": 64}}}, "mixture of experts"),
        ({"parallel": {"zero": 3}}, "ZeRO 3"),
        ({"parallel": {"cp": 2, "dp": 2}}, "context parallelism"),
        ({"parallel": {"ep": 2}}, "expert parallelism"),
        ({"precision": "fp8"}, "precision fp8"),
        ({"schedule": "zb_h1"}, "schedule zb_h1"),
        ({"recompute": "selective_per_op"}, "named operations"),
        ({"optimisations": ["cuda_graphs_partial"]}, "partial CUDA graphs"),
        ({"offload": {"activation_layers": 4}}, "offload"),
        ({"model": {"sliding_window": {"window": 128, "every": 2}}}, "windows on some layers"),
    ],
)
def test_what_a_scenario_cannot_hold_is_named(reason_of, changes, part):
    assert part in reason_of(changes)


def test_rule_2_fills_degrees_and_shape(scenario_of):
    blanks = {"heads": None, "kv_heads": None, "vocab": None}
    conversion = scenario_of({"parallel": {"dp": None}, "model": blanks})
    scenario = conversion.scenario
    assert scenario.data_parallel == 4
    assert (scenario.model.attention_heads, scenario.model.vocab) == (8, 51200)
    assert {"rule 2: dp 4", "rule 2: heads 8", "rule 2: vocab 51200"} <= set(conversion.assumed)


def test_degrees_that_do_not_multiply_to_the_gpus_are_refused(reason_of):
    assert "is not 16 GPUs" in reason_of({"parallel": {"dp": 3}})
    assert "no multiple" in reason_of({"parallel": {"dp": None}, "gpus": 18})


def test_rule_3_pads_the_vocabulary(scenario_of):
    conversion = scenario_of({"model": {"vocab": 50257, "padded_vocab_to": 128}})
    assert conversion.scenario.model.padded_vocab == 50304
    assert "rule 3: vocabulary padded from 50257 to 50304" in conversion.assumed


def test_rule_6_fills_the_global_batch_and_asks_for_twice_as_many(scenario_of):
    conversion = scenario_of({"batch": {"global": None}})
    assert conversion.scenario.micro_batches == 16
    assert conversion.scenario.training.global_batch == 16 * 4 * 2
    assert conversion.doubled is not None
    assert conversion.doubled.micro_batches == 32


def test_rule_6_takes_the_largest_micro_batch_that_divides_and_fits(scenario_of):
    def up_to_four(scenario):
        return scenario.training.micro_batch <= 4

    blank = {"batch": {"micro": None}}
    assert scenario_of(blank).scenario.training.micro_batch == 16
    assert scenario_of(blank, up_to_four).scenario.training.micro_batch == 4
    odd = {"batch": {"micro": None, "global": 24}}
    assert scenario_of(odd).scenario.training.micro_batch == 2
    nothing = scenario_of(blank, lambda scenario: False).scenario
    assert nothing.training.micro_batch == 1


def test_rule_6_with_both_open_keeps_the_count_of_micro_batches(scenario_of):
    conversion = scenario_of({"batch": {"micro": None, "global": None}})
    assert conversion.scenario.training.micro_batch == 16
    assert conversion.scenario.micro_batches == 16


def test_rule_6_names_a_smaller_last_micro_batch(scenario_of):
    conversion = scenario_of({"batch": {"micro": 3}})
    assert conversion.scenario.micro_batches == 6
    assert "rule 6: the last micro-batch is smaller" in conversion.assumed


def test_rule_7_takes_one_layer_a_chunk_when_interleaved(scenario_of):
    open_chunks = {"parallel": {"vpp": None}, "schedule": "interleaved"}
    assert scenario_of(open_chunks).scenario.parallelism.virtual_stages == 4
    plain = scenario_of({"parallel": {"vpp": None}}).scenario.parallelism
    assert (plain.virtual_stages, plain.schedule) == (1, "1f1b")


@pytest.mark.parametrize(
    ("layers", "pp", "vpp", "balanced", "split"),
    [
        (70, 12, 1, True, (5, *[6] * 10, 5)),
        (78, 12, 1, False, (*[6] * 3, *[7] * 6, *[6] * 3)),
        (126, 8, 1, False, (15, *[16] * 6, 15)),
        (95, 8, 3, False, (*[4] * 23, 3)),
        (61, 8, 1, False, (7, *[8] * 5, 7, 7)),
        (32, 6, 1, False, (5, 5, 6, 6, 5, 5)),
        (72, 12, 1, False, None),
    ],
)
def test_rule_8_splits_uneven_layers(layers, pp, vpp, balanced, split):
    vpp_used, chunks = split_uneven(layers, pp, vpp, balanced, [])
    assert (vpp_used, chunks) == (vpp, split)


def test_rule_8_lowers_vpp_where_chunks_outnumber_units():
    vpp, chunks = split_uneven(6, 4, 3, False, [])
    assert vpp == 1
    assert chunks == (1, 2, 2, 1)


def test_rule_9_takes_the_least_recomputation_that_fits(scenario_of):
    def least(kind, layers=None):
        def fits(scenario):
            order = ["none", "selective", "full"]
            now = scenario.training.recompute
            if order.index(now.kind) != order.index(kind):
                return order.index(now.kind) > order.index(kind)
            return layers is None or now.layers is None or now.layers >= layers

        return scenario_of({"recompute": "unknown"}, fits).scenario.training.recompute

    assert least("none").kind == "none"
    assert least("selective").kind == "selective"
    assert (least("full", 3).kind, least("full", 3).layers) == ("full", 3)
    assert (least("full", 4).kind, least("full", 4).layers) == ("full", None)


def test_rule_9_with_flash_attention_selective_recomputes_nothing(scenario_of):
    row = {"optimisations": ["flash_attention_2"], "recompute": "selective"}
    assert scenario_of(row).scenario.training.recompute.kind == "none"


@pytest.mark.parametrize(
    ("changes", "attention"),
    [
        ({"optimisations": []}, "fused_softmax"),
        ({"optimisations": ["unfused_attention"]}, "unfused"),
        ({"optimisations": ["flash_attention_1"]}, "flash_1"),
        ({"optimisations": [], "software": {"name": "megatron_core"}}, "flash_2"),
        ({"optimisations": [], "software": None}, "flash_2"),
        (
            {"optimisations": [], "software": {"name": "torchtitan"}, "device": "H100-SXM-80GB"},
            "flash_3",
        ),
        ({"optimisations": [], "device": "H100-SXM-80GB"}, "fused_softmax"),
        ({"optimisations": [], "device": "B200-SXM-180GB"}, "flash_3"),
    ],
)
def test_rule_10_settles_attention(scenario_of, changes, attention):
    assert scenario_of(changes).scenario.software.features.attention == attention


def test_rule_11_overlaps_only_by_token(scenario_of):
    features = scenario_of({"optimisations": ["dp_overlap_reduce"]}).scenario.software.features
    assert features.dp_overlap_reduce
    assert not features.dp_overlap_gather
    assert not features.tp_overlap
    assert not features.fused_kernels


@pytest.mark.parametrize(
    ("changes", "on"),
    [
        ({}, True),
        ({"source": {"title": "A paper (SC 2021)"}}, False),
        ({"source": {"title": "A paper", "url": "https://arxiv.org/abs/2205.05198"}}, True),
        ({"source": {"title": "No year"}}, False),
        ({"source": {"title": "No year"}, "device": "H100-SXM-80GB"}, True),
        ({"software": {"name": "megatron_deepspeed", "version": "2022-02"}}, False),
        ({"software": {"name": "megascale"}}, True),
        ({"optimisations": ["no_comm_overlap"]}, False),
        ({"parallel": {"tp": 1, "dp": 8}}, False),
    ],
)
def test_weight_gradient_overlap_follows_software_and_year(scenario_of, changes, on):
    assert scenario_of(changes).scenario.software.features.wgrad_overlap is on


@pytest.mark.parametrize(
    ("software", "precision", "given", "expected"),
    [
        ("megatron_lm", "fp16", {}, ("fp32", "fp32")),
        ("megatron_deepspeed", "fp16", {}, ("fp16", "fp16")),
        ("megatron_deepspeed", "bf16", {}, ("fp32", "fp32")),
        ("megatron_bridge", "bf16", {}, ("bf16", "bf16")),
        ("someone", "bf16", {"grad_dtype": "bf16"}, ("bf16", "bf16")),
        ("someone", "bf16", {"optimisations": ["dp_comm_compression"]}, ("fp32", "bf16")),
    ],
)
def test_rule_14_settles_gradient_types(scenario_of, software, precision, given, expected):
    row = {"software": {"name": software}, "precision": precision, **given}
    training = scenario_of(row).scenario.training
    assert (training.grad_dtype, training.comm_dtype) == expected


def test_rule_15_stores_dropout_masks_of_fp16_runs(scenario_of):
    assert scenario_of({"precision": "fp16"}).scenario.training.dropout
    assert not scenario_of({"precision": "bf16"}).scenario.training.dropout
    other = {"precision": "fp16", "software": {"name": "internevo"}}
    assert not scenario_of(other).scenario.training.dropout


@pytest.mark.parametrize(
    ("words", "link"),
    [
        ("RoCE 4x100G", "roce"),
        ("InfiniBand HDR", "infiniband"),
        ("Omni-Path 100, 4 links/node", "omni_path"),
        ("Slingshot-11", "slingshot"),
        ("AWS EFA", "ethernet"),
        ("400G per GPU", "infiniband"),
    ],
)
def test_rule_16_names_the_transport(scenario_of, words, link):
    nics = scenario_of({"interconnect": {"inter": words}}).scenario.cluster.node.nics
    assert nics.link == link


def test_rule_16_builds_rails_and_tiers_from_words(scenario_of):
    words = "RoCE, 3-layer CLOS (Tomahawk4, 64x400G), multi-rail"
    fabric = scenario_of({"interconnect": {"inter": words}}).scenario.cluster.fabric
    assert (fabric.kind, fabric.tiers) == ("rail_clos", 3)
    assert fabric.switch is not None
    assert (fabric.switch.ports, fabric.switch.port_bandwidth) == (64, 50e9)


def test_rule_16_without_adapters_is_one_node(scenario_of):
    row = {"interconnect": {"nic_count": 0, "nic_gbps": 0, "nvlink_domain_gpus": 72}}
    cluster = scenario_of(row).scenario.cluster
    assert (cluster.nodes, cluster.node.gpus, cluster.fabric.kind) == (1, 16, "single_node")


def test_rule_16_needs_a_network_between_nodes(reason_of):
    assert "network is not stated" in reason_of({"interconnect": {"nic_count": None}})


def test_rule_16_takes_scale_up_from_the_catalogue_when_open(scenario_of):
    blank = {"intra": None, "intra_gbytes_per_s": None, "nvlink_domain_gpus": None}
    scale_up = scenario_of({"interconnect": blank}).scenario.cluster.node.scale_up
    assert (scale_up.kind, scale_up.domain_gpus, scale_up.bandwidth) == ("switch", 8, 300e9)
    direct = {"intra": "NVLink2 (4 GPUs)", "nvlink_domain_gpus": 4}
    row = {"interconnect": direct, "device": "V100-SXM2-32GB", "gpus_per_node": 4}
    assert scenario_of(row).scenario.cluster.node.scale_up.kind == "mesh"


def test_a_setting_that_is_no_scenario_is_a_reason(reason_of):
    assert "cannot run" in reason_of({"model": {"heads": 7, "kv_heads": 7}})


def test_gated_models_are_of_the_llama_family(scenario_of):
    model = scenario_of({"model": {"gated_mlp": True}}).scenario.model
    assert (model.norm, model.position, model.tied_embeddings) == ("rms_norm", "rotary", False)


def test_one_stage_has_no_chunks(scenario_of):
    row = {"parallel": {"pp": 1, "dp": 8, "vpp": 3}, "schedule": "interleaved"}
    parallelism = scenario_of(row).scenario.parallelism
    assert (parallelism.virtual_stages, parallelism.schedule) == (1, "1f1b")


def test_every_published_row_converts_or_says_why(published):
    from clustersim.validate.rules import shipped_catalogue

    catalogue = shipped_catalogue()
    reasons = {}
    converted = set()
    for row in published.cases:
        try:
            converted.add(convert(row, catalogue, always).scenario.name)
        except NotComparableError as error:
            reasons[row.id] = str(error)
    assert len(published.cases) == len(converted) + len(reasons) == 662
    assert all(reasons.values())
    assert len(converted) >= 357
