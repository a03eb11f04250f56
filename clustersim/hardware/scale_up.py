"""The fast links inside a scale-up domain, and which GPUs share one.

A domain may be part of a node (two quads of four), the node, or several nodes (NVL72). The switches
of a switched domain count as one. A mesh is described by link counts between pairs of GPUs; the
record holds the rate of all links of a GPU together, so one link has that rate over the most links
that any GPU of the domain has.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise, permutations

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


@lru_cache(maxsize=256)
def mesh_rings(domain_gpus: int, link: str, members: tuple[int, ...]) -> int:
    """Count the rings over some GPUs of a hybrid cube mesh that share no link in one direction.

    Parameters
    ----------
    domain_gpus : int
        GPUs of the domain.
    link : str
        Link kind.
    members : tuple of int
        At least two GPUs of the domain.

    Returns
    -------
    int
        0 where no ring passes all members, and for meshes whose counts are no links.

    Notes
    -----
    A closed path over three or more members is two rings, one each way; between two members each
    link is one. As many closed paths as fit beside each other, found by trying all: there are at
    most 2520, and 3 fit.
    """
    if domain_gpus != 8 or not link.startswith("nvlink"):
        return 0
    free = mesh_links(domain_gpus, link)[np.ix_(members, members)].tolist()
    if len(members) == 2:
        return int(free[0][1])
    orders = ((0, *rest, 0) for rest in permutations(range(1, len(members))) if rest[0] < rest[-1])
    paths = [tuple(pairwise(order)) for order in orders]
    return 2 * _most_paths([path for path in paths if _fits(path, free)], free)


def _most_paths(paths: list[tuple[tuple[int, int], ...]], free: list[list[int]]) -> int:
    """The most closed paths that can be taken together from links that are free."""
    most, limit = 0, min(map(sum, free)) // 2
    for first, path in enumerate(paths):
        if most == limit:
            break
        left = [list(row) for row in free]
        for a, b in path:
            left[a][b] -= 1
            left[b][a] -= 1
        rest = [other for other in paths[first:] if _fits(other, left)]
        most = max(most, 1 + _most_paths(rest, left))
    return most


def _fits(path: tuple[tuple[int, int], ...], free: list[list[int]]) -> bool:
    return all(free[a][b] > 0 for a, b in path)


def domain_nodes(topology: Topology) -> int:
    """Nodes that one scale-up domain spans; 1 where it is a node or part of one.

    Parameters
    ----------
    topology : Topology

    Returns
    -------
    int

    Raises
    ------
    SpecError
        A domain larger than a node is not a whole number of nodes.
    """
    domain_gpus, gpus = topology.node.scale_up.domain_gpus, topology.node.gpus
    if domain_gpus > gpus and domain_gpus % gpus:
        raise SpecError(
            f"scale_up.domain_gpus: {domain_gpus} is not a whole number of {gpus}-GPU nodes"
        )
    return max(1, domain_gpus // gpus)


def domains_per_node(topology: Topology) -> int:
    """Scale-up domains inside one node; 1 where the domain is the node or spans several.

    Parameters
    ----------
    topology : Topology

    Returns
    -------
    int
        Rounded up: the last domain of a node may be smaller.
    """
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
    """Tell whether scale-up links cover a node, so that data can change rails over them.

    Parameters
    ----------
    topology : Topology

    Returns
    -------
    bool
        False where the node has several domains, or neither a scale-up switch nor a mesh.
    """
    scale_up = topology.node.scale_up
    return scale_up.kind in ("switch", "mesh") and domains_per_node(topology) == 1
