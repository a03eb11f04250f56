"""Rows of ``training_kernels``: products and attention cores, forward and backward, warm devices.

Priced like a training step (`kernel_s` with `sustained`), without the gap before the first kernel.
Products of experts are one launch for each expert, as libraries without grouped kernels issue
them; their weight gradient reduces over the tokens, which the schema calls m. Attention with
values narrower than keys is priced at the mean of both head sizes.

References
----------
.. [1] J. Shah et al., "FlashAttention-3: Fast and Accurate Attention with Asynchrony and
   Low-precision," arXiv:2407.08608, 2024 (the devices that run it).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute import kernel_s
from clustersim.cost.measured.columns import numbers, words
from clustersim.cost.measured.family import Coefficient, Columns, Family, Floats
from clustersim.cost.measured.gemm import PRODUCT
from clustersim.cost.measured.rows import known_device
from clustersim.errors import ModelDomainError
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile
from clustersim.workload.operators import Category, Kernel, KernelKind

PRODUCTS = (
    *("gemm_fwd", "gemm_dgrad", "gemm_wgrad"),
    *("grouped_gemm_fwd", "grouped_gemm_dgrad", "grouped_gemm_wgrad"),
)
CORES = {
    "attention_fwd": KernelKind.ATTENTION_FORWARD,
    "attention_bwd": KernelKind.ATTENTION_BACKWARD,
}
# Architectures with asynchronous copies and products, which FlashAttention-3 is written for
# (J. Shah et al., arXiv:2407.08608) and its successors build on.
ASYNCHRONOUS = ("hopper", "blackwell")
FULL_PRECISION = {"fp32": 4.0}  # bytes of an accumulator; 2 for the rest
CORE_COEFFICIENTS = (
    Coefficient("forward_efficiency", 0.05, 1.0),
    Coefficient("backward_efficiency", 0.05, 1.0),
)


def _sections(columns: Columns) -> NDArray[np.str_]:
    ops = words(columns, "op")
    dtypes = words(columns, "dtype")
    names = np.char.add("gemm/", dtypes)
    names = np.where(np.isin(ops, PRODUCTS), names, "")
    devices = words(columns, "device")
    names_of, place = np.unique(devices, return_inverse=True)
    known = [f"attention/{_generation(known_device(str(name)))}" for name in names_of]
    cores = np.array(known, dtype=np.str_)[place]
    return np.where(np.isin(ops, list(CORES)), cores, names)


def _generation(device: Device | None) -> str:
    """Newest generation of fused attention for a device; an unknown one has the older."""
    return "flash_3" if device and device.architecture in ASYNCHRONOUS else "flash_2"


def _coefficients(section: str) -> tuple[Coefficient, ...]:
    return CORE_COEFFICIENTS if section.startswith("attention") else PRODUCT


def _kernel(row: dict[str, float], op: str, dtype: str, out: str, generation: str) -> Kernel:
    """One row as a kernel of a training step."""
    batch = int(row["batch"])
    if op in CORES:
        factor = 4.0 if op.endswith("fwd") else 10.0
        heads, width = row["q_heads"], (row["head_dim"] + row["v_head_dim"]) / 2
        pairs = row["q_len"] * row["kv_len"] / (2.0 if row["causal"] else 1.0)
        return Kernel(
            name=op,
            kind=CORES[op],
            category=Category.ATTENTION,
            dtype=dtype,
            flop=factor * batch * heads * pairs * width,
            bytes=4.0 * batch * row["q_len"] * width * (heads + row["kv_heads"]),
            batch=batch,
            q_len=int(row["q_len"]),
            kv_len=int(row["kv_len"]),
            heads=int(heads),
            kv_heads=int(row["kv_heads"]),
            head_dim=int(width),
            causal=bool(row["causal"]),
            variant=generation,
        )
    m, n, k = row["m"], row["n"], row["k"]
    if op == "grouped_gemm_wgrad":
        m, n, k = n, k, m
    result = FULL_PRECISION.get(out, 2.0) * (2.0 if row["accumulate"] else 1.0)
    return Kernel(
        name=op,
        kind=KernelKind.GEMM,
        category=Category.MATMUL,
        dtype=dtype,
        flop=2.0 * m * n * k,
        bytes=2.0 * (m * k + k * n) + result * m * n,
        m=int(m),
        n=int(n),
        k=int(k),
        launches=batch,
        variant=op.rpartition("_")[2],
    )


def _is_legal(row: dict[str, float], op: str) -> bool:
    core = ("batch", "q_len", "kv_len", "q_heads", "kv_heads", "head_dim", "v_head_dim")
    names = core if op in CORES else ("batch", "m", "n", "k")
    return all(np.isfinite(row[name]) and row[name] >= 1 for name in names)


def _predict(columns: Columns, device: Device, profile: Profile) -> Floats:
    ops, dtypes, out = (words(columns, name) for name in ("op", "dtype", "out_dtype"))
    generation = _generation(device)
    if generation not in profile.attention:
        generation = "flash_2"
    given = dict(zip(NUMBERS, numbers(columns, *NUMBERS), strict=True))
    times, priced, kernels = np.full(ops.size, np.nan), [], []
    for index, op in enumerate(ops):
        row = {name: float(column[index]) for name, column in given.items()}
        if (op in CORES or op in PRODUCTS) and _is_legal(row, op):
            priced.append(index)
            kernels.append(_kernel(row, op, str(dtypes[index]), out[index], generation))
    if not kernels:
        return times
    try:
        costs = kernel_s(kernels, device, profile)
    except ModelDomainError:
        return times  # no such matrix units, no such generation of attention
    times[priced] = costs.alone_s - profile.kernel_gap_s
    return times


def _size(columns: Columns) -> Floats:
    given = dict(zip(NUMBERS, numbers(columns, *NUMBERS), strict=True))
    product = given["m"] * given["n"] * given["k"]
    core = given["q_len"] * given["kv_len"] * given["q_heads"] * given["head_dim"]
    return 2.0 * given["batch"] * np.where(np.isfinite(product), product, core)


NUMBERS = (
    "batch", "m", "n", "k", "accumulate", "q_len", "kv_len", "q_heads", "kv_heads", "head_dim",
    "v_head_dim", "causal",
)  # fmt: skip
FAMILY = Family(
    stem="training_kernels",
    required=("op", "dtype", "out_dtype", *NUMBERS),
    sections=_sections,
    coefficients=_coefficients,
    predict=_predict,
    size=_size,
    variant=lambda columns: words(columns, "op"),
)
