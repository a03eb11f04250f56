"""Memory of a GPU, term by term, against the tables of the papers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from clustersim.parallel.layers import split_layers
from clustersim.parallel.memory import (
    CONTEXT_BYTES,
    FRAGMENTATION,
    TERMS,
    embedding_activation_bytes,
    layer_activation_bytes,
    logits_bytes,
    memory_of,
)
from clustersim.parallel.shape import rank_shape
from clustersim.parallel.shards import chunk_parameters
from clustersim.spec.scenario import Scenario
from tests.training_scenarios import SMALL_LLAMA, scenario_of

PUBLISHED = Path(__file__).parents[3] / ".." / "shared" / "published" / "training.yaml"
S, B, H, A = 512, 2, 1024, 16
SBH = S * B * H


def gpt(
    tp: int = 1,
    sp: bool = False,
    attention: str = "fused_softmax",
    dropout: bool = True,
    **model: Any,
) -> Scenario:
    return scenario_of(
        model,
        {"tensor_parallel": tp, "sequence_parallel": sp},
        {"micro_batch": B, "sequence_length": S, "dropout": dropout},
        {"attention": attention},
    )


def kept(scenario: Scenario, recompute: str = "none") -> float:
    return layer_activation_bytes(scenario, recompute)


# ------------------------------------------------------------------ one layer
# Korthikanti et al. 2022, table 2, in bytes. Its 10 s b h are inputs of the two norms (2 + 2) and
# of the two column-parallel products (2 + 2), and two dropout masks (1 + 1); its 24 s b h / t are
# q, k and v (6), the context (2), and input and output of the activation (8 + 8); its
# 5 a s^2 b / t are softmax (2), its dropout mask (1) and the dropped-out probabilities (2).


@pytest.mark.parametrize("tp", [1, 2, 8])
def test_a_layer_keeps_what_the_paper_counts(tp: int) -> None:
    formula = SBH * (10 + 24 / tp + 5 * A * S / (H * tp))
    assert kept(gpt(tp)) == pytest.approx(formula, rel=1e-9)


@pytest.mark.parametrize("tp", [2, 8])
def test_sequence_parallelism_shares_out_all_of_it(tp: int) -> None:
    formula = SBH * (34 + 5 * A * S / H) / tp
    assert kept(gpt(tp, sp=True)) == pytest.approx(formula, rel=1e-9)


@pytest.mark.parametrize("tp", [1, 8])
def test_selective_recomputation_keeps_nothing_of_the_core(tp: int) -> None:
    formula = SBH * (10 + 24 / tp)
    assert kept(gpt(tp), "selective") == pytest.approx(formula, rel=1e-9)


def test_selective_recomputation_with_sequence_parallelism_keeps_34_bytes_an_element() -> None:
    assert kept(gpt(8, sp=True), "selective") == pytest.approx(SBH * 34 / 8, rel=1e-9)


@pytest.mark.parametrize("tp", [1, 8])
def test_full_recomputation_keeps_the_input_of_the_layer_on_every_rank(tp: int) -> None:
    assert kept(gpt(tp), "full") == 2 * SBH


def test_full_recomputation_with_sequence_parallelism_keeps_a_share_of_the_input() -> None:
    assert kept(gpt(8, sp=True), "full") == 2 * SBH / 8


def test_without_fused_softmax_the_core_keeps_scaled_and_masked_scores_beside_the_paper() -> None:
    more = kept(gpt(attention="unfused")) - kept(gpt())
    assert more == pytest.approx(2 * 2 * A * S * S * B, rel=1e-9)


def test_without_dropout_masks_and_dropped_out_probabilities_are_not_kept() -> None:
    less = kept(gpt()) - kept(gpt(dropout=False))
    assert less == pytest.approx(2 * SBH + 3 * A * S * S * B, rel=1e-9)


@pytest.mark.parametrize(("dropout", "each"), [(False, 6), (True, 7)])
def test_scores_that_the_fused_softmax_does_not_take_keep_an_fp32_softmax(
    dropout: bool, each: int
) -> None:
    # The fp32 softmax (4) and the 16-bit probabilities (2), or with dropout their dropped-out copy
    # (2) and its mask (1).
    long = scenario_of(
        {"max_positions": 8192},
        {},
        {"micro_batch": 1, "sequence_length": 8192, "dropout": dropout},
        {"attention": "fused_softmax"},
    )
    assert rank_shape(long).attention == "fp32_softmax"
    core = kept(long) - kept(long, "selective")
    assert core == pytest.approx(each * A * 8192**2, rel=1e-9)


def test_flash_attention_keeps_one_fp32_statistic_a_row() -> None:
    core = kept(gpt(8, attention="flash_2")) - kept(gpt(8), "selective")
    assert core == pytest.approx(4 * S * B * A / 8, rel=1e-9)


def test_selective_recomputation_changes_nothing_of_flash_attention() -> None:
    scenario = gpt(8, attention="flash_2")
    assert kept(scenario, "selective") == kept(scenario)


def test_a_parallel_block_keeps_one_norm_and_one_input_less() -> None:
    less = kept(gpt(dropout=False)) - kept(gpt(dropout=False, parallel_block=True))
    assert less == 2 * 2 * SBH


def test_grouped_queries_keep_fewer_keys_and_values() -> None:
    less = kept(gpt()) - kept(gpt(kv_heads=4))
    assert less == pytest.approx(2 * 2 * 12 * 64 * S * B)


def test_a_gated_mlp_keeps_two_branches_and_their_product() -> None:
    # Without dropout: norms 4, inputs 4, q k v 2 (1 + 2/2) = 4, context 2, branches 3 * 2 * ffn/h.
    scenario = gpt(dropout=False, attention="flash_2", **SMALL_LLAMA)
    formula = SBH * (4 + 4 + 4 + 2 + 6 * 2816 / 1024) + 4 * S * B * A
    assert kept(scenario) == pytest.approx(formula, rel=1e-9)


# ------------------------------------------------------------------ the ends of the model


@pytest.mark.parametrize(("sp", "share"), [(False, 1), (True, 8)])
def test_the_embedding_keeps_its_dropout_mask(sp: bool, share: int) -> None:
    assert embedding_activation_bytes(gpt(8, sp)) == SBH / share


def test_without_dropout_the_embedding_keeps_nothing() -> None:
    assert embedding_activation_bytes(gpt(dropout=False)) == 0


def test_only_the_first_stage_holds_masks_of_the_embedding_one_a_micro_batch_in_flight() -> None:
    plan = {"pipeline_parallel": 4}
    scenario = scenario_of({}, plan, {"dropout": True}, {"attention": "flash_2"})
    layer, mask = layer_activation_bytes(scenario, "none"), embedding_activation_bytes(scenario)
    held = memory_of(scenario).by_stage["activations"]
    assert held.tolist() == pytest.approx([4 * (2 * layer + mask), 6 * layer, 4 * layer, 2 * layer])


def test_the_fp32_copy_of_the_logits_goes_with_the_fused_loss() -> None:
    plan, training = {"tensor_parallel": 8}, {"micro_batch": B, "sequence_length": S}
    unfused, fused = (
        logits_bytes(scenario_of({}, plan, training, {"fused_cross_entropy": on}))
        for on in (False, True)
    )
    assert unfused - fused == 4 * S * B * 8192 / 8


@pytest.mark.parametrize(
    ("plan", "in_flight"),
    [
        pytest.param({"schedule": "1f1b"}, 1, id="1f1b"),
        pytest.param({"schedule": "gpipe"}, 8, id="gpipe"),
        pytest.param({"schedule": "interleaved", "virtual_stages": 2}, 1, id="interleaved"),
        pytest.param(
            {"schedule": "interleaved", "virtual_stages": 2, "pipeline_parallel": 8},
            8,
            id="interleaved, as many micro-batches as stages",
        ),
    ],
)
@pytest.mark.parametrize(("fused", "softmax", "passing"), [(False, 4, 4), (True, 2, 2)])
def test_every_micro_batch_in_flight_keeps_its_loss_and_one_has_gradients(
    plan: dict[str, Any], in_flight: int, fused: bool, softmax: int, passing: int
) -> None:
    scenario = scenario_of(
        {"layers": 16},
        {"pipeline_parallel": 4} | plan,
        {"global_batch": 8},
        {"fused_cross_entropy": fused},
    )
    held = memory_of(scenario).by_stage["logits"][-1]
    logits, norm = S * 8192, 2 * 2 * S * H  # input and output of the final norm
    assert held == in_flight * (softmax * logits + norm) + passing * logits


def test_only_the_last_stage_holds_logits() -> None:
    logits = memory_of(scenario_of(parallelism={"pipeline_parallel": 4})).by_stage["logits"]
    assert (logits[:3] == 0).all()
    assert logits[3] > 0


# ------------------------------------------------------------------ stages


def stages_of(recompute: Any = "none", schedule: str = "1f1b", **plan: Any) -> dict[str, Any]:
    scenario = scenario_of(
        {},
        {"pipeline_parallel": 4, "schedule": schedule, **plan},
        {"recompute": recompute},
        {"attention": "fused_softmax"},
    )
    layer = {k: layer_activation_bytes(scenario, k) for k in ("none", "selective", "full")}
    return {**memory_of(scenario).by_stage, **{f"layer_{k}": v for k, v in layer.items()}}


def test_early_stages_hold_more_micro_batches_under_1f1b() -> None:
    memory = stages_of()
    held = memory["activations"] / (2 * memory["layer_none"])
    assert held.tolist() == pytest.approx([4, 3, 2, 1])


def test_under_gpipe_every_stage_holds_all_micro_batches() -> None:
    memory = stages_of(schedule="gpipe")
    assert (memory["activations"] / (2 * memory["layer_none"])).tolist() == pytest.approx([8] * 4)


def test_interleaving_holds_the_share_of_korthikanti_more_on_the_first_stage() -> None:
    memory = stages_of(schedule="interleaved", virtual_stages=2)
    layers = memory["activations"][0] / memory["layer_none"]
    assert layers == pytest.approx(8 * (1 + 3 / (4 * 2)))


def test_layers_that_are_not_recomputed_keep_everything() -> None:
    memory = stages_of({"kind": "full", "layers": 1})
    assert memory["activations"][3] == memory["layer_full"] + memory["layer_none"]


def test_full_recomputation_needs_room_for_one_layer_while_it_runs() -> None:
    memory = stages_of("full")
    assert memory["recompute_buffer"].tolist() == [memory["layer_none"]] * 4


def test_selective_recomputation_needs_room_for_one_core_while_it_runs() -> None:
    memory = stages_of("selective")
    core = memory["layer_none"] - memory["layer_selective"]
    assert memory["recompute_buffer"].tolist() == [core] * 4


# ------------------------------------------------------------------ model states


def states_of(replicas: int = 8, **training: Any) -> tuple[dict[str, Any], float]:
    plan = {"data_parallel": replicas, **training.pop("plan", {})}
    scenario = scenario_of({}, plan, training)
    held = float(chunk_parameters(scenario, split_layers(scenario)).sum())
    memory = memory_of(scenario).by_stage
    return {name: float(memory[name][0]) for name in TERMS}, held


def test_mixed_precision_adam_needs_18_bytes_a_parameter() -> None:
    # 16-bit weight, fp32 gradient, fp32 master weight and two moments.
    memory, held = states_of()
    each = [memory[name] / held for name in ("parameters", "gradients", "optimizer")]
    assert each == [2, 4, 12]


def test_16_bit_gradients_take_half_of_fp32_gradients() -> None:
    memory, held = states_of(grad_dtype="bf16")
    assert memory["gradients"] == 2 * held


def test_zero_1_shares_the_optimizer_out_and_nothing_else() -> None:
    # Rajbhandari et al. 2020, figure 1: 12/N bytes of optimizer state a parameter.
    memory, held = states_of(plan={"zero_stage": 1})
    each = [memory[name] / held for name in ("parameters", "gradients", "optimizer")]
    assert each == [2, 4, 12 / 8]


def test_a_shard_group_shares_the_optimizer_out_over_its_ranks_only() -> None:
    memory, held = states_of(plan={"zero_stage": 1, "optimizer_shard_group": 4})
    assert memory["optimizer"] == 12 * held / 4


# ------------------------------------------------------------------ the sum


def test_the_total_is_the_sum_of_its_terms() -> None:
    terms = memory_of(scenario_of()).terms()
    assert terms.pop("total") == pytest.approx(sum(terms.values()), rel=1e-12)
    assert set(terms) == {*TERMS, "fragmentation", "context"}


def test_a_process_adds_its_context_and_a_share_for_fragments() -> None:
    memory = memory_of(scenario_of())
    live = float(memory.live_bytes[0])
    expected = live * (1 + FRAGMENTATION) + CONTEXT_BYTES
    assert memory.terms()["total"] == pytest.approx(expected, rel=1e-12)
    assert memory.needed_bytes[0] == memory.terms()["total"]


def test_the_worst_stage_is_the_one_that_is_reported() -> None:
    memory = memory_of(scenario_of(parallelism={"pipeline_parallel": 4}))
    totals = [memory.terms(stage)["total"] for stage in range(4)]
    assert memory.terms()["total"] == max(totals)


def test_a_job_fits_until_its_worst_stage_exceeds_the_device() -> None:
    small = memory_of(scenario_of())
    large = memory_of(scenario_of({"hidden": 16384, "ffn": 65536}))
    assert (small.fits, large.fits) == (True, False)


# ------------------------------------------------------------------ published points


def published(identity: str) -> dict[str, Any]:
    """One row of the published training results; only its own lines are parsed."""
    if not PUBLISHED.exists():
        pytest.skip("../shared/published is not beside the repository")
    lines = PUBLISHED.read_text(encoding="utf-8").splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if line.strip() == f"- id: {identity}")
    indent = lines[first].index("-")
    rest = enumerate(lines[first + 1 :], first + 1)
    last = next((i for i, line in rest if line[indent : indent + 1] == "-"), len(lines))
    row: dict[str, Any] = YAML(typ="safe", pure=True).load("".join(lines[first:last]))[0]
    return row


def row_scenario(row: dict[str, Any]) -> Scenario:
    model, parallel = row["model"], row["parallel"]
    return scenario_of(
        {
            "layers": model["layers"],
            "hidden": model["hidden"],
            "ffn": model["ffn"],
            "attention_heads": model["heads"],
            "vocab": model["vocab"],
            "max_positions": model["seq_len"],
        },
        {
            "tensor_parallel": parallel["tp"],
            "pipeline_parallel": parallel["pp"],
            "virtual_stages": parallel["vpp"],
            "sequence_parallel": parallel["sp"],
            "schedule": "interleaved" if parallel["vpp"] > 1 else "1f1b",
        },
        {
            "micro_batch": row["batch"]["micro"],
            "global_batch": row["batch"]["global"],
            "sequence_length": model["seq_len"],
            "dtype": row["precision"],
            "recompute": row["recompute"],
            "dropout": True,
        },
        {"attention": "fused_softmax"},
    )


SIZES = ("22b", "530b", "1t")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("recompute", ["none", "seqsel"])
def test_activations_of_the_first_stage_are_the_published_ones(size: str, recompute: str) -> None:
    row = published(f"seqsel-mem-{size}-{recompute}")
    activations = memory_of(row_scenario(row)).by_stage["activations"][0]
    assert activations / 2**30 == pytest.approx(row["measured"]["memory_activation_gib"], rel=0.03)


@pytest.mark.parametrize("size", SIZES)
def test_model_states_of_a_middle_stage_are_the_published_ones(size: str) -> None:
    # The published figures count the layers only; a middle stage holds nothing else.
    row = published(f"seqsel-mem-{size}-none")
    by_stage = memory_of(row_scenario(row)).by_stage
    states = np.sum([by_stage[name] for name in ("parameters", "gradients", "optimizer")], axis=0)
    middle = states[states.size // 2] / 2**30
    assert middle == pytest.approx(row["measured"]["memory_params_optimizer_gib"], rel=0.04)


@pytest.mark.parametrize("size", ["22b", "175b", "1t"])
def test_each_saving_takes_the_published_share_of_the_activations(size: str) -> None:
    row = published(f"seqsel-memrel-{size}")
    base = row_scenario(row)
    sequence = base.model_copy(
        update={"parallelism": base.parallelism.model_copy(update={"sequence_parallel": True})}
    )
    whole = layer_activation_bytes(base, "none")
    shares = {
        "sequence_parallel": layer_activation_bytes(sequence, "none"),
        "selective": layer_activation_bytes(base, "selective"),
        "selective_sequence_parallel": layer_activation_bytes(sequence, "selective"),
        "full": layer_activation_bytes(base, "full"),
    }
    percent = {name: 100 * share / whole for name, share in shares.items()}
    expected = row["measured"]["activation_pct_of_tp_baseline"]
    assert percent == pytest.approx(expected, rel=0.03)
    assert np.isfinite(list(percent.values())).all()
