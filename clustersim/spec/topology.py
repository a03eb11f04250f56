"""What a cluster is made of: one kind of node, many times, joined by a fabric."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clustersim.spec.base import Bytes, BytesPerS, Record, Seconds
from clustersim.spec.device import Device

FabricKind = Literal["single_node", "rail_clos", "fat_tree"]
ScaleUpKind = Literal["switch", "mesh", "pcie", "none"]


class ScaleUp(Record):
    """The fast links between the GPUs of one domain (NVLink and NVSwitch, xGMI, or PCIe)."""

    kind: ScaleUpKind
    link: str = Field(description="link kind, a name in data/links")
    domain_gpus: int = Field(gt=0, description="GPUs that reach each other at full rate")
    bandwidth: BytesPerS = Field(ge=1, description="per GPU, one direction")


class Nics(Record):
    """Network adapters of one node."""

    count: int = Field(ge=0)
    bandwidth: BytesPerS = Field(
        ge=0, description="per adapter, one direction; 0 only without adapters"
    )
    link: str = Field(description="transport, a name in data/links: infiniband, roce, omni_path")


class Nvme(Record):
    """Local drives of one node."""

    count: int = Field(ge=0)
    capacity: Bytes = Field(description="per drive")
    read_bandwidth: BytesPerS = Field(description="per drive")
    write_bandwidth: BytesPerS = Field(description="per drive")


class Host(Record):
    """CPU sockets, memory and drives of one node."""

    cpu: str
    sockets: int = Field(gt=0)
    dram: Bytes
    dram_bandwidth: BytesPerS = Field(description="all sockets together")
    pcie_switches: int = Field(ge=0, description="switches between GPUs, NICs and sockets")
    nvme: Nvme | None = None


class Node(Record):
    """One server."""

    device: Device
    gpus: int = Field(gt=0)
    scale_up: ScaleUp
    nics: Nics
    host: Host


class Switch(Record):
    """One kind of network switch."""

    ports: int = Field(gt=0)
    port_bandwidth: BytesPerS = Field(ge=1)
    latency: Seconds


class Fabric(Record):
    """How nodes are joined. `efficiency` is the share of a link that payload reaches at scale."""

    kind: FabricKind
    tiers: int = Field(default=0, ge=0, le=3)
    switch: Switch | None = None
    oversubscription: float = Field(default=1.0, ge=1.0, description="down over up, at the leaf")
    efficiency: float = Field(default=1.0, ge=0.01, le=1.0)


class Topology(Record):
    """A cluster: `nodes` servers of one kind and their fabric."""

    name: str
    title: str = ""
    node: Node
    nodes: int = Field(gt=0)
    fabric: Fabric
    sources: dict[str, str] = Field(default_factory=dict)
