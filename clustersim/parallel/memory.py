"""Memory of one GPU, term by term, at each pipeline stage when it holds most.

Model states follow mixed-precision Adam: 16-bit weights, an accumulated gradient, and an fp32
master copy with two moments, the last three shared out under ZeRO-1. Activations are counted
tensor by tensor as autograd keeps them, times the micro-batches in flight at the worst moment of
the schedule. Left out: activations that an operator keeps beyond its inputs and outputs (a few
statistics a row), and the allocator's choice of block sizes beyond a fixed share.

References
----------
.. [1] V. Korthikanti et al., "Reducing activation recomputation in large transformer models",
   section 4, 2022, https://arxiv.org/abs/2205.05198
.. [2] S. Rajbhandari et al., "ZeRO", SC 2020, https://arxiv.org/abs/1910.02054
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.parallel.layers import Layers, split_layers
from clustersim.parallel.schedule import peak_in_flight, stage_order
from clustersim.parallel.shards import chunk_parameters
from clustersim.spec.scenario import Scenario

WIDTH = {"fp32": 4, "bf16": 2, "fp16": 2}

# What a process needs beside its tensors: CUDA context and libraries (assumed, 1.5 GiB) and blocks
# that the caching allocator holds but cannot use (assumed, 5 %); the convention of the validation.
CONTEXT_BYTES = 1.5 * 2**30
FRAGMENTATION = 0.05

TERMS = ("parameters", "gradients", "optimizer", "activations", "logits", "recompute_buffer")


@dataclass(frozen=True)
class Memory:
    """Bytes a GPU of each stage holds at its peak.

    Attributes
    ----------
    by_stage : dict of str to ndarray of float64 (stages,)
        One entry a term of `TERMS`. [bytes]
    capacity_bytes : float
        Memory of the device. [bytes]
    """

    by_stage: dict[str, NDArray[np.float64]]
    capacity_bytes: float

    @property
    def allocated_bytes(self) -> NDArray[np.float64]:
        """Peak of live tensors at each stage. [bytes]"""
        return np.asarray(np.sum([self.by_stage[term] for term in TERMS], axis=0), np.float64)

    @property
    def worst_stage(self) -> int:
        """The stage that holds most."""
        return int(np.argmax(self.allocated_bytes))

    def terms(self, stage: int | None = None) -> dict[str, float]:
        """Terms of one stage (the worst by default), what the process adds, and their `total`."""
        at = self.worst_stage if stage is None else stage
        terms = {term: float(self.by_stage[term][at]) for term in TERMS}
        terms["fragmentation"] = FRAGMENTATION * sum(terms.values())
        terms["context"] = CONTEXT_BYTES
        return {**terms, "total": sum(terms.values())}

    @property
    def fits(self) -> bool:
        """Whether the worst stage, with fragmentation and context, fits the device."""
        return self.terms()["total"] <= self.capacity_bytes


def memory_of(scenario: Scenario) -> Memory:
    """Memory of every stage of a scenario.

    Parameters
    ----------
    scenario : Scenario

    Returns
    -------
    Memory
    """
    layers = split_layers(scenario)
    held = chunk_parameters(scenario, layers).sum(axis=1)
    training, replicas = scenario.training, scenario.data_parallel
    shards = scenario.parallelism.optimizer_shard_group or replicas
    owned = held / (shards if scenario.parallelism.zero_stage else 1)
    in_flight = _in_flight(scenario, layers)
    stored = layer_activation_bytes(scenario, training.recompute.kind)
    kept = layer_activation_bytes(scenario, "full")
    plain = layer_activation_bytes(scenario, "none")
    if training.recompute.kind == "full":
        unrecomputed = layers.count - layers.recomputed
        per_chunk = layers.recomputed * kept + unrecomputed * plain
        buffer = np.where(layers.recomputed.sum(axis=1) > 0, plain, 0.0)
    else:
        per_chunk = layers.count * stored
        buffer = np.full(layers.stages, plain - stored)
    activations = (in_flight * per_chunk).sum(axis=1)
    activations[0] += in_flight[0, 0] * embedding_activation_bytes(scenario)
    logits = np.zeros(layers.stages)
    logits[-1] = logits_bytes(scenario)
    by_stage = {
        "parameters": held * WIDTH[training.dtype],
        "gradients": held * WIDTH[training.grad_dtype],
        "optimizer": owned * 12.0,
        "activations": activations,
        "logits": logits,
        "recompute_buffer": buffer,
    }
    return Memory(by_stage, float(scenario.cluster.node.device.memory))


def _in_flight(scenario: Scenario, layers: Layers) -> NDArray[np.int64]:
    """Micro-batches in flight at the worst moment, (stages, chunks)."""
    orders = (
        stage_order(
            scenario.parallelism.schedule,
            stage,
            layers.stages,
            layers.chunks,
            scenario.micro_batches,
        )
        for stage in range(layers.stages)
    )
    return np.array([peak_in_flight(order, layers.chunks) for order in orders])


def _norm_tokens(scenario: Scenario) -> float:
    tokens = scenario.training.micro_batch * scenario.training.sequence_length
    parallelism = scenario.parallelism
    return tokens / (parallelism.tensor_parallel if parallelism.sequence_parallel else 1)


def layer_activation_bytes(scenario: Scenario, recompute: str) -> float:
    """Bytes that one layer keeps of one micro-batch for its backward pass.

    Parameters
    ----------
    recompute : str
        "none", "selective" (scores, softmax and dropout of the core are not kept) or "full"
        (only the input of the layer is kept).

    Notes
    -----
    For a GPT layer in 16 bits with dropout and unfused attention this is
    ``s b h (10 + 24/t + 5 a s / (h t))``, and with sequence parallelism all of it over ``t`` [1].
    """
    model, training = scenario.model, scenario.training
    tp, e = scenario.parallelism.tensor_parallel, WIDTH[training.dtype]
    tokens = float(training.micro_batch * training.sequence_length)
    stream = _norm_tokens(scenario) * model.hidden
    if recompute == "full":
        return stream * e
    norms = 1 if model.parallel_block else 2
    residual = stream * (2 * norms * e + (2 if training.dropout else 0))
    heads = model.attention_heads / tp
    kv_heads = max(1.0, model.kv_heads / tp)
    qkv = tokens * (heads + 2 * kv_heads) * model.head_dim * e
    context = tokens * heads * model.head_dim * e
    branches = 2 if model.gated_mlp else 1
    mlp = tokens * model.ffn / tp * (branches + 1) * e
    return residual + qkv + context + mlp + _core_bytes(scenario, recompute)


def _core_bytes(scenario: Scenario, recompute: str) -> float:
    """What the attention core keeps: row statistics if fused, else softmax, mask and product."""
    model, training = scenario.model, scenario.training
    heads = model.attention_heads / scenario.parallelism.tensor_parallel
    rows = float(training.micro_batch * training.sequence_length) * heads
    if scenario.software.features.attention.startswith("flash"):
        return rows * 4.0
    if recompute == "selective":
        return 0.0
    e = WIDTH[training.dtype]
    dropout = e + 1 if training.dropout else 0
    unfused = 2 * e if scenario.software.features.attention == "unfused" else 0
    return rows * training.sequence_length * (e + dropout + unfused)


def embedding_activation_bytes(scenario: Scenario) -> float:
    """Dropout mask of the embedding of one micro-batch. [bytes]"""
    mask = 1.0 if scenario.training.dropout else 0.0
    return _norm_tokens(scenario) * scenario.model.hidden * mask


def logits_bytes(scenario: Scenario) -> float:
    """Logits and their gradient on the last stage: 16 bits, and the fp32 copy of the loss."""
    training, model = scenario.training, scenario.model
    tokens = float(training.micro_batch * training.sequence_length)
    vocab = model.padded_vocab / scenario.parallelism.tensor_parallel
    e = WIDTH[training.dtype]
    final = 2 * _norm_tokens(scenario) * model.hidden * e
    width = 2 * e if scenario.software.features.fused_cross_entropy else 2 * e + 4
    return tokens * vocab * width + final
