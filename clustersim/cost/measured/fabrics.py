"""The words for a fabric in measured rows, as the links that a group of ranks uses.

A word such as ``nvswitch+roce_8x400g`` names the links inside a node and, where nodes are joined,
the adapters of one node. Words that leave the adapters or their rate open (``nvswitch+nic``,
``inter_node``) and fabrics that are in no catalogue give no path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from clustersim.errors import ClusterSimError
from clustersim.hardware.paths import GroupPath, group_path
from clustersim.spec.device import Device
from clustersim.spec.link import Link
from clustersim.spec.resolve import load_link, load_topology

INNER_KINDS = {
    "nvswitch": "switch",
    "nvl72_rack": "switch",
    "nvlink_mesh": "mesh",
    "nvlink_pair": "mesh",
    "pcie3": "pcie",
    "pcie4": "pcie",
    "pcie5": "pcie",
    "nvlink_pair+pcie": "pcie",
}
RACK = "nvl72_rack"  # one scale-up domain over several nodes
MESH_SYSTEM = "dgx_v100"  # where rows over a mesh of NVLink were taken
NICS = re.compile(r"(?P<kind>[a-z_]+?)_(?P<count>\d+)x(?P<rate>\d+)g")
TRANSPORTS = {
    "infiniband": "infiniband",
    "roce": "roce",
    "efa": "efa",
    "gpudirect_tcpx": "ethernet",
    "ethernet": "ethernet",
}
LEAF_LATENCY_S = 0.0  # one leaf switch; the hops of the link files were fitted with it inside
BRIDGES = {"a100_pcie_80gb": ("nvlink3", 300e9)}
"""NVLink bridges of PCIe cards, per GPU and direction [bytes/s]: NVIDIA A100 data sheet (June
2021), 600 GB/s both directions together."""
SWITCH_GPUS = {"l40s_48gb": 2, "rtx_pro_6000_server_96gb": 2, "a40_48gb": 1}
"""GPUs that reach each other without the host, in the hosts of the rows; all where not listed.

Read off the rows: 2 L40S exchange 20 GB/s and 4 of them 5, 2 RTX PRO 6000 37 and 4 of them 25, and
two A40 4, though the word for their host has a bridge.
"""


@dataclass(frozen=True)
class Place:
    """Where the ranks of one measured row sit.

    Attributes
    ----------
    topology : str
        The row's word for its fabric.
    ranks, nodes : int
    nic_bytes_per_s_per_node : float
        Line rate of a node's adapters together, one direction; NaN where the row has none, and
        then the word's own figures are taken. [bytes/s]
    """

    topology: str
    ranks: int
    nodes: int
    nic_bytes_per_s_per_node: float = float("nan")


def is_known(place: Place) -> bool:
    """Whether the word says enough for a path, on a device that has such links.

    Parameters
    ----------
    place : Place

    Returns
    -------
    bool
        True where the word names links of a node, and known adapters just where these join nodes;
        ranks then divide over the nodes.
    """
    inner, nics = _split(place.topology)
    if inner not in INNER_KINDS or place.ranks < 1 or place.nodes < 1:
        return False
    if place.nodes > 1 and inner != RACK:
        return nics is not None and place.ranks % place.nodes == 0
    return nics is None


def path_of(place: Place, device: Device) -> GroupPath | None:
    """The links of a group, or None where word and device leave them open.

    Parameters
    ----------
    place : Place
        The row's fabric and the size of its group.
    device : Device
        Gives the rates inside the node.

    Returns
    -------
    GroupPath or None
        All ranks of a node share its adapters; the fabric is one leaf without losses.
    """
    if not is_known(place):
        return None
    inner, nics = _split(place.topology)
    link, rate = _inner_link(inner, place, device)
    if link is None or rate is None:
        return None
    across = place.nodes > 1 and inner != RACK
    per_node = -(-place.ranks // place.nodes)
    return GroupPath(
        ranks=place.ranks,
        nodes=place.nodes,
        ranks_per_node=per_node,
        domains=place.nodes if across else 1,
        scale_up_kind=INNER_KINDS[inner] if link.startswith("nvlink") else "pcie",
        scale_up_link=link,
        scale_up_bytes_per_s=rate,
        nic_link=_transport(nics) if across else "",
        nic_bytes_per_s=_nic_rate(nics, place) / per_node if across else 0.0,
        nic_count=int(nics["count"]) if nics and across else 0,
        fabric_efficiency=1.0,
        switch_hops=1 if across else 0,
        switch_latency_s=LEAF_LATENCY_S,
    )


def _split(topology: str) -> tuple[str, re.Match[str] | None]:
    """The word of the node, and the adapters where the last part names known ones."""
    inner, _, last = topology.rpartition("+")
    match = NICS.fullmatch(last)
    if inner and match and match["kind"] in TRANSPORTS:
        return inner, match
    return topology, None


def _transport(nics: re.Match[str] | None) -> str:
    return TRANSPORTS[nics["kind"]] if nics else ""


def _nic_rate(nics: re.Match[str] | None, place: Place) -> float:
    """Adapters of a node together. [bytes/s]"""
    stated = place.nic_bytes_per_s_per_node
    if stated > 0:
        return stated
    return int(nics["count"]) * int(nics["rate"]) * 1e9 / 8 if nics else 0.0


def _inner_link(inner: str, place: Place, device: Device) -> tuple[str | None, float | None]:
    """Link kind inside the node and its rate per rank."""
    own, rate = device.scale_up_link, device.scale_up_bandwidth
    direct = SWITCH_GPUS.get(device.name, place.ranks)
    if inner == "nvlink_pair+pcie":
        if place.ranks <= 2 and direct > 1:
            return BRIDGES.get(device.name, (None, None))
        if not own or not own.startswith("pcie"):
            return None, None
        inner = own
    if inner.startswith("pcie"):
        return (inner if place.ranks <= direct else f"{inner}_host"), device.pcie_bandwidth
    if not own or not own.startswith("nvlink"):
        return None, None
    if inner == "nvlink_mesh":
        return own, _mesh_rate(device, place.ranks)
    return own, rate


def _mesh_rate(device: Device, ranks: int) -> float | None:
    """Rate of one rank towards the first ranks of a mesh of eight. [bytes/s]"""
    system = load_topology(MESH_SYSTEM)
    scale_up = system.node.scale_up
    if device.scale_up_link != scale_up.link or not device.scale_up_bandwidth:
        return None
    scale_up = scale_up.model_copy(update={"bandwidth": device.scale_up_bandwidth})
    node = system.node.model_copy(update={"device": device, "scale_up": scale_up})
    topology = system.model_copy(update={"node": node})
    return group_path(topology, range(ranks)).scale_up_bytes_per_s if ranks <= node.gpus else None


@cache
def shipped_link(name: str) -> Link | None:
    """A link of the catalogue, read once.

    Parameters
    ----------
    name : str
        Such as "nvlink4".

    Returns
    -------
    Link or None
        None where there is none of this name, or its file cannot be read.
    """
    try:
        return load_link(name)
    except ClusterSimError:
        return None
