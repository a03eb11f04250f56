"""Small published serving rows, and what the catalogue makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clustersim.validate.serving_records import ServingRow

SMALL = {
    "name": "Small",
    "layers": 4,
    "hidden": 1024,
    "heads": 16,
    "kv_heads": 4,
    "ffn": 2816,
    "vocab": 32000,
    "attention": "gqa",
    "moe": None,
}
EXPERTS = {**SMALL, "ffn": None, "moe": {"experts": 8, "topk": 2, "expert_ffn": 1024}}
ROW = {
    "id": "one",
    "source": {"key": "source"},
    "device": "H100-SXM-80GB",
    "gpus": 1,
    "gpus_per_node": 8,
    "interconnect": "NVLink4 900 GB/s (NVSwitch)",
    "model": SMALL,
    "quantisation": "fp16",
    "parallel": {"tp": 1, "pp": 1, "ep": None, "dp": 1},
    "engine": {"name": "vLLM 0.12.0"},
    "workload": {"input_len": 256, "output_len": 16, "batch": 4},
    "protocol": "static_batch",
    "batch_scope": "system",
    "scored": {"tpot_s_mean": 0.001},
    "complete": True,
    "incomplete_because": [],
}


def changed(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with some keys changed, `a.b` inside mappings."""
    data = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    for path, value in changes.items():
        *outer, last = path.split(".")
        holder = data
        for key in outer:
            holder = holder[key]
        holder[last] = value
    return data


def serving_row(changes: Mapping[str, Any] | None = None, folder: Path = Path()) -> ServingRow:
    """A row of ``rows:``, as it is read from a file."""
    data = changed(ROW, changes or {})
    return ServingRow(
        data["id"], data["source"]["key"], data["device"], data["scored"], data, folder
    )


POINT = {
    "id": "p",
    "backend": "vllm",
    "backend_version": "0.12.0",
    "model": "maker/small",
    "system": "h100_sxm",
    "precision": "fp8",
    "mode": "agg",
    "isl": "128",
    "osl": "16",
    "concurrency": "4",
    "gemm_quant": "fp8",
    "moe_quant": "fp8",
    "batch_size": "4",
    "tp": "1",
    "pp": "1",
    "attention_dp": "",
    "moe_tp": "1",
    "moe_ep": "1",
    "ttft_ms": "10.0",
    "tpot_ms": "1.0",
    "measured_on": "",
    "wip": "0",
    "complete": "1",
    "incomplete_because": "",
}


def point(changes: Mapping[str, str] | None = None, shape: Any = None) -> ServingRow:
    """A line of the CSV, as it is read from a file."""
    data = {**POINT, **(changes or {})}
    scored = {
        "ttft_s_mean": float(data["ttft_ms"]) / 1e3,
        "tpot_s_mean": float(data["tpot_ms"]) / 1e3,
    }
    shape = SMALL if shape is None else shape
    return ServingRow(data["id"], "silicon_e2e", data["system"], scored, data, Path(), shape)
