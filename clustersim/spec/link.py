"""What a link can do under a collective library: latencies and reachable shares of its rate.

A `Link` describes a kind of link (NVLink 3, PCIe 4, InfiniBand), never one cable: the nominal rate
comes from the device or topology, the coefficients here say what NCCL makes of it. Each file under
`data/links` carries where its coefficients come from and how far they miss.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clustersim.spec.base import Record, Seconds

LinkKind = Literal["nvlink", "pcie", "xgmi", "rdma", "tcp"]
ProtocolName = Literal["ll", "ll128", "simple"]


class Protocol(Record):
    """One wire protocol of the collective library over this link.

    LL sends 4 bytes of flag with 4 of data, LL128 8 with 120, Simple whole slices followed by a
    fence: less latency buys less bandwidth.
    """

    setup: Seconds = Field(default=0.0, ge=0, description="once a collective: fill of the pipeline")
    hop: Seconds = Field(ge=0, description="one step to the next rank, without the bytes")
    efficiency: float = Field(
        gt=0, le=1, description="share of the nominal rate that a pipelined ring reaches"
    )


class Messages(Record):
    """What is special to messages between two ranks: fewer channels, no ring to fill."""

    latency: Seconds = Field(ge=0, description="send and receive over Simple, without bytes")
    exchange_latency: Seconds = Field(ge=0, description="all-to-all over Simple, without bytes")
    peer_latency: Seconds = Field(ge=0, description="each further peer of an all-to-all")
    ll_share: float = Field(
        default=1.0, gt=0, le=1, description="LL rate of messages over LL rate of rings"
    )
    pair_share: float = Field(
        default=1.0, gt=0, le=1, description="Simple rate of one pair over Simple rate of rings"
    )


class InSwitch(Record):
    """Reduction inside the switch: NVLink SHARP (NVLS)."""

    setup: Seconds = Field(ge=0)
    efficiency: float = Field(gt=0, le=1, description="share of the nominal rate")


class PeerReads(Record):
    """All-reduce kernels of serving engines, in which ranks read each other's memory."""

    base: Seconds = Field(ge=0, description="launch and first barrier of two ranks")
    peer: Seconds = Field(ge=0, description="each further rank of a barrier")
    barrier: Seconds = Field(ge=0, description="second barrier of the two-shot kernel")
    efficiency: float = Field(gt=0, le=1, description="share of the nominal rate")
    points: int = Field(ge=0, description="measurements fitted to, all of CUDA graphs")
    error: float = Field(ge=0, description="mean absolute, in sample")
    held_out_error: float = Field(ge=0, description="five folds")


class Pedigree(Record):
    """Where the coefficients come from and how far the model misses with them."""

    basis: Literal["fitted", "derived", "assumed"]
    fitted_to: str = ""
    points: int = Field(default=0, ge=0, description="measurements fitted to")
    parameters: int = Field(default=0, ge=0, description="coefficients that were free")
    error: float | None = Field(default=None, ge=0, description="mean absolute, in sample")
    largest_tenth_error: float | None = Field(default=None, ge=0)
    held_out_error: float | None = Field(default=None, ge=0)
    held_out: str = Field(default="", description="what was held out")


class Link(Record):
    """A kind of link, as the collective library sees it."""

    name: str
    title: str = ""
    kind: LinkKind
    base_latency: Seconds = Field(ge=0, description="launch and first synchronisation of a call")
    protocols: dict[ProtocolName, Protocol] = Field(min_length=1)
    copy_ratio: float | None = Field(
        default=None,
        gt=0,
        description="rate at which a rank passes its own shard from input to output, as a "
        "multiple of the nominal link rate; null: free",
    )
    messages: Messages = Field(description="send and receive, all-to-all")
    in_switch: InSwitch | None = Field(default=None, description="null: the switch cannot reduce")
    peer_reads: PeerReads | None = Field(
        default=None, description="null: serving engines leave all-reduce to the library"
    )
    aggregated_trees: bool = Field(
        default=False,
        description="all-gather and reduce-scatter of one rank a node may run in log steps (PAT)",
    )
    pedigree: Pedigree
    sources: dict[str, str] = Field(default_factory=dict)
