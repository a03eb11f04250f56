"""What a later layer leaves of an earlier one where it takes another choice.

Layers merge field by field: a file over the one it extends, ``--set`` over both. Some fields
belong to one choice alone, as a rate does to Poisson arrivals. Where a later layer replaces the
choice, such fields of earlier layers mean nothing any more and are left out; stated in the same
layer they stay, and are refused as the mistakes that they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from clustersim.spec.documents import Document, Path_
from clustersim.spec.workload import KINDS_OF

ARRIVALS: Path_ = ("workload", "arrivals")
OF_A_TRACE: tuple[Path_, ...] = (("workload", "trace"), ("workload", "format"))
NOT_OF_A_TRACE: tuple[Path_, ...] = (("workload", "lengths"), ("workload", "prefixes"))
EXTENDED, FILE, OVERRIDE = range(3)


def without_replaced(document: Document) -> Document:
    """Leave out fields that only a replaced kind of arrivals used.

    Parameters
    ----------
    document : Document
        Of a serving scenario, all layers merged.
    """
    kind_layer = _layer(document, (*ARRIVALS, "kind"))
    for path in _unused(document.get((*ARRIVALS, "kind"))):
        if document.get(path) is not None and _layer(document, path) < kind_layer:
            document = _without(document, path)
    return document


def _unused(kind: Any) -> Iterator[Path_]:
    """Fields that a kind of arrivals has no use for."""
    yield from ((*ARRIVALS, name) for name, kinds in KINDS_OF.items() if kind not in kinds)
    yield from NOT_OF_A_TRACE if kind == "trace" else OF_A_TRACE


def _layer(document: Document, path: Path_) -> int:
    """The last layer that states a field or a part of it."""
    depth = len(path)
    marks = [mark for at, mark in document.marks.items() if at[:depth] == path]
    return max((_layer_of(mark.file, document.file) for mark in marks), default=EXTENDED)


def _layer_of(file: str, own: str) -> int:
    if file.startswith("--set "):
        return OVERRIDE
    return FILE if file == own else EXTENDED


def _without(document: Document, path: Path_) -> Document:
    def cut(data: Any, rest: Path_) -> Any:
        if len(rest) == 1:
            return {key: value for key, value in data.items() if key != rest[0]}
        return {**data, rest[0]: cut(data[rest[0]], rest[1:])}

    depth = len(path)
    marks = {at: mark for at, mark in document.marks.items() if at[:depth] != path}
    return replace(document, data=cut(document.data, path), marks=marks)
