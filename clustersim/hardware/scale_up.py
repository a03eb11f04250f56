"""The fast links inside a scale-up domain, and which GPUs share one.

A domain may be part of a node (two quads of four), the node, or several nodes (NVL72). The switches
of a switched domain count as one. A mesh is described by link counts between pairs of GPUs; the
record holds the rate of all links of a GPU together, so one link has that rate over the most links
that any GPU of the domain has.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clustersim.errors import SpecError
from clustersim.spec.topology import Topology

_HYBRID_CUBE = (
    (0, 1, 1, 2, 2, 0, 0, 0),
    (1, 0, 2, 1, 0, 2, 0, 0),
    (1, 2, 0, 2, 0, 0, 1, 0),
    (2, 1, 2, 0, 0, 0, 0, 1),
    (2, 0, 0, 0, 0, 1, 1, 2),
    (0, 2, 0, 0, 1, 0, 2, 1),
    (0, 0, 1, 0, 1, 2, 0, 2),
    (0, 0, 0, 1, 2, 1, 2, 0),
)
_MI250X_PAIRS = {
    4: ((0, 1), (2, 3), (4, 5), (6, 7)),
    2: ((0, 6), (2, 4)),
    1: ((0, 2), (1, 3), (1, 5), (3, 7), (4, 6), (5, 7)),
}


@lru_cache(maxsize=64)
def mesh_links(domain_gpus: int, link: str) -> NDArray[np.int64]:
    """Count the links between each two GPUs of a mesh domain.

    Parameters
    ----------
    domain_gpus : int
        GPUs of the domain.
    link : str
        Link kind; xGMI and Infinity Fabric meshes of eight are wired like an MI250X node.

    Returns
    -------
    ndarray of int (domain_gpus, domain_gpus)
        Links of each pair, symmetric, zero on the diagonal.

    Notes
    -----
    Eight NVLink GPUs form the hybrid cube mesh of a DGX-1 with V100 (six links each) [1]_. Eight
    dies of four MI250X have four links inside a package, and one or two to dies of other packages
    [2]_ [3]_; which dies those are is assumed, only the counts are published there. Any other size
    is a full mesh, every pair joined by equal links.

    References
    ----------
    .. [1] NVIDIA, "NVIDIA DGX-1 with Tesla V100 system architecture," WP-08437-002, 2017, and
       `nvidia-smi topo -m` of that machine.
    .. [2] AMD, "AMD CDNA 2 architecture," white paper, 2021, node of four MI250X.
    .. [3] C. Pearson, "Interconnect bandwidth heterogeneity on AMD MI250X and Infinity Fabric,"
       arXiv:2302.14827, 2023.
    """
    if domain_gpus != 8:
        links = np.ones((domain_gpus, domain_gpus), dtype=np.int64)
        np.fill_diagonal(links, 0)
    elif any(word in link for word in ("xgmi", "infinity")):
        links = np.zeros((8, 8), dtype=np.int64)
        for count, pairs in _MI250X_PAIRS.items():
            for a, b in pairs:
                links[a, b] = links[b, a] = count
    else:
        links = np.array(_HYBRID_CUBE, dtype=np.int64)
    links.setflags(write=False)
    return links


def domain_nodes(topology: Topology) -> int:
    """Nodes that one scale-up domain spans; 1 where it is a node or part of one."""
    domain_gpus, gpus = topology.node.scale_up.domain_gpus, topology.node.gpus
    if domain_gpus > gpus and domain_gpus % gpus:
        raise SpecError(
            f"scale_up.domain_gpus: {domain_gpus} is not a whole number of {gpus}-GPU nodes"
        )
    return max(1, domain_gpus // gpus)


def domains_per_node(topology: Topology) -> int:
    """Scale-up domains inside one node; 1 where the domain is the node or spans several."""
    return -(-topology.node.gpus // topology.node.scale_up.domain_gpus)


def domain_of(topology: Topology, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the scale-up domain of each GPU.

    Parameters
    ----------
    topology : Topology
        The cluster.
    ranks : ndarray of int (n,)
        Global GPU ranks.

    Returns
    -------
    ndarray of int (n,)
        Index of the domain, counted over the whole cluster.
    """
    gpus, size = topology.node.gpus, topology.node.scale_up.domain_gpus
    if size > gpus:
        return ranks // (domain_nodes(topology) * gpus)
    return ranks // gpus * domains_per_node(topology) + ranks % gpus // size


def domain_position(topology: Topology, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the place of each GPU inside its scale-up domain.

    Parameters
    ----------
    topology : Topology
        The cluster.
    ranks : ndarray of int (n,)
        Global GPU ranks.

    Returns
    -------
    ndarray of int (n,)
        Index within the domain.
    """
    gpus, size = topology.node.gpus, topology.node.scale_up.domain_gpus
    if size > gpus:
        return ranks % (domain_nodes(topology) * gpus)
    return ranks % gpus % size


def relays_rails(topology: Topology) -> bool:
    """Tell whether scale-up links cover a node, so that data can change rails over them."""
    scale_up = topology.node.scale_up
    return scale_up.kind in ("switch", "mesh") and domains_per_node(topology) == 1
