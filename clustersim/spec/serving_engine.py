"""What a generation of a serving engine does by default: a named table, every figure sourced.

References
----------
.. [1] vLLM documentation, "Engine arguments",
   https://docs.vllm.ai/en/latest/configuration/engine_args.html
.. [2] SGLang documentation, "Server arguments",
   https://docs.sglang.ai/advanced_features/server_arguments.html
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clustersim.spec.base import Bytes, Record, Seconds

Family = Literal["vllm", "sglang", "tensorrt_llm", "sarathi", "orca", "deepspeed_mii", "other"]
Policy = Literal["vllm_v1", "vllm_v0", "sarathi", "orca", "sglang", "tensorrt_llm", "static"]
MemoryShareOf = Literal["device", "weights_and_cache", "free"]
BudgetFloor = Literal["prompt", "context"]
WeightDtype = Literal[
    "bf16",
    "fp16",
    "fp8",
    "fp8_block",
    "nvfp4",
    "mxfp4",
    "w4a16_mxfp4",
    "w4a8_mxfp4_mxfp8",
    "int8",
    "w8a16_int",
    "w4a16_int",
]


class HostCosts(Record):
    """What the host adds to an iteration. Fitted to real runs, or assumed: `basis` says which."""

    step: Seconds = Field(ge=0, description="scheduling, inputs and outputs of one iteration")
    sequence: Seconds = Field(ge=0, description="of each sequence of an iteration")
    gap: Seconds = Field(
        default=0.0, ge=0, description="idle GPU between steps though the host runs ahead"
    )
    launch: Seconds | None = Field(
        default=None,
        ge=0,
        description="of a kernel where no graph was captured; null: an operator of eager Python, "
        "as the device's profile has it",
    )
    basis: Literal["fitted", "assumed"]
    evidence: str = Field(description="what it was fitted to, or why it was assumed")


class MemoryDefaults(Record):
    """Defaults that an engine takes by the memory of the device instead of its general ones."""

    memory: Bytes = Field(gt=0, description="least memory of the device")
    except_devices: tuple[str, ...] = Field(
        default=(), description="words in a catalogue id that keep a device out, such as a100"
    )
    token_budget: int | None = Field(default=None, gt=0)
    max_sequences: int | None = Field(default=None, gt=0)
    memory_fraction: float | None = Field(default=None, gt=0, le=1)
    largest_graph: int | None = Field(default=None, gt=0, description="graph_sizes end here")


class ServingEngine(Record):
    """A generation of a serving engine, such as `vllm-0.19`."""

    name: str
    family: Family
    version: str
    released: str = Field(description="date of the release, as 2025-06-30")
    policy: Policy
    token_budget: int = Field(gt=0, description="most tokens of one iteration")
    token_budget_at_least: BudgetFloor | None = Field(
        default=None,
        description="budget is raised where prompts are not cut; prompt: to the longest prompt of "
        "a run, context: to the longest sequence of the model",
    )
    max_sequences: int = Field(gt=0, description="most sequences that run at once")
    chunked_prefill: bool = Field(description="prompts may be cut at the token budget")
    block_tokens: int = Field(gt=0, description="tokens of one block of the KV cache")
    memory_fraction: float = Field(gt=0, le=1, description="of the device memory that is used")
    memory_fraction_of: MemoryShareOf = Field(
        default="device",
        description="device: of all its memory, for everything; weights_and_cache: of all its "
        "memory, without activations and graphs; free: of what weights and activations leave, for "
        "the KV cache alone",
    )
    prefix_caching: bool
    graph_sizes: tuple[int, ...] = Field(
        description="batches of a decode step that a graph was captured for; others are padded up"
    )
    graphs_of_prompts: bool = Field(
        default=False,
        description="steps with prompts run the graphs of their number of tokens too, attention "
        "outside of them",
    )
    graph_pool: Bytes = Field(default=0.0, ge=0, description="memory of the captured graphs")
    async_scheduling: bool = Field(description="the host prepares a step while the last one runs")
    custom_all_reduce: bool = Field(
        default=True, description="one-shot and two-shot kernels for small messages in a node"
    )
    one_shot_tokens: int | None = Field(
        default=None,
        gt=0,
        description="all-reduces of up to so many tokens take one shot, of more the library; "
        "without: the fastest of both and of two shots",
    )
    row_kernels: bool = Field(
        default=False,
        description="norms and activations run one block a row, element by element, as the kernels "
        "behind the measured passes; without: vectorised or generated kernels",
    )
    grouped_attention: bool = Field(
        default=True,
        description="decoding loads keys once for all query heads of a group; false: once for each",
    )
    token_filter: Literal["sort", "select", "reject"] = Field(
        default="sort",
        description="how top-k and top-p are applied: all logits sorted, thresholds found by a "
        "kernel, or tokens drawn until one passes",
    )
    default_sampling: Literal["greedy", "filtered"] = Field(
        default="greedy", description="of requests that say nothing"
    )
    generated_experts: tuple[WeightDtype, ...] = Field(
        default=(),
        description="formats of experts for which small batches run generated kernels "
        "(TensorRT-LLM's, on Blackwell)",
    )
    measured_experts: bool = Field(
        default=False,
        description="the measured kernels of experts are its own: it has no faster ones of other "
        "formats",
    )
    deepgemm_experts: tuple[WeightDtype, ...] = Field(
        default=(),
        description="formats of experts that run in DeepGEMM: in kernels of this format alone",
    )
    deepgemm_on: tuple[str, ...] = Field(
        default=(), description="words in a catalogue id of the devices where they do; empty: all"
    )
    deepgemm_below: int | None = Field(
        default=None,
        gt=1,
        description="ways of tensor parallelism in an expert from which on they do not",
    )
    deepgemm_padding: bool = Field(
        default=False,
        description="it computes room for all pairs of all ranks and 127 rows more for each "
        "expert, whether tokens fill it or not",
    )
    shared_expert_stream: int | None = Field(
        default=None, gt=0, description="most tokens whose shared experts run beside routed ones"
    )
    kv_dtype_of_8_bit_weights: Literal["bf16", "fp8"] = Field(
        default="bf16", description="KV cache where weights have 8 or 4 bits and nothing is said"
    )
    host: HostCosts
    by_memory: tuple[MemoryDefaults, ...] = Field(
        default=(), description="by rising memory; the last one that fits a device holds"
    )
    sources: dict[str, str] = Field(description="where each figure comes from")

    def on_device(self, name: str, memory_bytes: float) -> ServingEngine:
        """Return this engine with the defaults that it takes on a device.

        Parameters
        ----------
        name : str
            Catalogue id of the device.
        memory_bytes : float
            Its memory. [bytes]
        """
        fitting = [
            defaults
            for defaults in self.by_memory
            if memory_bytes >= defaults.memory
            and not any(word in name for word in defaults.except_devices)
        ]
        if not fitting:
            return self.model_copy(update={"by_memory": ()})
        kept = fitting[-1].model_dump(exclude_none=True, exclude={"memory", "except_devices"})
        largest = kept.pop("largest_graph", None)
        if largest is not None:
            kept["graph_sizes"] = tuple(size for size in self.graph_sizes if size <= largest)
        return self.model_copy(update={**kept, "by_memory": ()})
