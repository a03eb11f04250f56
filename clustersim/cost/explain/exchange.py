"""One phase of the exchange of tokens between experts: start, copying SMs, links."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.collectives.expert import Exchange, distinct_groups, exchange_s
from clustersim.cost.explain.checks import check_experts, check_group
from clustersim.cost.explain.collective import group_members, where_of
from clustersim.cost.explain.parts import (
    Cause,
    bound_of,
    column,
    gains,
    over_links,
    seconds_of,
    taken_apart,
    trust_in,
    without,
)
from clustersim.cost.explain.record import Explanation, Hint, Site, Term
from clustersim.cost.measured.moe_all_to_all import LOW_LATENCY, MODES, PAYLOAD_BYTES
from clustersim.errors import ModelDomainError
from clustersim.hardware.paths import GroupPath, group_path
from clustersim.hardware.scale_up import domain_of
from clustersim.spec.suggest import did_you_mean
from clustersim.spec.topology import Topology
from clustersim.units import format_count

GROUP, NAME = "expert_exchange", "expert exchange"
START = ("launch and synchronisation", "without tokens")
SIGNALS = ("signals of experts", "one of each")
NODES = ("further nodes", "over network adapters")
FIRST = ("first tokens", "of each SM, before any overlap")
endless_sms = without(GROUP, token_s=0.0, copy_s=0.0, sm_bandwidth=math.inf)
endless_links = without(GROUP, link_efficiency=math.inf, nic_efficiency=math.inf)
EXCHANGE_CAUSES: tuple[Cause, ...] = (
    (*START, without(GROUP, base_s=0.0)),
    (*SIGNALS, without(GROUP, expert_s=0.0)),
    (*NODES, without(GROUP, node_s=0.0)),
    (*FIRST, without(GROUP, chunk_bandwidth=math.inf, chunk_tokens=0.0)),
    ("copying SMs", "beyond what the links hide", endless_sms),
    (
        "links below peak",
        "share of their rates",
        without(GROUP, link_efficiency=1.0, nic_efficiency=1.0),
    ),
)
WAYS = {"network bandwidth": endless_links, "copying SMs": endless_sms}


@dataclass(frozen=True)
class _Phase:
    """One phase of an exchange; `sms` 0 leaves the SMs to the kernel."""

    mode: str
    phase: str
    payload: str
    tokens: int
    hidden: int
    experts: int
    top_k: int
    ranks: int
    nodes: int
    nic_bytes_per_s: float
    sms: int
    balanced: bool

    @property
    def key(self) -> str:
        """Of the coefficients in a profile."""
        return f"{self.mode}_{self.phase}"

    @property
    def call(self) -> Exchange:
        """Columns of one row."""
        return Exchange(
            tokens=column(self.tokens),
            token_bytes=column(self.hidden * PAYLOAD_BYTES[self.payload]),
            experts=column(self.experts),
            top_k=column(self.top_k),
            ranks=column(self.ranks),
            nodes=column(self.nodes),
            sms=column(self.sms),
            nic_bytes_per_s=column(self.nic_bytes_per_s),
            per_expert=np.array([self.mode == LOW_LATENCY]),
            spread=np.array([self.balanced]),
        )

    def price(self, site: Site) -> float:
        """Time of the phase.

        Parameters
        ----------
        site : Site
            Its profile has coefficients under `key`.

        Returns
        -------
        float
            [s]
        """
        return float(exchange_s(self.call, site.device, site.profile.expert_exchange[self.key])[0])


def explain_all_to_all(
    site: Site,
    phase: str,
    tokens: int,
    experts: int,
    top_k: int,
    hidden: int,
    ranks: int,
    per_node: int | None = None,
    mode: str = "normal",
    payload: str = "bf16",
    sms: int = 0,
    balanced: bool = False,
) -> Explanation:
    """Account for one phase of the exchange of tokens between the ranks of their experts.

    Parameters
    ----------
    site : Site
        With its topology.
    phase : str
        "dispatch" of tokens to experts, or "combine" of their results.
    tokens : int
        Of each rank.
    experts, top_k, hidden : int
        Routed experts of the layer, how many a token takes, numbers of a token.
    ranks : int
        That share the experts, at least 2.
    per_node : int, optional
        Ranks on each node; as many as it has GPUs by default.
    mode : str
        Family of kernels: with the phase a key of the profile.
    payload : str
        Datatype of a token on its way; results travel in 16 bits.
    sms : int
        SMs that copy; 0 leaves it to the kernel.
    balanced : bool
        Experts of a token lie on as many ranks as possible, instead of at random.

    Returns
    -------
    Explanation
        Parts: the links at their rates and below, copying SMs, first tokens, signals, start.
    """
    topology = site.topology
    if topology is None:
        raise ModelDomainError(f"{site.device.name} stands alone: an exchange needs a topology")
    check_group(site.profile, GROUP, "an exchange between experts")
    members = group_members(topology, ranks, per_node)
    path = group_path(topology, members)
    found = _Phase(
        *(mode, phase, payload, tokens, hidden, experts, top_k, ranks),
        *(_islands(topology, members, path), path.nic_bytes_per_s or math.inf, sms, balanced),
    )
    _check(site, found)
    causes, bare = taken_apart(found.price, site, EXCHANGE_CAUSES)
    left_s, time_s = found.price(bare), found.price(site)
    terms = [Term("bytes at the links' rate", left_s, "what leaves the rank")]
    terms += reversed(causes)
    fixed_s = seconds_of(terms, START[0], SIGNALS[0], NODES[0], FIRST[0])
    bound = bound_of(found.price, site, WAYS, fixed_s)
    sent = float(tokens) * hidden * PAYLOAD_BYTES[payload]
    # A device without scale-up links is priced by its SMs alone.
    peak = sent / (left_s or time_s - fixed_s)
    title = f"{mode} {phase} of {format_count(tokens)} tokens x {format_count(hidden)} {payload}"
    told = over_links(
        site,
        (
            "all_to_all",
            f"{title} over {ranks} ranks, top {top_k} of {experts} experts",
            "network latency" if bound == "launch" else bound,
        ),
        (f"{topology.title} ({topology.name}), {where_of(path)}", sent),
        (time_s, fixed_s),
        (sent / time_s, peak, peak),
        terms,
        trust_in(site.profile, GROUP, [f"expert exchange {found.key.replace('_', ' ')}", NAME]),
    )
    return replace(told, facts=_facts(found), hints=_hints(site, found, time_s))


def _islands(topology: Topology, members: NDArray[np.int64], path: GroupPath) -> int:
    """Parts of the group that only network adapters join: a rack of one domain is one."""
    if path.nodes == 1:
        return 1
    nodes = members // topology.node.gpus
    islands = domain_of(topology, members) if path.domains < path.nodes else nodes
    counts = np.unique(islands, return_counts=True)[1]
    if counts.min() < counts.max():
        raise ModelDomainError(
            f"--ranks {members.size} do not fill {counts.size} nodes or racks alike: "
            f"{counts.max()} on one, {counts.min()} on another\n"
            f"  fix: use a multiple of {counts.max()} ranks, or give --per-node"
        )
    return int(counts.size)


def _check(site: Site, found: _Phase) -> None:
    check_experts(found.experts, found.top_k)
    check_group(site.profile, GROUP, "an exchange between experts", found.key)
    if found.payload not in PAYLOAD_BYTES:
        hint = did_you_mean(found.payload, PAYLOAD_BYTES)
        raise ModelDomainError(f"--payload `{found.payload}` is not known\n  fix: {hint}")
    if found.phase == "combine" and PAYLOAD_BYTES[found.payload] != PAYLOAD_BYTES["bf16"]:
        raise ModelDomainError(
            f"--payload {found.payload}: results travel in 16 bits\n  fix: leave --payload out"
        )


def _facts(found: _Phase) -> dict[str, Any]:
    apart = float(min(found.top_k, found.ranks))
    if not found.balanced:
        sizes = (found.ranks, found.experts, found.top_k)
        apart = float(distinct_groups(*(column(size) for size in sizes))[0])
    return {
        "sent_to": "each expert" if found.mode == LOW_LATENCY else "each rank once",
        "copies_of_a_token": found.top_k if found.mode == LOW_LATENCY else apart,
        "nodes_joined_by_adapters": found.nodes,
        "sms_that_copy": found.sms or "chosen by the kernel",
    }


def _hints(site: Site, found: _Phase, now_s: float) -> tuple[Hint, ...]:
    """More tokens, a narrower payload, other kernels, more copying SMs."""
    tries = [("twice the tokens", replace(found, tokens=2 * found.tokens).price(site), 2.0)]
    if found.phase == "dispatch" and found.payload in ("bf16", "fp16"):
        tries.append(("fp8 tokens", replace(found, payload="fp8").price(site), 1.0))
    for mode in MODES:
        other = replace(found, mode=mode)
        if mode != found.mode and other.key in site.profile.expert_exchange:
            tries.append((f"{mode} kernels", other.price(site), 1.0))
    if found.sms:
        tries.append(("twice the SMs", replace(found, sms=2 * found.sms).price(site), 1.0))
    return gains(tries, now_s)
