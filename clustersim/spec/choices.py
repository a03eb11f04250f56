"""What a later layer leaves of an earlier one where it takes another choice.

Layers merge field by field: a file over the one it extends, ``--set`` over both. Some fields
belong to one choice alone, as a rate does to Poisson arrivals. Where a later layer states the
choice, such fields of earlier files mean nothing any more and are left out. Stated in the same
file, or both by ``--set``, they stay, and are refused as the mistakes that they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from clustersim.spec.documents import Document, Path_
from clustersim.spec.serving import POPULARITIES_OF
from clustersim.spec.workload import KINDS_OF

ARRIVALS: Path_ = ("workload", "arrivals")
OWNERS: dict[Path_, dict[str, tuple[str, ...]]] = {
    (*ARRIVALS, "kind"): KINDS_OF,
    ("routing", "popularity"): POPULARITIES_OF,
}
OF_A_TRACE: tuple[Path_, ...] = (("workload", "trace"), ("workload", "format"))
NOT_OF_A_TRACE: tuple[Path_, ...] = (("workload", "lengths"), ("workload", "prefixes"))


def without_replaced(base: Document, top: Document) -> Document:
    """Leave out of a scenario what the choices stated over it have no use for.

    Parameters
    ----------
    base, top : Document
        The earlier layer, and the one that will be laid over it.

    Returns
    -------
    Document
        The earlier layer, or what is left of it.
    """
    for choice in OWNERS:
        taken = top.get(choice)
        for path in _unused(choice, taken) if isinstance(taken, str) else ():
            if base.get(path) is not None and not _is_override(base, path):
                base = _without(base, path)
    return base


def _unused(choice: Path_, taken: str) -> Iterator[Path_]:
    """Fields that have no meaning under what was taken."""
    place, owners = choice[:-1], OWNERS[choice]
    yield from ((*place, name) for name, kinds in owners.items() if taken not in kinds)
    if place == ARRIVALS:
        yield from NOT_OF_A_TRACE if taken == "trace" else OF_A_TRACE


def _is_override(document: Document, path: Path_) -> bool:
    """Whether a field or a part of it was set on the command line."""
    depth = len(path)
    marks = (mark for at, mark in document.marks.items() if at[:depth] == path)
    return any(mark.file.startswith("--set ") for mark in marks)


def _without(document: Document, path: Path_) -> Document:
    def cut(data: Any, rest: Path_) -> Any:
        if len(rest) == 1:
            return {key: value for key, value in data.items() if key != rest[0]}
        return {**data, rest[0]: cut(data[rest[0]], rest[1:])}

    depth = len(path)
    marks = {at: mark for at, mark in document.marks.items() if at[:depth] != path}
    return replace(document, data=cut(document.data, path), marks=marks)
