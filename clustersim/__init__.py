"""How fast a cluster would train or serve a model, where the time goes, how far to trust that.

Names are imported when they are first used, so that ``import clustersim`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clustersim.errors import (
        CapacityError,
        ClusterSimError,
        ModelDomainError,
        PlacementError,
        Problem,
        SimulationError,
        SpecError,
        UnitError,
    )
    from clustersim.run import Result, simulate
    from clustersim.run.serving import ServingResult
    from clustersim.spec.resolve import dump_scenario, load_scenario
    from clustersim.spec.scenario import Scenario
    from clustersim.spec.serving import ServingScenario
    from clustersim.validate.runner import validate_files

__version__ = "0.1.0"

_HOMES = {
    "CapacityError": "clustersim.errors",
    "ClusterSimError": "clustersim.errors",
    "ModelDomainError": "clustersim.errors",
    "PlacementError": "clustersim.errors",
    "Problem": "clustersim.errors",
    "Result": "clustersim.run",
    "Scenario": "clustersim.spec.scenario",
    "ServingResult": "clustersim.run.serving",
    "ServingScenario": "clustersim.spec.serving",
    "SimulationError": "clustersim.errors",
    "SpecError": "clustersim.errors",
    "UnitError": "clustersim.errors",
    "dump_scenario": "clustersim.spec.resolve",
    "load_scenario": "clustersim.spec.resolve",
    "simulate": "clustersim.run",
    "validate_files": "clustersim.validate.runner",
}

__all__ = [
    "CapacityError",
    "ClusterSimError",
    "ModelDomainError",
    "PlacementError",
    "Problem",
    "Result",
    "Scenario",
    "ServingResult",
    "ServingScenario",
    "SimulationError",
    "SpecError",
    "UnitError",
    "__version__",
    "dump_scenario",
    "load_scenario",
    "simulate",
    "validate_files",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'clustersim' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
