"""The ways a collective library can run one collective over one group, each as latency and slope.

Every candidate (algorithm and protocol) is a line, T(S) = latency + S * seconds_per_byte: ring,
double binary tree, parallel aggregated trees (PAT), in-switch reduction (NVLS), direct exchange.
The library's tuner picks the fastest, so the switch points follow from the lines and are no
constants.

Left out: CollNet with InfiniBand SHARP, the library's own rounding to channels and chunks, mistakes
of its tuner, and contention with other groups beyond the share of the network adapters that the
path states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from clustersim.errors import ModelDomainError
from clustersim.hardware.paths import GroupPath
from clustersim.spec.link import Link, Protocol, ProtocolName

Links = Mapping[str, Link]
SIMPLE = "simple"
TREE_SHARE = 0.92  # rate of trees over that of rings: NCCL 2.18 to 2.27, src/graph/tuning
PAT_SHARE = 0.75  # PAT's rate over that of rings: NCCL 2.23 to 2.29, src/graph/tuning
PAT_HOP_SHARE = 1 / 3.5  # its network hop over a ring's: the same file
PAT_SHARD_S = 2.8e-6  # packing of one shard, the linear part of its latency: the same file [s]
MESSAGE_PROTOCOLS = ("ll", SIMPLE)  # NCCL has no LL128 for send and receive

COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "broadcast",
    "send_recv",
)


@dataclass(frozen=True)
class Candidate:
    """One way to run a collective, as a line over the message size.

    Attributes
    ----------
    latency_s : float
        Time of an empty message. [s]
    seconds_per_byte : float
        Slope over the size of the collective (nccl-tests convention). [s/byte]
    """

    algorithm: str
    protocol: str
    latency_s: float
    seconds_per_byte: float


@dataclass(frozen=True)
class Wire:
    """What one protocol offers over the two levels of a group: inside an island and between them.

    An island is a scale-up domain, or the part of it on one node.

    Attributes
    ----------
    islands, width : int
        Islands spanned and the largest number of ranks in one.
    base_s, setup_s : float
        Launch and first synchronisation; pipeline fill of a ring or tree. [s]
    message_hop_s, exchange_hop_s, peer_s : float
        A message from one rank to another, an exchange with one peer and each further peer, all
        without bytes. [s]
    message_share, pair_share : float
        Rate of the messages of an all-to-all, and of one pair of ranks, over that of rings.
    inner_hop_s, outer_hop_s, aggregated_hop_s : float
        One step inside an island, one across the network, and one of aggregated trees there. [s]
    inner_bytes_per_s, outer_bytes_per_s : float
        Reachable rate of a rank inside its island, and of all ranks of one island together into
        the network, one direction; infinite where the level is not used. [bytes/s]
    copy_bytes_per_s : float
        Rate at which a rank passes on its own shard; infinite where free. [bytes/s]
    """

    ranks: int
    islands: int
    width: int
    base_s: float
    setup_s: float
    message_hop_s: float
    exchange_hop_s: float
    peer_s: float
    message_share: float
    pair_share: float
    inner_hop_s: float
    outer_hop_s: float
    aggregated_hop_s: float
    inner_bytes_per_s: float
    outer_bytes_per_s: float
    copy_bytes_per_s: float

    @property
    def ring_bytes_per_s(self) -> float:
        """Rate of the rings of a group together: each island's adapters are its channels."""
        return min(self.inner_bytes_per_s, self.outer_bytes_per_s)

    @property
    def pass_s(self) -> float:
        """Latency of once around the ring: ranks - 1 steps, islands - 1 of them network hops."""
        outer = self.islands - 1
        return (self.ranks - 1 - outer) * self.inner_hop_s + outer * self.outer_hop_s

    @property
    def tree_s(self) -> float:
        """Latency from the farthest rank to the root: a chain in the island, then a binary tree."""
        levels = (self.islands - 1).bit_length()
        return (self.width - 1) * self.inner_hop_s + levels * self.outer_hop_s


def find_link(name: str, links: Links) -> Link:
    """Return the link of this name, or say which names there are."""
    try:
        return links[name]
    except KeyError:
        known = ", ".join(sorted(links)) or "none"
        raise ModelDomainError(f"no link is called '{name}'; known: {known}") from None


def _islands(path: GroupPath) -> tuple[int, int]:
    """Islands of a group and ranks of the largest: nodes, or scale-up domains that span nodes."""
    if path.nodes <= 1 or path.domains <= 1:
        return 1, path.ranks
    if path.domains < path.nodes:
        return path.domains, -(-path.ranks // path.domains)
    return path.nodes, path.ranks_per_node


def wires(path: GroupPath, links: Links) -> Iterator[tuple[str, Wire]]:
    """Yield each protocol that the links of a group share, with its coefficients."""
    islands, width = _islands(path)
    base = links.get(path.scale_up_link)
    inner = find_link(path.scale_up_link, links) if width > 1 else None
    outer = find_link(path.nic_link, links) if islands > 1 else None
    used = [link for link in (inner, outer) if link]
    base_s = (base or used[0]).base_latency
    shared = (name for name in used[0].protocols if all(name in link.protocols for link in used))
    for name in shared:
        yield name, _wire(path, inner, outer, name, (islands, width, base_s))


def _wire(
    path: GroupPath,
    inner: Link | None,
    outer: Link | None,
    name: ProtocolName,
    group: tuple[int, int, float],
) -> Wire:
    """Coefficients of one protocol; `group` is (islands, width, base_s) of the group."""
    islands, width, base_s = group
    used = [link for link in (inner, outer) if link]
    levels = [link.protocols[name] for link in used]
    near, far = (link.protocols[name] if link else None for link in (inner, outer))
    crossed_s = path.switch_hops * path.switch_latency_s
    far_hop_s = far.hop if far else 0.0
    copy = inner.copy_ratio if inner else None
    hops = [_message_hops(link, name) for link in used]
    message_s, exchange_s = map(max, zip(*hops, strict=True))
    return Wire(
        ranks=path.ranks,
        islands=islands,
        width=width,
        base_s=base_s,
        setup_s=max(level.setup for level in levels),
        message_hop_s=crossed_s + message_s,
        exchange_hop_s=crossed_s + exchange_s,
        peer_s=max(link.messages.peer_latency for link in used),
        message_share=min(_message_share(link, name) for link in used),
        pair_share=min(_pair_share(link, name) for link in used),
        inner_hop_s=near.hop if near else 0.0,
        outer_hop_s=far_hop_s + crossed_s,
        aggregated_hop_s=far_hop_s * PAT_HOP_SHARE + crossed_s,
        inner_bytes_per_s=_rate(near, path.scale_up_bytes_per_s),
        outer_bytes_per_s=_rate(far, width * path.nic_bytes_per_s * path.fabric_efficiency),
        copy_bytes_per_s=copy * path.scale_up_bytes_per_s if copy else float("inf"),
    )


def _rate(protocol: Protocol | None, nominal_bytes_per_s: float) -> float:
    return protocol.efficiency * nominal_bytes_per_s if protocol else float("inf")


def _message_hops(link: Link, protocol: ProtocolName) -> tuple[float, float]:
    if protocol == SIMPLE:
        return link.messages.latency, link.messages.exchange_latency
    return link.protocols[protocol].hop, link.protocols[protocol].hop


def _message_share(link: Link, protocol: ProtocolName) -> float:
    return 1.0 if protocol == SIMPLE else link.messages.ll_share


def _pair_share(link: Link, protocol: ProtocolName) -> float:
    return link.messages.pair_share if protocol == SIMPLE else link.messages.ll_share


def check_collective(collective: str) -> None:
    """Refuse a name that is none of `COLLECTIVES`.

    Raises
    ------
    ModelDomainError
        It is none.
    """
    if collective not in COLLECTIVES:
        raise ModelDomainError(
            f"collective '{collective}' is not modelled; use one of {', '.join(COLLECTIVES)}"
        )


def candidates(collective: str, path: GroupPath, links: Links) -> tuple[Candidate, ...]:
    """All ways to run a collective over a group of at least two ranks.

    Parameters
    ----------
    collective : str
        One of `COLLECTIVES`.
    path : GroupPath
        The group, as the hardware places it.
    links : mapping of str to Link
        Catalogue of link kinds; holds at least those that the path names.

    Returns
    -------
    tuple of Candidate
        Lines over the message size; the lowest is the answer.
    """
    check_collective(collective)
    found = [
        candidate
        for protocol, wire in wires(path, links)
        for candidate in _over(collective, protocol, wire)
    ]
    if collective == "all_reduce":
        found.extend(_in_switch(path, links))
    if collective in ("all_gather", "reduce_scatter"):
        found.extend(_aggregated(path, links))
    if not found:
        raise ModelDomainError(
            f"links '{path.scale_up_link}' and '{path.nic_link}' share no protocol"
        )
    return tuple(found)


def _over(collective: str, protocol: str, wire: Wire) -> list[Candidate]:
    match collective:
        case "all_reduce":
            lines = [("ring", ring(wire, 2)), ("tree", tree(wire))]
        case "all_gather" | "reduce_scatter":
            lines = [("ring", ring(wire, 1))]
        case "all_to_all":
            lines = [("direct", direct(wire))] if protocol in MESSAGE_PROTOCOLS else []
        case "broadcast":
            lines = [("ring", chain(wire))]
        case _:
            lines = [("message", message(wire))] if protocol in MESSAGE_PROTOCOLS else []
    return [Candidate(name, protocol, *line) for name, line in lines]


def ring(wire: Wire, passes: int) -> tuple[float, float]:
    """Latency and slope of a ring: `passes` times around, a shard of 1/ranks at a time.

    Notes
    -----
    T = base + setup + passes * pass_s + S (passes (n-1)/n / rate + 1/(n copy)). The last term is
    the rank's own shard, passed from input to output on the way. Each step waits for the slowest
    link, so `rate` is the least of both levels.

    References
    ----------
    .. [1] P. Patarasuk and X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
       workstations," J. Parallel Distrib. Comput. 69(2), 2009.
    .. [2] Z. Hu et al., "Demystifying NCCL: An in-depth analysis of GPU communication protocols
       and algorithms," arXiv:2507.04786, 2025.
    """
    n = wire.ranks
    moved_s = passes * (n - 1) / n / wire.ring_bytes_per_s
    latency_s = wire.base_s + wire.setup_s + passes * wire.pass_s
    return latency_s, moved_s + 1 / (n * wire.copy_bytes_per_s)


def tree(wire: Wire) -> tuple[float, float]:
    """Latency and slope of a double binary tree over islands, chains inside them (all-reduce).

    Notes
    -----
    Up and down once: T = base + setup + 2 tree_s + S max(2/inner, 2 (N-1)/N / outer) / 0.92 over
    N islands. Every rank of a chain sends the buffer up and down; over the network the two trees
    carry half the buffer each, N-1 edges a tree, both ways, spread evenly over N islands. 0.92 is
    the library's own discount for trees.

    References
    ----------
    .. [1] P. Sanders, J. Speck, J. L. Träff, "Two-tree algorithms for full bandwidth broadcast,
       reduction and scan," Parallel Computing 35(12), 2009.
    .. [2] S. Jeaugey, "Massively scale your deep learning training with NCCL 2.4," NVIDIA, 2019.
    """
    inner = 2 / wire.inner_bytes_per_s
    outer = 2 * (wire.islands - 1) / wire.islands / wire.outer_bytes_per_s
    return wire.base_s + wire.setup_s + 2 * wire.tree_s, max(inner, outer) / TREE_SHARE


def aggregated_trees(wire: Wire) -> tuple[float, float]:
    """Latency and slope of PAT, for an all-gather or a reduce-scatter of one rank an island.

    Notes
    -----
    T = base + setup + ceil(log2 n) hop + n shard + S (n-1)/n / (0.75 rate). The data of each rank
    travel down a binomial tree, farthest ranks first; what the n trees send over the same edge in
    one step leaves as one message, so a rank sends n-1 shards in ceil(log2 n) messages. Shards
    are not contiguous, so each of n is packed on its own: 2.8 us in the library's tuner, which
    also states the 0.75 and the hop, 1/3.5 of a ring's.

    References
    ----------
    .. [1] S. Jeaugey, "PAT: a new algorithm for all-gather and reduce-scatter operations at
       scale," arXiv:2506.20252, 2025.
    .. [2] NVIDIA, NCCL 2.23 to 2.29, src/graph/tuning.
    """
    n = wire.ranks
    steps = (n - 1).bit_length()
    latency_s = wire.base_s + wire.setup_s + steps * wire.aggregated_hop_s + n * PAT_SHARD_S
    return latency_s, (n - 1) / n / (PAT_SHARE * wire.outer_bytes_per_s)


def direct(wire: Wire) -> tuple[float, float]:
    """Latency and slope of an all-to-all: every rank sends a piece of 1/ranks to every other.

    Notes
    -----
    T = base + hop + (n-2) peer + S max((w-1)/n / inner, w (n-w)/n / outer) + S/(n copy), w ranks
    in an island, of whose pieces n-w of n leave it.
    """
    n, w = wire.ranks, wire.width
    inner = (w - 1) / n / wire.inner_bytes_per_s
    outer = w * (n - w) / n / wire.outer_bytes_per_s
    latency_s = wire.base_s + wire.exchange_hop_s + (n - 2) * wire.peer_s
    return latency_s, max(inner, outer) / wire.message_share + 1 / (n * wire.copy_bytes_per_s)


def chain(wire: Wire) -> tuple[float, float]:
    """Latency and slope of a broadcast along a pipelined chain.

    Notes
    -----
    T = base + setup + pass_s + S / rate: the message is cut into slices, of which all but the first
    follow without a gap.
    """
    return wire.base_s + wire.setup_s + wire.pass_s, 1 / wire.ring_bytes_per_s


def message(wire: Wire) -> tuple[float, float]:
    """Latency and slope of a message from one rank to another, over the slower level.

    Notes
    -----
    T = base + hop + S / rate (Hockney). Half of the rate is reached at latency times rate. A pair
    has fewer channels than a ring, and over adapters reaches less of their rate.

    References
    ----------
    .. [1] R. Hockney, "The communication challenge for MPP: Intel Paragon and Meiko CS-2,"
       Parallel Computing 20(3), 1994.
    """
    outer = wire.outer_bytes_per_s / wire.width
    rate = min(wire.inner_bytes_per_s, outer) * wire.pair_share
    return wire.base_s + wire.message_hop_s, 1 / rate


def _aggregated(path: GroupPath, links: Links) -> Iterator[Candidate]:
    """Yield PAT where the library may run it: Simple, one rank a node, no device offload.

    The link says whether its transport has it. RCCL, which runs where GPUs are joined by xGMI, has
    it off by default.
    """
    islands, width = _islands(path)
    near = links.get(path.scale_up_link)
    if islands < 2 or width > 1 or (near and near.kind == "xgmi"):
        return
    if not find_link(path.nic_link, links).aggregated_trees:
        return
    for protocol, wire in wires(path, links):
        if protocol == SIMPLE:
            yield Candidate("pat", protocol, *aggregated_trees(wire))


def _in_switch(path: GroupPath, links: Links) -> Iterator[Candidate]:
    """Yield the in-switch all-reduce of a switched domain, with a tree between domains.

    Notes
    -----
    Each rank reads its 1/w of the buffer reduced by the switch and writes it to all: per GPU S in
    and S/w out, then the reverse. T = base + setup + 2 levels hop + S max((1 + 1/w)/(e B), outer).
    """
    islands, width = _islands(path)
    inner = links.get(path.scale_up_link)
    if not inner or not inner.in_switch or path.scale_up_kind != "switch" or width < 3:
        return
    for protocol, wire in wires(path, links):
        if protocol == SIMPLE:
            nvls = inner.in_switch
            inside = (1 + 1 / width) / (nvls.efficiency * path.scale_up_bytes_per_s)
            outside = 2 * (islands - 1) / islands / wire.outer_bytes_per_s
            levels = (islands - 1).bit_length()
            latency_s = inner.base_latency + nvls.setup + 2 * levels * wire.outer_hop_s
            share = TREE_SHARE if islands > 1 else 1.0
            yield Candidate("nvls", protocol, latency_s, max(inside, outside) / share)
