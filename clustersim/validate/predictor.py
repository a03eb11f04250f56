"""The simulator as the runner of published cases asks for it."""

from __future__ import annotations

from collections.abc import Mapping

from clustersim.cost.platform import build_platform
from clustersim.cost.program import price_program
from clustersim.parallel.memory import memory_of
from clustersim.parallel.mesh import build_mesh
from clustersim.run import simulate
from clustersim.spec.scenario import Scenario
from clustersim.workload.builder import ProgramBuilder
from clustersim.workload.layer import layer_backward, layer_forward
from clustersim.workload.operators import Category
from clustersim.workload.program import COMPUTE
from clustersim.workload.shapes import rank_shape


class SimulatorPredictor:
    """Predicts with this simulator; holds nothing, so that processes can share it."""

    def step_time_s(self, scenario: Scenario) -> float:
        """Median time of one optimizer step. [s]"""
        return simulate(scenario, what_ifs=False).step_time_s

    def memory_bytes(self, scenario: Scenario, stage: int | None = None) -> Mapping[str, float]:
        """Terms of memory of a GPU and their `total`; None is the fullest stage. [bytes]"""
        return memory_of(scenario).terms(stage)

    def layer_s(self, scenario: Scenario) -> tuple[float, float]:
        """Forward and backward time of one layer, recomputation in the latter. [s]"""
        shape = rank_shape(scenario)
        kind = scenario.training.recompute.kind
        build = ProgramBuilder()
        for name, segments in (
            ("forward", layer_forward(shape)),
            ("backward", layer_backward(shape, kind)),
        ):
            build.row(build.template(name, 0, segments, Category.MATMUL), COMPUTE)
        program = build.build(replicas=1, stages=1, chunks=1, micro_batches=1)
        platform = build_platform(scenario, build_mesh(scenario))
        forward_s, backward_s = price_program(program, platform).alone_s.tolist()
        return forward_s, backward_s
