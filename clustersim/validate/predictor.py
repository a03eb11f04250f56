"""The simulator as validation asks for it: step time, memory, one layer, without what-ifs."""

from __future__ import annotations

from clustersim.cost.platform import build_platform
from clustersim.cost.program import price_templates
from clustersim.parallel.memory import memory_of
from clustersim.parallel.mesh import build_mesh
from clustersim.parallel.shape import rank_shape
from clustersim.run.prepare import prepare
from clustersim.run.replicate import run_replications
from clustersim.spec.scenario import Scenario
from clustersim.validate.memory import CACHED
from clustersim.workload.layer import layer_backward, layer_forward
from clustersim.workload.operators import Category
from clustersim.workload.program import OpTemplate


class SimulatorPredictor:
    """What validation asks of the simulator; it holds nothing, so any process can have its own."""

    def step_time_s(self, scenario: Scenario) -> float:
        """Median step time over the scenario's replications.

        Parameters
        ----------
        scenario : Scenario
            `run.replications` and its seed are its own.

        Returns
        -------
        float
            [s]
        """
        return run_replications(prepare(scenario)).timeline.step_time_s

    def memory_bytes(self, scenario: Scenario, stage: int | None = None) -> dict[str, float]:
        """Terms of memory of one GPU.

        Parameters
        ----------
        scenario : Scenario
        stage : int, optional
            Pipeline stage from 0; the fullest by default.

        Returns
        -------
        dict
            By name, with their `total`. `cached_blocks` is no part of it, but the device shows it
            as reserved (rule 19). [bytes]
        """
        memory = memory_of(scenario)
        at = memory.worst_stage if stage is None else stage
        return {**memory.terms(at), CACHED: float(memory.cached_blocks[at])}

    def layer_s(self, scenario: Scenario) -> tuple[float, float]:
        """Forward and backward time of one layer.

        Parameters
        ----------
        scenario : Scenario
            A layer of its shape on one rank, alone on the GPU.

        Returns
        -------
        tuple of float
            What is recomputed is in the second. [s]
        """
        shape = rank_shape(scenario)
        templates = [
            OpTemplate("forward", 0, 0, layer_forward(shape), Category.MATMUL),
            OpTemplate(
                "backward",
                0,
                0,
                layer_backward(shape, scenario.training.recompute.kind),
                Category.MATMUL,
            ),
        ]
        platform = build_platform(scenario, build_mesh(scenario))
        forward_s, backward_s = price_templates(templates, platform).alone_s.tolist()
        return forward_s, backward_s
