"""What a generation of a serving engine does by default: a named table, every figure sourced."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clustersim.spec.base import Bytes, Record, Seconds

Family = Literal["vllm", "sglang", "tensorrt_llm", "sarathi", "orca", "deepspeed_mii", "other"]
Policy = Literal["vllm_v1", "vllm_v0", "sarathi", "orca", "sglang", "tensorrt_llm", "static"]
MemoryShareOf = Literal["device", "free"]


class HostCosts(Record):
    """What the host adds to an iteration. Fitted to real runs, or assumed: `basis` says which."""

    step: Seconds = Field(ge=0, description="scheduling, inputs and outputs of one iteration")
    sequence: Seconds = Field(ge=0, description="of each sequence of an iteration")
    launch: Seconds = Field(ge=0, description="of a kernel where no graph was captured")
    basis: Literal["fitted", "assumed"]
    evidence: str = Field(description="what it was fitted to, or why it was assumed")


class ServingEngine(Record):
    """A generation of a serving engine, such as `vllm-0.19`."""

    name: str
    family: Family
    version: str
    released: str = Field(description="date of the release, as 2025-06-30")
    policy: Policy
    token_budget: int = Field(gt=0, description="most tokens of one iteration")
    max_sequences: int = Field(gt=0, description="most sequences that run at once")
    chunked_prefill: bool = Field(description="prompts may be cut at the token budget")
    block_tokens: int = Field(gt=0, description="tokens of one block of the KV cache")
    memory_fraction: float = Field(gt=0, le=1, description="of the device memory that is used")
    memory_fraction_of: MemoryShareOf = Field(
        default="device", description="free: of what weights leave, for the KV cache alone"
    )
    prefix_caching: bool
    graph_sizes: tuple[int, ...] = Field(
        description="batches of a decode step that a graph was captured for; others are padded up"
    )
    graph_pool: Bytes = Field(default=0.0, ge=0, description="memory of the captured graphs")
    async_scheduling: bool = Field(description="the host prepares a step while the last one runs")
    custom_all_reduce: bool = Field(
        default=True, description="one-shot and two-shot kernels for small messages in a node"
    )
    kv_dtype_of_8_bit_weights: Literal["bf16", "fp8"] = Field(
        default="bf16", description="KV cache where weights have 8 or 4 bits and nothing is said"
    )
    host: HostCosts
    sources: dict[str, str] = Field(description="where each figure comes from")
