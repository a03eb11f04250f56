"""What a training stack can do: a named set of features that holds no number of its own."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clustersim.spec.base import Record

Attention = Literal["unfused", "fused_softmax", "flash_1", "flash_2", "flash_3"]


class Features(Record):
    """Features of a software generation. Each is a mechanism in `workload` or `cost`."""

    attention: Attention = Field(
        default="flash_2", description="how the attention core is computed"
    )
    fused_kernels: bool = Field(
        default=True, description="bias, activation, dropout, add and norm are fused"
    )
    fused_cross_entropy: bool = Field(
        default=False, description="vocabulary-parallel loss in one pass"
    )
    fused_grad_accumulation: bool = Field(
        default=True, description="weight gradients are added to the main gradient by the product"
    )
    gradient_copies: bool = Field(
        default=False, description="gradients are reduced and stepped through flat copies"
    )
    keep_stage_outputs: bool = Field(
        default=False, description="a stage's output stays in memory until its backward pass"
    )
    tp_overlap: bool = Field(
        default=False, description="tensor-parallel collectives split and hidden behind products"
    )
    wgrad_overlap: bool = Field(
        default=True,
        description="backward: the input-gradient collective runs beside the weight gradient",
    )
    pp_overlap: bool = Field(default=False, description="stage transfers run beside compute")
    pp_scatter_gather: bool = Field(
        default=False,
        description="stage transfer split over tensor-parallel ranks, gathered over NVLink",
    )
    dp_overlap_reduce: bool = Field(
        default=False, description="gradient reduction runs beside the backward pass"
    )
    dp_overlap_gather: bool = Field(
        default=False, description="parameter gather runs beside the forward pass"
    )
    owner_broadcast: bool = Field(
        default=False,
        description="updated parameters leave each owner in a broadcast of its own, not in one "
        "gather",
    )
    cuda_graphs: bool = Field(default=False, description="the whole iteration is one graph launch")
    async_data_pipeline: bool = Field(
        default=False, description="input is prepared off the critical path"
    )


class Software(Record):
    """A software generation, such as `megatron-2021`."""

    name: str
    features: Features = Features()
    source: str = ""
