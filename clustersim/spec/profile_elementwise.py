"""Fitted behaviour of memory-bound passes, and of transfers between device, host and drives."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clustersim.spec.base import BytesPerS, Record, Seconds

Share = Annotated[float, Field(gt=0, le=1)]


class ElementwiseCoefficients(Record):
    """How one class of memory-bound kernels runs.

    A training step is priced with the first two alone: its buffers come from other kernels, and
    its passes are long. The others describe a kernel repeated on the same buffers.
    """

    bandwidth_efficiency: Share = Field(description="share of the memory bandwidth")
    kernel_floor_s: Seconds = Field(ge=0, description="least time of one kernel")
    sm_bandwidth: BytesPerS | None = Field(
        default=None, gt=0, description="L2 and one SM, buffers that stay there; null: as beyond L2"
    )
    l2_fraction: float = Field(
        default=1.0, gt=0, description="buffers, over L2, of which half are found there again"
    )
    ramp_s: Seconds = Field(
        default=0.0, ge=0, description="time until all SMs take part, of a pass that fills them"
    )
    row_setup_s: Seconds = Field(
        default=0.0, ge=0, description="start and finish of the thread block of one row"
    )
    row_bandwidth: BytesPerS | None = Field(
        default=None, gt=0, description="bytes through the block of one row; null: rows do not bind"
    )


class TransferCoefficients(Record):
    """How copies over the host link and to drives run."""

    link_efficiency: Share = Field(description="share of the PCIe bandwidth of pinned copies")
    latency_s: Seconds = Field(ge=0, description="start of one copy")
    drive_read_bandwidth: BytesPerS = Field(gt=0, description="one NVMe drive, reading")
    drive_write_bandwidth: BytesPerS = Field(gt=0, description="one NVMe drive, writing")
