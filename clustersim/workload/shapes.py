"""Kernels of one rank by its shape: the smallest vocabulary that a layer is written in."""

from __future__ import annotations

from dataclasses import replace

from clustersim.model.transformer import attention_context
from clustersim.parallel.shape import RankShape
from clustersim.workload.operators import Category, Collective, Kernel, KernelKind


def gemm(
    shape: RankShape, name: str, m: int, n: int, k: int, variant: str = "fwd", batch: int = 1
) -> Kernel:
    """A matrix product; a weight gradient adds to the gradient where the software fuses that.

    Parameters
    ----------
    shape : RankShape
        Gives the datatypes.
    name : str
    m, n, k : int
        ``C[m,n] = A[m,k] B[k,n]``.
    variant : str
        "fwd", "dgrad", "wgrad" (of a weight, whose gradient accumulates) or "wgrad_plain".
    batch : int
        Products in one launch.

    Returns
    -------
    Kernel
        ``2 batch m n k`` FLOP; operands read once, the result written once, or for a fused "wgrad"
        the accumulated gradient read and written.
    """
    size = shape.element_bytes
    moved = float(m * k + k * n + m * n) * size
    if variant == "wgrad" and shape.features.fused_grad_accumulation:
        moved = float(m * k + k * n) * size + 2.0 * m * n * shape.grad_bytes
    return Kernel(
        name=name,
        kind=KernelKind.GEMM,
        category=Category.MATMUL,
        dtype=shape.dtype,
        flop=2.0 * batch * m * n * k,
        bytes=batch * moved,
        m=m,
        n=n,
        k=k,
        batch=batch,
        variant=variant,
    )


def elementwise(
    shape: RankShape,
    name: str,
    moved_bytes: float,
    launches: int = 1,
    category: Category = Category.ELEMENTWISE,
    variant: str = "stream",
) -> Kernel:
    """A memory-bound pass.

    Parameters
    ----------
    shape : RankShape
        Gives the datatype.
    name : str
    moved_bytes : float
        What all launches read and write together. [bytes]
    launches : int
        At least 1; they share the bytes evenly.
    category : Category
    variant : str
        Class of kernel: "stream" (plain pass), "add", "activation", "gated", "layer_norm",
        "rms_norm", "rope", "embedding".

    Returns
    -------
    Kernel
        Its arithmetic counts as 0 FLOP.
    """
    return Kernel(
        name=name,
        kind=KernelKind.ELEMENTWISE,
        category=category,
        dtype=shape.dtype,
        flop=0.0,
        bytes=moved_bytes / launches,
        launches=launches,
        variant=variant,
    )


def flash_attention(shape: RankShape, backward: bool) -> Kernel:
    """The fused attention core; its backward pass does 5 products where the forward does 2.

    Parameters
    ----------
    shape : RankShape
    backward : bool

    Returns
    -------
    Kernel

    Notes
    -----
    A product takes 2 FLOP for each element of a query and each key that it meets, on average
    `attention_context`. Queries, keys, values and output move once each, backward twice each.
    """
    model, s = shape.model, shape.sequence_length
    context = attention_context(model, s)
    products = 5.0 if backward else 2.0
    queries = float(shape.tokens) * shape.heads * model.head_dim
    keys = float(shape.tokens) * shape.kv_heads * model.head_dim
    tensors = (4 * queries + 4 * keys) if backward else (2 * queries + 2 * keys)
    return Kernel(
        name="attention_backward" if backward else "attention",
        kind=KernelKind.ATTENTION_BACKWARD if backward else KernelKind.ATTENTION_FORWARD,
        category=Category.ATTENTION,
        dtype=shape.dtype,
        flop=2.0 * products * queries * context,
        bytes=tensors * shape.element_bytes,
        batch=shape.sequences,
        q_len=s,
        kv_len=s,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=model.head_dim,
        causal=True,
        window=model.sliding_window or 0,
        variant=shape.attention,
    )


def linear_backward(
    shape: RankShape, name: str, m: int, n: int, k: int
) -> tuple[Kernel, tuple[Kernel, ...]]:
    """Input gradient, and weight gradient with its accumulation, of ``[m,k] x [k,n]``.

    Parameters
    ----------
    shape : RankShape
    name : str
        Of the forward product; kernels get endings.
    m, n, k : int
        Of the forward product: tokens, output width, input width.

    Returns
    -------
    dgrad : Kernel
    wgrads : tuple of Kernel
        The product, and a pass that adds it to the gradient where the software does not fuse that.
    """
    dgrad = gemm(shape, f"{name}_dgrad", m, k, n, "dgrad")
    wgrad = gemm(shape, f"{name}_wgrad", n, k, m, "wgrad")
    if shape.features.fused_grad_accumulation:
        return dgrad, (wgrad,)
    moved = float(n * k) * (shape.element_bytes + 2 * shape.grad_bytes)
    return dgrad, (wgrad, elementwise(shape, f"{name}_accumulate", moved))


def tensor_collective(shape: RankShape, name: str, collective: str) -> Collective:
    """A collective of the residual stream over the tensor-parallel group.

    Parameters
    ----------
    shape : RankShape
    name : str
    collective : str
        "all_reduce", "all_gather" or "reduce_scatter".

    Returns
    -------
    Collective
        Of the whole stream of a micro-batch, as nccl-tests counts bytes.
    """
    return Collective(name, collective, "tp", shape.hidden_bytes, shape.dtype, Category.TP_COMM)


def as_recomputed(kernels: tuple[Kernel, ...]) -> tuple[Kernel, ...]:
    """The same kernels, booked as recomputation.

    Parameters
    ----------
    kernels : tuple of Kernel

    Returns
    -------
    tuple of Kernel
        Copies; work and times do not change.
    """
    return tuple(replace(kernel, category=Category.RECOMPUTE) for kernel in kernels)
