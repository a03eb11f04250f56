"""The kinds of operators that can be explained; one more kind is one more line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from clustersim.cost.explain.attention import explain_attention
from clustersim.cost.explain.collective import explain_collective_op
from clustersim.cost.explain.decode import explain_decode
from clustersim.cost.explain.elementwise import explain_elementwise
from clustersim.cost.explain.exchange import explain_all_to_all
from clustersim.cost.explain.gemm import explain_gemm
from clustersim.cost.explain.mla import explain_mla
from clustersim.cost.explain.moe import explain_moe
from clustersim.cost.explain.prefill import explain_prefill
from clustersim.cost.explain.record import Explanation
from clustersim.cost.explain.transfer import explain_transfer

Explainer = Callable[..., Explanation]
EXPLAINERS: Mapping[str, Explainer] = MappingProxyType(
    {
        "gemm": explain_gemm,
        "attention": explain_attention,
        "elementwise": explain_elementwise,
        "collective": explain_collective_op,
        "prefill": explain_prefill,
        "decode": explain_decode,
        "mla": explain_mla,
        "moe": explain_moe,
        "all_to_all": explain_all_to_all,
        "transfer": explain_transfer,
    }
)
