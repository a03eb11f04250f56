"""The cluster of a published row (rule 16 of the published README): links and fabric from words.

A row says how many adapters a node has and how fast they are, and names the network in words.
Figures of switches and hosts are not in the rows; those assumed here change latencies by parts of
a microsecond and nothing else.
"""

from __future__ import annotations

import re

from clustersim.spec.device import Device
from clustersim.spec.topology import Fabric, Host, Nics, Node, ScaleUp, Switch, Topology
from clustersim.validate.capabilities import NotComparableError
from clustersim.validate.cases import Case

GBIT = 1e9 / 8  # bytes/s in 1 Gb/s

TRANSPORTS = (  # word in `inter` -> link kind
    ("roce", "roce"),
    ("infiniband", "infiniband"),
    ("omni-path", "omni_path"),
    ("omni path", "omni_path"),
    ("slingshot", "slingshot"),
    ("efa", "ethernet"),
    ("ethernet", "ethernet"),
)
TRANSPORT_IN_DOUBT = "infiniband"
SWITCHES = {  # link kind -> ports and latency of one switch [s]
    "roce": (64, 0.8e-6),  # assumed: as the Ethernet of the shipped MegaScale topology
    "ethernet": (64, 0.8e-6),  # assumed: as RoCE
    "omni_path": (48, 0.11e-6),  # Intel Omni-Path Edge Switch 100 Series brief: 48 ports, 110 ns
    "slingshot": (64, 0.35e-6),  # De Sensi et al., SC 2020, arXiv:2008.08886: 64 ports, 350 ns
}
INFINIBAND = (  # adapters up to [Gb/s] -> ports and latency of one switch [s]
    (100, 36, 0.09e-6),  # Mellanox SB7800 product brief: 36 ports, 90 ns
    (200, 40, 0.13e-6),  # NVIDIA Mellanox QM8700 product brief: 40 ports, 130 ns
    (800, 64, 0.25e-6),  # assumed: QM9700, 64 ports of 400 Gb/s
)
FABRIC_EFFICIENCY = 0.9  # assumed, as in every shipped topology: headers and uneven routing
FULL_MESH = 8  # GPUs of a node whose links join pairs: platforms of MI250 and MI300X
HOST = Host(cpu="not stated", sockets=2, dram=2.0**40, dram_bandwidth=400e9, pcie_switches=4)


def build_topology(case: Case, device: Device, gpus: int, notes: list[str]) -> Topology:
    """Cluster of a row: as many whole nodes as hold its GPUs.

    Parameters
    ----------
    gpus : int
        Devices that the job uses.
    notes : list of str
        What had to be assumed is appended.

    Raises
    ------
    NotComparableError
        If the row spans nodes and says nothing of their network.
    """
    per_node = case.gpus_per_node or min(gpus, 8)
    if case.gpus_per_node is None:
        notes.append(f"gpus_per_node {per_node}")
    nic_count = case.interconnect.nic_count
    if nic_count == 0 and gpus > per_node:
        per_node = gpus  # rule 16: without adapters the row is one node or one NVLink domain
        notes.append("rule 16: no adapters, one NVLink domain as one node")
    nodes = -(-gpus // per_node)
    node = Node(
        device=device,
        gpus=per_node,
        scale_up=_scale_up(case, device, per_node, notes),
        nics=_nics(case, nodes, notes),
        host=HOST,
    )
    return Topology(
        name=f"{case.id}-cluster",
        title=case.interconnect.inter or "",
        node=node,
        nodes=nodes,
        fabric=_fabric(case, nodes, node, notes),
        sources={"cluster": case.source.table or case.source.title},
    )


def build_node(device: Device, gpus: int, words: str = "") -> Node:
    """A node of a serving row: links from the catalogue, PCIe where it has no others.

    Parameters
    ----------
    gpus : int
        Of the row.
    words : str
        What the row says of its interconnect.

    Notes
    -----
    Eight CDNA 3 GPUs have a link to each other: n of them use n - 1 of their seven links. MI250
    GPUs keep the wiring of their whole node.
    """
    link, said = device.scale_up_link or "", words.lower()
    here, kind = gpus, "switch"
    bandwidth = device.scale_up_bandwidth or device.pcie_bandwidth
    without = "no nvlink" in said or ("pcie" in said and "nvlink" not in said)
    if not link or link.startswith("pcie") or without:
        named = "pcie5" if "5.0" in said else "pcie4"
        kind, link = "pcie", link if link.startswith("pcie") else named
        bandwidth = device.pcie_bandwidth
    elif link.startswith("xgmi") and device.architecture == "cdna2" and gpus > 1:
        here, kind = FULL_MESH, "mesh"
    elif link.startswith("xgmi") and gpus < FULL_MESH:
        bandwidth *= max(1, gpus - 1) / (FULL_MESH - 1)
    scale_up = {"kind": kind, "link": link, "domain_gpus": here, "bandwidth": bandwidth}
    nics = Nics(count=0, bandwidth=0.0, link=TRANSPORT_IN_DOUBT)
    return Node(
        device=device, gpus=here, scale_up=ScaleUp.model_validate(scale_up), nics=nics, host=HOST
    )


def one_node(name: str, node: Node) -> Topology:
    """A cluster of a single node."""
    return Topology(name=name, node=node, nodes=1, fabric=Fabric(kind="single_node"))


def _scale_up(case: Case, device: Device, per_node: int, notes: list[str]) -> ScaleUp:
    words = (case.interconnect.intra or "").lower()
    domain = case.interconnect.nvlink_domain_gpus
    if domain is None:
        domain = per_node if device.scale_up_link else 1
        notes.append(f"nvlink_domain_gpus {domain}")
    rate = case.interconnect.intra_gbytes_per_s
    bandwidth = rate * 1e9 if rate else device.scale_up_bandwidth
    if not rate:
        notes.append("rule 16: scale-up bandwidth from the catalogue")
    link = device.scale_up_link or "pcie4"
    direct = "nvswitch" not in words and (domain <= 4 or "infinity fabric" in words)
    kind = "mesh" if direct else "switch"
    if link.startswith("pcie") or "pcie" in words:
        kind, link = "pcie", link if link.startswith("pcie") else "pcie4"
    bandwidth = bandwidth or device.pcie_bandwidth
    return ScaleUp.model_validate(
        {"kind": kind, "link": link, "domain_gpus": max(1, domain), "bandwidth": bandwidth}
    )


def _transport(case: Case) -> str | None:
    words = (case.interconnect.inter or "").lower()
    return next((link for word, link in TRANSPORTS if re.search(rf"\b{word}\b", words)), None)


def _nics(case: Case, nodes: int, notes: list[str]) -> Nics:
    count, rate = case.interconnect.nic_count, case.interconnect.nic_gbps
    found = _transport(case)
    link = found or TRANSPORT_IN_DOUBT
    if nodes == 1:
        return Nics(count=count or 0, bandwidth=(rate or 0.0) * GBIT, link=link)
    if not count or not rate:
        raise NotComparableError(f"{nodes} nodes, but the network is not stated (rule 16)")
    if found is None:
        notes.append(f"network taken as {link}: {case.interconnect.inter or 'not stated'}")
    return Nics(count=count, bandwidth=rate * GBIT, link=link)


def _fabric(case: Case, nodes: int, node: Node, notes: list[str]) -> Fabric:
    """Rails where the row says so or every GPU has its adapter; full bisection."""
    if nodes == 1:
        return Fabric(kind="single_node")
    words = (case.interconnect.inter or "").lower()
    ports, latency_s = _switch(node.nics)
    port_bandwidth = node.nics.bandwidth
    stated = re.search(r"(\d+)x(\d+)g\b", words)  # such as 64x400G: ports of the switch
    if stated and int(stated[1]) > node.nics.count:
        ports, port_bandwidth = int(stated[1]), int(stated[2]) * GBIT
    rails = "rail" in words or node.nics.count == node.gpus
    if "oversubscribed" in words:
        notes.append(f"full bisection, although: {case.interconnect.inter}")
    return Fabric(
        kind="rail_clos" if rails else "fat_tree",
        tiers=_stated_tiers(words) or _tiers(nodes * node.nics.count, ports),
        switch=Switch(ports=ports, port_bandwidth=port_bandwidth, latency=latency_s),
        efficiency=FABRIC_EFFICIENCY,
    )


def _switch(nics: Nics) -> tuple[int, float]:
    if nics.link in SWITCHES:
        return SWITCHES[nics.link]
    for gbit_per_s, ports, latency_s in INFINIBAND:
        if nics.bandwidth <= gbit_per_s * GBIT:
            return ports, latency_s
    return INFINIBAND[-1][1:]


def _stated_tiers(words: str) -> int | None:
    for pattern, tiers in ((r"\b(2|two)[- ](layer|tier)", 2), (r"\b(3|three)[- ](layer|tier)", 3)):
        if re.search(pattern, words):
            return tiers
    return None


def _tiers(endpoints: int, ports: int) -> int:
    """Tiers of the smallest full-bisection tree of these switches that holds the endpoints."""
    if endpoints <= ports:
        return 1
    return 2 if endpoints <= ports * ports // 2 else 3
