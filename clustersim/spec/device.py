"""What a data sheet says of one accelerator.

Peaks are dense, bandwidths one direction. A GPU of two dies that the runtime shows as two devices
(MI250X) is one record a die. Fitted behaviour lives in the hardware profile, not here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clustersim.spec.base import Bytes, BytesPerS, FlopPerS, Hertz, Record, Watts

Architecture = Literal[
    "volta",
    "turing",
    "ampere",
    "ada",
    "hopper",
    "blackwell",
    "cdna2",
    "cdna3",
    "xe2",
    "gaudi",
    "ascend",
]


class Device(Record):
    """One accelerator, from its data sheet."""

    name: str = Field(description="catalogue id, lower case with underscores")
    title: str = Field(description="the vendor's name for it")
    vendor: str
    architecture: Architecture
    aliases: tuple[str, ...] = ()
    memory: Bytes = Field(ge=1)
    memory_bandwidth: BytesPerS = Field(ge=1)
    l2_cache: Bytes = Field(ge=1)
    sms: int = Field(gt=0, description="streaming multiprocessors or compute units")
    boost_clock: Hertz = Field(description="for the record: peaks are stated at it")
    matrix_peak: dict[str, Annotated[FlopPerS, Field(ge=1)]] = Field(
        min_length=1, description="dense matrix peak by datatype"
    )
    vector_peak: FlopPerS = Field(ge=1, description="fp32 peak of the ordinary (non-matrix) units")
    power_limit: Watts = Field(
        gt=0, description="sustained products slow down or speed up with it, from the profile's own"
    )
    idle_power: Watts | None = None
    scale_up_link: str | None = Field(description="link kind, a name in data/links; null: none")
    scale_up_bandwidth: BytesPerS | None = Field(ge=1, description="per GPU, one direction")
    pcie_bandwidth: BytesPerS = Field(ge=1, description="to the host, one direction")
    profile: str = Field(description="hardware profile, a name in data/profiles")
    sources: dict[str, str] = Field(description="where each figure comes from")
