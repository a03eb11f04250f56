"""Exchange of tokens between experts: dispatch to their ranks and combination of their results.

Three families: high-throughput kernels, which send a token once to each rank that holds one of its
experts and cross the network once a node; low-latency kernels, which send one copy to each expert;
and exchanges inside one scale-up domain. Left out: imbalance of the routing, and contention with
other traffic.

References
----------
.. [1] C. Zhao et al., "DeepEP: an efficient expert-parallel communication library," 2025.
.. [2] R. Hockney, "The communication challenge for MPP: Intel Paragon and Meiko CS-2," Parallel
   Computing 20(3), 1994.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.errors import ModelDomainError
from clustersim.spec.device import Device
from clustersim.spec.profile_moe import ExchangeCoefficients

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Exchange:
    """Calls of one phase, one entry each.

    Attributes
    ----------
    tokens : ndarray (n,)
        Tokens of each rank.
    token_bytes : ndarray (n,)
        Payload of one token, scales included. [bytes]
    experts, top_k : ndarray (n,)
        Routed experts and experts a token.
    ranks, nodes : ndarray (n,)
        Ranks, and nodes between which only network adapters run; 1 inside a scale-up domain.
    sms : ndarray (n,)
        SMs that copy; 0 leaves it to the kernel.
    nic_bytes_per_s : ndarray (n,)
        Adapters of one rank, one direction. [bytes/s]
    per_expert : ndarray of bool (n,)
        One copy to each expert (low latency), instead of one to each rank.
    spread : ndarray of bool (n,)
        Experts of a token lie on as many ranks as possible (balanced), instead of at random.
    """

    tokens: Array
    token_bytes: Array
    experts: Array
    top_k: Array
    ranks: Array
    nodes: Array
    sms: Array
    nic_bytes_per_s: Array
    per_expert: Flags
    spread: Flags


def distinct_groups(groups: Array, experts: Array, top_k: Array) -> Array:
    """Expected number of groups that hold one of a token's experts.

    Parameters
    ----------
    groups, experts, top_k : ndarray (n,)
        Groups that share the experts evenly (ranks or nodes); top_k different experts at random.

    Returns
    -------
    ndarray (n,)

    Notes
    -----
    groups (1 - C(E - E/groups, k) / C(E, k)): a group is missed when all k lie in the others.
    """
    missed = np.ones(experts.shape)
    for taken in range(int(top_k.max(initial=0.0))):
        left = (experts - experts / groups - taken) / np.maximum(experts - taken, 1.0)
        missed = np.where(taken < top_k, missed * np.clip(left, 0.0, 1.0), missed)
    return np.asarray(groups * (1.0 - missed))


def exchange_s(call: Exchange, device: Device, c: ExchangeCoefficients) -> Array:
    """Time of one phase of an exchange on idle links.

    Parameters
    ----------
    call : Exchange
        Calls.
    device : Device
        Its SMs and scale-up bandwidth.
    c : ExchangeCoefficients
        Of the mode and the phase.

    Returns
    -------
    ndarray (n,)
        Duration. [s]

    Notes
    -----
    T = base + expert_s experts + node_s (nodes - 1) + bytes / chunk + first + moved, with moved =
    (sm^4 + link^4 + nic^4)^(1/4) over all tokens. SMs copy D copies of a token (D distinct ranks or
    top_k) and read it once, and forward `forward_ratio` N more between nodes (N distinct nodes);
    first is the time of an SM's first `chunk_tokens`, which nothing overlaps. Links carry what
    leaves the rank inside its node, adapters what leaves the node. Low-latency kernels give
    ceil(experts / SMs) experts to each SM, so experts / ceil(experts / SMs) SMs copy.
    """
    wrong = (call.ranks % call.nodes != 0) | (call.tokens < 1)
    if wrong.any():
        tokens, ranks, nodes = (x[wrong][0] for x in (call.tokens, call.ranks, call.nodes))
        raise ModelDomainError(
            "an exchange needs tokens, and as many ranks on every node, "
            f"not {tokens:g} tokens on {ranks:g} ranks of {nodes:g} nodes"
        )
    local = call.ranks / call.nodes
    at_random = distinct_groups(call.ranks, call.experts, call.top_k)
    ranks = np.where(call.spread, np.minimum(call.top_k, call.ranks), at_random)
    copies = np.where(call.per_expert, call.top_k, ranks)
    inside = copies * (local - 1.0) / call.ranks
    whole = call.spread & (call.ranks <= call.top_k) & ~call.per_expert & (call.nodes == 1)
    inside = np.where(whole, copies - 1.0, inside)
    hit_nodes = distinct_groups(call.nodes, call.experts, call.top_k)
    forwarded = np.where((call.nodes > 1) & ~call.per_expert, hit_nodes, 0.0)
    crossing = np.where(call.per_expert, call.top_k, hit_nodes) * (call.nodes - 1.0) / call.nodes
    work = copies + c.forward_ratio * forwarded
    token_s = c.token_s + c.copy_s * work + call.token_bytes * (work + 1.0) / c.sm_bandwidth
    share = call.tokens / _busy_sms(call, device)
    sm_s, first_s = token_s * share, token_s * np.minimum(share, c.chunk_tokens)
    payload = call.tokens * call.token_bytes
    link_bytes_per_s = c.link_efficiency * (device.scale_up_bandwidth or np.inf)
    link_s = payload * inside / link_bytes_per_s
    nic_s = payload * crossing / (c.nic_efficiency * call.nic_bytes_per_s)
    moved_s = np.sqrt(np.sqrt(sm_s**4 + link_s**4 + nic_s**4))
    start_s = c.base_s + c.expert_s * call.experts + c.node_s * (call.nodes - 1.0)
    return np.asarray(start_s + call.token_bytes / c.chunk_bandwidth + first_s + moved_s)


def _busy_sms(call: Exchange, device: Device) -> Array:
    by_expert = call.experts / np.ceil(call.experts / device.sms)
    given = np.where(call.sms > 0, call.sms, float(device.sms))
    return np.where(call.per_expert, by_expert, given)
