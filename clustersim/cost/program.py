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
from clustersim.workload.operators import Category, Collective, Kernel, Segment
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
    """When kernels finish that start together with a collective. [s]

    Notes
    -----
    Kernels run at rate ``1 - drag`` until the collective ends, then at rate 1.
    """
    if kernels_s <= collective_s * (1.0 - drag):
        return kernels_s / (1.0 - drag)
    return kernels_s + drag * collective_s


def segment_s(kernels_s: float, comm_s: float, overlap: str, pieces: int, drag: float) -> float:
    """Time of a segment from the times of its two sides. [s]"""
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
    return price_templates(program.templates, platform)


def price_templates(templates: Sequence[OpTemplate], platform: Platform) -> ProgramCosts:
    """Price templates that need no program around them, such as one layer."""
    tables = _Tables(templates, platform)
    rows = [_price_template(template, platform, tables) for template in templates]
    columns = list(zip(*rows, strict=True))
    return ProgramCosts(
        compute_s=np.array(columns[0]),
        fixed_s=np.array(columns[1]),
        by_category=np.array(columns[2]),
        peak_s=np.array(columns[3]),
        drag=np.array(columns[4]),
        syncs=np.array(columns[5], dtype=np.int64),
    )


class _Tables:
    """Times of the distinct kernels and collectives of a program, each priced once."""

    def __init__(self, templates: Sequence[OpTemplate], platform: Platform):
        segments = {id(segment): segment for template in templates for segment in template.segments}
        groups = {id(s.kernels): s.kernels for s in segments.values()}
        kernels = list(dict.fromkeys(kernel for group in groups.values() for kernel in group))
        messages = list(dict.fromkeys(c for s in segments.values() for c in s.collectives))
        costs = kernel_s(kernels, platform.device, platform.profile)
        self.kernel: dict[Kernel, float] = dict(zip(kernels, costs.alone_s.tolist(), strict=True))
        self.message: dict[Collective, float] = _message_times(messages, platform)
        self.seen: dict[int, tuple[Segment, _Priced]] = {}


def _message_times(messages: list[Collective], platform: Platform) -> dict[Collective, float]:
    times: dict[Collective, float] = {}
    for message in messages:
        path = platform.paths[message.group]
        size = np.array([message.bytes])
        times[message] = float(collective_s(message.collective, size, path, platform.links)[0])
    return times


@dataclass(frozen=True)
class _Priced:
    """One segment, once."""

    compute_s: float
    fixed_s: float
    by_category: Floats
    peak_s: float
    launches: int
    syncs: int


def _price_segment(segment: Segment, platform: Platform, tables: _Tables) -> _Priced:
    known = tables.seen.get(id(segment))
    if known is not None:
        return known[1]
    by_category = np.zeros(len(CATEGORIES))
    peak_s = 0.0
    for kernel in segment.kernels:
        by_category[CATEGORIES.index(kernel.category)] += tables.kernel[kernel]
        if kernel.category in (Category.MATMUL, Category.ATTENTION):
            peak_s += kernel.flop * kernel.launches
    kernels_s = float(by_category.sum())
    comm = [tables.message[message] for message in segment.collectives]
    drag = platform.profile.overlap_drag
    total_s = segment_s(kernels_s, sum(comm), segment.overlap, segment.pieces, drag)
    exposed_s = total_s - kernels_s
    for message, time_s in zip(segment.collectives, comm, strict=True):
        share = time_s / sum(comm) if sum(comm) else 0.0
        by_category[CATEGORIES.index(message.category)] += exposed_s * share
    dtype = segment.kernels[0].dtype if segment.kernels else ""
    peak = platform.device.matrix_peak.get(dtype, np.inf)
    launches = sum(kernel.launches for kernel in segment.kernels) + len(segment.collectives)
    priced = _Priced(
        kernels_s,
        exposed_s,
        by_category,
        peak_s / peak,
        launches,
        int(bool(segment.collectives)),
    )
    tables.seen[id(segment)] = (segment, priced)
    return priced


def _price_template(
    template: OpTemplate, platform: Platform, tables: _Tables
) -> tuple[float, float, Floats, float, float, int]:
    by_category = np.zeros(len(CATEGORIES))
    compute_s = fixed_s = peak_s = 0.0
    launches = syncs = 0
    for segment in template.segments:
        priced = _price_segment(segment, platform, tables)
        compute_s += priced.compute_s * segment.repeat
        fixed_s += priced.fixed_s * segment.repeat
        peak_s += priced.peak_s * segment.repeat
        by_category += priced.by_category * segment.repeat
        launches += priced.launches * segment.repeat
        syncs += priced.syncs * segment.repeat
    extra_s = _host_s(template, platform, launches) - compute_s - fixed_s
    if extra_s > 0.0:
        fixed_s += extra_s
        kind = Category.HOST if template.category is Category.HOST else Category.LAUNCH
        by_category[CATEGORIES.index(kind)] += extra_s
    drag = platform.profile.overlap_drag if template.overlapped else 0.0
    if template.category is not Category.DP_COMM:
        drag = 0.0
    return compute_s, fixed_s, by_category, peak_s, drag, max(1, syncs)


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
    return launches * host.launch_s
