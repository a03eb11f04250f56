"""Fitted behaviour of multi-head latent attention: kernels over a prompt, kernels over a cache,
and the block of projections around them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clustersim.spec.base import Record, Seconds

Share = Annotated[float, Field(gt=0, le=1)]


class MlaPrefillCoefficients(Record):
    """How latent attention over whole prompts runs, for one cache datatype."""

    efficiency: Share = Field(description="share of the dense peak in the products of a block")
    q_tile: int = Field(gt=0, description="query rows of one thread block")
    block_setup_s: Seconds = Field(ge=0, description="start and finish of one thread block")
    tail_ratio: float = Field(
        gt=0, description="pace of a lone block: its time over that of an SM's share of a full grid"
    )
    memory_efficiency: Share = Field(
        description="share of the memory bandwidth that queries, keys, values and results reach "
        "beyond L2"
    )
    serial_passes: float = Field(
        ge=0, description="times that they are moved before the kernel: rotation, copies"
    )
    l2_ratio: float = Field(ge=1, description="rate of traffic inside L2 over that beyond it")
    l2_fraction: float = Field(gt=0, description="working set, over L2, of which half hits")
    kernel_floor_s: Seconds = Field(ge=0, description="least time of the call")


class MlaDecodeCoefficients(Record):
    """How latent attention of one token over a cache runs, for one cache datatype."""

    efficiency: Share = Field(description="share of the dense peak, all SMs busy")
    memory_efficiency: Share = Field(description="share of the memory bandwidth beyond L2")
    l2_ratio: float = Field(ge=1, description="rate of traffic inside L2 over that beyond it")
    key_s: Seconds = Field(ge=0, description="one key in a lone thread block")
    tail_fraction: float = Field(
        ge=0, le=1, description="share of the longest block that others do not hide"
    )
    splits: float = Field(ge=1, description="most blocks that share the keys of one sequence")
    split_overhead_s: Seconds = Field(ge=0, description="each doubling of the splits")
    group_s: Seconds = Field(ge=0, description="bookkeeping of one sequence and group of heads")
    query_passes: float = Field(ge=1, description="times that queries and results are moved")
    kernel_floor_s: Seconds = Field(ge=0, description="least time of the call")
    head_tile: int = Field(default=64, gt=0, description="heads that one thread block serves")
    group_reads: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the cache that a further group of heads reads from memory again",
    )


class MlaModuleCoefficients(Record):
    """What a framework adds to the kernels of a latent attention block, for one phase."""

    small_operators_s: Seconds = Field(
        ge=0, description="least time of all kernels but attention: norms, copies, products"
    )
    passes: float = Field(
        ge=0, description="times that the activations of the block are moved by small operators"
    )
    projection_ratio: float = Field(
        gt=0, description="time of products in the block over that of a product timed alone"
    )
    attention_ratio: float = Field(
        gt=0, description="time of attention in the block over that of its kernel timed alone"
    )
