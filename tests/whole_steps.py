"""Random small plans of the real training program, priced, for tests of a whole step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from clustersim.cost.program import ProgramCosts
from clustersim.parallel.mesh import Mesh
from clustersim.parallel.speeds import draw_speeds
from clustersim.run.prepare import Draw, Prepared, prepare
from clustersim.spec.resolve import load_device
from clustersim.spec.scenario import Scenario
from clustersim.workload.operators import Category
from clustersim.workload.streams import named_rng
from tests.programs import Row, build_program
from tests.training_scenarios import SMALL_GPT, SMALL_LLAMA, scenario_of

OVERLAPS = ("tp_overlap", "wgrad_overlap", "pp_overlap", "dp_overlap_reduce", "dp_overlap_gather")


def small_step(
    model: Mapping[str, Any] | None = None,
    parallelism: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    features: Mapping[str, Any] | None = None,
    fleet: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
) -> Scenario:
    """`scenario_of` on a device of the catalogue, so that it can be priced."""
    scenario = scenario_of(model, parallelism, training, features, fleet)
    node = scenario.cluster.node.model_copy(update={"device": load_device("a100_sxm_80gb")})
    cluster = scenario.cluster.model_copy(update={"node": node})
    how = scenario.run.model_copy(update=dict(run or {}))
    return scenario.model_copy(update={"cluster": cluster, "run": how})


@st.composite
def plans(draw: st.DrawFn, noise: bool = True) -> Scenario:
    """Plans of every schedule, with and without each overlap, some with stragglers or noise."""
    stages = draw(st.integers(1, 4))
    chunks = draw(st.integers(1, 3)) if stages > 1 else 1
    plain = st.sampled_from(["gpipe", "1f1b"])
    replicas, width = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2]))
    micro_batches = stages * draw(st.integers(1, 2))
    shape = draw(st.sampled_from([SMALL_GPT, SMALL_LLAMA]))
    layers = stages * chunks * draw(st.integers(1, 2))
    ranks = stages * replicas * width
    fleet: dict[str, Any] = {
        "slowdowns": draw(
            st.dictionaries(st.integers(0, ranks - 1), st.floats(0.0, 0.5), max_size=3)
        )
    }
    if noise:
        fleet["kernel_jitter"] = draw(st.sampled_from([0.0, 0.05]))
        fleet["speed_spread"] = draw(st.sampled_from([0.0, 0.03]))
    return small_step(
        {**shape, "layers": layers, "vocab": draw(st.sampled_from([8192, 131072]))},
        {
            "tensor_parallel": width,
            "pipeline_parallel": stages,
            "data_parallel": replicas,
            "virtual_stages": chunks,
            "sequence_parallel": width > 1 and draw(st.booleans()),
            "schedule": "interleaved" if chunks > 1 else draw(plain),
            "zero_stage": draw(st.sampled_from([0, 1])),
        },
        {
            "global_batch": micro_batches * replicas,
            "recompute": draw(st.sampled_from(["none", "selective", "full"])),
        },
        {name: draw(st.booleans()) for name in OVERLAPS},
        fleet,
        {"replications": 3, "seed": draw(st.integers(0, 3))},
    )


def unfolded(prepared: Prepared) -> Draw:
    """The first draw of a fleet without noise, every replica a class of its own."""
    scenario = prepared.scenario
    speeds = draw_speeds(scenario.fleet, prepared.mesh, named_rng(scenario.run.seed, "speeds", 0))
    every = np.arange(prepared.mesh.data_parallel, dtype=np.int64)
    return Draw(speeds.rank_factor, speeds.stage_factor, np.ones_like(every), every)


def one_op_step(
    fleet: Mapping[str, Any],
    width: int,
    replicas: int,
    replications: int,
    compute_s: float = 1.0,
    syncs: int = 1,
) -> Prepared:
    """One op that every replica runs and ends together: the slowest of all GPUs sets its time."""
    scenario = small_step(
        None,
        {"tensor_parallel": width, "data_parallel": replicas},
        None,
        None,
        fleet,
        {"replications": replications, "engine": "event"},
    )
    program = build_program([Row(rendezvous=True)], replicas)
    by_category = np.zeros((1, len(Category)))
    by_category[0, list(Category).index(Category.MATMUL)] = compute_s
    costs = ProgramCosts(
        compute_s=np.array([compute_s]),
        fixed_s=np.zeros(1),
        by_category=by_category,
        peak_s=np.array([compute_s]),
        drag=np.zeros(1),
        syncs=np.array([syncs]),
    )
    mesh = Mesh(width, replicas, 1, 8)
    return Prepared(scenario, mesh, program, platform=prepare(small_step()).platform, costs=costs)


def wider(prepared: Prepared, width: int, replicas: int, fleet: Mapping[str, Any]) -> Prepared:
    """The same priced work per GPU over more ranks of a noisy fleet."""
    scenario = prepared.scenario
    noisy = scenario.fleet.model_copy(update=dict(fleet))
    mesh = replace(prepared.mesh, tensor_parallel=width, data_parallel=replicas)
    return replace(
        prepared,
        scenario=scenario.model_copy(update={"fleet": noisy}),
        mesh=mesh,
        program=replace(prepared.program, replicas=replicas),
    )
