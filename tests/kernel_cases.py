"""Kernels of a training step that several tests build."""

from clustersim.workload.operators import Category, Kernel, KernelKind


def product(m, n, k, batch=1, dtype="bf16", **more) -> Kernel:
    """A batch of products with the least traffic."""
    return Kernel(
        name="product",
        kind=KernelKind.GEMM,
        category=Category.MATMUL,
        dtype=dtype,
        flop=2.0 * batch * m * n * k,
        bytes=2.0 * batch * (m * k + k * n + m * n),
        m=m,
        n=n,
        k=k,
        batch=batch,
        **more,
    )
