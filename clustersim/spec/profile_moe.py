"""Fitted behaviour of expert layers: the layer of one rank, and the exchange between ranks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clustersim.spec.base import BytesPerS, Record, Seconds

PairsComputed = Literal["own", "reached", "all"]
Share = Annotated[float, Field(gt=0, le=1)]


class MoeCoefficients(Record):
    """How a fused expert layer of one datatype runs on one rank."""

    matmul_efficiency: Share = Field(description="share of the dense peak in the main loop")
    sm_bandwidth: BytesPerS = Field(gt=0, description="operands into one SM")
    tile_fill_s: Seconds = Field(ge=0, description="prologue and epilogue of one tile")
    weight_efficiency: Share = Field(description="share of the memory bandwidth, grouped products")
    pass_efficiency: Share = Field(
        description="share of the memory bandwidth: permutation, activation, reduction"
    )
    cache_ratio: float = Field(
        default=1.0, ge=1, description="rate of weights held in L2 over that of memory"
    )
    pair_s: Seconds = Field(ge=0, description="sorting of one token-expert pair")
    sort_s: Seconds = Field(ge=0, description="further kernels that sort more than 256 tokens")
    expert_s: Seconds = Field(ge=0, description="scheduling of one local expert")
    kernel_floor_s: Seconds = Field(ge=0, description="least time of the layer's kernels")
    computed: PairsComputed = Field(
        default="own",
        description="pairs that the kernel multiplies: of the rank's own experts, of tokens that "
        "have one of them (reached), or all",
    )


class ExchangeCoefficients(Record):
    """How one phase of an exchange of tokens between experts runs."""

    base_s: Seconds = Field(ge=0, description="launch and synchronisation")
    expert_s: Seconds = Field(ge=0, description="signal of one expert")
    node_s: Seconds = Field(ge=0, description="each further node, over network adapters")
    chunk_bandwidth: BytesPerS = Field(gt=0, description="rate of the first token, unpipelined")
    chunk_tokens: float = Field(
        ge=0, description="tokens of one SM that are sent before sending and receiving overlap"
    )
    token_s: Seconds = Field(ge=0, description="SM time of one token")
    copy_s: Seconds = Field(ge=0, description="SM time of one copy of a token, without bytes")
    sm_bandwidth: BytesPerS = Field(gt=0, description="bytes that one SM copies")
    link_efficiency: Share = Field(description="share of the scale-up bandwidth")
    nic_efficiency: Share = Field(description="share of the adapters' rate")
    forward_ratio: float = Field(
        ge=0, description="SM work of a copy forwarded between nodes over that of a direct one"
    )


class ExpertStepCoefficients(Record):
    """How one separately launched step of an expert layer runs under an eager host."""

    host_s: Seconds = Field(ge=0, description="time of the host to issue it: a floor")
    pass_efficiency: Share = Field(description="share of the memory bandwidth")
