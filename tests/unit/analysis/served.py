"""A small serving answer and its requests, written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from clustersim.analysis.serving import Answered, latencies, throughput

ANSWERED = Answered(
    queued_s=np.array([0.0, 1.0, 2.0, 3.0]),
    scheduled_s=np.array([0.5, 1.0, 2.5, -1.0]),
    first_s=np.array([1.0, 2.0, 3.0, -1.0]),
    last_s=np.array([5.0, 2.0, 4.0, -1.0]),
    input_tokens=np.array([100, 200, 300, 400]),
    output_tokens=np.array([5, 1, 8, 3]),
    made=np.array([5, 1, 4, 0]),
    preempted=np.array([0, 0, 2, 0]),
    hit_tokens=np.array([0, 64, 0, 0]),
    replica=np.array([0, 1, 0, 1]),
)
# time, running, waiting, share of the cache, tokens, step
SERIES = np.array(
    [
        [0.5, 1.0, 0.0, 0.05, 0.0, 0.01],
        [1.0, 2.0, 3.0, 0.10, 0.0, 0.02],
        [4.5, 1.0, 0.0, 0.50, 0.0, 0.01],
    ]
)
SPREAD = {"mean": 0.05, "p50": 0.04, "p90": 0.08, "p95": 0.09, "p99": 0.1}


def document(**changes: Any) -> dict[str, Any]:
    """An answer as ``--json`` prints it, some keys changed."""
    return {
        "kind": "serving",
        "name": "by hand",
        "gpus": 8,
        "replicas": 2,
        **throughput(ANSWERED),
        **latencies(ANSWERED),
        "itl_s": SPREAD,
        "requests": {"offered": 4, "finished": 2, "unfinished": 2, "skipped": 0},
        "preemptions": 2,
        "kv_blocks": {
            "total": 1000,
            "block_tokens": 16,
            "tokens": 16_000,
            "block_bytes": 2.0**21,
            "mean_used_fraction": 0.2,
            "most_used_fraction": 0.5,
        },
        "prefix_hit_fraction": 0.064,
        "goodput": {"fraction": 0.25, "requests_per_s": 0.2},
        "expert_imbalance": 1.4,
        "expert_imbalance_s": 0.25,
        "batch": {"mean_running": 1.5, "steps": 300, "mean_step_s": 0.02, "mean_tokens": 3.0},
        "breakdown_s": {"products": 3.0, "experts": 0.0, "attention": 1.0, "idle": 1.0},
        "bound": {
            "by": "products and weights",
            "share": 0.6,
            "shares": {"products and weights": 0.6, "attention and KV cache": 0.2},
            "load": 1.2,
        },
        "power_w": 3_500.0,
        "energy_j_per_output_token": 0.7,
        "cost_per_million_output_tokens": 2.5,
        "memory_bytes_per_gpu": {"weights": 15 * 2**30, "kv_cache": 3 * 2**30, "total": 18 * 2**30},
        "memory_capacity_bytes": 24 * 2**30,
        "fits": True,
        "interval": {"tpot_s": {"low": 0.04, "high": 0.06}},
        "engine": "compiled",
        "engine_ops": 300,
        "replications": 3,
        "assumed": ["host of an engine [round values]"],
        "result_digest": "abc",
        **changes,
    }
