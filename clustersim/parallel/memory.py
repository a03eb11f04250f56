"""Memory of one GPU, term by term, at each pipeline stage when it holds most.

Model states follow mixed-precision Adam: 16-bit weights, an accumulated gradient, and an fp32
master copy with two moments, the last three shared out under ZeRO-1. Activations are counted
tensor by tensor as autograd keeps them, times the micro-batches in flight at the worst moment of
the schedule. Stacks that copy gradients, or hold the outputs of a stage, add buffers by feature.
The moment of the optimizer step is told from that of the activations: the larger counts, and the
smaller stays with the caching allocator as `cached_blocks`. Left out: activations that an
operator keeps beyond its inputs and outputs (a few statistics a row), buffers of NCCL beyond the
context, and fragmentation beyond a fixed share.

References
----------
.. [1] V. Korthikanti et al., "Reducing activation recomputation in large transformer models",
   section 4, 2022, https://arxiv.org/abs/2205.05198
.. [2] S. Rajbhandari et al., "ZeRO", SC 2020, https://arxiv.org/abs/1910.02054
.. [3] DeepSpeed, runtime/zero/stage_1_and_2.py, runtime/bf16_optimizer.py, runtime/pipe/engine.py
   and schedule.py, https://github.com/microsoft/DeepSpeed
.. [4] DeepSpeed configuration, `reduce_bucket_size`, https://www.deepspeed.ai/docs/config-json
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

BUCKET_ELEMENTS = 5e8  # gradients reduced at once: default of DeepSpeed's reduce_bucket_size [4]

TERMS = (
    "parameters",
    "gradients",
    "gradient_copies",
    "optimizer",
    "activations",
    "logits",
    "recompute_buffer",
    "backward_buffer",
    "pipeline_buffers",
    "step_buffers",
    "cached_blocks",
)
WORKING_TERMS = ("activations", "logits", "recompute_buffer", "backward_buffer", "pipeline_buffers")


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
        """All terms of each stage: what the allocator has taken from the device. [bytes]"""
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
        """Whether every stage, with fragmentation and context, fits the device.

        Cached blocks do not count: the allocator returns them before it gives up.
        """
        live = self.allocated_bytes - self.by_stage["cached_blocks"]
        needed = live.max() * (1.0 + FRAGMENTATION) + CONTEXT_BYTES
        return bool(needed <= self.capacity_bytes)


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
        "gradient_copies": _gradient_copies(scenario, held),
        "optimizer": owned * 12.0,
        "activations": activations,
        "logits": logits,
        "recompute_buffer": buffer,
        "backward_buffer": np.full(layers.stages, backward_buffer_bytes(scenario)),
        "pipeline_buffers": pipeline_buffer_bytes(scenario, in_flight),
    }
    step = _step_bytes(scenario, held, owned)
    working = np.sum([by_stage[term] for term in WORKING_TERMS], axis=0)
    by_stage["step_buffers"] = np.maximum(step - working, 0.0)
    by_stage["cached_blocks"] = np.minimum(step, working)
    return Memory(by_stage, float(scenario.cluster.node.device.memory))


def _gradient_copies(scenario: Scenario, held: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gradients besides the accumulated ones, where `Features.gradient_copies` asks, (stages,).

    Notes
    -----
    DeepSpeed's BF16_Optimizer [3] accumulates in fp32 beside the 16-bit gradients of the
    micro-batch, whole until its backward pass ends; it converts one weight at a time, so the
    largest one is held a third time.
    """
    training = scenario.training
    if not scenario.software.features.gradient_copies or training.grad_dtype != "fp32":
        return np.zeros_like(held)
    return held * WIDTH[training.dtype] + largest_weight(scenario) * 4.0


def _step_bytes(
    scenario: Scenario, held: NDArray[np.float64], owned: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Flat buffers of the optimizer step where gradients accumulate in 16 bits, (stages,).

    Notes
    -----
    DeepSpeed [3]: a bucket [4], and for what the rank owns a flat copy of the reduced gradients
    (ZeRO only), their concatenation, and its fp32 conversion. All are contiguous and larger than
    blocks that activations left, so the allocator asks the device for them.
    """
    training = scenario.training
    if not scenario.software.features.gradient_copies or training.grad_dtype == "fp32":
        return np.zeros_like(held)
    e = WIDTH[training.dtype]
    flat = 2 * e if scenario.parallelism.zero_stage else e
    return np.minimum(held, BUCKET_ELEMENTS) * e + owned * (flat + 4.0)


def largest_weight(scenario: Scenario) -> float:
    """Parameters of the largest tensor of a rank: the embedding table or a product of the MLP."""
    model = scenario.model
    branches = 2 if model.gated_mlp else 1
    widest = max(model.padded_vocab, branches * model.ffn)
    return widest * model.hidden / scenario.parallelism.tensor_parallel


def pipeline_buffer_bytes(scenario: Scenario, in_flight: NDArray[np.int64]) -> NDArray[np.float64]:
    """Stage outputs that wait for their backward pass, and the two receive buffers, (stages,).

    Parameters
    ----------
    in_flight : ndarray of int64 (stages, chunks)
        Micro-batches in flight.

    Notes
    -----
    An output is the input of no layer here, so no activation counts it; Megatron-LM of 2022 frees
    it once sent ([1], appendix B). One input and one gradient are received ahead [3].
    """
    stages = in_flight.shape[0]
    if stages == 1 or not scenario.software.features.keep_stage_outputs:
        return np.zeros(stages)
    message = _norm_tokens(scenario) * scenario.model.hidden * WIDTH[scenario.training.dtype]
    outputs = in_flight.sum(axis=1).astype(np.float64)
    outputs[-1] -= in_flight[-1, -1]  # the last chunk ends in the loss
    return np.asarray((outputs + 2.0) * message, np.float64)


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


def backward_buffer_bytes(scenario: Scenario) -> float:
    """Gradients of the activations of one layer, at the moment of its backward pass with most.

    Notes
    -----
    In the MLP: the gradients of its output, of the activation's output and of the activation's
    input. In an unfused core, once the activations of the MLP are gone: the gradients of the
    residual stream, of the softmax output and of its input.
    """
    model, training = scenario.model, scenario.training
    tp, e = scenario.parallelism.tensor_parallel, WIDTH[training.dtype]
    tokens = float(training.micro_batch * training.sequence_length)
    stream = _norm_tokens(scenario) * model.hidden * e
    mlp = tokens * model.ffn / tp * (3 if model.gated_mlp else 2) * e
    if scenario.software.features.attention.startswith("flash"):
        return stream + mlp
    core = 2 * tokens * model.attention_heads / tp * training.sequence_length * e - mlp
    return stream + max(mlp, core)


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
