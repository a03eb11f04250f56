"""Prices of kernels: from shapes, a device and its profile to seconds alone.

Rows are grouped by family, datatype and variant, and each group is priced in one vectorised call.
Long lists of matrix products go through the compiled kernel, short ones through the same formula
in plain NumPy, so that small runs never load Numba. Cold launches on an idle GPU, contention and
overlap are not seen here: the engine knows those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.attention import AttentionShapes, attention_row, attention_s
from clustersim.cost.compute.elementwise import cold_pass_s
from clustersim.cost.compute.gemm import (
    alignment_factor,
    any_gemm_s,
    dtype_bytes,
    gemm_row,
    matrix_peak,
)
from clustersim.errors import ModelDomainError
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile
from clustersim.workload.operators import Kernel, KernelKind

Array = NDArray[np.float64]
Priced = tuple[Array, Array, Array]


class Bound(IntEnum):
    """What limits a kernel."""

    COMPUTE = 0
    MEMORY = 1
    LAUNCH = 2


@dataclass(frozen=True)
class KernelCosts:
    """Times of kernels alone on an idle device, one entry a `Kernel`, all its launches together.

    Attributes
    ----------
    alone_s : ndarray (n,)
        Time of all launches, in a training step with the gaps between them. [s]
    ideal_s : ndarray (n,)
        Arithmetic of all launches at the dense peak; memory-bound passes have none. [s]
    bound : ndarray of int8 (n,)
        The `Bound` of one launch.
    launches : ndarray of int64 (n,)
        Operators issued; an eager host needs `host.operator_s` for each.
    """

    alone_s: Array
    ideal_s: Array
    bound: NDArray[np.int8]
    launches: NDArray[np.int64]


def kernel_s(
    kernels: Sequence[Kernel], device: Device, profile: Profile, sustained: bool = True
) -> KernelCosts:
    """Time of kernels alone.

    Parameters
    ----------
    kernels : sequence of Kernel (n,)
        What runs. A product's `variant` is its layout ("fwd", "dgrad", "wgrad"), that of attention
        its generation, that of a memory-bound pass its class in the profile.
    device, profile
        The accelerator and its fitted behaviour.
    sustained : bool
        A training step, with its clocks and gaps (True), or a short micro-benchmark.

    Returns
    -------
    KernelCosts

    Raises
    ------
    ModelDomainError
        A shape is below 1, or device or profile lack what a kernel needs: the peak of a datatype,
        the coefficients of a class.

    Notes
    -----
    Models, domains and errors are in docs/models_kernels.md.
    """
    groups: dict[tuple[KernelKind, str, str], list[int]] = {}
    for index, kernel in enumerate(kernels):
        groups.setdefault((kernel.kind, kernel.dtype, kernel.variant), []).append(index)
    count = len(kernels)
    one_s, busy_s, traffic_s = np.zeros(count), np.zeros(count), np.zeros(count)
    for (kind, dtype, variant), indices in groups.items():
        rows = [kernels[index] for index in indices]
        priced = _price_group(kind, dtype, variant, rows, device, profile, sustained)
        one_s[indices], busy_s[indices], traffic_s[indices] = priced
    launches = np.array([kernel.launches for kernel in kernels], dtype=np.int64)
    gap_s = profile.kernel_gap_s if sustained else 0.0  # a micro-benchmark's floor includes it
    bound = np.where(busy_s >= traffic_s, Bound.COMPUTE, Bound.MEMORY)
    bound[one_s + gap_s > 2.0 * np.maximum(busy_s, traffic_s)] = Bound.LAUNCH
    ideal = [
        0.0 if k.kind is KernelKind.ELEMENTWISE else k.flop / matrix_peak(device, k.dtype)
        for k in kernels
    ]
    return KernelCosts(
        alone_s=(one_s + gap_s) * launches.astype(np.float64),
        ideal_s=np.array(ideal, dtype=np.float64) * launches.astype(np.float64),
        bound=bound.astype(np.int8),
        launches=launches,
    )


def _price_group(
    kind: KernelKind,
    dtype: str,
    variant: str,
    rows: list[Kernel],
    device: Device,
    profile: Profile,
    sustained: bool,
) -> Priced:
    """Time of one kernel, of its arithmetic and of its traffic, for rows of one family."""
    match kind:
        case KernelKind.GEMM:
            return _price_gemm(dtype, variant, rows, device, profile, sustained)
        case KernelKind.ELEMENTWISE:
            return _price_elementwise(variant, rows, device, profile)
        case _:
            backward = kind is KernelKind.ATTENTION_BACKWARD
            row = attention_row(device, profile, dtype, variant, backward)
            return attention_s(_attention_shapes(rows), row)


def _column(rows: list[Kernel], field: str) -> Array:
    values = np.array([getattr(row, field) for row in rows], dtype=np.float64)
    wrong = np.flatnonzero(~(values >= 1))
    if wrong.size:
        bad = rows[wrong[0]]
        raise ModelDomainError(
            f"kernel {bad.name!r}: {field} is {getattr(bad, field)}; a {bad.kind.value} kernel "
            "needs at least 1"
        )
    return values


def _price_gemm(
    dtype: str, variant: str, rows: list[Kernel], device: Device, profile: Profile, sustained: bool
) -> Priced:
    m, n, k, batch = (_column(rows, field) for field in ("m", "n", "k", "batch"))
    size = dtype_bytes(dtype)
    least = (m * k + k * n + m * n) * batch * size
    traffic = np.maximum(np.array([row.bytes for row in rows], dtype=np.float64), least)
    # Contiguous dims: of the operands and the result; a weight gradient reduces over tokens.
    contiguous = np.gcd(n.astype(np.int64), (m if variant == "wgrad" else k).astype(np.int64))
    slow = alignment_factor(contiguous, batch > 1, dtype, device, profile)
    row = gemm_row(device, profile, dtype, sustained)
    return any_gemm_s((m, n, k, batch), traffic, slow, row)


def _attention_shapes(rows: list[Kernel]) -> AttentionShapes:
    fields = ("batch", "q_len", "kv_len", "heads", "kv_heads", "head_dim")
    columns = {field: _column(rows, field) for field in fields}
    return AttentionShapes(
        **columns,
        causal=np.array([row.causal for row in rows], dtype=np.bool_),
        window=np.array([row.window for row in rows], dtype=np.float64),
    )


def _price_elementwise(
    variant: str, rows: list[Kernel], device: Device, profile: Profile
) -> Priced:
    """Memory-bound passes over data that other kernels wrote."""
    moved = np.array([row.bytes for row in rows], dtype=np.float64)
    time_s, traffic_s = cold_pass_s(moved, variant, device, profile)
    return time_s, np.zeros(len(rows)), traffic_s
