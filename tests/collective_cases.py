"""Groups to price: one node, many nodes, one rank a node, over the shipped links."""

from __future__ import annotations

from functools import cache

from clustersim.hardware.paths import GroupPath
from clustersim.spec.link import Link
from clustersim.spec.resolve import list_names, load_link

RATES = {"nvlink2": 150e9, "nvlink3": 300e9, "nvlink4": 450e9, "nvlink5": 900e9, "pcie4": 32e9}


@cache
def shipped_links() -> dict[str, Link]:
    """Every link of the catalogue, read once."""
    return {name: load_link(name) for name in list_names("link")}


def group(
    width: int,
    nodes: int = 1,
    link: str = "nvlink3",
    nic: str = "infiniband",
    node_bytes_per_s: float = 200e9,
    node_gpus: int = 8,
    hops: int = 3,
    fabric_efficiency: float = 1.0,
) -> GroupPath:
    """A group of `width` ranks on each of `nodes`; siblings fill the node and share its NICs."""
    return GroupPath(
        ranks=width * nodes,
        nodes=nodes,
        ranks_per_node=width,
        domains=nodes,
        scale_up_kind="pcie" if link.startswith("pcie") else "switch",
        scale_up_link=link,
        scale_up_bytes_per_s=RATES[link],
        nic_link=nic,
        nic_bytes_per_s=node_bytes_per_s / node_gpus,
        nic_count=8,
        fabric_efficiency=fabric_efficiency,
        switch_hops=hops if nodes > 1 else 0,
        switch_latency_s=0.4e-6,
    )
