"""Fitted behaviour of a device: a few physical coefficients, each with its pedigree.

A profile says what a data sheet does not: which share of a peak a kernel reaches, what a tile, a
launch or a misaligned row costs. Coefficients depend on the device, the operator, the datatype and
the generation of a kernel, and on nothing else. Tile shapes and split factors are properties of
kernel libraries and live in the code of the cost models.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field

from clustersim.errors import ModelDomainError
from clustersim.spec.base import BytesPerS, Record, Seconds
from clustersim.spec.profile_attention import DecodeCoefficients, PrefillCoefficients
from clustersim.spec.profile_elementwise import ElementwiseCoefficients, TransferCoefficients
from clustersim.spec.profile_mla import (
    MlaDecodeCoefficients,
    MlaModuleCoefficients,
    MlaPrefillCoefficients,
)
from clustersim.spec.profile_moe import (
    ExchangeCoefficients,
    ExpertStepCoefficients,
    MoeCoefficients,
)
from clustersim.spec.profile_quantised import QuantisedCoefficients

T = TypeVar("T")
Fraction = Annotated[float, Field(gt=0, le=1)]
Origin = Literal["fitted", "derived", "assumed"]

STEP = "training step"  # the operator under which a pedigree states the error of published steps
UNMEASURED_ERROR = 0.2  # assumed for a device of which nothing was measured


class GemmCoefficients(QuantisedCoefficients):
    """How matrix products of one datatype run."""

    matmul_efficiency: Fraction = Field(
        description="share of the dense peak in the main loop of a 128 x 256 tile, boost clock"
    )
    power_fraction: Fraction = Field(
        description="share of the dense peak that a long kernel sustains under the power limit"
    )
    power_ramp_s: Seconds = Field(gt=0, description="kernel time at which half the limit is felt")
    tile_edge_penalty: float = Field(
        ge=0, description="elements; how much slower the main loop of a smaller tile is"
    )
    sm_bandwidth: BytesPerS = Field(gt=0, description="operands into one SM, from L2")
    tile_fill_s: Seconds = Field(ge=0, description="prologue and epilogue of one tile")
    memory_efficiency: Fraction = Field(description="share of the memory bandwidth")
    split_overhead_s: Seconds = Field(ge=0, description="start of the reduction after a split of k")
    kernel_floor_s: Seconds = Field(ge=0, description="least time of one kernel")


class Alignment(Record):
    """What rows cost whose bytes are not a multiple of 64: factors on the main loop.

    Below 16 bytes no wide load fits. A single product then runs on the matrix units with narrow
    loads; for batched ones libraries fall back to fp32 arithmetic on the vector units.
    """

    bytes_32: float = Field(ge=1, description="factor: rows divisible by 32 bytes, not by 64")
    bytes_16: float = Field(ge=1, description="factor: rows divisible by 16 bytes, not by 32")
    below_16: float = Field(ge=1, description="factor: other rows, single products")
    vector_efficiency: Fraction = Field(
        description="other rows, batched products: share of the vector peak in the main loop"
    )


class AttentionCoefficients(Record):
    """How one generation of fused attention kernels runs."""

    forward_efficiency: Fraction = Field(description="share of the dense peak, forward inner loop")
    backward_efficiency: Fraction = Field(description="share of the dense peak, backward")
    q_tile: int = Field(gt=0, description="query rows of one thread block")
    tile_setup_s: Seconds = Field(ge=0, description="start and finish of one thread block")
    head_dim_penalty: float = Field(
        ge=0, description="inner loop slower by penalty * (128 / head_dim - 1) below 128"
    )
    memory_efficiency: Fraction = Field(description="share of the memory bandwidth")
    kernel_floor_s: Seconds = Field(ge=0, description="least time of one kernel")


class HostCoefficients(Record):
    """What the host of an eager training loop costs."""

    operator_s: Seconds = Field(
        ge=0,
        description="host time to issue one operator of the workload: the framework operations "
        "behind it (views, autograd, Python) and its launch",
    )
    step_s: Seconds = Field(ge=0, description="host work of one step: norms, logging, checks")
    input_s: Seconds = Field(ge=0, description="input of one step, where it is not prefetched")


class FitError(Record):
    """Mean absolute relative error of one fitted operator, as fractions."""

    operator: str
    points: int = Field(gt=0)
    in_sample: float = Field(ge=0)
    held_out: float | None = Field(default=None, ge=0, description="how is said in the notes")


class Pedigree(Record):
    """Where the coefficients come from and how far to trust them."""

    fitted_to: tuple[str, ...] = ()
    parameters: int = Field(ge=0, description="coefficients in the fitted groups")
    origins: dict[str, Origin] = Field(description="by group of coefficients")
    errors: tuple[FitError, ...] = ()
    notes: str = ""


class Profile(Record):
    """Fitted behaviour of one device, or of a family of near copies."""

    name: str
    device: str = Field(description="the device it was fitted on, or is derived for")
    derived: bool = Field(description="no kernel of this device was measured")
    training_clock_fraction: Fraction = Field(
        description="rate of matrix products in a training step over that of a micro-benchmark"
    )
    gemm: dict[str, GemmCoefficients] = Field(min_length=1, description="by datatype")
    alignment: Alignment
    attention: dict[str, AttentionCoefficients] = Field(description="by generation")
    elementwise: dict[str, ElementwiseCoefficients] = Field(description="by class of kernel")
    prefill: dict[str, PrefillCoefficients] = Field(default={}, description="serving, by datatype")
    decode: dict[str, DecodeCoefficients] = Field(default={}, description="by cache datatype")
    bidirectional: dict[str, PrefillCoefficients] = Field(default={}, description="by datatype")
    moe: dict[str, MoeCoefficients] = Field(default={}, description="by format of the experts")
    expert_exchange: dict[str, ExchangeCoefficients] = Field(
        default={}, description="by mode and phase"
    )
    expert_steps: dict[str, ExpertStepCoefficients] = Field(default={}, description="by step")
    mla_prefill: dict[str, MlaPrefillCoefficients] = Field(
        default={}, description="latent attention over prompts, by cache datatype"
    )
    mla_decode: dict[str, MlaDecodeCoefficients] = Field(
        default={}, description="latent attention over a cache, by cache datatype"
    )
    mla_module: dict[str, MlaModuleCoefficients] = Field(
        default={}, description="blocks of latent attention, by phase"
    )
    transfer: TransferCoefficients | None = Field(
        default=None, description="copies over the host link and to drives"
    )
    kernel_gap_s: Seconds = Field(ge=0, description="idle GPU between kernels of a full stream")
    overlap_drag: float = Field(
        ge=0, lt=1, description="share of the SMs that a collective beside kernels holds"
    )
    host: HostCoefficients
    pedigree: Pedigree

    @property
    def has_step_error(self) -> bool:
        """Whether published steps on this device were compared."""
        return any(error.operator == STEP for error in self.pedigree.errors)

    @property
    def step_error(self) -> float:
        """Mean absolute error of a training step on this device, as a fraction.

        Of published steps where the pedigree has any; else of matrix products, held out where that
        was measured; else `UNMEASURED_ERROR`.
        """
        errors = {error.operator: error for error in self.pedigree.errors}
        if STEP in errors:
            return errors[STEP].in_sample
        for operator, error in errors.items():
            if operator.startswith("gemm"):
                return error.in_sample if error.held_out is None else error.held_out
        return UNMEASURED_ERROR

    def gemm_coefficients(self, dtype: str) -> GemmCoefficients:
        """Coefficients of a datatype; those of the 16-bit types stand in for unmeasured ones.

        Parameters
        ----------
        dtype : str
            Of the operands; where it was not measured, bf16 is looked for and then fp16.

        Returns
        -------
        GemmCoefficients

        Raises
        ------
        ModelDomainError
            If the profile has none of the three.
        """
        for key in (dtype, "bf16", "fp16"):
            if key in self.gemm:
                return self.gemm[key]
        raise ModelDomainError(
            f"profile {self.name}: no matrix-product coefficients for {dtype!r}; "
            f"it has {', '.join(sorted(self.gemm))}"
        )

    def attention_coefficients(self, generation: str) -> AttentionCoefficients:
        """Coefficients of a generation of fused attention.

        Parameters
        ----------
        generation : str
            Such as `flash_3`; '' is flash_2.

        Returns
        -------
        AttentionCoefficients

        Raises
        ------
        ModelDomainError
            If the profile lacks it: no generation stands in for another.
        """
        return self._known("attention", self.attention, generation or "flash_2")

    def elementwise_coefficients(self, kind: str) -> ElementwiseCoefficients:
        """Coefficients of a class of memory-bound kernels.

        Parameters
        ----------
        kind : str
            Class of the kernel; '' is stream.

        Returns
        -------
        ElementwiseCoefficients

        Raises
        ------
        ModelDomainError
            If the profile lacks it: no class stands in for another.
        """
        return self._known("elementwise", self.elementwise, kind or "stream")

    def _known(self, group: str, table: dict[str, T], key: str) -> T:
        if key not in table:
            raise ModelDomainError(
                f"profile {self.name}: no {group} coefficients for {key!r}; "
                f"it has {', '.join(sorted(table)) or 'none'}"
            )
        return table[key]
