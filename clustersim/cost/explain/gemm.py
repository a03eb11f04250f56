"""One matrix product: tiles, waves, power limit, and the dims that would run better."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from clustersim.cost.compute.gemm import (
    alignment_factor,
    dtype_bytes,
    gemm_row,
    matrix_peak,
)
from clustersim.cost.compute.tile_choice import TileChoice, best_tile
from clustersim.cost.explain.checks import key_of, stand_in_notes
from clustersim.cost.explain.parts import (
    FLOOR,
    NO_LIMIT,
    POWER,
    TRAFFIC,
    Cause,
    best_of,
    better_hints,
    explained,
    price_of,
    taken_apart,
    time_of,
    without,
)
from clustersim.cost.explain.record import Explanation, Hint, Site, Term
from clustersim.workload.operators import Category, Kernel, KernelKind

FARTHEST = 1.25  # longest dim worth trying, over the one asked for
STEP_ELEMENTS = 64  # dims are tried in multiples of this
GEMM_DOMAIN = 2**20  # longest dim that the model of products is stated for


GEMM_CAUSES: tuple[Cause, ...] = (
    (*FLOOR, without("gemm", kernel_floor_s=0.0)),
    (*POWER, without("gemm", power_fraction=NO_LIMIT)),
)


def _product(dtype: str, m: int, n: int, k: int, batch: int, layout: str) -> Kernel:
    size = dtype_bytes(dtype)
    return Kernel(
        name="gemm",
        kind=KernelKind.GEMM,
        category=Category.MATMUL,
        dtype=dtype,
        flop=2.0 * batch * m * n * k,
        bytes=batch * (float(m) * k + float(k) * n + float(m) * n) * size,
        m=m,
        n=n,
        k=k,
        batch=batch,
        variant=layout,
    )


def explain_gemm(
    site: Site, m: int, n: int, k: int, batch: int = 1, layout: str = "fwd"
) -> Explanation:
    """Account for C[m,n] = A[m,k] B[k,n], `batch` times in one launch.

    Parameters
    ----------
    site : Site
    m, n, k, batch : int
        At least 1.
    layout : str
        "fwd", "dgrad" or "wgrad" (reduces over tokens).

    Returns
    -------
    Explanation
        Parts: arithmetic at peak, main loop below it, padding and idle SMs, start and end of
        tiles, split, alignment, traffic, power limit, floor.
    """
    kernel = _product(site.dtype, m, n, k, batch, layout)
    causes, bare = taken_apart(price_of(kernel), site, GEMM_CAUSES)
    contiguous = np.gcd(np.array([n]), m if layout == "wgrad" else k)
    slow = float(
        alignment_factor(
            contiguous.astype(np.float64),
            np.array([batch > 1]),
            *(site.dtype, site.device, site.profile),
        )[0]
    )
    row = gemm_row(site.device, site.profile, site.dtype, sustained=False)
    size = (float(m), float(n), float(k), float(batch))
    taken = best_tile(size, kernel.bytes, slow, row)
    terms = [*_tile_terms(taken, slow, kernel.flop / matrix_peak(site.device, site.dtype))]
    terms.append(Term(TRAFFIC[0], time_of(kernel, bare) - taken.total_s, TRAFFIC[1]))
    terms += reversed(causes)
    names = [f"gemm {site.dtype}"]
    if dtype_bytes(site.dtype) == 2.0:
        names.append("gemm")  # both 16-bit types run alike
    if m >= 4096:
        names.insert(0, f"gemm {site.dtype}, m >= 4096")
    title = f"gemm m={m} n={n} k={k}" + (f" batch={batch}" if batch > 1 else "")
    found = explained(kernel, site, f"{title} {site.dtype} {layout}", terms, names)
    notes = [*_stand_in(site)]
    if max(m, n, k) > GEMM_DOMAIN:
        notes.append(f"a dim above {GEMM_DOMAIN:,} is outside the model's stated domain")
    return replace(
        found,
        facts={
            "tile": f"{taken.rows} x {taken.columns}",
            "pieces_of_k": taken.pieces,
            "thread_blocks": taken.tiles,
            "waves": taken.waves,
            "last_wave_fraction": taken.last_wave_fraction,
            "useful_fraction": taken.useful_fraction,
            "alignment_factor": slow,
        },
        hints=_gemm_hints(site, (m, n, k, batch, layout), found),
        notes=tuple(notes),
    )


def _tile_terms(taken: TileChoice, slow: float, peak_s: float) -> list[Term]:
    """The time on the SMs in parts; `slow` lengthens the main loop."""
    loop_s = taken.main_loop_s / slow
    useful_s = loop_s * taken.useful_fraction
    return [
        Term("arithmetic at peak", peak_s, "what the data sheet promises"),
        Term("main loop below peak", useful_s - peak_s, "issue, small tiles, operands from L2"),
        Term("padding and idle SMs", loop_s - useful_s, "edges of tiles, last wave"),
        Term("tile start and end", taken.fill_s, "prologue, epilogue, storing the result"),
        Term("split reduction", taken.split_s, "partial sums of k, through memory"),
        Term("alignment", taken.main_loop_s - loop_s, "rows that are no multiple of 64 bytes"),
    ]


def _stand_in(site: Site) -> list[str]:
    """Say where another datatype's coefficients stand in."""
    found = site.profile.gemm_coefficients(site.dtype)
    return stand_in_notes(site.dtype, key_of(site.profile.gemm, found))


def _gemm_hints(
    site: Site, shape: tuple[int, int, int, int, str], now: Explanation
) -> tuple[Hint, ...]:
    """Longer and shorter dims, more tokens, another datatype: what raises the rate."""
    m, n, k, batch, layout = shape
    tries: list[tuple[str, Kernel]] = []
    for name, dim in (("m", m), ("n", n), ("k", k)):
        kernels = [
            (f"{name} = {other:,} ({other / dim:.2f} x the work)", _product(site.dtype, *sizes))
            for other in _near(dim)
            for sizes in [_replaced((m, n, k, batch, layout), "mnk".index(name), other)]
        ]
        tries += best_of(site, kernels, now.flop)
    tries += _padded(site, shape)
    double = "k" if layout == "wgrad" else "m"
    if batch > 1:
        tries.append(("twice the batch", _product(site.dtype, m, n, k, 2 * batch, layout)))
    else:
        sizes = _replaced(shape, "mnk".index(double), 2 * (k if double == "k" else m))
        tries.append((f"twice the tokens ({double})", _product(site.dtype, *sizes)))
    if site.dtype in ("bf16", "fp16") and "fp8" in site.device.matrix_peak:
        text = "fp8 operands" + (
            "" if "fp8" in site.profile.gemm else " (16-bit efficiency assumed)"
        )
        tries.append((text, _product("fp8", m, n, k, batch, layout)))
    return better_hints(site, tries, now.flop / now.time_s)


def _padded(site: Site, shape: tuple[int, int, int, int, str]) -> list[tuple[str, Kernel]]:
    """The product with its contiguous dims padded to rows of whole 64 bytes."""
    elements = int(64.0 / dtype_bytes(site.dtype))
    padded, words = shape, []
    for name in ("n", "m" if shape[4] == "wgrad" else "k"):
        index = "mnk".index(name)
        dim = (shape[0], shape[1], shape[2])[index]
        if dim % elements:
            longer = -(-dim // elements) * elements
            padded = _replaced(padded, index, longer)
            words.append(f"{name} padded to {longer:,}")
    if not words:
        return []
    return [(f"{' and '.join(words)} (aligned rows)", _product(site.dtype, *padded))]


def _replaced(
    shape: tuple[int, int, int, int, str], index: int, value: int
) -> tuple[int, int, int, int, str]:
    m, n, k, batch, layout = shape
    dims = [m, n, k]
    dims[index] = value
    return dims[0], dims[1], dims[2], batch, layout


def _near(dim: int) -> list[int]:
    """Multiples of 64 from four fifths of a dim to five quarters, at most 40 on each side."""
    low = -(-int(dim / FARTHEST) // STEP_ELEMENTS)
    high = max(int(dim * FARTHEST) // STEP_ELEMENTS, -(-dim // STEP_ELEMENTS))
    step = max(1, (high - low) // 80)
    found = (STEP_ELEMENTS * i for i in range(max(1, low), high + 1, step))
    return [value for value in found if value != dim]
