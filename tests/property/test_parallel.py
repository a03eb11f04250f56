"""Laws of meshes, layers and schedules."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.parallel.mesh import Mesh
from clustersim.parallel.schedule import StageOrder, peak_in_flight, stage_order
from clustersim.parallel.speeds import fold_replicas
from clustersim.spec.scenario import Schedule

degrees = st.integers(1, 6)
meshes = st.builds(Mesh, degrees, degrees, degrees, st.just(8))


@st.composite
def shapes(draw: st.DrawFn) -> tuple[Schedule, int, int, int]:
    """A schedule with its stages, chunks and micro-batches."""
    schedule: Schedule = draw(st.sampled_from(["gpipe", "1f1b", "interleaved"]))
    stages = draw(st.integers(2, 5))
    if schedule != "interleaved":
        return schedule, stages, 1, draw(st.integers(1, 9))
    return schedule, stages, draw(st.integers(2, 4)), stages * draw(st.integers(1, 3))


def orders(shape: tuple[Schedule, int, int, int]) -> list[StageOrder]:
    schedule, stages, chunks, micro_batches = shape
    return [stage_order(schedule, s, stages, chunks, micro_batches) for s in range(stages)]


def passes(order: StageOrder) -> list[tuple[bool, int, int]]:
    return list(
        zip(order.backward.tolist(), order.chunk.tolist(), order.micro_batch.tolist(), strict=True)
    )


@given(meshes)
def test_tensor_groups_partition_the_ranks(mesh: Mesh) -> None:
    stages, replicas = range(mesh.pipeline_parallel), range(mesh.data_parallel)
    groups = [mesh.tensor_group(s, r) for s in stages for r in replicas]
    assert sorted(np.concatenate(groups)) == list(range(mesh.ranks))


@given(meshes)
def test_data_groups_partition_the_ranks(mesh: Mesh) -> None:
    stages, members = range(mesh.pipeline_parallel), range(mesh.tensor_parallel)
    groups = [mesh.data_group(s, m) for s in stages for m in members]
    assert sorted(np.concatenate(groups)) == list(range(mesh.ranks))


@given(meshes)
def test_a_tensor_and_a_data_group_share_one_rank_within_a_stage(mesh: Mesh) -> None:
    stage = mesh.pipeline_parallel - 1
    for replica in range(mesh.data_parallel):
        for member in range(mesh.tensor_parallel):
            shared = np.intersect1d(
                mesh.tensor_group(stage, replica), mesh.data_group(stage, member)
            )
            assert shared.tolist() == [mesh.rank_grid()[stage, replica, member]]


@given(shapes())
def test_every_pass_runs_exactly_once_on_every_stage(
    shape: tuple[Schedule, int, int, int],
) -> None:
    _, _, chunks, micro_batches = shape
    every = {(b, c, m) for b in (False, True) for c in range(chunks) for m in range(micro_batches)}
    for order in orders(shape):
        assert Counter(passes(order)) == Counter(every)


@given(shapes())
def test_forward_comes_before_backward_of_the_same_chunk_and_micro_batch(
    shape: tuple[Schedule, int, int, int],
) -> None:
    for order in orders(shape):
        place = {each: i for i, each in enumerate(passes(order))}
        assert all(
            place[False, chunk, batch] < place[True, chunk, batch]
            for backward, chunk, batch in place
            if backward
        )


@given(shapes())
def test_no_stage_waits_for_a_pass_that_waits_for_it(shape: tuple[Schedule, int, int, int]) -> None:
    _, stages, chunks, _ = shape
    queues = [passes(order)[::-1] for order in orders(shape)]
    done: set[tuple[bool, int, int]] = set()  # backward, position in the model, micro-batch
    moved = True
    while moved:
        moved = False
        for stage, queue in enumerate(queues):
            while queue:
                backward, chunk, batch = queue[-1]
                position = chunk * stages + stage
                before = position + (1 if backward else -1)
                inside = 0 <= before < stages * chunks
                if inside and (backward, before, batch) not in done:
                    break
                queue.pop()
                done.add((backward, position, batch))
                moved = True
    assert not any(queues)


@given(shapes())
def test_peak_in_flight_is_the_most_that_are_between_forward_and_backward(
    shape: tuple[Schedule, int, int, int],
) -> None:
    for order in orders(shape):
        live: set[tuple[int, int]] = set()
        most = 0
        for backward, chunk, batch in passes(order):
            (live.discard if backward else live.add)((chunk, batch))
            most = max(most, len(live))
        assert peak_in_flight(order, shape[2]).sum() == most


@given(shapes())
def test_later_stages_never_hold_more(shape: tuple[Schedule, int, int, int]) -> None:
    held = [int(peak_in_flight(order, shape[2]).sum()) for order in orders(shape)]
    assert held == sorted(held, reverse=True)


@settings(max_examples=50)
@given(st.integers(1, 4), st.lists(st.sampled_from([1.0, 1.1, 1.2]), min_size=1, max_size=12))
def test_unfolded_classes_are_the_replicas_they_came_from(stages: int, speeds: list[float]) -> None:
    stage_factor = np.array([np.roll(speeds, stage) for stage in range(stages)])
    factor, multiplicity, first = fold_replicas(stage_factor)
    assert multiplicity.sum() == len(speeds)
    assert np.array_equal(stage_factor[:, first], factor)
    columns = Counter(map(tuple, stage_factor.T.tolist()))
    classes = dict(zip(map(tuple, factor.T.tolist()), multiplicity.tolist(), strict=True))
    assert classes == columns
