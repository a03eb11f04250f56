"""One memory-bound pass: bandwidth and the floor of a launch."""

from __future__ import annotations

import math
from dataclasses import replace

from clustersim.cost.explain.parts import (
    FLOOR,
    Cause,
    better_hints,
    explained,
    price_of,
    taken_apart,
    time_of,
    without,
)
from clustersim.cost.explain.record import Explanation, Site, Term
from clustersim.errors import ModelDomainError
from clustersim.units import format_bytes
from clustersim.workload.operators import Category, Kernel, KernelKind

ELEMENTWISE_CAUSES: tuple[Cause, ...] = (
    (*FLOOR, without("elementwise", kernel_floor_s=0.0)),
    (
        "memory below peak",
        "share of bandwidth of this class",
        without("elementwise", bandwidth_efficiency=1.0, row_bandwidth=math.inf),
    ),
)


def explain_elementwise(site: Site, bytes: float, variant: str = "stream") -> Explanation:
    """Account for a pass that reads and writes `bytes` in all and computes next to nothing.

    Parameters
    ----------
    site : Site
    bytes : float
        Read and written together, at least 1. [bytes]
    variant : str
        Class of kernel, a key of the profile.

    Returns
    -------
    Explanation
    """
    if bytes < 1.0:
        raise ModelDomainError(f"--bytes is {bytes:g}; a pass moves at least one byte")
    kernel = _pass(site, bytes, variant)
    causes, bare = taken_apart(price_of(kernel), site, ELEMENTWISE_CAUSES)
    terms = [
        Term("traffic at peak", time_of(kernel, bare), "what the data sheet promises"),
        *reversed(causes),
    ]
    names = [f"elementwise {variant}", "elementwise"]
    found = explained(kernel, site, f"{variant} pass over {format_bytes(bytes)}", terms, names)
    tries = [
        ("twice the bytes in one launch", _pass(site, 2.0 * bytes, variant)),
        ("four times the bytes in one launch", _pass(site, 4.0 * bytes, variant)),
    ]
    notes = ["fused into a neighbour that holds the data anyway, it would cost next to nothing"]
    if bytes < site.device.l2_cache:
        notes.append(
            f"smaller than the L2 cache ({format_bytes(site.device.l2_cache)}): data that its "
            "neighbour just wrote is read faster"
        )
    return replace(
        found,
        facts={"class": variant},
        hints=better_hints(site, tries, found.rate_bytes_per_s),
        notes=tuple(notes),
    )


def _pass(site: Site, moved_bytes: float, variant: str) -> Kernel:
    return Kernel(
        name=variant,
        kind=KernelKind.ELEMENTWISE,
        category=Category.ELEMENTWISE,
        dtype=site.dtype,
        flop=0.0,
        bytes=moved_bytes,
        variant=variant,
    )
