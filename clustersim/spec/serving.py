"""A complete serving question: this model on this cluster, under this load."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from clustersim.spec.base import Record, Seconds, refuse_unused
from clustersim.spec.model import Model
from clustersim.spec.scenario import EngineName
from clustersim.spec.serving_engine import ServingEngine, WeightDtype
from clustersim.spec.topology import Topology
from clustersim.spec.workload import Workload

KvDtype = Literal["bf16", "fp16", "fp8"]
POPULARITIES_OF: dict[str, tuple[str, ...]] = {  # field -> the popularities that read it
    "exponent": ("power_law",),
    "concentration": ("dirichlet",),
    "counts": ("counts",),
}


class ServingParallelism(Record):
    """Degrees of one replica, and how many replicas share the load."""

    tensor_parallel: int = Field(default=1, gt=0)
    pipeline_parallel: int = Field(default=1, gt=0)
    attention_data_parallel: int = Field(
        default=1, gt=0, description="attention ranks with a queue each, in lock-step"
    )
    expert_parallel: int = Field(
        default=1, gt=0, description="GPUs over which whole experts are spread; divides the replica"
    )
    replicas: int = Field(default=1, gt=0, description="independent copies, requests in turn")


class Precision(Record):
    """Number formats."""

    weights: WeightDtype = Field(default="bf16", description="of dense matrix products")
    experts: WeightDtype | None = Field(default=None, description="null: as weights")
    attention: WeightDtype | None = Field(
        default=None, description="products around attention; null: as weights"
    )
    head: WeightDtype = Field(default="bf16", description="embedding and output projection")
    kv_cache: KvDtype | None = Field(default=None, description="null: as the engine does")


class Speculation(Record):
    """Several tokens a step: drafted, then checked at once."""

    draft_tokens: int = Field(gt=0)
    accept_length: float = Field(ge=1, description="mean tokens that one step yields")
    draft_layers: float = Field(
        default=1.0, ge=0, description="layers of this model that one drafted token costs"
    )

    @model_validator(mode="after")
    def _check_accept(self) -> Speculation:
        if self.accept_length > self.draft_tokens + 1:
            raise ValueError(
                f"accept_length {self.accept_length} exceeds draft_tokens + 1"
                f" ({self.draft_tokens + 1})"
            )
        return self


class Routing(Record):
    """How popular experts are."""

    popularity: Literal["balanced", "uniform", "power_law", "dirichlet", "counts"] = "power_law"
    exponent: float = Field(default=0.7, ge=0, description="power_law: weight of rank r is r^-a")
    concentration: float = Field(default=5.0, gt=0, description="dirichlet: of each expert")
    counts: str | None = Field(default=None, description="counts: CSV with a column `count`")
    null_experts: int = Field(
        default=0, ge=0, description="experts that do nothing, chosen like the others"
    )
    sample_every_step: bool = Field(
        default=False, description="draw the loads of each step instead of their mean"
    )
    drift: Seconds | None = Field(
        default=None, gt=0, description="popularity is dealt anew after this time; null: never"
    )

    @model_validator(mode="after")
    def _check_popularity(self) -> Routing:
        if self.popularity == "counts" and self.counts is None:
            raise ValueError("popularity counts needs a file; name it in counts")
        refuse_unused(self, "popularity", POPULARITIES_OF)
        return self


class Slo(Record):
    """What a request has to keep to count as good."""

    ttft: Seconds | None = Field(default=None, gt=0)
    tpot: Seconds | None = Field(default=None, gt=0)
    e2e: Seconds | None = Field(default=None, gt=0)


class ServingRun(Record):
    """How the question is answered; `--seed` and `--engine` write here."""

    seed: int = Field(default=0, ge=0)
    replications: int = Field(default=1, gt=0, le=1_000, description="draws of the workload")
    engine: EngineName = "auto"
    time_limit: Seconds | None = Field(
        default=None, gt=0, description="requests still open then are counted as unfinished"
    )
    skip_bad: bool = Field(default=False, description="bad lines of a trace are skipped")


class ServingScenario(Record):
    """One serving question, complete and in SI units."""

    kind: Literal["serving"]
    name: str
    model: Model
    cluster: Topology
    parallelism: ServingParallelism = ServingParallelism()
    engine: ServingEngine
    precision: Precision = Precision()
    speculation: Speculation | None = None
    routing: Routing = Routing()
    workload: Workload
    slo: Slo | None = None
    gpu_hour_price: float | None = Field(
        default=None, gt=0, description="price of one GPU for an hour, in any currency"
    )
    run: ServingRun = ServingRun()

    @property
    def replica_gpus(self) -> int:
        """GPUs of one replica."""
        p = self.parallelism
        return p.tensor_parallel * p.attention_data_parallel * p.pipeline_parallel

    @property
    def gpus(self) -> int:
        """GPUs of all replicas."""
        return self.replica_gpus * self.parallelism.replicas
