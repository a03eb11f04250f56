"""Sections of a profile by path: ``gemm/bf16`` is ``profile.gemm["bf16"]``, ``launch`` a record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clustersim.cost.measured.family import Coefficient
from clustersim.spec.base import Record
from clustersim.spec.profile import Profile


def section_of(profile: Profile, section: str) -> Record | None:
    """The record of a section.

    Parameters
    ----------
    profile : Profile
    section : str
        Path, such as ``gemm/bf16`` or ``launch``.

    Returns
    -------
    Record or None
        None where the profile has none: no other section stands in.
    """
    head, _, key = section.partition("/")
    value = getattr(profile, head, None)
    if key:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Record) else None


def with_section(profile: Profile, section: str, record: Record) -> Profile:
    """A profile in which a section is another record; nothing is checked.

    Parameters
    ----------
    profile : Profile
        Left as it is.
    section : str
        Path; the profile need not have it, but its group.
    record : Record

    Returns
    -------
    Profile
        Other sections are shared with the first.
    """
    head, _, key = section.partition("/")
    value = {**(getattr(profile, head) or {}), key: record} if key else record
    return profile.model_copy(update={head: value})


def read_values(record: Record, coefficients: Sequence[Coefficient]) -> list[float]:
    """Free numbers of a section.

    Parameters
    ----------
    record : Record
        The section.
    coefficients : sequence of Coefficient
        Fields of the record.

    Returns
    -------
    list of float
        In the order of the coefficients; the middle of its bounds where the record leaves one open.
    """
    values = [(getattr(record, coefficient.name), coefficient) for coefficient in coefficients]
    return [bounds.middle if value is None else float(value) for value, bounds in values]


def with_values(
    record: Record, coefficients: Sequence[Coefficient], values: Iterable[float]
) -> Record:
    """A record with other numbers; nothing is checked.

    Parameters
    ----------
    record : Record
        Left as it is.
    coefficients : sequence of Coefficient
        Fields of the record.
    values : iterable of float
        As many as coefficients; ValueError where they are not.

    Returns
    -------
    Record
    """
    pairs = zip(coefficients, values, strict=True)
    return record.model_copy(update={coefficient.name: value for coefficient, value in pairs})


def find_start(
    section: str, profile: Profile, others: Iterable[Profile]
) -> tuple[Record, str] | None:
    """Starting values of a section and where they come from.

    Parameters
    ----------
    section : str
        Path.
    profile : Profile
        Asked first.
    others : iterable of Profile
        Asked in turn for the same section; then `profile` for another key of the same group.

    Returns
    -------
    (Record, str) or None
        The origin is "" where the profile itself has the section.
    """
    own = section_of(profile, section)
    if own is not None:
        return own, ""
    for other in others:
        found = section_of(other, section)
        if found is not None:
            return found, f"profile {other.name}"
    head, _, key = section.partition("/")
    group: Any = getattr(profile, head, None)
    if key and isinstance(group, Mapping):
        for name, record in group.items():
            if isinstance(record, Record):
                return record, f"{head}/{name}"
    return None
