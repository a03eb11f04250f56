"""How a serving replica is sharded: what each GPU holds, and the KV cache it has room for.

Attention is split over tensor-parallel ranks, heads of keys and values copied where there are
fewer of them than ranks; with attention data parallelism each attention rank has weights, queue
and cache of its own. Experts are spread over all GPUs of a stage. The cache gets what weights,
activations of the largest iteration, graphs and the context leave of the share that the engine
takes. Left out: fragmentation of the allocator (an engine allocates its cache once).

References
----------
.. [1] W. Kwon et al., "Efficient memory management for large language model serving with
   PagedAttention," SOSP 2023, https://arxiv.org/abs/2309.06180
.. [2] vLLM documentation, "Conserving memory" (what is profiled before the cache is allocated),
   https://docs.vllm.ai/en/latest/configuration/conserving_memory.html
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from clustersim.model import transformer
from clustersim.spec.model import Model
from clustersim.spec.serving import Precision, ServingScenario

# Bytes of a weight, scales of its blocks included.
WEIGHT_BYTES = {
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "fp8_block": 1.0 + 4.0 / 128.0**2,
    "nvfp4": 0.5625,
    "mxfp4": 0.53125,
    "w4a16_mxfp4": 0.53125,
    "w4a8_mxfp4_mxfp8": 0.53125,
    "int8": 1.0,
    "w8a16_int": 1.0,
    "w4a16_int": 0.5 + 2.0 / 128.0,
}
KV_BYTES = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0}
ACTIVATION_BYTES = 2.0
# What the driver keeps: an 80 GiB H100 shows 79.2 GiB to a program, a 24 GiB RTX 4090 23.65 GiB.
DRIVER_BYTES = 0.45 * 2**30
# CUDA context, libraries and their workspaces, without tensors; assumed.
CONTEXT_BYTES = 0.6 * 2**30
# Of one logit in the sampler: 16 bits of the product, 32 to sample, a copy sorted with its indices.
SAMPLER_BYTES = 2.0 + 4.0 + 4.0 + 8.0
# Buffers of NCCL and of an engine's own all-reduce, where there is more than one rank; assumed.
COMMUNICATION_BYTES = 0.6 * 2**30
STATE_BYTES = 4.0  # a number of the state of linear attention


@dataclass(frozen=True)
class Shards:
    """Degrees of one replica in the words of its layers.

    Attributes
    ----------
    tensor_parallel, attention_ranks, stages : int
        GPUs of an attention rank, attention ranks, pipeline stages.
    expert_parallel, expert_tensor_parallel : int
        Groups that hold whole experts, and GPUs that share each of them.
    heads, kv_heads : int
        On one GPU.
    """

    tensor_parallel: int
    attention_ranks: int
    stages: int
    expert_parallel: int
    expert_tensor_parallel: int
    heads: int
    kv_heads: int

    @property
    def width(self) -> int:
        """GPUs of a stage."""
        return self.tensor_parallel * self.attention_ranks


def shards_of(scenario: ServingScenario) -> Shards:
    """Degrees of one replica.

    Parameters
    ----------
    scenario : ServingScenario

    Returns
    -------
    Shards
    """
    p, model = scenario.parallelism, scenario.model
    width = p.tensor_parallel * p.attention_data_parallel
    return Shards(
        tensor_parallel=p.tensor_parallel,
        attention_ranks=p.attention_data_parallel,
        stages=p.pipeline_parallel,
        expert_parallel=p.expert_parallel,
        expert_tensor_parallel=width // p.expert_parallel,
        heads=model.attention_heads // p.tensor_parallel,
        kv_heads=max(1, model.kv_heads // p.tensor_parallel),
    )


@dataclass(frozen=True)
class CacheLayout:
    """What one GPU keeps of a sequence of c tokens, in blocks of `block_bytes`.

    ``full ceil(c / block_tokens) + window ceil(min(c, window_tokens) / block_tokens) + state``

    Attributes
    ----------
    block_tokens, window_tokens : int
        Tokens of a block, and tokens that layers with a window keep.
    block_bytes : float
        Of the layers that keep every token; where there are none, of those with a window. [bytes]
    full, window : float
        Blocks that a block of tokens takes in layers that keep all of them, and in those that keep
        the last ones.
    state : float
        Blocks of layers whose state does not grow.
    """

    block_tokens: int
    window_tokens: int
    block_bytes: float
    full: float
    window: float
    state: float


@dataclass(frozen=True)
class ReplicaMemory:
    """What one GPU of a replica holds, the worst stage. [bytes]

    Attributes
    ----------
    weights, activations, graphs, communication, context : float
        Without the cache.
    budget : float
        What the engine takes of the device.
    capacity : float
        Memory of the device that a program sees.
    layout : CacheLayout
        What a sequence takes.
    kv_blocks : int
        Blocks of one attention rank; 0 where the weights leave no room.
    """

    weights: float
    activations: float
    graphs: float
    communication: float
    context: float
    budget: float
    capacity: float
    layout: CacheLayout
    kv_blocks: int

    @property
    def fixed(self) -> float:
        """All but the cache. [bytes]"""
        held = self.weights + self.activations + self.graphs
        return held + self.communication + self.context

    @property
    def fits(self) -> bool:
        """Whether at least one block of cache is left."""
        return self.kv_blocks > 0

    def terms(self) -> dict[str, float]:
        """Terms and their `total`. [bytes]"""
        names = ("weights", "activations", "graphs", "communication", "context")
        terms = {name: float(getattr(self, name)) for name in names}
        terms["kv_cache"] = self.kv_blocks * self.layout.block_bytes
        return {**terms, "total": sum(terms.values())}


def kv_dtype(scenario: ServingScenario) -> str:
    """Datatype of the KV cache: as asked, else as the engine does for such weights.

    Parameters
    ----------
    scenario : ServingScenario

    Returns
    -------
    str
        A key of `KV_BYTES`: `precision.kv_cache`; else "bf16", or for weights below 16 bits what
        the engine states.
    """
    precision = scenario.precision
    if precision.kv_cache is not None:
        return precision.kv_cache
    narrow = WEIGHT_BYTES[precision.weights] < ACTIVATION_BYTES
    return scenario.engine.kv_dtype_of_8_bit_weights if narrow else "bf16"


def cache_layout(model: Model, shards: Shards, dtype: str, block_tokens: int) -> CacheLayout:
    """What the layers of a stage keep of each sequence on one GPU.

    Latent attention keeps one vector a token, copied on every tensor-parallel rank; a window and a
    chunk keep their last tokens; linear attention keeps head_dim x head_dim numbers a head.

    Parameters
    ----------
    model : Model
    shards : Shards
        Layers are divided over its stages, the fullest stage counts.
    dtype : str
        A key of `KV_BYTES`.
    block_tokens : int
        Tokens of a block.

    Returns
    -------
    CacheLayout
    """
    if model.latent is not None:
        width = float(model.latent.kv_rank + model.latent.rotary_dim)
    else:
        width = 2.0 * shards.kv_heads * model.head_dim
    each = width * KV_BYTES[dtype] * block_tokens
    full = math.ceil(model.layers_of_kind("full") / shards.stages)
    windows = model.layers_of_kind("window") + model.layers_of_kind("chunked")
    windows = math.ceil(windows / shards.stages)
    state = shards.heads * model.head_dim**2 * STATE_BYTES
    state *= math.ceil(model.layers_of_kind("linear") / shards.stages)
    unit = each * (full or windows) or state
    return CacheLayout(
        block_tokens=block_tokens,
        window_tokens=model.sliding_window or 0,
        block_bytes=unit,
        full=1.0 if full else 0.0,
        window=windows * each / unit,
        state=state / unit,
    )


def weight_bytes(model: Model, shards: Shards, precision: Precision) -> float:
    """Weights of one GPU of the fullest stage.

    Parameters
    ----------
    model : Model
    shards : Shards
    precision : Precision
        Attention, experts and head may differ from the other weights; norms, biases and the router
        are kept in 16 bits.

    Returns
    -------
    float
        Scales of blocks included. [bytes]

    Notes
    -----
    With several stages a stage holds one of the two tables, embedding or head; alone it holds both,
    or one where they are tied.
    """
    layers = math.ceil(model.layers / shards.stages)
    expert_layers = math.ceil(model.expert_layers / shards.stages)
    attention = WEIGHT_BYTES[precision.attention or precision.weights]
    each = transformer.attention_weights(model) / shards.tensor_parallel * attention
    vectors = transformer.layer_vector_parameters(model) * ACTIVATION_BYTES
    held = layers * (each + vectors)
    dense = transformer.mlp_weights(model) / shards.tensor_parallel
    held += (layers - expert_layers) * dense * WEIGHT_BYTES[precision.weights]
    if model.experts is not None:
        one = transformer.expert_weights(model)
        routed = model.experts.experts * one / shards.width
        shared = model.experts.shared_experts * one / shards.tensor_parallel
        expert = routed * WEIGHT_BYTES[precision.experts or precision.weights]
        expert += shared * WEIGHT_BYTES[precision.weights]
        expert += transformer.router_weights(model) * ACTIVATION_BYTES
        held += expert_layers * expert
    tables = 1 if model.tied_embeddings and shards.stages == 1 else 2
    if shards.stages > 1:
        tables = 1
    head = model.padded_vocab * model.hidden / shards.tensor_parallel
    return held + tables * head * WEIGHT_BYTES[precision.head]


def activation_bytes(scenario: ServingScenario, shards: Shards) -> float:
    """Working buffers of the largest iteration on one GPU.

    Parameters
    ----------
    scenario : ServingScenario
        A token budget above 2^20 counts as 2^20.
    shards : Shards

    Returns
    -------
    float
        [bytes]
    """
    model, engine = scenario.model, scenario.engine
    tokens = min(engine.token_budget, 2**20)
    ffn = model.ffn / shards.tensor_parallel
    if model.experts is not None:
        local = model.experts.top_k / shards.expert_parallel
        ffn = max(ffn, local * model.experts.expert_ffn / shards.expert_tensor_parallel)
    branches = 3.0 if model.gated_mlp else 2.0
    widths = 2.0 * model.hidden + branches * ffn
    sequences = min(engine.max_sequences, tokens)
    logits = sequences * model.padded_vocab * SAMPLER_BYTES
    return tokens * widths * ACTIVATION_BYTES + logits


def memory_of_replica(scenario: ServingScenario) -> ReplicaMemory:
    """Memory of one GPU of a replica, and the cache that is left.

    Parameters
    ----------
    scenario : ServingScenario

    Returns
    -------
    ReplicaMemory
        Also where nothing is left: `fits` says so.
    """
    model, engine = scenario.model, scenario.engine
    shards, dtype = shards_of(scenario), kv_dtype(scenario)
    capacity = scenario.cluster.node.device.memory - DRIVER_BYTES
    weights = weight_bytes(model, shards, scenario.precision)
    activations = activation_bytes(scenario, shards)
    communication = COMMUNICATION_BYTES if shards.width > 1 else 0.0
    fixed = weights + activations + communication + CONTEXT_BYTES + engine.graph_pool
    budget = engine.memory_fraction * capacity
    match engine.memory_fraction_of:
        case "device":
            left = budget - fixed
        case "weights_and_cache":
            left = budget - weights
        case "free":
            left = engine.memory_fraction * (capacity - fixed)
            budget = fixed + max(left, 0.0)
    layout = cache_layout(model, shards, dtype, engine.block_tokens)
    return ReplicaMemory(
        weights=weights,
        activations=activations,
        graphs=engine.graph_pool,
        communication=communication,
        context=CONTEXT_BYTES,
        budget=budget,
        capacity=capacity,
        layout=layout,
        kv_blocks=max(0, math.floor(left / layout.block_bytes)),
    )
