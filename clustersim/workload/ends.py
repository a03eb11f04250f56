"""The two ends of the model: embedding on the first stage, norm, logits and loss on the last."""

from __future__ import annotations

from clustersim.parallel.shape import RankShape
from clustersim.workload.layer import Segments, norm
from clustersim.workload.operators import Category, Collective, Kernel, Segment
from clustersim.workload.shapes import (
    elementwise,
    gemm,
    linear_backward,
    tensor_collective,
)

# Passes over the fp32 logits of the vocabulary-parallel loss, in bytes a logit of 16 bits.
# Unfused: cast (2+4), maximum (4), subtract (4+4), exponent (4+4), sum (4), divide (4+4);
# fused: statistics (2), loss and gradient seed (2+2). Counted from Megatron-LM's published
# description of the loss, not fitted. Backward, unfused: gradient from fp32 probabilities (4+4),
# cast (4+2); fused: logits read, gradient written (2+2).
LOSS_BYTES = {False: 38.0, True: 6.0}
LOSS_BACKWARD_BYTES = {False: 14.0, True: 4.0}


def embedding_forward(shape: RankShape) -> Segments:
    """Look up tokens, add positions, reduce over the vocabulary shards, drop out.

    Parameters
    ----------
    shape : RankShape

    Returns
    -------
    tuple of Segment
        With more than one tensor-parallel rank, what follows the reduction is a segment of its own.

    Notes
    -----
    Bytes are those of the rows: look-up 2 streams, learned positions 3 more.
    """
    stream = shape.hidden_bytes
    positions = 3 * stream if shape.model.position == "learned" else 0.0
    kernels = (elementwise(shape, "embedding", 2 * stream + positions, 1 + (positions > 0)),)
    if shape.tensor_parallel == 1:
        return (Segment(kernels=(*kernels, *_dropout(shape, "embedding_dropout"))),)
    kind = "reduce_scatter" if shape.sequence_parallel else "all_reduce"
    look_up = Segment(kernels, (tensor_collective(shape, "reduce_embedding", kind),))
    dropout = _dropout(shape, "embedding_dropout")
    return (look_up, Segment(kernels=dropout)) if dropout else (look_up,)


def embedding_backward(shape: RankShape) -> Segments:
    """Mask the gradient, scatter it into a dense table and add that to the accumulated one.

    Parameters
    ----------
    shape : RankShape

    Returns
    -------
    tuple of Segment
        Two under sequence parallelism: the gradient is gathered first.

    Notes
    -----
    Bytes: 3 streams, and for each entry of this rank's table two passes in the datatype of the
    activations and two in that of the gradients.
    """
    table = float(shape.vocab) * shape.model.hidden
    moved = 3 * shape.hidden_bytes + table * (2 * shape.element_bytes + 2 * shape.grad_bytes)
    masked = _dropout(shape, "embedding_dropout_backward")
    scatter = elementwise(shape, "embedding_backward", moved, 2)
    if not shape.sequence_parallel:
        return (Segment(kernels=(*masked, scatter)),)
    gather = tensor_collective(shape, "gather_gradient", "all_gather")
    return (Segment(masked, (gather,)), Segment(kernels=(scatter,)))


def _dropout(shape: RankShape, name: str) -> tuple[Kernel, ...]:
    """The pass after the embedding, over the rows that this rank holds: data and a byte of mask."""
    mask = shape.norm_bytes / shape.element_bytes
    moved = 2 * shape.norm_bytes + mask
    return (elementwise(shape, name, moved),) if shape.dropout else ()


def head_forward(shape: RankShape) -> Segments:
    """Final norm, logits over this rank's vocabulary, loss with its three small reductions.

    Parameters
    ----------
    shape : RankShape

    Returns
    -------
    tuple of Segment
        Under sequence parallelism the input of the product is gathered; one tensor-parallel rank
        has no collectives.

    Notes
    -----
    The loss moves `LOSS_BYTES` a logit of this rank.
    """
    logits = float(shape.tokens) * shape.vocab
    product = gemm(shape, "logits", shape.tokens, shape.vocab, shape.model.hidden)
    fused = shape.features.fused_cross_entropy
    loss = elementwise(shape, "loss", logits * LOSS_BYTES[fused], 2 if fused else 8)
    segments: list[Segment] = [Segment(kernels=(norm(shape),))]
    if shape.sequence_parallel:
        segments.append(Segment(collectives=(_gather(shape, "gather_input"),)))
    segments.append(Segment(kernels=(product, loss)))
    if shape.tensor_parallel > 1:
        segments.append(Segment(collectives=tuple(_loss_reduce(shape) for _ in range(3))))
    return tuple(segments)


def head_backward(shape: RankShape) -> Segments:
    """Gradient of the loss, of the logits product and of the final norm.

    Parameters
    ----------
    shape : RankShape

    Returns
    -------
    tuple of Segment
        The reduction of the input gradient lies beside the weight gradient where the software
        overlaps the two.

    Notes
    -----
    The loss moves `LOSS_BACKWARD_BYTES` a logit of this rank.
    """
    logits = float(shape.tokens) * shape.vocab
    fused = shape.features.fused_cross_entropy
    loss = elementwise(shape, "loss_backward", logits * LOSS_BACKWARD_BYTES[fused], 2)
    h = shape.model.hidden
    dgrad, wgrads = linear_backward(shape, "logits", shape.tokens, shape.vocab, h)
    last = Segment(kernels=(norm(shape, backward=True),))
    if shape.tensor_parallel == 1:
        return (Segment(kernels=(loss, dgrad, *wgrads)), last)
    kind = "reduce_scatter" if shape.sequence_parallel else "all_reduce"
    reduce = tensor_collective(shape, "reduce_gradient", kind)
    beside = "beside" if shape.features.wgrad_overlap else "none"
    return (
        Segment(kernels=(loss, dgrad)),
        Segment(kernels=wgrads, collectives=(reduce,), overlap=beside),
        last,
    )


def _gather(shape: RankShape, name: str) -> Collective:
    return tensor_collective(shape, name, "all_gather")


def _loss_reduce(shape: RankShape) -> Collective:
    """One fp32 number a token over the vocabulary shards."""
    return Collective(
        "reduce_loss", "all_reduce", "tp", 4.0 * shape.tokens, "fp32", Category.TP_COMM
    )


def optimizer_kernels(
    shape: RankShape, owned: float, held: float, averaged: bool
) -> tuple[Kernel, ...]:
    """Adam with fp32 master weights: average, check, clip, update, copy back, clear.

    Parameters
    ----------
    owned : float
        Parameters whose optimizer state this rank holds; it updates these.
    held : float
        Parameters of this rank; it averages and clears the gradients of all of them.
    averaged : bool
        Whether gradients of several replicas were summed.

    Notes
    -----
    Bytes a parameter, with gradients of g bytes: average 2g; cast of a 16-bit gradient g + 4;
    fp16 unscaling with its overflow check 8; norm 4; clip 8; Adam 28 (gradient once, master weight
    and two moments twice); copy to the 16-bit weight 6; clear g.
    """
    g = shape.grad_bytes
    update = [
        ("average", 2.0 * g * held if averaged else 0.0),
        ("cast_gradients", (g + 4.0) * owned if g == 2 else 0.0),
        ("unscale", 8.0 * owned if shape.dtype == "fp16" else 0.0),
        ("gradient_norm", 4.0 * owned),
        ("clip", 8.0 * owned),
        ("adam", 28.0 * owned),
        ("copy_to_model", (4.0 + shape.element_bytes) * owned),
        ("clear_gradients", g * held),
    ]
    return tuple(
        elementwise(shape, name, moved, 1, Category.OPTIMIZER) for name, moved in update if moved
    )
