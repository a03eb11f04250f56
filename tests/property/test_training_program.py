"""Laws of the program of a training step, over many plans."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.model.transformer import attention_weights, mlp_weights
from clustersim.spec.scenario import Scenario
from clustersim.workload.operators import Category
from clustersim.workload.program import COMPUTE, OpTemplate, Program
from clustersim.workload.training import build_training_program
from tests.training_scenarios import SMALL_GPT, SMALL_LLAMA, scenario_of

MICRO_BATCHES = 4


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Plans of every schedule, with and without each overlap."""
    schedule = draw(st.sampled_from(["gpipe", "1f1b", "interleaved"]))
    stages = draw(st.sampled_from([2, 4] if schedule == "interleaved" else [1, 2, 4]))
    chunks = 2 if schedule == "interleaved" else 1
    replicas = draw(st.sampled_from([1, 2]))
    layers = draw(st.lists(st.integers(0, 3), min_size=stages * chunks, max_size=stages * chunks))
    layers[draw(st.integers(0, len(layers) - 1))] += 1
    shape = draw(st.sampled_from([SMALL_GPT, SMALL_LLAMA]))
    return scenario_of(
        {**shape, "layers": sum(layers), "vocab": draw(st.sampled_from([8192, 131072]))},
        {
            "tensor_parallel": draw(st.sampled_from([1, 2])),
            "pipeline_parallel": stages,
            "data_parallel": replicas,
            "virtual_stages": chunks,
            "schedule": schedule,
            "layers_per_chunk": tuple(layers),
            "zero_stage": draw(st.sampled_from([0, 1])),
        },
        {
            "global_batch": MICRO_BATCHES * replicas,
            "recompute": draw(st.sampled_from(["none", "full", {"kind": "full", "layers": 2}])),
        },
        {
            "attention": "flash_2",
            "pp_overlap": draw(st.booleans()),
            "dp_overlap_reduce": draw(st.booleans()),
            "dp_overlap_gather": draw(st.booleans()),
        },
    )


def names(program: Program) -> list[str]:
    return [program.templates[template].name for template in program.template]


def predecessors(program: Program) -> list[list[int]]:
    """Dependencies of each row, and the row before it on its stream."""
    before = [
        program.dep[program.dep_start[row] : program.dep_start[row + 1]].tolist()
        for row in range(program.ops)
    ]
    latest: dict[int, int] = {}
    for row, stream in enumerate(program.stream.tolist()):
        if stream in latest:
            before[row].append(latest[stream])
        latest[stream] = row
    return before


@lru_cache(maxsize=512)
def _flop(template: OpTemplate, category: Category) -> float:
    return sum(
        kernel.flop * kernel.launches * segment.repeat
        for segment in template.segments
        for kernel in segment.kernels
        if kernel.category is category
    )


def flop(program: Program, category: Category) -> float:
    """Arithmetic of one rank of each stage together."""
    return sum(_flop(program.templates[template], category) for template in program.template)


@settings(max_examples=60, deadline=None)
@given(scenarios())
def test_no_row_waits_for_itself_around_a_circle(scenario: Scenario) -> None:
    program = build_training_program(scenario)
    before = predecessors(program)
    left = [len(rows) for rows in before]
    after: list[list[int]] = [[] for _ in before]
    for row, rows in enumerate(before):
        for other in rows:
            after[other].append(row)
    free = [row for row, count in enumerate(left) if count == 0]
    placed = 0
    while free:
        placed += 1
        for row in after[free.pop()]:
            left[row] -= 1
            if left[row] == 0:
                free.append(row)
    assert placed == program.ops


@settings(max_examples=60, deadline=None)
@given(scenarios())
def test_every_pass_waits_for_the_transfer_of_the_pass_before_it_in_the_model(
    scenario: Scenario,
) -> None:
    program = build_training_program(scenario)
    name, stages = names(program), program.stages
    consumers: Counter[int] = Counter()
    for row in range(program.ops):
        for other in program.dep[program.dep_start[row] : program.dep_start[row + 1]].tolist():
            if not (name[other].startswith("send_") and name[row] in ("forward", "backward")):
                continue
            step = 1 if name[row] == "forward" else -1
            assert name[other] == f"send_{name[row]}"
            assert program.micro_batch[other] == program.micro_batch[row]
            sender = program.chunk[other] * stages + program.stage[other]
            assert program.chunk[row] * stages + program.stage[row] == sender + step
            consumers[other] += 1
    sends = [row for row in range(program.ops) if name[row].startswith("send_")]
    assert consumers == Counter(sends)


@settings(max_examples=60, deadline=None)
@given(scenarios())
def test_products_of_a_step_multiply_every_weight_three_times_with_every_token(
    scenario: Scenario,
) -> None:
    # However passes are cut into pieces: forward, input gradient and weight gradient.
    program, model = build_training_program(scenario), scenario.model
    weights = model.layers * (attention_weights(model) + mlp_weights(model))
    tokens = MICRO_BATCHES * 512
    expected = 6.0 * (weights + model.padded_vocab * model.hidden) * tokens
    group = scenario.parallelism.tensor_parallel
    assert np.isclose(group * flop(program, Category.MATMUL), expected, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(scenarios())
def test_recomputation_adds_the_forward_products_of_the_layers_it_was_asked_for(
    scenario: Scenario,
) -> None:
    recompute, model = scenario.training.recompute, scenario.model
    listed = np.array(scenario.parallelism.layers_per_chunk).reshape(
        -1, scenario.parallelism.pipeline_parallel
    )
    each = np.inf if recompute.layers is None else recompute.layers
    layers = np.minimum(listed.sum(axis=0), each).sum() if recompute.kind == "full" else 0
    program = build_training_program(scenario)
    again = [k for k in _kernels(program, "qkv") if k == Category.RECOMPUTE]
    assert len(again) == MICRO_BATCHES * layers
    assert model.layers * MICRO_BATCHES == len(_kernels(program, "qkv")) - len(again)


def _kernels(program: Program, name: str) -> list[Any]:
    """Category of each run of a kernel, over all rows."""
    return [
        kernel.category
        for template in program.template
        for segment in program.templates[template].segments
        for kernel in segment.kernels
        if kernel.name == name
        for _ in range(segment.repeat)
    ]


@settings(max_examples=60, deadline=None)
@given(scenarios())
def test_pieces_of_a_pass_follow_each_other_on_the_compute_stream(scenario: Scenario) -> None:
    program = build_training_program(scenario)
    name = names(program)
    for row in range(program.ops):
        if name[row] in ("forward", "backward"):
            assert program.stream[row] == 3 * program.stage[row] + COMPUTE
    for stage in range(program.stages):
        on_stream = [
            (name[row], int(program.chunk[row]), int(program.micro_batch[row]))
            for row in np.flatnonzero(program.stream == 3 * stage + COMPUTE)
            if name[row] in ("forward", "backward")
        ]
        runs = [key for i, key in enumerate(on_stream) if i == 0 or on_stream[i - 1] != key]
        assert len(runs) == len(set(runs)) == 2 * MICRO_BATCHES * program.chunks


@settings(max_examples=60, deadline=None)
@given(scenarios())
def test_every_gradient_is_reduced_before_any_stage_updates(scenario: Scenario) -> None:
    program = build_training_program(scenario)
    name = names(program)
    reduced = {row for row in range(program.ops) if name[row] == "grad_reduce"}
    assert bool(reduced) == (scenario.data_parallel > 1)
    for row in range(program.ops):
        if name[row] == "gradient_norm":
            waited = program.dep[program.dep_start[row] : program.dep_start[row + 1]]
            assert reduced <= set(waited.tolist())
