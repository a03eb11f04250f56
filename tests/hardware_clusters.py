"""Small and large clusters that the hardware tests share."""

from __future__ import annotations

from typing import Any

from clustersim.spec.device import Device
from clustersim.spec.topology import Fabric, Host, Nics, Node, Nvme, ScaleUp, Switch, Topology

GBIT = 1e9 / 8


def device(**changes: Any) -> Device:
    """An A100 80 GB SXM, from its data sheet."""
    values: dict[str, Any] = {
        "name": "a100_sxm_80gb",
        "title": "A100 SXM 80GB",
        "vendor": "NVIDIA",
        "architecture": "ampere",
        "memory": 80.0 * 2**30,
        "memory_bandwidth": 2.039e12,
        "l2_cache": 40.0 * 2**20,
        "sms": 108,
        "boost_clock": 1.41e9,
        "matrix_peak": {"bf16": 312e12},
        "vector_peak": 19.5e12,
        "power_limit": 400.0,
        "scale_up_link": "nvlink3",
        "scale_up_bandwidth": 300e9,
        "pcie_bandwidth": 32e9,
        "profile": "a100",
        "sources": {},
    }
    return Device(**(values | changes))


def cluster_of(
    nodes: int = 4,
    *,
    kind: str = "rail_clos",
    tiers: int = 0,
    ports: int = 40,
    port_gbits: float = 200.0,
    oversubscription: float = 1.0,
    gpus: int = 8,
    nics: int = 8,
    nic_gbits: float = 200.0,
    scale_up: str = "switch",
    link: str = "nvlink3",
    domain_gpus: int | None = None,
    bandwidth: float = 300e9,
    pcie_switches: int = 4,
    drives: int = 4,
) -> Topology:
    """A cluster of DGX A100 by default; arguments change one thing each."""
    nvme = Nvme(count=drives, capacity=3.84e12, read_bandwidth=6.8e9, write_bandwidth=4e9)
    node = Node(
        device=device(),
        gpus=gpus,
        scale_up=ScaleUp(
            kind=scale_up,  # type: ignore[arg-type]
            link=link,
            domain_gpus=domain_gpus or gpus,
            bandwidth=bandwidth,
        ),
        nics=Nics(count=nics, bandwidth=nic_gbits * GBIT, link="infiniband"),
        host=Host(
            cpu="EPYC 7742",
            sockets=2,
            dram=2.0 * 2**40,
            dram_bandwidth=409.6e9,
            pcie_switches=pcie_switches,
            nvme=nvme if drives else None,
        ),
    )
    switch = Switch(ports=ports, port_bandwidth=port_gbits * GBIT, latency=130e-9)
    fabric = Fabric(
        kind=kind,  # type: ignore[arg-type]
        tiers=tiers,
        switch=None if kind == "single_node" else switch,
        oversubscription=oversubscription,
        efficiency=0.9,
    )
    return Topology(name="test", node=node, nodes=nodes, fabric=fabric)


def megascale(nodes: int = 1536) -> Topology:
    """64-port 400G switches, three tiers, 200G NICs on ports split in two (NSDI 2024)."""
    return cluster_of(nodes, tiers=3, ports=64, port_gbits=400.0)
