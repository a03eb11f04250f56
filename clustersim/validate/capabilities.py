"""What published rows ask for and a scenario cannot hold yet: one line each.

This is the only list of its kind. A capability that is built deletes its line here, and the rows
behind it turn from `skipped` to `ok` without another change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clustersim.errors import ClusterSimError
from clustersim.validate.cases import Case

SCHEDULES = ("gpipe", "1f1b", "interleaved", "none")
PRECISIONS = ("fp16", "bf16")
POSITIONS = ("learned", "rotary", "alibi", "none")
WIRE_DTYPES = ("fp32", "bf16", "fp16")

NOT_MODELLED_TOKENS = {
    "fsdp": "FSDP is not modelled",
    "fsdp2": "FSDP is not modelled",
    "cuda_graphs_partial": "partial CUDA graphs are not modelled",
    "cpu_offload_activations": "offload is not modelled",
    "cpu_offload_optimizer": "offload is not modelled",
    "cpu_offload_parameters": "offload is not modelled",
    "nvme_offload": "offload is not modelled",
    "out_of_core_optimizer": "an out-of-core optimizer is not modelled",
    "zeroth_order": "zeroth-order optimisation is not modelled",
    "memory_planning": "planned buffers are not modelled",
    "fused_gemm_reduce_scatter": "a reduce-scatter inside the product is not modelled",
    "inter_op_overlap": "overlap between operations is not modelled",
    "intra_op_overlap": "overlap inside an operation is not modelled",
    "zero_plus_plus": "ZeRO++ is not modelled",
    "hierarchical_partitioning": "hierarchical partitioning is not modelled",
}


class NotComparableError(ClusterSimError):
    """A published row that cannot be compared; the message is the reason."""


@dataclass(frozen=True)
class Limit:
    """One thing that a scenario cannot hold."""

    reason: str
    applies: Callable[[Case], bool]


LIMITS: tuple[Limit, ...] = (
    Limit("mixture of experts is not modelled", lambda c: c.model.moe is not None),
    Limit("latent attention (MLA) is not modelled", lambda c: c.model.attention is not None),
    Limit("multi-token prediction is not modelled", lambda c: bool(c.model.mtp_layers)),
    Limit("context parallelism is not modelled", lambda c: (c.parallel.cp or 1) > 1),
    Limit("expert parallelism is not modelled", lambda c: (c.parallel.ep or 1) > 1),
    Limit("ZeRO 2 is not modelled", lambda c: c.parallel.zero == 2),
    Limit("ZeRO 3 is not modelled", lambda c: c.parallel.zero == 3),
    Limit(
        "partitioned activations are not modelled",
        lambda c: bool(c.parallel.activation_partitioning),
    ),
    Limit("offload is not modelled", lambda c: bool(c.offload)),
    Limit(
        "windows on some layers only are not modelled",
        lambda c: (
            c.model.sliding_window is not None
            and c.model.sliding_window.window is not None
            and c.model.sliding_window.every != 1
        ),
    ),
    Limit(
        "recomputation of named operations is not modelled",
        lambda c: c.recompute.kind == "selective_per_op",
    ),
)

SETS: tuple[tuple[str, tuple[str, ...], Callable[[Case], str | None]], ...] = (
    ("schedule", SCHEDULES, lambda c: c.schedule),
    ("precision", PRECISIONS, lambda c: c.precision),
    ("position embedding", POSITIONS, lambda c: c.model.position),
    ("grad_dtype", WIRE_DTYPES, lambda c: c.grad_dtype),
    ("comm_dtype", WIRE_DTYPES, lambda c: c.comm_dtype),
    (
        "recompute",
        ("none", "selective", "full", "selective_per_op", "unknown"),
        lambda c: c.recompute.kind,
    ),
)


def limits_met(case: Case) -> list[str]:
    """Every reason why a scenario cannot hold this row, most fundamental first.

    Parameters
    ----------
    case : Case
        Complete by rule 1.

    Returns
    -------
    list of str
        Each once; empty where a scenario can hold all that the row states. What it does not state
        is no reason.
    """
    reasons = [limit.reason for limit in LIMITS if limit.applies(case)]
    for name, known, value_of in SETS:
        value = value_of(case)
        if value is not None and value not in known:
            reasons.append(f"{name} {value} is not modelled")
    reasons.extend(
        NOT_MODELLED_TOKENS[token] for token in NOT_MODELLED_TOKENS if token in case.tokens
    )
    return list(dict.fromkeys(reasons))
