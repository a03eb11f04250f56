"""Forward and backward pass of one transformer layer on one tensor-parallel rank, as segments.

Tensor parallelism splits the four products of a layer by columns, then by rows (Shoeybi et al.
2019); sequence parallelism replaces each all-reduce by an all-gather and a reduce-scatter and
shards what lies between (Korthikanti et al. 2022). A parallel block computes attention and MLP
from one norm and reduces both at once (GPT-J; MegaScale section 3.1).

References
----------
.. [1] M. Shoeybi et al., "Megatron-LM", 2019, https://arxiv.org/abs/1909.08053
.. [2] V. Korthikanti et al., "Reducing activation recomputation in large transformer models",
   2022, https://arxiv.org/abs/2205.05198
.. [3] Z. Jiang et al., "MegaScale", NSDI 2024, https://arxiv.org/abs/2402.15627
"""

from __future__ import annotations

from dataclasses import replace

from clustersim.parallel.shape import RankShape
from clustersim.workload.operators import Category, Collective, Kernel, Segment
from clustersim.workload.shapes import (
    as_recomputed,
    elementwise,
    flash_attention,
    gemm,
    linear_backward,
    tensor_collective,
)

# The softmax over a causal score matrix and its gradient: passes over it in 16 bits, and kernels.
# Megatron-LM's upper-triangular kernel reads the lower triangle and writes the whole matrix, its
# backward reads two triangles. Unfused, scale, mask and softmax read and write once each. In fp32
# (attention_softmax_in_fp32) these pass twice the bytes, between two casts of three.
SOFTMAX = {"fused_softmax": (1.5, 1), "unfused": (6.0, 3), "fp32_softmax": (18.0, 5)}
SOFTMAX_BACKWARD = {"fused_softmax": (2.0, 1), "unfused": (7.0, 3), "fp32_softmax": (20.0, 5)}

# An unfused RMS norm: passes over a 16-bit stream, and kernels. Forward: cast (1 + 2), squares and
# their mean (2), scale (2 + 2), cast (2 + 1), gain (1 + 1); backward: the gradients of the same.
RMS_NORM_PASSES = {False: (14.0, 5), True: (24.0, 8)}

Kernels = tuple[Kernel, ...]
Segments = tuple[Segment, ...]


# ------------------------------------------------------------------ memory-bound pieces


def norm(shape: RankShape, backward: bool = False) -> Kernel:
    """Norm: one pass, input and gradient read and one tensor written in the backward pass.

    An RMS norm that nothing fuses runs as the operations it is written with, in fp32: cast, mean
    of squares, scale, cast back, gain.

    Parameters
    ----------
    shape : RankShape
    backward : bool

    Returns
    -------
    Kernel

    Notes
    -----
    2 passes over the rows that this rank normalises, 3 in the backward pass; unfused RMS norms take
    `RMS_NORM_PASSES`.
    """
    stream = shape.norm_bytes
    name = "norm_backward" if backward else "norm"
    if shape.model.norm == "rms_norm" and not shape.features.fused_kernels:
        passes, launches = RMS_NORM_PASSES[backward]
        return elementwise(shape, name, passes * stream, launches)
    return elementwise(shape, name, (3 if backward else 2) * stream)


def residual_add(shape: RankShape, backward: bool = False) -> Kernel:
    """Bias, dropout and add after a row-parallel product: one pass if fused, else one each.

    Parameters
    ----------
    shape : RankShape
    backward : bool

    Returns
    -------
    Kernel
        Fused, the forward pass is one launch; else, and backward, bias, dropout and add are one
        each.

    Notes
    -----
    Passes over the rows that this rank normalises: the add 3, an unfused bias 2, an unfused dropout
    2; the mask of a dropout is a byte an element. Backward: the two paths of the residual 3,
    dropout 2 and the mask, the bias 1.
    """
    stream = shape.norm_bytes
    mask = stream / shape.element_bytes if shape.dropout else 0.0
    bias, dropout = shape.model.bias, shape.dropout
    if backward:
        passes = (2 * stream + mask) if dropout else 0.0  # mask the gradient
        bias_grad = stream if bias else 0.0
        adds = 3 * stream  # the two paths of the residual meet
        name, moved, launches = "residual_backward", passes + bias_grad + adds, 1 + bias + dropout
    elif shape.features.fused_kernels:
        name, moved, launches = "bias_dropout_add", 3 * stream + mask, 1
    else:
        moved = 3 * stream + (2 * stream if bias else 0.0) + (2 * stream + mask) * dropout
        name, launches = "bias_dropout_add", 1 + bias + dropout
    return elementwise(shape, name, moved, launches, variant="add")


def activation(shape: RankShape, backward: bool = False) -> Kernel:
    """MLP activation with its bias; a gated MLP reads two branches and writes one.

    Parameters
    ----------
    shape : RankShape
    backward : bool

    Returns
    -------
    Kernel

    Notes
    -----
    Over branches of (tokens, ffn) of this rank: each branch read and one written, unfused a bias 2
    more a branch and a gated product 2 more. Backward: each branch read and written and one read,
    with a bias one more a branch, and an unfused gated product 2 more.
    """
    branch = float(shape.tokens) * shape.ffn * shape.element_bytes
    branches = 2 if shape.model.gated_mlp else 1
    fused = shape.features.fused_kernels
    variant = "gated" if shape.model.gated_mlp else "activation"
    bias_passes = 0 if fused or not shape.model.bias else 2 * branches
    if backward:
        moved = branch * (2 * branches + 1) + (branch * branches if shape.model.bias else 0.0)
        if not fused and shape.model.gated_mlp:
            moved += 2 * branch
        name = "activation_backward"
        return elementwise(shape, name, moved, 1 if fused else 2, variant=variant)
    moved = branch * (branches + 1 + bias_passes)
    if not fused and shape.model.gated_mlp:
        moved += 2 * branch  # silu, then product
    return elementwise(shape, "activation", moved, 1 if fused else 2, variant=variant)


def rotary(shape: RankShape) -> Kernels:
    """Rotation of queries and keys; unfused it also writes the two halves apart.

    Parameters
    ----------
    shape : RankShape

    Returns
    -------
    tuple of Kernel
        Empty where positions are not rotary.

    Notes
    -----
    Queries and keys of this rank are moved 2 times in one launch, unfused 6 times in 4.
    """
    if shape.model.position != "rotary":
        return ()
    width = (shape.heads + shape.kv_heads) * shape.model.head_dim
    moved = float(shape.tokens) * width * shape.element_bytes
    fused = shape.features.fused_kernels
    launches = 1 if fused else 4
    return (elementwise(shape, "rotary", moved * (2 if fused else 6), launches),)


# ------------------------------------------------------------------ attention core


def attention_core(shape: RankShape) -> Kernels:
    """Scores, softmax, dropout and the product with the values.

    Parameters
    ----------
    shape : RankShape
        `flash` says whether all is one kernel.

    Returns
    -------
    tuple of Kernel
        Booked as attention. Unfused products compute the whole score matrix, without credit for the
        causal mask.
    """
    if shape.flash:
        return (flash_attention(shape, backward=False),)
    s, d = shape.sequence_length, shape.model.head_dim
    groups = shape.sequences * shape.heads
    scores = float(groups) * s * s * shape.element_bytes
    softmax = _softmax_passes(shape, scores)
    context = float(shape.tokens) * shape.heads * d * shape.element_bytes
    return (
        _core(gemm(shape, "scores", s, s, d, batch=groups)),
        *softmax,
        _core(gemm(shape, "context", s, d, s, batch=groups)),
        elementwise(shape, "merge_heads", 2 * context, 1, Category.ATTENTION),
    )


def attention_core_backward(shape: RankShape) -> Kernels:
    """Gradients of the attention core.

    Parameters
    ----------
    shape : RankShape
        `flash` says whether all is one kernel.

    Returns
    -------
    tuple of Kernel
        Booked as attention; what selective recomputation repeats is not among them.
    """
    if shape.flash:
        return (flash_attention(shape, backward=True),)
    s, d = shape.sequence_length, shape.model.head_dim
    groups = shape.sequences * shape.heads
    scores = float(groups) * s * s * shape.element_bytes
    mask = scores / shape.element_bytes
    dropout = (
        (elementwise(shape, "dropout_backward", 2 * scores + mask, 1, Category.ATTENTION),)
        if shape.dropout
        else ()
    )
    passes, launches = SOFTMAX_BACKWARD[shape.attention]
    context = float(shape.tokens) * shape.heads * d * shape.element_bytes
    return (
        _core(gemm(shape, "probabilities_grad", s, s, d, "dgrad", groups)),
        _core(gemm(shape, "values_grad", s, d, s, "wgrad_plain", groups)),
        *dropout,
        elementwise(shape, "softmax_backward", passes * scores, launches, Category.ATTENTION),
        _core(gemm(shape, "queries_grad", s, d, s, "dgrad", groups)),
        _core(gemm(shape, "keys_grad", s, d, s, "wgrad_plain", groups)),
        elementwise(shape, "split_heads", 6 * context, 1, Category.ATTENTION),
    )


def _softmax_passes(shape: RankShape, scores: float) -> Kernels:
    """Softmax over the scores, with the bias and dropout around it."""
    passes = [("softmax", *SOFTMAX[shape.attention])]
    if shape.model.position == "alibi":
        passes.insert(0, ("alibi", 1.0, 1))  # the bias is laid down where the scores are added
    kernels = [
        elementwise(shape, name, share * scores, launches, Category.ATTENTION)
        for name, share, launches in passes
    ]
    if shape.dropout:
        moved = 2 * scores + scores / shape.element_bytes
        kernels.append(elementwise(shape, "dropout", moved, 1, Category.ATTENTION))
    return tuple(kernels)


def _core(kernel: Kernel) -> Kernel:
    """A product of the attention core, booked as attention."""
    return replace(kernel, category=Category.ATTENTION)


# ------------------------------------------------------------------ whole layers


def widths(shape: RankShape) -> tuple[int, int, int]:
    """Output widths of the qkv and first MLP products on this rank, and input width of the second.

    Parameters
    ----------
    shape : RankShape

    Returns
    -------
    qkv, up, down : int
        With a gate `up` is twice `down`.
    """
    d = shape.model.head_dim
    qkv = (shape.heads + 2 * shape.kv_heads) * d
    return qkv, shape.ffn * (2 if shape.model.gated_mlp else 1), shape.ffn


def layer_forward(shape: RankShape) -> Segments:
    """Segments of one layer's forward pass.

    Parameters
    ----------
    shape : RankShape

    Returns
    -------
    tuple of Segment
        A segment ends wherever the tensor-parallel group synchronises.
    """
    t, h = shape.tokens, shape.model.hidden
    qkv, up, down = widths(shape)
    qkv_gemm = gemm(shape, "qkv", t, qkv, h)
    out_gemm = gemm(shape, "attention_out", t, h, shape.heads * shape.model.head_dim)
    up_gemm, down_gemm = gemm(shape, "mlp_up", t, up, h), gemm(shape, "mlp_down", t, h, down)
    core = (*rotary(shape), *attention_core(shape))
    if shape.model.parallel_block:
        return (
            *enter_parallel(shape, (norm(shape),), (qkv_gemm, up_gemm)),
            Segment(kernels=(*core, activation(shape))),
            *leave_parallel(shape, (out_gemm, down_gemm), (residual_add(shape),)),
        )
    return (
        *enter_parallel(shape, (norm(shape),), (qkv_gemm,)),
        Segment(kernels=core),
        *leave_parallel(shape, (out_gemm,), (residual_add(shape),)),
        *enter_parallel(shape, (norm(shape),), (up_gemm,)),
        Segment(kernels=(activation(shape),)),
        *leave_parallel(shape, (down_gemm,), (residual_add(shape),)),
    )


def layer_backward(shape: RankShape, recompute: str) -> Segments:
    """Segments of one layer's backward pass, with what is recomputed before it.

    Parameters
    ----------
    shape : RankShape
    recompute : str
        "none", "selective" (the attention core) or "full" (the layer). Flash attention keeps no
        scores, so "selective" adds nothing to it.

    Returns
    -------
    tuple of Segment
    """
    t, h = shape.tokens, shape.model.hidden
    qkv, up, down = widths(shape)
    core_width = shape.heads * shape.model.head_dim
    flash = shape.flash
    again: Segments = ()
    core_again: Kernels = ()
    if recompute == "full":
        again = recomputed_segments(layer_forward(shape))
    elif recompute == "selective" and not flash:
        core_again = as_recomputed(attention_core(shape))
    core = (*core_again, *attention_core_backward(shape), *rotary(shape))
    if shape.model.parallel_block:
        return (
            *again,
            *leave_backward(
                shape,
                (residual_add(shape, True),),
                [("attention_out", t, h, core_width), ("mlp_down", t, h, down)],
            ),
            Segment(kernels=(activation(shape, True), *core)),
            *enter_backward(
                shape, [("qkv", t, qkv, h), ("mlp_up", t, up, h)], (norm(shape, True),)
            ),
        )
    return (
        *again,
        *leave_backward(shape, (residual_add(shape, True),), [("mlp_down", t, h, down)]),
        Segment(kernels=(activation(shape, True),)),
        *enter_backward(shape, [("mlp_up", t, up, h)], (norm(shape, True),)),
        *leave_backward(shape, (residual_add(shape, True),), [("attention_out", t, h, core_width)]),
        Segment(kernels=core),
        *enter_backward(shape, [("qkv", t, qkv, h)], (norm(shape, True),)),
    )


def recomputed_segments(segments: Segments) -> Segments:
    """A forward pass done again: its kernels are booked as recomputation.

    Parameters
    ----------
    segments : tuple of Segment

    Returns
    -------
    tuple of Segment
        Collectives keep their category.
    """
    return tuple(replace(s, kernels=as_recomputed(s.kernels)) for s in segments)


# ------------------------------------------------------------------ tensor-parallel edges


def enter_parallel(shape: RankShape, before: Kernels, products: Kernels) -> Segments:
    """Into the column-parallel products; under sequence parallelism the input is gathered.

    Parameters
    ----------
    shape : RankShape
    before : tuple of Kernel
        Run on the rank's own rows, ahead of the gather.
    products : tuple of Kernel
        Column-parallel; they read the whole input.

    Returns
    -------
    tuple of Segment
        Two under sequence parallelism, else one without a collective.
    """
    if not shape.sequence_parallel:
        return (Segment(kernels=(*before, *products)),)
    gather = tensor_collective(shape, "gather_input", "all_gather")
    return (Segment(kernels=before), _with_collective(shape, products, gather))


def leave_parallel(shape: RankShape, products: Kernels, after: Kernels) -> Segments:
    """Out of the row-parallel products: partial sums are reduced.

    Parameters
    ----------
    shape : RankShape
    products : tuple of Kernel
        Row-parallel; each rank has a partial sum.
    after : tuple of Kernel
        Run on the reduced rows.

    Returns
    -------
    tuple of Segment
        One where there is no tensor parallelism. Else two, with an all-reduce, or under sequence
        parallelism a reduce-scatter.
    """
    if shape.tensor_parallel == 1:
        return (Segment(kernels=(*products, *after)),)
    kind = "reduce_scatter" if shape.sequence_parallel else "all_reduce"
    reduce = tensor_collective(shape, "reduce_output", kind)
    return (_with_collective(shape, products, reduce), Segment(kernels=after))


def leave_backward(
    shape: RankShape, before: Kernels, products: list[tuple[str, int, int, int]]
) -> Segments:
    """Backward of `leave_parallel`: under sequence parallelism the gradient is gathered.

    Parameters
    ----------
    shape : RankShape
    before : tuple of Kernel
        Run on the rank's own rows, ahead of the gather.
    products : list of (str, int, int, int)
        Name, m, n and k of each row-parallel product as in the forward pass.

    Returns
    -------
    tuple of Segment
        Three under sequence parallelism, where weight gradients follow the input gradients; else
        one.
    """
    pairs = [linear_backward(shape, *product) for product in products]
    dgrads = tuple(dgrad for dgrad, _ in pairs)
    wgrads = tuple(kernel for _, kernels in pairs for kernel in kernels)
    if not shape.sequence_parallel:
        return (Segment(kernels=(*before, *dgrads, *wgrads)),)
    gather = tensor_collective(shape, "gather_gradient", "all_gather")
    return (
        Segment(kernels=before),
        _with_collective(shape, dgrads, gather),
        Segment(kernels=wgrads),
    )


def enter_backward(
    shape: RankShape, products: list[tuple[str, int, int, int]], after: Kernels
) -> Segments:
    """Backward of `enter_parallel`: the input gradient is reduced, beside the weight gradient.

    Under sequence parallelism the input was kept in shards, so it is gathered once more for the
    weight gradient, beside the input gradient.

    Parameters
    ----------
    shape : RankShape
    products : list of (str, int, int, int)
        Name, m, n and k of each column-parallel product as in the forward pass.
    after : tuple of Kernel
        Run on the reduced rows.

    Returns
    -------
    tuple of Segment
        One where there is no tensor parallelism, else three.
    """
    pairs = [linear_backward(shape, *product) for product in products]
    dgrads = tuple(dgrad for dgrad, _ in pairs)
    wgrads = tuple(kernel for _, kernels in pairs for kernel in kernels)
    if shape.tensor_parallel == 1:
        return (Segment(kernels=(*dgrads, *wgrads, *after)),)
    kind = "reduce_scatter" if shape.sequence_parallel else "all_reduce"
    reduce = tensor_collective(shape, "reduce_gradient", kind)
    gather: tuple[Collective, ...] = ()
    if shape.sequence_parallel:
        gather = (tensor_collective(shape, "gather_input", "all_gather"),)
    beside = "beside" if shape.features.wgrad_overlap or shape.features.tp_overlap else "none"
    return (
        Segment(kernels=dgrads, collectives=gather, overlap=beside if gather else "none"),
        Segment(kernels=wgrads, collectives=(reduce,), overlap=beside),
        Segment(kernels=after),
    )


def _with_collective(shape: RankShape, products: Kernels, collective: Collective) -> Segment:
    """A product and the collective it feeds or waits for; pipelined where the software can."""
    if shape.features.tp_overlap and shape.sequence_parallel:
        return Segment(products, (collective,), "pipelined", pieces=shape.tensor_parallel)
    return Segment(products, (collective,))
