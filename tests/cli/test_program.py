"""The installed program: it starts at once, and its package lists what is public."""

from __future__ import annotations

import subprocess
import sys

import pytest

import clustersim

HEAVY = ("numpy", "numba", "simpy", "pandas", "pyarrow", "orjson", "ruamel", "networkx", "rich")


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from clustersim.cli.app import app\n"
        "try:\n    app(['run', '--help'], prog_name='clustersim')\n"
        "except SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
    )
    result = python("-c", code)
    assert "SCENARIO" in result.stdout
    assert result.stderr.strip().endswith("[]")


def test_module_runs_as_the_program():
    result = python("-m", "clustersim", "version")
    assert result.stdout.strip() == f"clustersim {clustersim.__version__}"
    assert result.returncode == 0


def test_small_runs_never_load_numba():
    code = (
        "import sys, clustersim\n"
        "clustersim.simulate(clustersim.load_scenario('smallest'))\n"
        "print([name for name in ('numba', 'pandas', 'pyarrow', 'rich') if name in sys.modules])\n"
    )
    assert python("-c", code).stdout.strip() == "[]"


def test_public_names_are_these():
    assert clustersim.__all__ == [
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


@pytest.mark.parametrize("name", clustersim.__all__)
def test_every_public_name_is_there(name):
    assert getattr(clustersim, name) is not None
    assert name in dir(clustersim)


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'sweep'"):
        _ = clustersim.sweep
