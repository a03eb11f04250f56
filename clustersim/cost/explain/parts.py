"""A kernel's time in parts, its bound, and how far to trust it.

Every figure comes from the models that price a step. The parts of a kernel are found by taking one
cause after the other out of the device or its profile (the floor of a launch, the power limit, the
traffic with memory, ...) and pricing again: each part is what that step saves, and together they
are the time. What is left at the end is the arithmetic, or the traffic, at the data sheet's rate.
Left out: what a neighbour does to an operator (overlap, contention, a warm cache).

References
----------
.. [1] S. Williams, A. Waterman and D. Patterson, "Roofline: an insightful visual performance
   model for multicore architectures," Commun. ACM 52(4), 2009.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from clustersim.cost.compute.gemm import matrix_peak
from clustersim.cost.compute.pricing import Bound, kernel_s
from clustersim.cost.explain.record import Explanation, Hint, Roof, Site, Term, Trust
from clustersim.spec.profile import UNMEASURED_ERROR, FitError, Profile
from clustersim.workload.operators import Kernel

NO_LIMIT = 1e6  # a rate so many times the real one limits nothing
POWER_SHARE = 0.05  # of the time; from here on the power limit is called the bound
LEAST_FLOOR_S = 1e-9  # stands for a floor of nothing where a picture needs one
LEAST_GAIN = 0.01  # of the rate; smaller gains are no advice

LAUNCH_SHARE = 0.5  # of the time; where more of it is fixed, a launch is called the bound

Change = Callable[[Site], Site]
Price = Callable[[Site], float]
# A cause that can be taken out: its name, a note, and the site without it.
Cause = tuple[str, str, Change]


def without(group: str, **values: float) -> Change:
    """A change of coefficients of a group of the profile.

    Parameters
    ----------
    group : str
        Field of the profile: a record, or a mapping of which all entries are changed.
    **values : float
        New values by coefficient; names that an entry lacks change nothing.

    Returns
    -------
    change
        Takes a site and returns another; nothing is checked, so that limits can be infinite.
    """

    def change(site: Site) -> Site:
        found = getattr(site.profile, group)
        changed = (
            {key: cut(c) for key, c in found.items()} if isinstance(found, dict) else cut(found)
        )
        return replace(site, profile=site.profile.model_copy(update={group: changed}))

    def cut(c: BaseModel) -> BaseModel:
        return c.model_copy(update={k: v for k, v in values.items() if k in type(c).model_fields})

    return change


def endless_memory(site: Site) -> Site:
    """The same device with a memory that never keeps it waiting.

    Parameters
    ----------
    site : Site

    Returns
    -------
    Site
        Its bandwidth is `NO_LIMIT` times as high, and finite.
    """
    bandwidth = site.device.memory_bandwidth * NO_LIMIT
    return replace(site, device=site.device.model_copy(update={"memory_bandwidth": bandwidth}))


def endless_arithmetic(site: Site) -> Site:
    """The same device with matrix units that never keep it waiting.

    Parameters
    ----------
    site : Site

    Returns
    -------
    Site
        Every matrix peak is `NO_LIMIT` times as high; vector units are as before.
    """
    peaks = {dtype: NO_LIMIT * peak for dtype, peak in site.device.matrix_peak.items()}
    return replace(site, device=site.device.model_copy(update={"matrix_peak": peaks}))


def joined(*changes: Change) -> Change:
    """One change after the other."""

    def change(site: Site) -> Site:
        for each in changes:
            site = each(site)
        return site

    return change


FLOOR = ("kernel floor", "launch, first and last instructions")
POWER = ("power limit", "clock lowered to stay within it")
TRAFFIC = ("memory traffic", "beyond what the arithmetic hides")


def time_of(kernel: Kernel, site: Site, sustained: bool = False) -> float:
    """Time of one kernel, all its launches together.

    Parameters
    ----------
    kernel : Kernel
    site : Site
    sustained : bool
        In a training step, with its clocks and gaps (True), or in a micro-benchmark.

    Returns
    -------
    float
        [s]

    Raises
    ------
    ModelDomainError
        A shape is below 1, or the site lacks matrix units or coefficients for it.
    """
    return float(kernel_s([kernel], site.device, site.profile, sustained).alone_s[0])


def price_of(kernel: Kernel) -> Price:
    """Time of a kernel in a micro-benchmark, by site.

    Parameters
    ----------
    kernel : Kernel

    Returns
    -------
    callable
        Site to time [s], as `taken_apart` and `bound_of` take it.
    """
    return lambda site: time_of(kernel, site)


def taken_apart(price: Price, site: Site, causes: Sequence[Cause]) -> tuple[list[Term], Site]:
    """Parts of a time, found by taking causes out one after the other.

    Parameters
    ----------
    price : callable
        Time of the operator at a site. [s]
    site : Site
    causes : sequence of Cause

    Returns
    -------
    terms : list of Term
        What each cause costs, in the order of `causes`; what is left is not among them.
    site : Site
        Without any of the causes.
    """
    terms, before_s = [], price(site)
    for name, note, change in causes:
        site = change(site)
        after_s = price(site)
        terms.append(Term(name, before_s - after_s, note))
        before_s = after_s
    return terms, site


def bound_of(price: Price, site: Site, ways: Mapping[str, Change], fixed_s: float) -> str:
    """Name what limits an operator.

    Parameters
    ----------
    price : callable
        Time of the operator at a site. [s]
    site : Site
    ways : mapping of str to change
        What may limit it, and the site without that limit.
    fixed_s : float
        Part of the time that no work fills. [s]

    Returns
    -------
    str
        "launch" where that part is most of the time; else the limit that is worth most.
    """
    if fixed_s > LAUNCH_SHARE * price(site):
        return "launch"
    return min(ways, key=lambda name: price(ways[name](site)))


@dataclass(frozen=True)
class Roofs:
    """Causes of an operator that either its traffic or its arithmetic decides.

    Attributes
    ----------
    first : tuple of Cause
        Taken out before either.
    of_memory, of_compute : tuple of Cause
        Taken out next, where traffic or arithmetic is the longer.
    traffic : tuple of str
        Name and note of what is left of the traffic.
    unused : tuple of str
        Name and note of what is left beyond the arithmetic that was asked for.
    compute : change
        Without arithmetic, and what goes with it.
    """

    first: tuple[Cause, ...]
    of_memory: tuple[Cause, ...]
    of_compute: tuple[Cause, ...]
    traffic: tuple[str, str]
    unused: tuple[str, str]
    compute: Change = endless_arithmetic

    @property
    def ways(self) -> dict[str, Change]:
        """What may limit the operator, as `bound_of` takes it."""
        return {"memory": endless_memory, "compute": self.compute}


def under_roofs(price: Price, site: Site, roofs: Roofs, peak_s: float) -> list[Term]:
    """Parts of a time, that at the longer roof first [1].

    Parameters
    ----------
    price : callable
        Time of the operator at a site. [s]
    site : Site
    roofs : Roofs
    peak_s : float
        Arithmetic that was asked for, at the dense peak. [s]

    Returns
    -------
    list of Term
        Together the time of the operator.
    """
    first, rest = taken_apart(price, site, roofs.first)
    by_memory = price(endless_memory(rest)) < price(roofs.compute(rest))
    causes, bare = taken_apart(price, rest, roofs.of_memory if by_memory else roofs.of_compute)
    left_s = price(bare)
    if by_memory:
        bottom = [Term(roofs.traffic[0], left_s, roofs.traffic[1])]
    else:
        bottom = [
            Term("arithmetic at peak", peak_s, "what the data sheet promises"),
            Term(roofs.unused[0], left_s - peak_s, roofs.unused[1]),
        ]
    return [*bottom, *reversed(causes), *reversed(first)]


def seconds_of(terms: Iterable[Term], *names: str) -> float:
    """Time of the terms of some names.

    Parameters
    ----------
    terms : iterable of Term
    *names : str
        Those that no term has count nothing.

    Returns
    -------
    float
        Sum. [s]
    """
    return sum(term.seconds for term in terms if term.name in names)


def column(value: float) -> NDArray[np.float64]:
    """A column of one row, as the models take it.

    Parameters
    ----------
    value : float

    Returns
    -------
    ndarray (1,)
    """
    return np.array([value], dtype=np.float64)


def pairs_seen(q_len: int, kv_len: int, causal: bool, window: int) -> float:
    """Pairs of a query and a key that it sees, of one head.

    Parameters
    ----------
    q_len, kv_len : int
        At least 1; kv_len >= q_len where causal: the queries stand at the end of the keys.
    causal : bool
        No query sees keys behind it.
    window : int
        Keys that a query sees at most; 0 is all.

    Returns
    -------
    float
        At most q_len kv_len.
    """
    most = min(window, kv_len) if window else kv_len
    if not causal:
        return float(q_len) * most
    before = kv_len - q_len
    rising = min(max(most - before, 0), q_len)  # queries that see fewer keys than the limit
    return rising * before + rising * (rising + 1) / 2.0 + float(q_len - rising) * most


def explained(
    kernel: Kernel, site: Site, title: str, terms: Iterable[Term], operators: Sequence[str]
) -> Explanation:
    """Explain a kernel that `kernel_s` prices.

    Parameters
    ----------
    kernel : Kernel
    site : Site
    title : str
    terms : iterable of Term
        Parts of its time in a micro-benchmark. [s]
    operators : sequence of str
        As for `trust_in`.

    Returns
    -------
    Explanation
        Without facts and hints: callers add theirs.
    """
    cost = kernel_s([kernel], site.device, site.profile, sustained=False)
    times = float(cost.alone_s[0]), time_of(kernel, site, sustained=True)
    bound = Bound(int(cost.bound[0])).name.lower()
    trust = trust_in(site.profile, kernel.kind.value.split("_")[0], operators)
    head = (kernel.kind.value, title, bound)
    return explanation(site, head, (kernel.flop, kernel.bytes), times, terms, trust)


def explanation(
    site: Site,
    head: tuple[str, str, str],
    work: tuple[float, float],
    times_s: tuple[float, float | None],
    terms: Iterable[Term],
    trust: Trust,
) -> Explanation:
    """Put an explanation together: rates, shares and the roof follow from work and time.

    Parameters
    ----------
    site : Site
    head : tuple of str
        Kind, title, bound ("compute", "memory" or "launch").
    work : tuple of float
        Arithmetic, which may be none, and least traffic. [FLOP], [bytes]
    times_s : tuple of float
        In a micro-benchmark, and in a training step (None: the same). [s]
    terms : iterable of Term
        Parts of the first; those of no time are left out.
    trust : Trust
    """
    (kind, title, bound), (flop, moved), device = head, work, site.device
    parts = tuple(term for term in terms if term.seconds > 0.0)
    power_s = seconds_of(parts, POWER[0])
    if bound == "compute" and power_s > POWER_SHARE * times_s[0]:
        bound = "power limit"
    floor_s = max(seconds_of(parts, FLOOR[0]), LEAST_FLOOR_S)
    peak = matrix_peak(device, site.dtype) if flop else None
    if peak is not None:
        bandwidth = device.memory_bandwidth
        roof = Roof("intensity", flop / moved, flop / times_s[0], peak, bandwidth)
    else:
        roof = Roof("size", moved, moved / times_s[0], device.memory_bandwidth, 1.0 / floor_s)
    return Explanation(
        kind=kind,
        title=title,
        place=f"{device.title} ({device.name})",
        dtype=site.dtype,
        time_s=times_s[0],
        training_s=times_s[1],
        flop=flop,
        bytes=moved,
        peak_flop_per_s=peak,
        peak_bytes_per_s=device.memory_bandwidth,
        rate_bytes_per_s=moved / times_s[0],
        bound=bound,
        roof=roof,
        terms=parts,
        fixed_s=floor_s,
        trust=trust,
    )


def cache_notes(found: Explanation) -> list[str]:
    """Say where operands come faster than memory could give them.

    Parameters
    ----------
    found : Explanation

    Returns
    -------
    list of str
        One note or none.
    """
    if found.rate_bytes_per_s <= found.peak_bytes_per_s:
        return []
    return ["faster than memory: repeated calls find a part of their operands in L2"]


def over_links(
    site: Site,
    head: tuple[str, str, str],
    what: tuple[str, float],
    times_s: tuple[float, float],
    rates: tuple[float, float, float],
    terms: Iterable[Term],
    trust: Trust,
) -> Explanation:
    """Put together the explanation of bytes on their way, whose roof stands over their number.

    Parameters
    ----------
    site : Site
    head : tuple of str
        Kind, title, bound.
    what : tuple
        Where it runs, in words, and the message [bytes].
    times_s : tuple of float
        Of the message, and without bytes. [s]
    rates : tuple of float
        Reached, of the link, and the roof, which may lie higher. [bytes/s]
    terms : iterable of Term
        Parts of the time; those of no time are left out.
    trust : Trust
    """
    (kind, title, bound), (place, moved), (time_s, fixed_s) = head, what, times_s
    reached, nominal, peak = rates
    fixed_s = max(fixed_s, LEAST_FLOOR_S)
    return Explanation(
        kind=kind,
        title=title,
        place=place,
        dtype=site.dtype,
        time_s=time_s,
        training_s=None,
        flop=0.0,
        bytes=moved,
        peak_flop_per_s=None,
        peak_bytes_per_s=nominal,
        rate_bytes_per_s=reached,
        bound=bound,
        # A rate counts some multiple of the message: that many times it starts in `fixed_s`.
        roof=Roof("size", moved, reached, peak, reached * time_s / moved / fixed_s),
        terms=tuple(term for term in terms if term.seconds > 0.0),
        fixed_s=fixed_s,
        trust=trust,
    )


def trust_in(profile: Profile, group: str, operators: Sequence[str]) -> Trust:
    """How far to trust a profile on an operator.

    Parameters
    ----------
    profile : Profile
    group : str
        Key of the pedigree's origins.
    operators : sequence of str
        Names under which the pedigree may state an error, the most telling first; a name also
        stands for longer ones that begin with it.

    Returns
    -------
    Trust
        With `UNMEASURED_ERROR` where nothing of the kind was measured.
    """
    pedigree = profile.pedigree
    origin = pedigree.origins.get(group, "assumed")
    found = next((e for name in operators for e in _named(pedigree.errors, name)), None)
    if found is None or profile.derived:
        text = f"assumed: no {operators[-1]} of this device was measured"
        return Trust(profile.name, origin, operators[-1], 0, UNMEASURED_ERROR, text)
    error = found.in_sample if found.held_out is None else found.held_out
    evidence = "in sample" if found.held_out is None else "held out"
    return Trust(profile.name, origin, found.operator, found.points, error, evidence)


def _named(errors: Sequence[FitError], name: str) -> list[FitError]:
    exact = [error for error in errors if error.operator == name]
    return exact or [error for error in errors if error.operator.startswith(name)]


def _rates(
    site: Site, kernels: Sequence[Kernel]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times [s] and work a second of kernels: FLOP/s, or bytes/s where there is no arithmetic."""
    alone_s = kernel_s(kernels, site.device, site.profile, sustained=False).alone_s
    work = np.array([kernel.flop or kernel.bytes for kernel in kernels])
    return alone_s, work / alone_s


def best_of(
    site: Site, tries: Sequence[tuple[str, Kernel]], asked_flop: float
) -> list[tuple[str, Kernel]]:
    """The try with the highest rate; of equals (within half a percent) that of the nearest work.

    Parameters
    ----------
    site : Site
    tries : sequence of (str, Kernel)
        A change in words, and the kernel with it.
    asked_flop : float
        Arithmetic of the kernel without a change. [FLOP]

    Returns
    -------
    list of (str, Kernel)
        One of the tries; empty where there are none.
    """
    if not tries:
        return []
    _, rates = _rates(site, [kernel for _, kernel in tries])
    good = np.flatnonzero(rates >= 0.995 * rates.max())
    away = np.abs(np.array([tries[index][1].flop for index in good.tolist()]) - asked_flop)
    return [tries[int(good[np.argmin(away)])]]


def better_hints(site: Site, tries: Sequence[tuple[str, Kernel]], rate: float) -> tuple[Hint, ...]:
    """Tries that do more work a second, the best first.

    Parameters
    ----------
    site : Site
    tries : sequence of (str, Kernel)
        A change in words, and the kernel with it.
    rate : float
        Work a second without a change. [FLOP/s], or [bytes/s] of kernels without arithmetic

    Returns
    -------
    tuple of Hint
        Only gains above `LEAST_GAIN`.
    """
    if not tries:
        return ()
    seconds, rates = _rates(site, [kernel for _, kernel in tries])
    works = seconds * rates / rate
    times = zip(tries, seconds.tolist(), works.tolist(), strict=True)
    return gains(((change, time_s, work) for (change, _), time_s, work in times), 1.0)


def gains(tries: Iterable[tuple[str, float, float]], now_s: float) -> tuple[Hint, ...]:
    """Tries that do more work a second, the best first.

    Parameters
    ----------
    tries : iterable of tuple
        The change, the time with it [s], and its work over that of now.
    now_s : float
        Time without a change. [s]
    """
    found = [
        Hint(change, seconds, gain)
        for change, seconds, work in tries
        if (gain := work * now_s / seconds - 1.0) > LEAST_GAIN
    ]
    return tuple(sorted(found, key=lambda hint: -hint.gain_fraction))
