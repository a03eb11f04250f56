"""One expert layer of one rank: grouped products, passes, sorting, and the spread of tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clustersim.cost.compute.gemm import matrix_peak
from clustersim.cost.compute.moe import FORMATS, RESULT_BYTES, ExpertShape, moe_row, moe_s
from clustersim.cost.compute.routing import ExpertLoads, expert_loads
from clustersim.cost.explain.checks import check_divides, check_experts, check_group
from clustersim.cost.explain.parts import (
    FLOOR,
    TRAFFIC,
    Roofs,
    bound_of,
    cache_notes,
    column,
    endless_arithmetic,
    endless_memory,
    explanation,
    gains,
    joined,
    seconds_of,
    trust_in,
    under_roofs,
    without,
)
from clustersim.cost.explain.record import Explanation, Hint, Site
from clustersim.errors import ModelDomainError
from clustersim.spec.profile_moe import PairsComputed

STEEPEST = 4.0  # exponent of a power law from which nearly all tokens meet one expert; assumed
SORTING = ("sorting", "of pairs by their experts")
endless_products = joined(
    endless_arithmetic, without("moe", sm_bandwidth=math.inf, tile_fill_s=0.0)
)
LAYER = Roofs(
    first=(
        (*FLOOR, without("moe", kernel_floor_s=0.0)),
        (*SORTING, without("moe", pair_s=0.0, sort_s=0.0, expert_s=0.0)),
        (
            "passes around the products",
            "permutation, activation, reduction",
            without("moe", pass_efficiency=math.inf),
        ),
    ),
    of_memory=(
        ("arithmetic and tiles", "beyond what the traffic hides", endless_products),
        ("memory below peak", "share of bandwidth", without("moe", weight_efficiency=1.0)),
    ),
    of_compute=(
        (*TRAFFIC, endless_memory),
        ("tile start and end", "prologue, epilogue", without("moe", tile_fill_s=0.0)),
        ("operands into the SMs", "beyond the arithmetic", without("moe", sm_bandwidth=math.inf)),
        ("main loop below peak", "share of peak", without("moe", matmul_efficiency=1.0)),
    ),
    traffic=("weights and rows at peak", "of the experts that have tokens"),
    unused=("padding and idle SMs", "last tile of each expert, last wave"),
    compute=endless_products,
)


@dataclass(frozen=True)
class _Layer:
    """An expert layer whose fullest rank is priced."""

    tokens: int
    experts: int
    top_k: int
    hidden: int
    width: float  # of one expert on a rank
    ranks: int
    exponent: float
    format: str
    gated: bool

    def loads(self, computed: PairsComputed) -> ExpertLoads:
        """Tokens of the fullest rank.

        Parameters
        ----------
        computed : {"own", "reached", "all"}
            Pairs that the kernel multiplies, as for `expert_loads`.

        Returns
        -------
        ExpertLoads
            Of one row.
        """
        return expert_loads(
            tokens=column(self.tokens),
            experts=column(self.experts),
            top_k=column(self.top_k),
            ranks=column(self.ranks),
            exponent=column(self.exponent),
            computed=computed,
        )

    def price(self, site: Site) -> float:
        """Time on the fullest rank.

        Parameters
        ----------
        site : Site
            Its profile has coefficients of the format.

        Returns
        -------
        float
            [s]
        """
        row = moe_row(site.device, site.profile, self.format)
        shape = ExpertShape(
            column(self.hidden),
            column(self.width),
            column(self.experts / self.ranks),
            np.array([self.gated]),
        )
        return float(moe_s(shape, self.loads(site.profile.moe[self.format].computed), row)[0][0])


def explain_moe(
    site: Site,
    tokens: int,
    experts: int,
    top_k: int,
    hidden: int,
    expert_ffn: int,
    expert_parallel: int = 1,
    tensor_parallel: int = 1,
    exponent: float = 0.0,
    format: str = "bf16",
    ungated: bool = False,
) -> Explanation:
    """Account for the routed experts of one layer on the rank that has most tokens.

    Parameters
    ----------
    site : Site
    tokens : int
        Of all ranks that share the experts.
    experts, top_k : int
        Routed experts of the layer, and how many of them a token takes.
    hidden, expert_ffn : int
        Width of the model, and of one expert (of one branch where gated).
    expert_parallel, tensor_parallel : int
        Ranks that share the experts, and ranks that share each expert.
    exponent : float
        Of the power law of the experts' popularity; 0 is balanced.
    format : str
        Of the experts, a key of the profile.
    ungated : bool
        One product before the activation instead of two.

    Returns
    -------
    Explanation
        Parts: the products at peak and below it, tiles, traffic, passes, sorting, floor.
    """
    check_group(site.profile, "moe", "expert layers", format)
    _check(experts, top_k, exponent)
    check_divides("--expert-parallel", expert_parallel, "--experts", experts)
    check_divides("--tensor-parallel", tensor_parallel, "--expert-ffn", expert_ffn)
    layer = _Layer(
        *(tokens, experts, top_k, hidden, expert_ffn / tensor_parallel, expert_parallel),
        *(exponent, format, not ungated),
    )
    site = replace(site, dtype=FORMATS[format][0])
    loads = layer.loads(site.profile.moe[format].computed)
    flop, moved = _work(layer, loads)
    peak_s = flop / matrix_peak(site.device, site.dtype)
    terms = under_roofs(layer.price, site, LAYER, peak_s)
    bound = bound_of(layer.price, site, LAYER.ways, seconds_of(terms, FLOOR[0], SORTING[0]))
    shape = f"tokens={tokens} experts={experts} top_k={top_k} hidden={hidden} ffn={expert_ffn}"
    shards = f"ep={expert_parallel}" + (f" tp={tensor_parallel}" if tensor_parallel > 1 else "")
    names = [f"moe {format}", "moe"]
    found = explanation(
        site,
        ("moe", f"moe {shape} {shards} {format}", bound),
        (flop, moved),
        (layer.price(site), None),
        terms,
        trust_in(site.profile, "moe", names),
    )
    facts, hints = _facts(layer, loads), _hints(site, layer, found)
    return replace(found, facts=facts, hints=hints, notes=tuple(cache_notes(found)))


def _check(experts: int, top_k: int, exponent: float) -> None:
    check_experts(experts, top_k)
    if not 0.0 <= exponent <= STEEPEST:  # NaN is none either
        raise ModelDomainError(
            f"--exponent {exponent:g} is outside the model's domain\n"
            f"  fix: use 0 (balanced) to {STEEPEST:g}"
        )


def _work(layer: _Layer, loads: ExpertLoads) -> tuple[float, float]:
    """Arithmetic of the fullest rank, and its least traffic: weights once, rows in and out."""
    _, weight_bytes, activation_bytes = FORMATS[layer.format]
    products = 3.0 if layer.gated else 2.0
    routed, active = float(loads.routed[0]), float(loads.active[0])
    elements = products * layer.hidden * layer.width
    rows = routed * layer.hidden * (activation_bytes + RESULT_BYTES)
    return 2.0 * routed * elements, active * elements * weight_bytes + rows


def _facts(layer: _Layer, loads: ExpertLoads) -> dict[str, Any]:
    own, mean = float(layer.loads("own").routed[0]), layer.tokens * layer.top_k / layer.ranks
    return {
        "routing": f"power law of {layer.exponent:g}" if layer.exponent else "balanced",
        "experts_of_a_rank": layer.experts // layer.ranks,
        "with_tokens": float(loads.active[0]),
        "pairs_of_the_rank": own,
        "over_the_mean": own / mean,
        "pairs_multiplied": float(loads.routed[0]),
        "rows_of_an_expert": float(loads.routed[0] / loads.active[0]),
    }


def _hints(site: Site, layer: _Layer, now: Explanation) -> tuple[Hint, ...]:
    """More tokens, even loads, fewer experts on a rank, other formats."""
    twice = replace(layer, tokens=2 * layer.tokens)
    tries = [("twice the tokens", twice.price(site), 2.0)]
    if layer.exponent:
        even = replace(layer, exponent=0.0)
        tries.append(("a balanced routing", even.price(site), 1.0))
    if layer.experts % (2 * layer.ranks) == 0:
        wider = replace(layer, ranks=2 * layer.ranks, tokens=2 * layer.tokens)
        text = f"{wider.ranks} ranks and twice the tokens (as many for each rank)"
        tries.append((text, wider.price(site), 1.0))
    for name in sorted(site.profile.moe):
        if name != layer.format and FORMATS[name][0] in site.device.matrix_peak:
            tries.append((f"{name} experts", replace(layer, format=name).price(site), 1.0))
    return gains(tries, now.time_s)
