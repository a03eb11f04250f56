"""Minimal published rows, a small catalogue and a predictor of round numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from clustersim.errors import SpecError
from clustersim.spec.device import Device
from clustersim.spec.fleet import Fleet
from clustersim.spec.scenario import Scenario
from clustersim.validate.cases import Case, CaseFile, read_case_file
from clustersim.validate.rules import Catalogue

SHARED = Path(__file__).parents[3] / ".." / "shared"
TRAINING = SHARED / "published" / "training.yaml"

Changes = Mapping[str, Any]


def _device(name: str, architecture: str, link: str, tflops: float) -> Device:
    return Device.model_validate(
        {
            "name": name,
            "title": name,
            "vendor": "any",
            "architecture": architecture,
            "memory": 80 * 2.0**30,
            "memory_bandwidth": 2e12,
            "l2_cache": 40e6,
            "sms": 100,
            "boost_clock": 1.4e9,
            "matrix_peak": {"fp16": tflops * 1e12, "bf16": tflops * 1e12},
            "vector_peak": 2e13,
            "power_limit": 400.0,
            "scale_up_link": link,
            "scale_up_bandwidth": 300e9,
            "pcie_bandwidth": 32e9,
            "profile": name,
            "sources": {},
        }
    )


DEVICES = {
    "a100_sxm_80gb": _device("a100_sxm_80gb", "ampere", "nvlink3", 312),
    "a100_pcie_80gb": _device("a100_pcie_80gb", "ampere", "pcie4", 312),
    "v100_sxm2_32gb": _device("v100_sxm2_32gb", "volta", "nvlink2", 125),
    "h100_sxm_80gb": _device("h100_sxm_80gb", "hopper", "nvlink4", 989),
    "b200_sxm_180gb": _device("b200_sxm_180gb", "blackwell", "nvlink5", 2250),
}


def _load_device(name: str) -> Device:
    if name not in DEVICES:
        raise SpecError(f"no device {name}")
    return DEVICES[name]


class RoundNumbers:
    """Predicts 1 s a sequence and replica, and memory that grows with micro-batch."""

    def step_time_s(self, scenario: Scenario) -> float:
        return float(scenario.micro_batches * scenario.training.micro_batch)

    def memory_bytes(self, scenario: Scenario, stage: int | None = None) -> Mapping[str, float]:
        kept = {"none": 4.0, "selective": 2.0, "full": 1.0}[scenario.training.recompute.kind]
        activations = kept * scenario.training.micro_batch * 2.0**30
        if scenario.parallelism.sequence_parallel:
            activations /= 2
        terms = {"parameters": 2.0**30, "optimizer": 3 * 2.0**30, "activations": activations}
        terms["workspace"] = 2.0**30
        return {**terms, "context": 2.0**31, "total": sum(terms.values()) + 2.0**31}

    def layer_s(self, scenario: Scenario) -> tuple[float, float]:
        return 0.007, 0.012


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue(_load_device, Fleet(name="production"))


@pytest.fixture
def predictor() -> RoundNumbers:
    return RoundNumbers()


def _merge(base: dict[str, Any], changes: Changes) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        both = isinstance(value, dict) and isinstance(inner, dict)
        merged[key] = _merge(inner, value) if both else value
    return merged


def make_case(changes: Changes | None = None) -> Case:
    """A small GPT on two nodes of A100, with some keys replaced."""
    base: dict[str, Any] = {
        "id": "row",
        "kind": "training",
        "source": {"title": "A paper (Conf 2023)", "url": None, "table": "Table 1"},
        "software": {"name": "megatron_lm", "version": None},
        "device": "A100-SXM-80GB",
        "gpus": 16,
        "gpus_per_node": 8,
        "interconnect": {
            "intra": "NVLink3+NVSwitch",
            "intra_gbytes_per_s": 300,
            "nvlink_domain_gpus": 8,
            "inter": "InfiniBand HDR",
            "nic_count": 8,
            "nic_gbps": 200,
        },
        "model": {
            "layers": 8,
            "hidden": 1024,
            "ffn": 4096,
            "heads": 8,
            "kv_heads": 8,
            "vocab": 51200,
            "padded_vocab_to": 1024,
            "seq_len": 2048,
            "gated_mlp": False,
            "moe": None,
        },
        "parallel": {
            "tp": 2,
            "pp": 2,
            "vpp": 1,
            "dp": 4,
            "cp": 1,
            "ep": 1,
            "sp": False,
            "zero": 0,
        },
        "schedule": "1f1b",
        "batch": {"micro": 2, "global": 64},
        "precision": "bf16",
        "recompute": "none",
        "optimisations": ["fused_kernels"],
        "measured": {"iteration_s": 20.0},
        "flop_formula": "megatron_mfu",
        "peak_tflops": 312,
        "memory_kind": None,
        "inferred": [],
    }
    return Case.model_validate(_merge(base, changes or {}))


@pytest.fixture
def case() -> Callable[..., Case]:
    return make_case


@pytest.fixture(scope="session")
def published() -> CaseFile:
    if not TRAINING.exists():
        pytest.skip("the published measurements (../shared) are not here")
    return read_case_file(TRAINING)
