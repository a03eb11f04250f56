"""All-reduce kernels of serving engines: one shot, two shots, and the library beyond."""

from __future__ import annotations

import numpy as np
import pytest

from clustersim.cost.collectives.peer import MOST_BYTES, engine_all_reduce_s, peer_all_reduce_s
from clustersim.cost.collectives.pricing import collective_s
from clustersim.errors import ModelDomainError
from clustersim.hardware.paths import group_path
from clustersim.spec.resolve import load_link, load_topology

NVLINK4 = load_link("nvlink4")
LINKS = {name: load_link(name) for name in ("nvlink4", "pcie5", "infiniband")}


def on_dgx(ranks: int):
    return group_path(load_topology("dgx_h100"), np.arange(ranks))


def test_small_messages_take_one_shot_and_large_ones_two():
    reads = NVLINK4.peer_reads
    assert reads is not None
    rate = 450e9 * reads.efficiency
    small, large = engine_all_reduce_s([2.0**10, 2.0**22], on_dgx(8), LINKS)
    start_s = reads.base + 6 * reads.peer
    assert small == pytest.approx(start_s + 7 * 2**10 / rate)
    assert large == pytest.approx(start_s + reads.barrier + 2 * 7 / 8 * 2**22 / rate)


def test_an_engine_that_counts_tokens_sends_large_messages_in_one_shot():
    reads, path = NVLINK4.peer_reads, on_dgx(8)
    assert reads is not None
    sizes = np.array([0.0, 2.0**21, 2.0**21])
    nothing, counted, handed_over = engine_all_reduce_s(
        sizes, path, LINKS, np.array([True, True, False])
    )
    start_s = reads.base + 6 * reads.peer
    assert nothing == 0.0
    assert counted == pytest.approx(start_s + 7 * 2**21 / (450e9 * reads.efficiency))
    assert handed_over == collective_s("all_reduce", sizes[2:], path, LINKS)[0] < counted


def test_an_engine_is_never_slower_than_the_library_and_hands_large_messages_over():
    sizes, path = np.geomspace(256, 2**28, 60), on_dgx(8)
    own_s, library_s = (
        engine_all_reduce_s(sizes, path, LINKS),
        collective_s("all_reduce", sizes, path, LINKS),
    )
    assert (own_s <= library_s).all()
    beyond = sizes > MOST_BYTES
    assert (own_s[beyond] == library_s[beyond]).all()
    assert (own_s[sizes < 2**20] < 0.8 * library_s[sizes < 2**20]).all()


def test_more_than_a_pair_over_pcie_is_left_to_the_library():
    cluster = load_topology("rtx_pro_6000")
    sizes = np.array([2.0**12, 2.0**18])
    links = {name: load_link(name) for name in ("pcie5", "infiniband", "ethernet")}
    for ranks, own in ((2, True), (4, False)):
        path = group_path(cluster, np.arange(ranks))
        same = engine_all_reduce_s(sizes, path, links) == collective_s(
            "all_reduce", sizes, path, links
        )
        assert same.all() != own


def test_one_rank_has_nobody_to_read_from():
    reads = NVLINK4.peer_reads
    assert reads is not None
    with pytest.raises(ModelDomainError, match="use at least 2"):
        peer_all_reduce_s(np.ones(1), 1, 450e9, reads)
    assert engine_all_reduce_s([1e6], on_dgx(1), LINKS)[0] == 0.0
