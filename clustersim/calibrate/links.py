"""Coefficients of links, fitted to rows of collectives and messages.

Rows inside a node fit the link of the device, rows between nodes the transport of the adapters with
the link of the node as it is. Half-octaves of size weigh the same however many rows they hold.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustersim.calibrate.fit import FitResult, Floats, Sample, fit, fit_document, least_points
from clustersim.calibrate.tables import Tables
from clustersim.cost.measured.collective import (
    Group,
    collective_groups,
    links_of,
    predict_groups,
)
from clustersim.cost.measured.fabrics import path_of, shipped_link
from clustersim.cost.measured.family import Coefficient
from clustersim.cost.measured.p2p import message_groups
from clustersim.cost.measured.rows import Rows
from clustersim.hardware.paths import GroupPath
from clustersim.spec.device import Device
from clustersim.spec.link import Link, Pedigree

MOST_ROWS = 4000
GROUPS = {"collective": collective_groups, "p2p": message_groups}
TIMES = (1e-9, 1e-3)  # bounds of latencies [s]
SHARES = (1e-2, 1.0)
RATIOS = (5e-2, 20.0)


@dataclass(frozen=True)
class LinkFit:
    """One link: fitted, or kept and why; see `SectionFit`."""

    link: str
    rows: int
    used: int
    parameters: tuple[str, ...]
    record: Link | None = None
    result: FitResult | None = None
    reason: str = ""

    def document(self) -> dict[str, Any]:
        """The fit as JSON; errors are fractions."""
        return {
            "link": self.link,
            "status": "fitted" if self.result else "kept",
            "reason": self.reason or None,
            "rows": self.rows,
            "used": self.used,
            "parameters": len(self.parameters),
            **fit_document(self.result, self.parameters),
        }


Located = tuple[str, GroupPath, Group, Rows]


def fit_links(tables: Tables, device: Device, seed: int) -> Iterator[LinkFit]:
    """Fit each link that has rows, by name; those inside nodes do not wait for each other.

    Parameters
    ----------
    tables : Tables
        Checked rows of the device.
    device : Device
    seed : int
        Draws the subsample and deals the folds.
    """
    located: dict[str, list[Located]] = {}
    for rows in tables.rows:
        for group in GROUPS[rows.stem](rows.columns) if rows.stem in GROUPS else ():
            path = path_of(group[1], device)
            if path is not None and path.ranks > 1 and links_of(path) is not None:
                name = path.nic_link if path.domains > 1 else path.scale_up_link
                located.setdefault(name, []).append((name, path, group, rows))
    for name in sorted(located):
        yield fit_link(name, located[name], device, seed)


def fit_link(name: str, groups: Sequence[Located], device: Device, seed: int) -> LinkFit:
    """Fit one link to its rows."""
    start = shipped_link(name)
    assert start is not None  # `links_of` found it
    free = free_coefficients(start, groups)
    names = tuple(coefficient.name for coefficient in free)
    total = sum(group[2].size for _, _, group, _ in groups)
    if total < least_points(len(names)):
        reason = f"{total} rows; {len(names)} parameters need {least_points(len(names))}"
        return LinkFit(name, total, 0, names, reason=reason)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    columns, places, sample = _gather(groups, rng)
    data = start.model_dump()

    def predict(values: Floats, rows: NDArray[np.int64]) -> Floats:
        trial = Link.model_validate(_with_values(data, names, values))
        return predict_groups(columns, places, device, {name: trial})[rows]

    result = fit(predict, np.array([_get(data, item) for item in names]), free, sample, rng)
    values = np.array([float(f"{value:.4g}") for value in result.values])
    record = Link.model_validate(
        _with_values(data, names, values)
        | {
            "title": f"{start.title}, calibrated on {device.name}".lstrip(", "),
            "pedigree": _pedigree(device, total, names, result),
            "sources": start.sources | {"start": f"the link file {name}"},
        }
    )
    return LinkFit(name, total, sample.measured_s.size, names, record, result)


# Coefficients that rows of some kinds of messages tell.
TOLD_BY_MESSAGES = (
    ({"all_to_all"}, [("messages.exchange_latency", TIMES), ("messages.peer_latency", TIMES)]),
    ({"send_recv"}, [("messages.latency", TIMES), ("messages.pair_share", SHARES)]),
    ({"all_to_all", "send_recv"}, [("messages.ll_share", SHARES)]),
)


def free_coefficients(link: Link, groups: Sequence[Located]) -> tuple[Coefficient, ...]:
    """Coefficients that the collectives of some rows can tell; zeros stay zero."""
    kinds = {group[0] for _, _, group, _ in groups}
    near = groups[0][1].domains <= 1  # calls between nodes start like those inside one
    found = [("base_latency", TIMES)] if near else []
    for name in link.protocols:
        found += [(f"protocols.{name}.hop", TIMES), (f"protocols.{name}.efficiency", SHARES)]
        found.append((f"protocols.{name}.setup", TIMES))
    if near:
        found.append(("copy_ratio", RATIOS))
    for kind, told in TOLD_BY_MESSAGES:
        found += told if kinds & kind else []
    reduced = (path for _, path, group, _ in groups if group[0] == "all_reduce")
    if link.in_switch and any(p.scale_up_kind == "switch" and p.ranks > 2 for p in reduced):
        found += [("in_switch.setup", TIMES), ("in_switch.efficiency", SHARES)]
    data = link.model_dump()
    return tuple(Coefficient(name, *bounds) for name, bounds in found if _get(data, name))


def _get(data: Mapping[str, Any], name: str) -> Any:
    value: Any = data
    for key in name.split("."):
        value = value[key]
    return value


def _with_values(data: Mapping[str, Any], names: Sequence[str], values: Floats) -> dict[str, Any]:
    """A copy of nested mappings with some numbers replaced."""
    copy = {key: _copied(value) for key, value in data.items()}
    for name, value in zip(names, values.tolist(), strict=True):
        *way, last = name.split(".")
        inner = copy
        for key in way:
            inner = inner[key]
        inner[last] = value
    return copy


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    return value


def _gather(
    groups: Sequence[Located], rng: np.random.Generator
) -> tuple[dict[str, NDArray[Any]], list[Group], Sample]:
    """Rows of all groups in one table, at most `MOST_ROWS`, with their groups renumbered."""
    sizes, times, places, shapes = [], [], [], []
    total = sum(group[2].size for _, _, group, _ in groups)
    share = min(1.0, MOST_ROWS / total)
    offset = 0
    for number, (_, _, (kind, place, rows), table) in enumerate(groups):
        own = rows
        if share < 1:
            count = max(1, int(share * rows.size))
            own = np.sort(rng.choice(rows, count, replace=False))
        sizes.append(table.columns["bytes"][own].astype(np.float64))
        times.append(table.columns["latency_s"][own].astype(np.float64))
        places.append((kind, place, np.arange(offset, offset + own.size)))
        shapes.append(np.full(own.size, number))
        offset += own.size
    size, shape = np.concatenate(sizes), np.concatenate(shapes)
    octave = np.floor(2 * np.log2(size)).astype(np.int64)
    # a shape to be held out is a group with a factor of sixteen in size
    _, folds = np.unique(shape * 1000 + octave // 8, return_inverse=True)
    sample = Sample(np.concatenate(times), folds, size, _balanced(octave))
    return {"bytes": size}, places, sample


def _balanced(octave: NDArray[np.int64]) -> Floats:
    """Weights of mean 1 that make each half-octave count the same."""
    _, codes, counts = np.unique(octave, return_inverse=True, return_counts=True)
    weight = 1.0 / counts[codes]
    return np.asarray(weight / weight.mean())


def _pedigree(device: Device, rows: int, names: Sequence[str], result: FitResult) -> Pedigree:
    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 4)

    return Pedigree(
        basis="fitted",
        fitted_to=f"{rows:,} rows of {device.name}",
        points=rows,
        parameters=len(names),
        error=round(result.in_sample, 4),
        largest_tenth_error=rounded(result.tenth_held_out),
        held_out_error=rounded(result.held_out),
        held_out="five folds over collective, ranks and range of size; the largest tenth by a fit "
        "to the others",
    )
