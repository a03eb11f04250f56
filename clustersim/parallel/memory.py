"""Memory of one GPU, term by term, at each pipeline stage when it holds most.

Model states follow mixed-precision Adam: 16-bit weights, an accumulated gradient, and an fp32
master copy with two moments, the last three shared out under ZeRO-1. Activations are counted
tensor by tensor as autograd keeps them, times the micro-batches in flight at the worst moment of
the schedule. Stacks that copy gradients, or hold the outputs of a stage, add buffers by feature.
The moment of the optimizer step is told from that of the activations: the larger is needed, and
the smaller stays with the caching allocator as cached blocks. Left out: activations that an
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
.. [5] Megatron Core, "Distributed optimizer", bytes a parameter by datatype,
   https://docs.nvidia.com/megatron-core/developer-guide/latest/api-guide/dist_optimizer.html
.. [6] NVIDIA, Megatron-LM, fused_softmax.py (softmax without the fused kernel) and
   tensor_parallel/cross_entropy.py, https://github.com/NVIDIA/Megatron-LM
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.parallel.layers import Layers, split_layers
from clustersim.parallel.schedule import peak_in_flight, stage_order
from clustersim.parallel.shape import RankShape, rank_shape
from clustersim.parallel.shards import chunk_parameters
from clustersim.spec.datatypes import ELEMENT_BYTES
from clustersim.spec.scenario import Scenario

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
)
WORKING_TERMS = ("activations", "logits", "recompute_buffer", "backward_buffer", "pipeline_buffers")


@dataclass(frozen=True)
class Memory:
    """Bytes a GPU of each stage holds at its peak.

    Attributes
    ----------
    by_stage : dict of str to ndarray of float64 (stages,)
        Live tensors, one entry a term of `TERMS`. [bytes]
    cached_blocks : ndarray of float64 (stages,)
        Free blocks of the caching allocator, which the device shows as taken. The allocator
        returns them before it gives up, so they are not needed. [bytes]
    capacity_bytes : float
        Memory of the device. [bytes]
    """

    by_stage: dict[str, NDArray[np.float64]]
    cached_blocks: NDArray[np.float64]
    capacity_bytes: float

    @property
    def live_bytes(self) -> NDArray[np.float64]:
        """All live tensors of each stage, (stages,). [bytes]"""
        return np.asarray(np.sum([self.by_stage[term] for term in TERMS], axis=0), np.float64)

    @property
    def needed_bytes(self) -> NDArray[np.float64]:
        """What each stage needs of its device, fragmentation and context too, (stages,). [bytes]"""
        return self.live_bytes * (1.0 + FRAGMENTATION) + CONTEXT_BYTES

    @property
    def worst_stage(self) -> int:
        """The stage that needs most."""
        return int(np.argmax(self.needed_bytes))

    @property
    def fits(self) -> bool:
        """Whether the device has what its worst stage needs."""
        return bool(self.needed_bytes.max() <= self.capacity_bytes)

    def terms(self, stage: int | None = None) -> dict[str, float]:
        """Terms of what one stage needs, and their `total`.

        Parameters
        ----------
        stage : int, optional
            The stage that needs most, if absent.

        Returns
        -------
        dict of str to float
            Entries of `TERMS`, `fragmentation`, `context` and `total`. Cached blocks are not among
            them. [bytes]
        """
        at = self.worst_stage if stage is None else stage
        terms = {term: float(self.by_stage[term][at]) for term in TERMS}
        terms["fragmentation"] = FRAGMENTATION * float(self.live_bytes[at])
        terms["context"] = CONTEXT_BYTES
        return {**terms, "total": float(self.needed_bytes[at])}


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
    logits[-1] = logits_bytes(scenario, int(in_flight[-1, -1]))
    by_stage = {
        "parameters": held * ELEMENT_BYTES[training.dtype],
        "gradients": held * ELEMENT_BYTES[training.grad_dtype],
        "gradient_copies": _gradient_copies(scenario, held),
        "optimizer": owned * optimizer_bytes_a_parameter(scenario),
        "activations": activations,
        "logits": logits,
        "recompute_buffer": buffer,
        "backward_buffer": np.full(layers.stages, backward_buffer_bytes(scenario)),
        "pipeline_buffers": pipeline_buffer_bytes(scenario, in_flight),
    }
    step = _step_bytes(scenario, held, owned)
    working = np.sum([by_stage[term] for term in WORKING_TERMS], axis=0)
    by_stage["step_buffers"] = np.maximum(step - working, 0.0)
    capacity_bytes = float(scenario.cluster.node.device.memory)
    return Memory(by_stage, np.minimum(step, working), capacity_bytes)


def optimizer_bytes_a_parameter(scenario: Scenario) -> float:
    """Adam's state of a parameter that the rank owns.

    Parameters
    ----------
    scenario : Scenario

    Returns
    -------
    float
        12 or 16. [bytes]

    Notes
    -----
    An fp32 master weight and two moments [2]. Adam steps in fp32, so 16-bit gradients need a copy:
    Megatron's documentation [5] gives 20 bytes a parameter with them, 4 + 16/d sharded, against 18
    and 6 + 12/d with fp32 gradients. Where the software has `gradient_copies`, `step_buffers`
    counts that copy.
    """
    copied = scenario.training.grad_dtype == "fp32" or scenario.software.features.gradient_copies
    return 12.0 if copied else 16.0


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
    return held * ELEMENT_BYTES[training.dtype] + largest_weight(scenario) * 4.0


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
    e = ELEMENT_BYTES[training.dtype]
    flat = 2 * e if scenario.parallelism.zero_stage else e
    return np.minimum(held, BUCKET_ELEMENTS) * e + owned * (flat + 4.0)


def largest_weight(scenario: Scenario) -> float:
    """Parameters of the largest tensor of a rank: the embedding table or a product of the MLP.

    Parameters
    ----------
    scenario : Scenario

    Returns
    -------
    float
        A count of elements.
    """
    model = scenario.model
    branches = 2 if model.gated_mlp else 1
    widest = max(model.padded_vocab, branches * model.ffn)
    return widest * model.hidden / scenario.parallelism.tensor_parallel


def pipeline_buffer_bytes(scenario: Scenario, in_flight: NDArray[np.int64]) -> NDArray[np.float64]:
    """Stage outputs that wait for their backward pass, and the two receive buffers, (stages,).

    Parameters
    ----------
    scenario : Scenario
    in_flight : ndarray of int64 (stages, chunks)
        Micro-batches in flight.

    Returns
    -------
    ndarray of float64 (stages,)
        0 with one stage, and where the software does not have `keep_stage_outputs`. [bytes]

    Notes
    -----
    An output is the input of no layer here, so no activation counts it; Megatron-LM of 2022 frees
    it once sent ([1], appendix B). One input and one gradient are received ahead [3].
    """
    stages = in_flight.shape[0]
    if stages == 1 or not scenario.software.features.keep_stage_outputs:
        return np.zeros(stages)
    message = rank_shape(scenario).norm_bytes
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


def layer_activation_bytes(scenario: Scenario, recompute: str) -> float:
    """Bytes that one layer keeps of one micro-batch for its backward pass.

    Parameters
    ----------
    scenario : Scenario
    recompute : str
        "none", "selective" (scores, softmax and dropout of the core are not kept) or "full"
        (only the input of the layer is kept).

    Returns
    -------
    float
        On one rank. [bytes]

    Notes
    -----
    For a GPT layer in 16 bits with dropout and unfused attention this is
    ``s b h (10 + 24/t + 5 a s / (h t))``, and with sequence parallelism all of it over ``t`` [1].
    """
    shape, model = rank_shape(scenario), scenario.model
    if recompute == "full":
        return shape.norm_bytes
    norms = 1 if model.parallel_block else 2
    masks = 2.0 * shape.norm_tokens * model.hidden if shape.dropout else 0.0
    residual = shape.norm_bytes * 2 * norms + masks
    # Queries and the context; keys and values; branches of the MLP and their product.
    heads = (2 * shape.heads + 2 * shape.kv_heads) * model.head_dim
    mlp = shape.ffn * (3 if model.gated_mlp else 2)
    inner = shape.tokens * (heads + mlp) * shape.element_bytes
    return residual + inner + _core_bytes(shape, recompute)


def _scores(shape: RankShape) -> float:
    """Elements of a rank's score matrices of one layer."""
    return float(shape.tokens) * shape.heads * shape.sequence_length


def _core_bytes(shape: RankShape, recompute: str) -> float:
    """What the attention core keeps: row statistics if fused, else softmax, mask and product.

    Notes
    -----
    Without the fused kernel Megatron-LM casts the scores to fp32, scales, masks, takes the softmax
    and casts back [6]. Casts and a scale by a constant keep nothing, a softmax keeps its output,
    here 4 bytes; the product with the values keeps the 16-bit probabilities, which are another
    tensor now. With dropout it keeps their dropped-out copy instead, and dropout its mask.
    """
    if shape.flash:
        return float(shape.tokens) * shape.heads * 4.0
    if recompute == "selective":
        return 0.0
    e, mask = shape.element_bytes, 1.0 if shape.dropout else 0.0
    match shape.attention:
        case "fp32_softmax":
            each = 4.0 + e + mask
        case "unfused":  # scaled and masked scores too
            each = 3 * e + (e + mask if shape.dropout else 0.0)
        case _:
            each = e + (e + mask if shape.dropout else 0.0)
    return _scores(shape) * each


def backward_buffer_bytes(scenario: Scenario) -> float:
    """Gradients of the activations of one layer, at the moment of its backward pass with most.

    Parameters
    ----------
    scenario : Scenario

    Returns
    -------
    float
        Of one micro-batch; the same on every stage. [bytes]

    Notes
    -----
    In the MLP: the gradients of its output, of the activation's output and of the activation's
    input. In an unfused core, once the activations of the MLP are gone: the gradients of the
    residual stream, of the softmax output and of its input, in the datatype of the softmax.
    """
    shape = rank_shape(scenario)
    widths = 3 if scenario.model.gated_mlp else 2
    mlp = float(shape.tokens) * shape.ffn * widths * shape.element_bytes
    if shape.flash:
        return shape.norm_bytes + mlp
    softmax = ELEMENT_BYTES["fp32"] if shape.attention == "fp32_softmax" else shape.element_bytes
    return shape.norm_bytes + max(mlp, 2 * _scores(shape) * softmax - mlp)


def embedding_activation_bytes(scenario: Scenario) -> float:
    """Dropout mask of the embedding of one micro-batch.

    Parameters
    ----------
    scenario : Scenario

    Returns
    -------
    float
        A byte an element of the rows that the rank holds; 0 without dropout. [bytes]
    """
    shape = rank_shape(scenario)
    return float(shape.norm_tokens) * scenario.model.hidden if shape.dropout else 0.0


def logits_bytes(scenario: Scenario, in_flight: int = 1) -> float:
    """What the end of the model holds on the last stage.

    Parameters
    ----------
    scenario : Scenario
    in_flight : int
        Micro-batches of the last chunk whose backward pass is to come.

    Returns
    -------
    float
        On one rank. [bytes]

    Notes
    -----
    Every micro-batch in flight keeps input and output of the final norm, and the softmax of its
    loss, 4 bytes a logit ([1], section 4.3; [6]) or, with a fused loss, the 16-bit logits. One
    micro-batch at a time has a gradient of its logits, and an unfused loss the logits it casts.
    """
    shape = rank_shape(scenario)
    logits = float(shape.tokens) * shape.vocab
    e, fused = shape.element_bytes, shape.features.fused_cross_entropy
    kept = logits * (e if fused else ELEMENT_BYTES["fp32"]) + 2 * shape.norm_bytes
    passing = logits * (e if fused else 2 * e)
    return in_flight * kept + passing
