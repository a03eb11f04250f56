"""A complete question: this model, on this cluster, run this way."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from clustersim.spec.base import Record
from clustersim.spec.fleet import Fleet
from clustersim.spec.model import Model
from clustersim.spec.software import Software
from clustersim.spec.topology import Topology

Schedule = Literal["gpipe", "1f1b", "interleaved"]
Dtype = Literal["fp16", "bf16"]
WireDtype = Literal["fp32", "bf16", "fp16"]
EngineName = Literal["auto", "event", "compiled"]


class Parallelism(Record):
    """Degrees and schedule. Ranks are ordered tp, dp, pp, tp fastest."""

    tensor_parallel: int = Field(default=1, gt=0)
    pipeline_parallel: int = Field(default=1, gt=0)
    data_parallel: int = Field(default=0, ge=0, description="0: as many as the cluster holds")
    virtual_stages: int = Field(default=1, gt=0, description="model chunks a pipeline rank")
    sequence_parallel: bool = False
    zero_stage: Literal[0, 1] = 0
    optimizer_shard_group: int | None = Field(
        default=None, gt=0, description="optimizer state is sharded over this many dp ranks only"
    )
    schedule: Schedule = "1f1b"
    layers_per_chunk: tuple[int, ...] | None = Field(
        default=None, description="layers of each chunk in model order; null: split evenly"
    )


class Recompute(Record):
    """Which activations are computed again in the backward pass.

    `selective` recomputes the attention core. `full` keeps the input of each layer; with `layers`
    only that many layers of each stage, spread evenly over its chunks, earliest first.
    """

    kind: Literal["none", "selective", "full"] = "none"
    layers: int | None = Field(default=None, ge=0, description="full only; null: all layers")

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, data: object) -> object:
        return {"kind": data} if isinstance(data, str) else data


class Training(Record):
    """One optimizer step."""

    micro_batch: int = Field(gt=0, description="sequences per forward, per replica")
    global_batch: int = Field(gt=0, description="sequences per optimizer step")
    sequence_length: int = Field(gt=0)
    dtype: Dtype = "bf16"
    recompute: Recompute = Recompute()
    grad_dtype: WireDtype = Field(default="fp32", description="accumulated gradient")
    comm_dtype: WireDtype = Field(default="fp32", description="gradient on the wire")
    dropout: bool = Field(default=False, description="dropout is applied and its masks are stored")
    token_budget: float | None = Field(default=None, gt=0, description="tokens of the whole run")


class Run(Record):
    """How the question is answered; `--seed` and `--engine` write here."""

    seed: int = Field(default=0, ge=0)
    replications: int = Field(default=32, gt=0, le=10_000, description="draws of a random fleet")
    engine: EngineName = "auto"


class Scenario(Record):
    """One training question, complete and in SI units."""

    kind: Literal["training"] = "training"
    name: str
    model: Model
    cluster: Topology
    parallelism: Parallelism
    training: Training
    software: Software
    fleet: Fleet
    run: Run = Run()

    @property
    def gpus(self) -> int:
        """GPUs that the job uses: tp x pp x dp."""
        p = self.parallelism
        return p.tensor_parallel * p.pipeline_parallel * self.data_parallel

    @property
    def data_parallel(self) -> int:
        """Replicas; where the file leaves them open, as many as the cluster holds."""
        p = self.parallelism
        gpus = self.cluster.nodes * self.cluster.node.gpus
        return p.data_parallel or max(1, gpus // (p.tensor_parallel * p.pipeline_parallel))

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a replica in one step; the last may be smaller."""
        per_replica = -(-self.training.global_batch // self.data_parallel)
        return -(-per_replica // self.training.micro_batch)
