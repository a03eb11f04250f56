"""From one device's rows to its profile: where to start, what to fit, and the new pedigree."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustersim.calibrate.fit import (
    FitResult,
    Floats,
    Predict,
    Sample,
    fit,
    fit_document,
    least_points,
)
from clustersim.calibrate.sections import find_start, read_values, with_section, with_values
from clustersim.calibrate.tables import Tables
from clustersim.cost.measured.family import Coefficient, Family
from clustersim.cost.measured.rows import Rows
from clustersim.errors import ClusterSimError, ModelDomainError, Problem, SpecError
from clustersim.spec.base import Record
from clustersim.spec.device import Device
from clustersim.spec.profile import STEP, FitError, Origin, Pedigree, Profile
from clustersim.spec.resolve import list_names, load_device, load_profile

MOST_ROWS = 4000  # fitted of one section; more say nothing new of a dozen numbers
ORDER = ("gemm", "launch", "alignment", "attention")  # groups that others build on


@dataclass(frozen=True)
class Start:
    """The profile that a fit starts from.

    Attributes
    ----------
    profile : Profile
    sibling : bool
        Whether it was made for another device.
    others : tuple of Profile
        Further profiles, nearest first, for sections that it lacks.
    """

    profile: Profile
    sibling: bool
    others: tuple[Profile, ...]


@dataclass(frozen=True)
class SectionFit:
    """One section: fitted, or kept and why.

    Attributes
    ----------
    rows, used : int
        Rows of the section, and those fitted to.
    files : tuple of str
        Stems.
    start : str
        Where the starting values come from, "" for the profile's own section.
    record : Record or None
        The section with its new values; None where it was kept.
    result : FitResult or None
    reason : str
        Why it was kept.
    """

    section: str
    rows: int
    used: int
    files: tuple[str, ...]
    parameters: tuple[str, ...]
    start: str = ""
    record: Record | None = None
    result: FitResult | None = None
    reason: str = ""

    def document(self) -> dict[str, Any]:
        """The fit as JSON; errors are fractions."""
        return {
            "section": self.section,
            "status": "fitted" if self.result else "kept",
            "reason": self.reason or None,
            "files": list(self.files),
            "rows": self.rows,
            "used": self.used,
            "parameters": len(self.parameters),
            "start": self.start or None,
            **fit_document(self.result, self.parameters),
        }


def starting_profile(device: Device) -> Start:
    """The device's own profile, or that of the nearest device of its architecture.

    Raises
    ------
    SpecError
        If there is neither.
    """
    others = _relatives(device)
    try:
        profile = load_profile(device.profile)
    except SpecError as error:
        if not others:
            raise SpecError(
                [
                    *error.problems,
                    Problem(f"no profile of a {device.architecture} device ships", "name one"),
                ]
            ) from None
        profile = others[0]
    own = profile.device == device.name
    return Start(profile, not own, tuple(item for item in others if item.name != profile.name))


def _relatives(device: Device) -> list[Profile]:
    """Shipped profiles of devices of the same architecture, nearest memory bandwidth first."""
    found = []
    for name in list_names("profile"):
        profile = load_profile(name)
        try:
            its = load_device(profile.device)
        except ClusterSimError:
            continue
        if its.architecture == device.architecture:
            distance = abs(np.log(its.memory_bandwidth / device.memory_bandwidth))
            found.append((profile.derived, float(distance), name, profile))
    return [entry[-1] for entry in sorted(found, key=lambda entry: entry[:3])]


def unit_ratios(tables: Tables, device: Device, profile: Profile) -> dict[str, float]:
    """Median of measured over expected time of each file; files without expectation left out."""
    ratios = {}
    for rows in tables.rows:
        expected_s = _expected(tables.families[rows.stem], rows, device, profile)
        ratio = rows.columns["latency_s"] / expected_s
        ratio = ratio[np.isfinite(ratio)]
        if ratio.size:
            ratios[rows.file] = float(np.median(ratio))
    return ratios


def _expected(family: Family, rows: Rows, device: Device, profile: Profile) -> Floats:
    """Predicted seconds; NaN where the profile lacks a section. [s]"""
    try:
        return np.asarray(family.predict(rows.columns, device, profile), dtype=np.float64)
    except ClusterSimError:
        return np.full(rows.count, np.nan)


def fit_sections(tables: Tables, device: Device, start: Start, seed: int) -> Iterator[SectionFit]:
    """Fit each section that has rows; later sections see the values of earlier ones.

    Parameters
    ----------
    tables : Tables
        Checked rows of the device.
    device : Device
    start : Start
    seed : int
        Draws the subsample and deals the folds.

    Yields
    ------
    SectionFit
        By group in the order of `ORDER`, then by name.
    """
    profile = start.profile
    for section, parts in _by_section(tables, device, profile).items():
        found = fit_section(
            section, parts, device, Start(profile, start.sibling, start.others), seed
        )
        if found.record is not None:
            profile = with_section(profile, section, found.record)
        yield found


Part = tuple[Family, Rows]


def _by_section(tables: Tables, device: Device, profile: Profile) -> dict[str, list[Part]]:
    found: dict[str, list[Part]] = {}
    for rows in tables.rows:
        family = tables.families[rows.stem]
        names = _sections(family, rows, device, profile)
        for section in np.unique(names).tolist():
            if section and family.coefficients(section):
                found.setdefault(section, []).append((family, rows.take(names == section)))

    def rank(section: str) -> tuple[int, str]:
        head = section.partition("/")[0]
        return (ORDER.index(head) if head in ORDER else len(ORDER), section)

    return {section: found[section] for section in sorted(found, key=rank)}


def _sections(family: Family, rows: Rows, device: Device, profile: Profile) -> NDArray[np.str_]:
    """Section of each row; by its columns alone where the profile knows none of its kernels."""
    if family.kernels is not None:
        try:
            return np.asarray(family.kernels(rows.columns, device, profile))
        except ModelDomainError:
            pass
    return np.asarray(family.sections(rows.columns))


def fit_section(
    section: str, parts: Sequence[Part], device: Device, start: Start, seed: int
) -> SectionFit:
    """Fit one section to its rows of all files."""
    coefficients = parts[0][0].coefficients(section)
    names = tuple(coefficient.name for coefficient in coefficients)
    stems = tuple(dict.fromkeys(family.stem for family, _ in parts))
    total = sum(rows.count for _, rows in parts)
    kept = partial(SectionFit, section, total, 0, stems, names)
    if total < least_points(len(names)):
        return kept(reason=f"{total} rows; {len(names)} parameters need {least_points(len(names))}")
    found = find_start(section, start.profile, start.others)
    if found is None:
        return kept(reason="no profile has values to start from")
    record, origin = found
    rng = np.random.default_rng([seed, zlib.crc32(section.encode())])
    chosen = _subsample(parts, rng)
    predict = _predictor(section, chosen, coefficients, device, (start.profile, record))
    values = np.array(read_values(record, coefficients))
    every = np.arange(sum(rows.count for _, rows in chosen))
    inside = np.flatnonzero(np.isfinite(predict(values, every)))
    if inside.size < least_points(len(names)):
        return kept(reason=f"{inside.size} of {total} rows are inside the domain of the model")
    sample = _sample(chosen, inside)

    def of_inside(values: Floats, rows: NDArray[np.int64]) -> Floats:
        return predict(values, inside[rows])

    result = fit(of_inside, values, coefficients, sample, rng)
    fitted = with_values(record, coefficients, _rounded(result.values))
    return SectionFit(section, total, inside.size, stems, names, origin, fitted, result)


def _rounded(values: Floats) -> list[float]:
    """To five digits: more would not be measured."""
    return [float(f"{value:.5g}") for value in values.tolist()]


def _subsample(parts: Sequence[Part], rng: np.random.Generator) -> list[Part]:
    """At most `MOST_ROWS` rows over all files, drawn without replacement."""
    counts = [rows.count for _, rows in parts]
    total = sum(counts)
    if total <= MOST_ROWS:
        return list(parts)
    drawn = np.sort(rng.choice(total, MOST_ROWS, replace=False))
    edges = np.cumsum([0, *counts])
    chosen = []
    for (family, rows), low, high in zip(parts, edges[:-1], edges[1:], strict=True):
        own = drawn[(drawn >= low) & (drawn < high)] - low
        if own.size:
            chosen.append((family, rows.take(own)))
    return chosen


def _predictor(
    section: str,
    parts: Sequence[Part],
    coefficients: Sequence[Coefficient],
    device: Device,
    base: tuple[Profile, Record],
) -> Predict:
    profile, record = base
    edges = np.cumsum([0, *(rows.count for _, rows in parts)])

    def predict(values: Floats, rows: NDArray[np.int64]) -> Floats:
        trial = with_section(profile, section, with_values(record, coefficients, values))
        found: Floats = np.empty(rows.size)
        for (family, table), low, high in zip(parts, edges[:-1], edges[1:], strict=True):
            own = (rows >= low) & (rows < high)
            if own.any():
                columns = table.take(rows[own] - low).columns
                found[own] = family.predict(columns, device, trial)
        return found

    return predict


def _sample(parts: Sequence[Part], inside: NDArray[np.int64]) -> Sample:
    groups, offset = [], 0
    for family, rows in parts:
        codes = shape_groups(rows.columns, family.required)
        groups.append(codes + offset)
        offset += int(codes.max()) + 1
    measured = np.concatenate([rows.columns["latency_s"] for _, rows in parts])
    size = np.concatenate([family.size(rows.columns) for family, rows in parts])
    return Sample(
        measured_s=measured[inside].astype(np.float64),
        groups=np.concatenate(groups)[inside],
        size=size[inside].astype(np.float64),
        weight=np.ones(inside.size),
    )


def shape_groups(columns: Mapping[str, NDArray[Any]], required: Sequence[str]) -> NDArray[np.int64]:
    """Number the shapes of rows, the column of most values left out.

    Notes
    -----
    Of a sweep over m for each (n, k), a shape is an (n, k): neighbours in m are too alike for one
    to test the other. Where fewer than ten shapes are left, the whole row is the shape.
    """
    numbers = [name for name in required if columns[name].dtype.kind in "iuf"]
    coded = {name: np.unique(columns[name], return_inverse=True) for name in numbers}
    if not coded:
        return np.zeros(columns["latency_s"].size, dtype=np.int64)
    swept = max(numbers, key=lambda name: coded[name][0].size)

    def combine(names: Sequence[str]) -> NDArray[np.int64]:
        code = np.zeros(columns["latency_s"].size, dtype=np.int64)
        for name in names:
            values, own = coded[name]
            code = np.unique(code * values.size + own, return_inverse=True)[1]
        return code

    groups = combine([name for name in numbers if name != swept])
    return groups if groups.max() + 1 >= 10 else combine(numbers)


def new_profile(
    name: str, device: Device, start: Start, fits: Sequence[SectionFit], seed: int
) -> Profile:
    """The starting profile with the fitted sections and a pedigree of its own.

    Notes
    -----
    The error of published steps is left out: it was that of other coefficients.
    """
    profile = start.profile
    fitted = [item for item in fits if item.record is not None]
    for item in fitted:
        assert item.record is not None
        profile = with_section(profile, item.section, item.record)
    pedigree = _pedigree(start, fits, fitted, seed)
    data = profile.model_dump() | {
        "name": name,
        "device": device.name,
        "derived": False,
        "pedigree": pedigree.model_dump(),
    }
    return Profile.model_validate(data)


def _pedigree(
    start: Start, fits: Sequence[SectionFit], fitted: Sequence[SectionFit], seed: int
) -> Pedigree:
    old = start.profile.pedigree
    origins: dict[str, Origin] = dict(old.origins)
    if start.sibling:
        old = old.model_copy(update={"errors": (), "fitted_to": ()})
        origins |= {group: "derived" for group, origin in origins.items() if origin == "fitted"}
    origins |= {item.section.partition("/")[0]: "fitted" for item in fitted}
    errors = _kept_errors(old.errors, [_title(item.section) for item in fitted])
    count = sum(len(item.parameters) for item in fitted)
    return Pedigree(
        fitted_to=(
            *(
                f"{_title(item.section)}: {item.used:,} of {item.rows:,} rows of "
                f"{', '.join(item.files)}"
                for item in fitted
            ),
            *(f"before: {source}" for source in old.fitted_to),
        ),
        parameters=count,
        origins=origins,
        errors=(*(error for item in fitted for error in _errors(item)), *errors),
        notes=_notes(start, fits, seed),
    )


def _kept_errors(errors: Iterable[FitError], titles: Sequence[str]) -> list[FitError]:
    """Older errors of sections that were not fitted anew; those of whole steps are void."""
    return [
        error
        for error in errors
        if error.operator != STEP and not any(_is_of(error.operator, title) for title in titles)
    ]


def _is_of(operator: str, title: str) -> bool:
    """Whether an older error belongs to a section: its title, alone or with a remark behind."""
    return operator == title or operator.startswith((f"{title},", f"{title} "))


def _title(section: str) -> str:
    return section.replace("/", " ")


def _errors(item: SectionFit) -> Iterator[FitError]:
    result = item.result
    assert result is not None
    yield FitError(
        operator=_title(item.section),
        points=item.used,
        in_sample=round(result.in_sample, 4),
        held_out=None if result.held_out is None else round(result.held_out, 4),
    )
    if result.tenth_in_sample is not None and result.tenth_held_out is not None:
        yield FitError(
            operator=f"{_title(item.section)}, largest tenth",
            points=result.tenth_points,
            in_sample=round(result.tenth_in_sample, 4),
            held_out=round(result.tenth_held_out, 4),
        )


def _notes(start: Start, fits: Sequence[SectionFit], seed: int) -> str:
    """What was done, in sentences; the notes of the starting profile stay behind them."""
    name = start.profile.name
    whose = "another device's profile" if start.sibling else "the profile"
    lines = [
        f"Calibrated from {whose} {name} (seed {seed}); soft L1 on log(predicted / measured). "
        "Held out means five folds over shapes; for the largest tenth, a fit to the others. "
        "Parameters are those fitted here."
    ]
    moved = [f"{item.section} from {item.start}" for item in fits if item.record and item.start]
    if moved:
        lines.append(f"Starting values: {', '.join(moved)}.")
    kept = [f"{item.section} ({item.reason})" for item in fits if item.record is None]
    if kept:
        lines.append(f"Kept for want of rows: {'; '.join(kept)}.")
    lines.append(f"All other sections are those of {name}.")
    if start.profile.pedigree.notes:
        lines.append(f"Of {name}: {start.profile.pedigree.notes.strip()}")
    return " ".join(lines)
