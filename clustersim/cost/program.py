"""Seconds for a program: what each op template takes alone, and what it does to its neighbours.

A segment's kernels take the sum of their times. A collective adds to that in full ("none"), runs
beside it ("beside": the longer decides), or is pipelined with it in pieces ("pipelined": the longer
decides, and one piece of the shorter stays exposed). While a collective runs beside kernels it
holds SMs, and the kernels progress at ``1 - drag`` (`overlapped_s`).

An eager host issues kernels one after the other: a pass lasts at least as long as its launches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.collectives import collective_s
from clustersim.cost.compute import kernel_s
from clustersim.cost.platform import Platform
from clustersim.cost.power import limit_factor, product_headroom
from clustersim.spec.profile import Profile
from clustersim.workload.operators import Category, Collective, KernelKind, Segment
from clustersim.workload.program import OpTemplate, Program

CATEGORIES = tuple(Category)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ProgramCosts:
    """Times alone of every template, one entry a template.

    Attributes
    ----------
    compute_s : ndarray of float64 (templates,)
        Part that a slower GPU stretches. [s]
    fixed_s : ndarray of float64 (templates,)
        Part that it does not: exposed communication, launches, host. [s]
    by_category : ndarray of float64 (templates, categories)
        Both parts by what they were spent on, columns in the order of `Category`. [s]
    peak_s : ndarray of float64 (templates,)
        Arithmetic of the matrix products that count for the model, at the device's peak. [s]
    drag : ndarray of float64 (templates,)
        Share of a rank's compute rate that the op takes while it runs beside it.
    syncs : ndarray of int64 (templates,)
        Synchronisations of the tensor-parallel group within one op, at least 1.
    """

    compute_s: Floats
    fixed_s: Floats
    by_category: Floats
    peak_s: Floats
    drag: Floats
    syncs: NDArray[np.int64]

    @property
    def alone_s(self) -> Floats:
        """Time of each template on a nominal GPU. [s]"""
        return self.compute_s + self.fixed_s


def overlapped_s(kernels_s: float, collective_s: float, drag: float) -> float:
    """When kernels finish that start together with a collective.

    Parameters
    ----------
    kernels_s, collective_s : float
        Time of either alone. [s]
    drag : float
        Share of the compute rate that the collective takes, from 0 to below 1.

    Returns
    -------
    float
        At least `kernels_s`; the collective itself may end later. [s]

    Notes
    -----
    Kernels run at rate ``1 - drag`` until the collective ends, then at rate 1.
    """
    if kernels_s <= collective_s * (1.0 - drag):
        return kernels_s / (1.0 - drag)
    return kernels_s + drag * collective_s


def segment_s(kernels_s: float, comm_s: float, overlap: str, pieces: int, drag: float) -> float:
    """Time of a segment from the times of its two sides.

    Parameters
    ----------
    kernels_s, comm_s : float
        Kernels one after the other, and collectives one after the other. [s]
    overlap : str
        "none": their sum; "beside": the longer; else pipelined: the longer, and a piece of the
        shorter.
    pieces : int
        That a pipelined segment is cut in, at least 1.
    drag : float
        As for `overlapped_s`, by which kernels are stretched while a collective runs beside them.

    Returns
    -------
    float
        At least `kernels_s`. [s]
    """
    if overlap == "none" or not kernels_s or not comm_s:
        return kernels_s + comm_s
    stretched = overlapped_s(kernels_s, comm_s, drag)
    if overlap == "beside":
        return max(stretched, comm_s)
    return max(stretched, comm_s) + min(kernels_s, comm_s) / pieces


def price_program(program: Program, platform: Platform) -> ProgramCosts:
    """Price every template of a program.

    Parameters
    ----------
    program : Program
    platform : Platform

    Returns
    -------
    ProgramCosts

    Raises
    ------
    ModelDomainError
        If a kernel or collective lies outside what its cost model covers.
    """
    counts = np.bincount(program.template, minlength=len(program.templates))
    return price_templates(program.templates, platform, counts.tolist())


def price_templates(
    templates: Sequence[OpTemplate], platform: Platform, counts: Sequence[int] | None = None
) -> ProgramCosts:
    """Price templates by the clock that the mix of a step leaves to its products.

    Parameters
    ----------
    templates : sequence of OpTemplate
    platform : Platform
        Its paths hold every group of the templates.
    counts : sequence of int, optional
        Ops of each template in a step, for the mix; one each by default.

    Returns
    -------
    ProgramCosts
        One entry a template, of one op.

    Raises
    ------
    ModelDomainError
        If a kernel or collective lies outside what its cost model covers.

    Notes
    -----
    Prices are made twice: how hot a step runs decides the clock of its products, and their time
    decides how hot it runs; the second pass is within a per mille of the fixed point.
    """
    tables = _Tables(templates, platform)
    first = [_price_template(template, platform, tables) for template in templates]
    weights = [1] * len(templates) if counts is None else counts
    tables.price_kernels(warmed(platform, templates, first, weights))
    rows = [_price_template(template, platform, tables) for template in templates]
    return ProgramCosts(
        compute_s=np.array([row.compute_s for row in rows]),
        fixed_s=np.array([row.fixed_s for row in rows]),
        by_category=np.array([row.by_category for row in rows]),
        peak_s=np.array([row.peak_s for row in rows]),
        drag=np.array([_drag(template, platform) for template in templates]),
        syncs=np.array([max(1, row.syncs) for row in rows], dtype=np.int64),
    )


def warmed(
    platform: Platform,
    templates: Sequence[OpTemplate],
    prices: Sequence[_Priced],
    counts: Sequence[int],
) -> Profile:
    """The profile at the clock that the mix of the step's passes leaves to its products.

    Parameters
    ----------
    platform : Platform
        Its profile, and the power limits of its device and of that of the profile. [W]
    templates : sequence of OpTemplate
        Only passes of the model and transfers between stages count, not what runs beside them.
    prices : sequence
        Price of each template. [s]
    counts : sequence of int
        Ops of each template in a step.

    Returns
    -------
    Profile
        With another `training_clock_fraction`, which may exceed 1.

    Notes
    -----
    `power.product_headroom` of the mix times `power.limit_factor`.
    """
    passes = [
        (price, count)
        for template, price, count in zip(templates, prices, counts, strict=True)
        if template.category in (Category.MATMUL, Category.PP_COMM) and not template.overlapped
    ]
    product_s = sum(price.product_s * count for price, count in passes)
    kernels_s = sum(price.compute_s * count for price, count in passes)
    fixed_s = sum(price.fixed_s * count for price, count in passes)
    headroom = product_headroom(product_s, kernels_s - product_s, fixed_s)
    headroom *= limit_factor(platform.device.power_limit, platform.reference_power_w)
    clock = platform.profile.training_clock_fraction * headroom
    return platform.profile.model_copy(update={"training_clock_fraction": clock})


class _Tables:
    """Times of the distinct kernels and collectives of templates, each priced once."""

    def __init__(self, templates: Sequence[OpTemplate], platform: Platform):
        segments = {id(segment): segment for template in templates for segment in template.segments}
        groups = {id(s.kernels): s.kernels for s in segments.values()}
        self.kernels = list(dict.fromkeys(k for group in groups.values() for k in group))
        self.device = platform.device
        messages = list(dict.fromkeys(c for s in segments.values() for c in s.collectives))
        self.message = _message_times(messages, platform)
        self.price_kernels(platform.profile)

    def price_kernels(self, profile: Profile) -> None:
        """Price the kernels with a profile, and forget what was priced with another.

        Parameters
        ----------
        profile : Profile
            At the clock of a step, from `warmed`. Collectives keep their prices.
        """
        costs = kernel_s(self.kernels, self.device, profile)
        self.kernel = dict(zip(self.kernels, costs.alone_s.tolist(), strict=True))
        self.seen: dict[int, _Priced] = {}


def _message_times(messages: list[Collective], platform: Platform) -> dict[Collective, float]:
    times: dict[Collective, float] = {}
    for message in messages:
        path = platform.paths[message.group]
        size = np.array([message.bytes])
        times[message] = float(collective_s(message.collective, size, path, platform.links)[0])
    return times


@dataclass(frozen=True)
class _Priced:
    """Price of a segment or of a whole template.

    `product_s` is the part of `compute_s` in matrix products and fused attention.
    """

    compute_s: float
    fixed_s: float
    by_category: Floats
    peak_s: float
    product_s: float
    launches: int
    syncs: int


def _price_segment(segment: Segment, platform: Platform, tables: _Tables) -> _Priced:
    known = tables.seen.get(id(segment))
    if known is None:
        known = tables.seen[id(segment)] = _price_new_segment(segment, platform, tables)
    return known


def _price_new_segment(segment: Segment, platform: Platform, tables: _Tables) -> _Priced:
    by_category = np.zeros(len(CATEGORIES))
    model_flop = product_s = 0.0
    for kernel in segment.kernels:
        by_category[CATEGORIES.index(kernel.category)] += tables.kernel[kernel]
        if kernel.kind is not KernelKind.ELEMENTWISE:
            product_s += tables.kernel[kernel]
        if kernel.category in (Category.MATMUL, Category.ATTENTION):
            model_flop += kernel.flop * kernel.launches
    kernels_s = float(by_category.sum())
    comm = [tables.message[message] for message in segment.collectives]
    drag = platform.profile.overlap_drag
    total_s = segment_s(kernels_s, sum(comm), segment.overlap, segment.pieces, drag)
    exposed_s = total_s - kernels_s
    for message, time_s in zip(segment.collectives, comm, strict=True):
        share = time_s / sum(comm) if sum(comm) else 0.0
        by_category[CATEGORIES.index(message.category)] += exposed_s * share
    dtype = segment.kernels[0].dtype if segment.kernels else ""
    return _Priced(
        compute_s=kernels_s,
        fixed_s=exposed_s,
        by_category=by_category,
        peak_s=model_flop / platform.device.matrix_peak.get(dtype, np.inf),
        product_s=product_s,
        launches=sum(kernel.launches for kernel in segment.kernels) + len(segment.collectives),
        syncs=int(bool(segment.collectives)),
    )


def _price_template(template: OpTemplate, platform: Platform, tables: _Tables) -> _Priced:
    by_category = np.zeros(len(CATEGORIES))
    compute_s = fixed_s = peak_s = product_s = 0.0
    launches = syncs = 0
    for segment in template.segments:
        priced = _price_segment(segment, platform, tables)
        compute_s += priced.compute_s * segment.repeat
        fixed_s += priced.fixed_s * segment.repeat
        peak_s += priced.peak_s * segment.repeat
        product_s += priced.product_s * segment.repeat
        by_category += priced.by_category * segment.repeat
        launches += priced.launches * segment.repeat
        syncs += priced.syncs * segment.repeat
    extra_s = _host_s(template, platform, launches) - compute_s - fixed_s
    if extra_s > 0.0:
        fixed_s += extra_s
        kind = Category.HOST if template.category is Category.HOST else Category.LAUNCH
        by_category[CATEGORIES.index(kind)] += extra_s
    return _Priced(compute_s, fixed_s, by_category, peak_s, product_s, launches, syncs)


def _drag(template: OpTemplate, platform: Platform) -> float:
    """Compute rate that a collective beside the passes takes from its rank."""
    beside = template.overlapped and template.category is Category.DP_COMM
    return platform.profile.overlap_drag if beside else 0.0


def _host_s(template: OpTemplate, platform: Platform, launches: int) -> float:
    """Least time of an op on the host: its launches, or the work of a step."""
    host = platform.profile.host
    if template.category is Category.HOST:
        return host.step_s + (0.0 if platform.features.async_data_pipeline else host.input_s)
    if platform.features.cuda_graphs or template.category not in (
        Category.MATMUL,
        Category.OPTIMIZER,
    ):
        return 0.0
    return launches * host.operator_s
