"""Published serving rows as records, in the words and units of the published README.

A row is kept as it was read until it is converted, so that one that cannot be read is one skipped
row and no error of its file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from clustersim.spec.serving import ServingScenario
from clustersim.validate.published import Count, Row

Number = int | float


@dataclass(frozen=True)
class ServingRow:
    """A serving measurement as it was read.

    Attributes
    ----------
    id, source, device
        Its name, the group of the summary, and the device in its own words.
    scored : mapping
        What it is judged by: metric and measured value, in SI units.
    data : mapping
        All keys of a row of ``rows:``, or all cells of a line of the CSV.
    folder : Path
        Of its file: traces are looked for beside it.
    shape : mapping or None
        Of the model that a line of the CSV names; None for a row of ``rows:``.
    """

    id: str
    source: str
    device: str | None
    scored: Mapping[str, Any]
    data: Mapping[str, Any]
    folder: Path
    shape: Mapping[str, Any] | None = None

    @property
    def is_point(self) -> bool:
        """Whether it is a line of the CSV."""
        return "ttft_ms" in self.data


@dataclass(frozen=True)
class ServingRun:
    """A row as something to run.

    Attributes
    ----------
    scenario : ServingScenario
    protocol : str
        One of the README's; says which statistics are taken.
    draws : int
        Draws of the requests, of which the mean is reported.
    kv_tokens : int or None
        Tokens that the cache of one attention rank holds, where the row says so.
    step : StepBatch or None
        What a single step decodes.
    assumed : tuple of str
        What the row left open and how it was filled.
    """

    scenario: ServingScenario
    protocol: str
    draws: int
    kv_tokens: int | None
    step: StepBatch | None
    assumed: tuple[str, ...]


@dataclass(frozen=True)
class StepBatch:
    """A single step that decodes: sequences of all ranks, and tokens that each has behind it."""

    sequences: int
    context: int


class ServingMoe(Row):
    """Experts of a model."""

    experts: Count
    topk: Count
    expert_ffn: Count
    shared: int = 0
    first_dense_layers: int = 0
    every: Count = 1
    groups: Count = 1
    topk_groups: Count = 1


class Shape(Row):
    """Shape of a model; ranks of latent attention stand in `attention` or beside it."""

    name: str = ""
    layers: Count
    hidden: Count
    heads: Count
    kv_heads: Count | None = None
    head_dim: Count | None = None
    ffn: int | None = None
    ffn_gated: bool = True
    vocab: Count
    attention: str | None = None
    kv_lora_rank: Count | None = None
    q_lora_rank: Count | None = None
    qk_nope_head_dim: Count | None = None
    qk_rope_head_dim: Count | None = None
    v_head_dim: Count | None = None
    layer_pattern: tuple[str, ...] = ()
    window: Count | None = None
    moe: ServingMoe | None = None
    tied_embeddings: bool | None = None
    weights: str | None = None
    note: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _flatten_attention(cls, data: object) -> object:
        """Take the ranks of `attention: {kind, ...}` beside it, and leave out what is null."""
        if not isinstance(data, dict):
            return data
        attention = data.get("attention")
        if isinstance(attention, dict):
            data = {**data, **attention, "attention": attention.get("kind")}
        return {key: value for key, value in data.items() if value is not None}


class ServingDegrees(Row):
    """Parallel sizes."""

    tp: Count | None = None
    pp: Count | None = None
    ep: Count | None = None
    dp: Count | None = None
    attention_dp: bool | int | None = None


class EngineWords(Row):
    """The engine and the features that the source names; others are not read."""

    name: str = ""
    static_batching: bool | None = None
    chunked_prefill: bool | None = None
    prefix_caching: bool | None = None
    cuda_graphs: bool | None = None
    overlap_scheduling: bool | None = None
    max_num_seqs: Count | None = None
    max_batch_per_rank: Count | None = None
    max_num_batched_tokens: Count | None = None
    dense_batch_tokens: Count | None = None
    block_size: Count | None = None
    kv_tokens_capacity: Count | None = None
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    speculative: Any = None
    balanced_routing: Any = None
    eplb: Any = None
    nano_batch_overlap: Any = None
    pd_disaggregation: Any = None
    weight_offload: Any = None
    kv_offload: Any = None
    expert_offload: Any = None
    offload_to: Any = None
    cpu_attention: Any = None
    cpu_experts: Any = None


class WorkloadWords(Row):
    """What is asked of the engine."""

    rate: float | None = Field(default=None, gt=0)
    input_len: float | None = Field(default=None, gt=0)
    output_len: float | None = Field(default=None, gt=0)
    batch: float | None = Field(default=None, gt=0)
    concurrency: Count | None = None
    requests: Count | None = None
    kv_len: float | None = Field(default=None, gt=0)
    trace: str | None = None


class LengthsFrom(Row):
    """Where lengths are drawn from (rule 10)."""

    file: str | None = None
    distribution: str | None = None
    input: float | None = Field(default=None, gt=0)
    input_mean: str = "file"
    output_mean: str = "file"
    assumed: bool = False


class Origin(Row):
    """Where a row was printed; the rest of its source is not read."""

    key: str = ""
    ref: str | None = None


class ServingCase(Row):
    """A row of ``rows:``."""

    id: str
    source: Origin = Origin()
    device: str | None = None
    gpus: Count | None = None
    gpus_per_node: Count | None = None
    interconnect: str | None = None
    power_limit_w: float | None = Field(default=None, gt=0)
    memory_limit_gb: float | None = Field(default=None, gt=0)
    model: Shape
    quantisation: str | None = None
    parallel: ServingDegrees = ServingDegrees()
    engine: EngineWords = EngineWords()
    workload: WorkloadWords = WorkloadWords()
    protocol: str | None = None
    batch_scope: str | None = None
    lengths_from: LengthsFrom | None = None
    measured: dict[str, Any] = Field(default_factory=dict)

    @field_validator("parallel", "engine", "workload", "measured", "source", mode="before")
    @classmethod
    def _null_is_empty(cls, value: object) -> object:
        return {} if value is None else value


class Point(Row):
    """A line of the CSV; empty cells are None."""

    id: str
    backend: str
    backend_version: str | None = None
    model: str
    system: str
    precision: str | None = None
    mode: str = "agg"
    isl: Count
    osl: Count
    concurrency: Count
    gemm_quant: str | None = None
    moe_quant: str | None = None
    tp: Count
    pp: Count = 1
    attention_dp: Count = 1
    moe_ep: Count = 1
    measured_on: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value not in ("", None)}


def first_problem(error: ValidationError) -> str:
    """The first problem of a row that cannot be read, in a few words.

    Parameters
    ----------
    error : ValidationError
        With at least one error.

    Returns
    -------
    str
        Field, pydantic's message and the value found, cut at 40 characters.
    """
    details = error.errors()[0]
    field = ".".join(map(str, details["loc"]))
    value = "" if details["type"] == "missing" else f" (found {str(details['input'])[:40]!r})"
    return f"{field}: {details['msg']}{value}" if field else str(details["msg"])
