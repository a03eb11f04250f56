"""The program of a step: its rows, transfers, collectives and updates."""

from __future__ import annotations

from typing import Any

import pytest

from clustersim.parallel.layers import split_layers
from clustersim.parallel.shards import chunk_parameters
from clustersim.spec.scenario import Scenario
from clustersim.workload.operators import Category, Collective
from clustersim.workload.program import COMPUTE, DATA, PIPE, OpTemplate, Program
from clustersim.workload.training import BUCKET_PARAMETERS, MOST_PIECES, build_training_program
from tests.training_scenarios import SMALL_LLAMA, scenario_of

STREAM_BYTES = 512 * 1024 * 2
# Layers of 50 million parameters, each more than one bucket.
WIDE = {"layers": 4, "hidden": 2048, "ffn": 8192}


def interleaved(stages: int, chunks: int, **more: Any) -> dict[str, Any]:
    plan = {"pipeline_parallel": stages, "virtual_stages": chunks}
    return {**plan, "schedule": "interleaved", **more}


def template_of(program: Program, row: int) -> OpTemplate:
    return program.templates[int(program.template[row])]


def rows_of(program: Program, name: str, stage: int | None = None) -> list[int]:
    return [
        row
        for row in range(program.ops)
        if template_of(program, row).name == name and stage in (None, program.stage[row])
    ]


def messages(program: Program, *names: str) -> list[Collective]:
    """Collectives of all rows of these names, row by row."""
    return [
        message
        for row in range(program.ops)
        if template_of(program, row).name in names
        for segment in template_of(program, row).segments
        for message in segment.collectives
    ]


def before(program: Program, row: int) -> list[int]:
    return [int(i) for i in program.dep[program.dep_start[row] : program.dep_start[row + 1]]]


def held(scenario: Scenario) -> list[float]:
    """Parameters of a rank of each stage."""
    return [float(stage.sum()) for stage in chunk_parameters(scenario, split_layers(scenario))]


# ------------------------------------------------------------------ passes and transfers


@pytest.mark.parametrize(
    ("plan", "passes"),
    [({}, 8), ({"pipeline_parallel": 4}, 8), (interleaved(2, 4), 32), (interleaved(4, 2), 16)],
)
def test_every_stage_runs_all_passes_of_all_its_chunks(plan: dict[str, Any], passes: int) -> None:
    program = build_training_program(scenario_of({}, plan))
    for stage in range(program.stages):
        assert len(rows_of(program, "forward", stage)) == passes
        assert len(rows_of(program, "backward", stage)) == passes


@pytest.mark.parametrize("plan", [{"pipeline_parallel": 4}, interleaved(2, 4), interleaved(4, 2)])
def test_every_edge_of_the_model_is_crossed_once_each_way_by_every_micro_batch(
    plan: dict[str, Any],
) -> None:
    program = build_training_program(scenario_of({}, plan))
    edges = program.stages * program.chunks - 1
    assert len(rows_of(program, "send_forward")) == edges * 8
    assert len(rows_of(program, "send_backward")) == edges * 8


def test_one_stage_sends_nothing() -> None:
    program = build_training_program(scenario_of())
    assert not messages(program, "send_forward", "send_backward")


def test_a_transfer_crosses_the_edge_between_its_two_stages() -> None:
    program = build_training_program(scenario_of({}, {"pipeline_parallel": 4}))
    for row in rows_of(program, "send_forward"):
        (message,) = template_of(program, row).segments[0].collectives
        assert message.group == f"pp{program.stage[row]}"
    for row in rows_of(program, "send_backward"):
        (message,) = template_of(program, row).segments[0].collectives
        assert message.group == f"pp{program.stage[row] - 1}"


def test_the_edge_that_closes_the_ring_carries_interleaved_chunks() -> None:
    program = build_training_program(scenario_of({}, interleaved(2, 2)))
    last = [row for row in rows_of(program, "send_forward", 1) if program.chunk[row] == 0]
    assert {template_of(program, row).segments[0].collectives[0].group for row in last} == {"pp1"}


@pytest.mark.parametrize(
    ("sp", "scattered", "sizes"),
    [
        (False, False, [STREAM_BYTES]),
        (True, False, [STREAM_BYTES / 4]),
        (False, True, [STREAM_BYTES / 4, STREAM_BYTES]),
        (True, True, [STREAM_BYTES / 4]),
    ],
)
def test_a_transfer_carries_the_stream_or_this_ranks_share_of_it(
    sp: bool, scattered: bool, sizes: list[float]
) -> None:
    plan = {"tensor_parallel": 4, "pipeline_parallel": 2, "sequence_parallel": sp}
    scenario = scenario_of({}, plan, {}, {"pp_scatter_gather": scattered})
    program = build_training_program(scenario)
    template = template_of(program, rows_of(program, "send_forward")[0])
    carried = [m.bytes for segment in template.segments for m in segment.collectives]
    assert carried == sizes


@pytest.mark.parametrize(("overlap", "kind"), [(False, COMPUTE), (True, PIPE)])
def test_transfers_leave_the_compute_stream_where_they_overlap(overlap: bool, kind: int) -> None:
    plan = {"pipeline_parallel": 2}
    program = build_training_program(scenario_of({}, plan, {}, {"pp_overlap": overlap}))
    rows = rows_of(program, "send_forward") + rows_of(program, "send_backward")
    assert {int(program.stream[row]) % 3 for row in rows} == {kind}


def test_an_overlapped_transfer_waits_for_its_own_pass() -> None:
    program = build_training_program(
        scenario_of({}, {"pipeline_parallel": 2}, {}, {"pp_overlap": True})
    )
    for row in rows_of(program, "send_forward"):
        (sent,) = before(program, row)
        assert template_of(program, sent).name == "forward"
        assert program.micro_batch[sent] == program.micro_batch[row]


def test_only_the_first_stage_embeds_and_only_the_last_computes_logits() -> None:
    program = build_training_program(scenario_of({}, {"pipeline_parallel": 4}))
    for name in ("forward", "backward"):
        for stage in range(4):
            template = template_of(program, rows_of(program, name, stage)[0])
            names = " ".join(k.name for segment in template.segments for k in segment.kernels)
            assert ("embedding" in names) == (stage == 0)
            assert ("logits" in names) == (stage == 3)


def test_a_stage_of_more_layers_repeats_its_segments_more_often() -> None:
    plan = {"pipeline_parallel": 2, "layers_per_chunk": (3, 5)}
    program = build_training_program(scenario_of({}, plan))
    repeats = []
    for stage in range(2):
        template = template_of(program, rows_of(program, "backward", stage)[0])
        qkv = [s.repeat for s in template.segments if any("qkv" in k.name for k in s.kernels)]
        repeats.append(set(qkv))
    assert repeats == [{3}, {5}]


def test_only_as_many_layers_as_asked_for_are_recomputed() -> None:
    training = {"recompute": {"kind": "full", "layers": 3}}
    program = build_training_program(scenario_of({}, {}, training))
    template = template_of(program, rows_of(program, "backward")[0])
    again = {
        s.repeat for s in template.segments for k in s.kernels if k.category is Category.RECOMPUTE
    }
    assert again == {3}


# ------------------------------------------------------------------ gradients and parameters


def test_one_replica_reduces_and_gathers_nothing() -> None:
    plan = {"data_parallel": 1, "zero_stage": 1, "tensor_parallel": 2}
    features = {"dp_overlap_reduce": True, "dp_overlap_gather": True}
    program = build_training_program(scenario_of(SMALL_LLAMA, plan, {}, features))
    names = {template.name for template in program.templates}
    categories = {message.category for message in messages(program, *names)}
    assert categories == {Category.TP_COMM, Category.OPTIMIZER}


@pytest.mark.parametrize(("wire", "width"), [("fp32", 4), ("bf16", 2)])
def test_every_stage_reduces_its_own_gradients_once(wire: str, width: int) -> None:
    plan = {"pipeline_parallel": 2, "data_parallel": 4}
    scenario = scenario_of({}, plan, {"comm_dtype": wire})
    sent = messages(build_training_program(scenario), "grad_reduce")
    assert [(m.collective, m.group) for m in sent] == [("all_reduce", "dp")] * 2
    assert [m.bytes for m in sent] == [width * parameters for parameters in held(scenario)]


def test_zero_1_scatters_gradients_and_gathers_parameters() -> None:
    scenario = scenario_of({}, {"data_parallel": 4, "zero_stage": 1})
    program = build_training_program(scenario)
    (reduced,), (gathered,) = messages(program, "grad_reduce"), messages(program, "param_gather")
    (parameters,) = held(scenario)
    assert (reduced.collective, reduced.bytes) == ("reduce_scatter", 4 * parameters)
    assert (gathered.collective, gathered.bytes) == ("all_gather", 2 * parameters)


def test_owners_in_a_shard_group_reduce_over_all_and_gather_within_the_group() -> None:
    plan = {"data_parallel": 4, "zero_stage": 1, "optimizer_shard_group": 2}
    program = build_training_program(scenario_of({}, plan))
    (reduced,), (gathered,) = messages(program, "grad_reduce"), messages(program, "param_gather")
    assert (reduced.collective, reduced.group) == ("all_reduce", "dp")
    assert (gathered.collective, gathered.group) == ("all_gather", "shard")


@pytest.mark.parametrize("plan", [{}, {"pipeline_parallel": 2}, interleaved(2, 2)])
def test_overlapped_buckets_add_up_to_all_gradients_and_all_parameters(
    plan: dict[str, Any],
) -> None:
    features = {"dp_overlap_reduce": True, "dp_overlap_gather": True}
    plan = {**plan, "data_parallel": 4, "zero_stage": 1}
    scenario = scenario_of(WIDE, plan, {}, features)
    program = build_training_program(scenario)
    for name, width in (("grad_reduce", 4), ("param_gather", 2)):
        size = sum(message.bytes for message in messages(program, name))
        assert size == pytest.approx(width * sum(held(scenario)), rel=1e-12)


def test_a_stage_without_layers_reduces_and_gathers_its_end_of_the_model() -> None:
    features = {"dp_overlap_reduce": True, "dp_overlap_gather": True}
    plan = {"pipeline_parallel": 2, "layers_per_chunk": (8, 0), "data_parallel": 2, "zero_stage": 1}
    scenario = scenario_of({}, plan, {}, features)
    program = build_training_program(scenario)
    for name, width in (("grad_reduce", 4), ("param_gather", 2)):
        (row,) = rows_of(program, name, 1)
        (message,) = template_of(program, row).segments[0].collectives
        assert message.bytes == width * held(scenario)[1]


def test_overlapped_collectives_run_on_a_stream_of_their_own_and_others_on_compute() -> None:
    for overlap, kind in ((True, DATA), (False, COMPUTE)):
        features = {"dp_overlap_reduce": overlap, "dp_overlap_gather": overlap}
        plan = {"data_parallel": 4, "zero_stage": 1}
        program = build_training_program(scenario_of(WIDE, plan, {}, features))
        rows = rows_of(program, "grad_reduce") + rows_of(program, "param_gather")
        assert {int(program.stream[row]) % 3 for row in rows} == {kind}
        assert {template_of(program, row).overlapped for row in rows} == {overlap}


def test_a_bucket_never_cuts_a_layer() -> None:
    plan = {"data_parallel": 2}
    scenario = scenario_of(WIDE, plan, {}, {"dp_overlap_reduce": True})
    (parameters,) = held(scenario)
    buckets = len(rows_of(build_training_program(scenario), "grad_reduce"))
    assert buckets == 4 < parameters / BUCKET_PARAMETERS


def test_a_chunk_is_cut_into_buckets_of_at_most_40_million_parameters() -> None:
    # 8 layers of 12.6 million parameters and a table of 8.9 million: 109.7 million.
    scenario = scenario_of({}, {"data_parallel": 2}, {}, {"dp_overlap_reduce": True})
    assert len(rows_of(build_training_program(scenario), "grad_reduce")) == 3


def test_a_large_chunk_is_cut_into_a_bounded_number_of_buckets() -> None:
    shape = {**WIDE, "layers": 24}
    scenario = scenario_of(shape, {"data_parallel": 2}, {}, {"dp_overlap_reduce": True})
    buckets = rows_of(build_training_program(scenario), "grad_reduce")
    assert len(buckets) == MOST_PIECES


def test_only_the_last_backward_pass_is_cut_into_pieces() -> None:
    scenario = scenario_of(WIDE, {"data_parallel": 2}, {}, {"dp_overlap_reduce": True})
    program = build_training_program(scenario)
    batches = [int(program.micro_batch[row]) for row in rows_of(program, "backward")]
    assert batches == [0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7]


def test_under_gpipe_the_pass_that_is_cut_is_the_first_micro_batch() -> None:
    plan = {"data_parallel": 2, "schedule": "gpipe"}
    program = build_training_program(scenario_of(WIDE, plan, {}, {"dp_overlap_reduce": True}))
    batches = [int(program.micro_batch[row]) for row in rows_of(program, "backward")]
    assert batches == [7, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0]


def test_only_the_first_forward_pass_is_cut_and_each_piece_waits_for_its_parameters() -> None:
    plan = {"data_parallel": 2, "zero_stage": 1}
    program = build_training_program(scenario_of(WIDE, plan, {}, {"dp_overlap_gather": True}))
    forward = rows_of(program, "forward")
    assert [int(program.micro_batch[row]) for row in forward] == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7]
    assert [before(program, row) for row in forward[:4]] == [
        [gather] for gather in rows_of(program, "param_gather")
    ]


def test_the_last_layers_are_reduced_first() -> None:
    scenario = scenario_of(WIDE, {"data_parallel": 2}, {}, {"dp_overlap_reduce": True})
    program = build_training_program(scenario)
    first, *_, last = rows_of(program, "grad_reduce")
    (behind_first,), (behind_last,) = before(program, first), before(program, last)
    names = [
        {k.name for s in template_of(program, row).segments for k in s.kernels}
        for row in (behind_first, behind_last)
    ]
    assert "logits_wgrad" in names[0] - names[1]
    assert "embedding_backward" in names[1] - names[0]


# ------------------------------------------------------------------ the end of the step


def test_tied_tables_on_two_stages_add_up_their_gradients() -> None:
    plan = {"tensor_parallel": 2, "pipeline_parallel": 2}
    program = build_training_program(scenario_of({}, plan))
    (message,) = messages(program, "embedding_sync")
    assert (message.collective, message.group) == ("all_reduce", "embedding")
    assert message.bytes == 8192 / 2 * 1024 * 4


@pytest.mark.parametrize(
    ("model", "stages"), [({}, 1), ({"tied_embeddings": False}, 2), (SMALL_LLAMA, 4)]
)
def test_tables_that_are_not_shared_are_not_added_up(model: dict[str, Any], stages: int) -> None:
    program = build_training_program(scenario_of(model, {"pipeline_parallel": stages}))
    assert not rows_of(program, "embedding_sync")


def test_the_tables_are_added_up_after_the_backward_passes_of_both_stages() -> None:
    program = build_training_program(scenario_of({}, {"pipeline_parallel": 4}))
    (row,) = rows_of(program, "embedding_sync")
    last = {rows_of(program, "backward", 3)[-1] + 1, rows_of(program, "backward", 0)[-1]}
    assert last <= set(before(program, row))


def test_the_tables_are_added_up_after_both_stages_reduced_over_their_replicas() -> None:
    plan = {"pipeline_parallel": 4, "data_parallel": 2}
    program = build_training_program(scenario_of({}, plan, {}, {"dp_overlap_reduce": True}))
    (row,) = rows_of(program, "embedding_sync")
    reduced = {*rows_of(program, "grad_reduce", 0), *rows_of(program, "grad_reduce", 3)}
    assert reduced <= set(before(program, row))


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("overlap", [False, True])
def test_no_stage_updates_before_all_stages_are_done(replicas: int, overlap: bool) -> None:
    plan = {"pipeline_parallel": 4, "data_parallel": replicas}
    features = {"dp_overlap_reduce": overlap}
    program = build_training_program(scenario_of(SMALL_LLAMA, plan, {}, features))
    for row in rows_of(program, "gradient_norm"):
        waited = before(program, row)
        assert {int(program.stage[other]) for other in waited} == {0, 1, 2, 3}


def test_every_stage_updates_after_its_norm() -> None:
    program = build_training_program(scenario_of({}, {"pipeline_parallel": 2}))
    norms, updates = rows_of(program, "gradient_norm"), rows_of(program, "optimizer")
    assert len(norms) == len(updates) == 2
    for norm, update in zip(norms, updates, strict=True):
        assert program.stream[norm] == program.stream[update]
        assert norm < update


@pytest.mark.parametrize(("dtype", "numbers"), [("bf16", 1), ("fp16", 2)])
def test_fp16_asks_all_ranks_for_overflow_as_well(dtype: str, numbers: int) -> None:
    scenario = scenario_of({}, {"tensor_parallel": 2}, {"dtype": dtype})
    sent = messages(build_training_program(scenario), "gradient_norm")
    assert [(m.collective, m.group, m.bytes) for m in sent] == [
        ("all_reduce", "world", 4)
    ] * numbers


def test_one_gpu_asks_nobody_for_the_norm() -> None:
    assert not messages(build_training_program(scenario_of()), "gradient_norm")


def test_zero_1_shares_out_the_update() -> None:
    bytes_ = []
    for zero in (0, 1):
        program = build_training_program(scenario_of({}, {"data_parallel": 4, "zero_stage": zero}))
        (row,) = rows_of(program, "optimizer")
        kernels = template_of(program, row).segments[0].kernels
        bytes_.append({kernel.name: kernel.bytes for kernel in kernels}["adam"])
    assert bytes_[0] == 4 * bytes_[1]


def test_replicas_meet_only_for_gradients_parameters_and_the_norm() -> None:
    plan = {"pipeline_parallel": 2, "data_parallel": 2, "zero_stage": 1}
    program = build_training_program(scenario_of({}, plan))
    names = {template_of(program, int(row)).name for row in program.rendezvous.nonzero()[0]}
    assert names == {"grad_reduce", "param_gather", "gradient_norm"}


def test_a_lonely_replica_meets_nobody() -> None:
    assert not build_training_program(scenario_of()).rendezvous.any()


def test_the_host_works_once_a_step_on_every_stage_before_anything_else() -> None:
    program = build_training_program(scenario_of({}, {"pipeline_parallel": 4}))
    for stage in range(4):
        first = min(row for row in range(program.ops) if program.stage[row] == stage)
        assert rows_of(program, "host", stage) == [first]
