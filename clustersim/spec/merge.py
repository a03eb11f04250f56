"""Laying one document over another: `extends`, references and ``--set``.

Everything here works on plain data with marks and knows records only by the table of fields that
may hold a reference. A reference is a word (a name or a path) or a mapping; a mapping that lies
over a word starts from what the word names. Mappings merge, everything else replaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clustersim.errors import Problem, SpecError
from clustersim.spec.choices import without_replaced
from clustersim.spec.documents import (
    Document,
    Mark,
    Path_,
    dotted,
    parse_value,
    read_document,
    shown_path,
)
from clustersim.spec.names import Kind, UnknownNameError, locate

_TOPOLOGY_REFERENCES: Mapping[Path_, Kind] = MappingProxyType({("node", "device"): "device"})
_NO_REFERENCES: Mapping[Path_, Kind] = MappingProxyType({})
REFERENCES: Mapping[str, Mapping[Path_, Kind]] = MappingProxyType(
    {
        "scenario": MappingProxyType(
            {
                ("model",): "model",
                ("cluster",): "topology",
                ("software",): "software",
                ("engine",): "engine",
                ("fleet",): "fleet",
            }
        ),
        "topology": _TOPOLOGY_REFERENCES,
    }
)


def load_tree(kind: Kind, source: str | Path, overrides: Sequence[str] = ()) -> Document:
    """Read a file, what it extends and what it refers to, as one document.

    Parameters
    ----------
    kind : str
        What the file describes.
    source : str or Path
        A path, or the name of a shipped file.
    overrides : sequence of str
        ``a.b=c`` each, applied in order before references are followed.

    Returns
    -------
    Document
        Complete plain data; each mark points at the file that a value came from.
    """
    try:
        path = locate(kind, source)
    except UnknownNameError as error:
        raise SpecError(Problem(error.message, error.fix)) from None
    document = _load_file(kind, path, ())
    if overrides:
        document = apply_overrides(document, kind, overrides)
    return resolve_references(document, kind)


def resolve_references(document: Document, kind: Kind) -> Document:
    """Replace each reference of a document by what it names, and follow `extends` in it.

    Parameters
    ----------
    document : Document
        With what it lies over named by `extends`, if anything; overrides applied.
    kind : str
        What it describes: says which of its fields may hold a reference.

    Returns
    -------
    Document
        A reference that cannot be followed is one of its broken values, so that the rest can be
        judged as well.

    Raises
    ------
    SpecError
        If the document's own `extends` names no readable file, or leads in a circle.
    """
    return _resolve(document, kind, ())


def _load_file(kind: Kind, path: Path, chain: tuple[Path, ...]) -> Document:
    """Read a file with what it extends at its top; its references are still words."""
    return _extended(read_document(path, lenient=True), kind, (*chain, path.resolve()))


def _extended(document: Document, kind: Kind, chain: tuple[Path, ...]) -> Document:
    """Lay a document over the one it extends, if any."""
    if not isinstance(document.data, dict) or "extends" not in document.data:
        return document
    source, mark = document.data["extends"], document.mark(("extends",))
    if not isinstance(source, str):
        fix = "write one name or path: `extends: NAME`"
        raise SpecError(mark.problem(f"{source!r} is not a name or a path", fix, "extends"))
    path = _locate(kind, source, mark, "extends")
    if path.resolve() in chain:
        loop = " -> ".join(shown_path(step) for step in (*chain, path.resolve()))
        fix = "remove one `extends` of the circle"
        raise SpecError(mark.problem(f"the files extend each other: {loop}", fix, "extends"))
    base = _load_file(kind, path, chain)
    own = {key: value for key, value in document.data.items() if key != "extends"}
    return overlay(base, Document(own, document.marks, document.file, document.broken), kind)


def _locate(kind: Kind, source: str, mark: Mark, field: str) -> Path:
    try:
        return locate(kind, source, Path(mark.folder) if mark.folder else None)
    except UnknownNameError as error:
        raise SpecError(mark.problem(error.message, error.fix, field)) from None


def _resolve(document: Document, kind: Kind, chain: tuple[Path, ...]) -> Document:
    document = _extended(document, kind, chain)
    for path, kind_there in REFERENCES.get(kind, _NO_REFERENCES).items():
        value = document.get(path)
        try:
            if isinstance(value, str):
                mark = document.mark(path)
                file = _locate(kind_there, value, mark, dotted(path))
                there = _resolve(_load_file(kind_there, file, ()), kind_there, (file.resolve(),))
            elif isinstance(value, dict):
                there = _resolve(_part(document, path), kind_there, ())
            else:
                continue
        except SpecError as error:
            broken = tuple((path, _below(problem, path)) for problem in error.problems)
            document = replace(document, broken=(*document.broken, *broken))
            continue
        document = _planted(document, path, there)
    return document


def _below(problem: Problem, path: Path_) -> Problem:
    """Name the field of a problem from the outer document, where it is not named already."""
    field = problem.field
    if not field.startswith(dotted(path)):
        field = dotted((*path, field)) if field else dotted(path)
    return replace(problem, field=field)


def _part(document: Document, path: Path_) -> Document:
    """Return the document below a path."""
    depth = len(path)
    marks = {at[depth:]: mark for at, mark in document.marks.items() if at[:depth] == path}
    inside = tuple((at[depth:], why) for at, why in document.broken if _is_below(at, path))
    return Document(document.get(path), marks, document.file, inside)


def _is_below(at: Path_, path: Path_) -> bool:
    """Whether a place lies inside what stands at a path; the path itself does not."""
    return len(at) > len(path) and at[: len(path)] == path


def _planted(document: Document, path: Path_, part: Document) -> Document:
    """Return a document with another one at a path."""
    depth = len(path)
    marks = {at: mark for at, mark in document.marks.items() if at[:depth] != path}
    marks[path] = document.mark(path)
    marks |= {(*path, *at): mark for at, mark in part.marks.items() if at}
    outside = [(at, why) for at, why in document.broken if not _is_below(at, path)]
    inside = [((*path, *at), _below(why, path)) for at, why in part.broken]
    data = _with_value(document.data, path, part.data)
    return Document(data, marks, document.file, (*outside, *inside))


def _with_value(data: Any, path: Path_, value: Any) -> Any:
    if not path:
        return value
    inner = data.get(path[0], {}) if isinstance(data, dict) else {}
    return {
        **(data if isinstance(data, dict) else {}),
        path[0]: _with_value(inner, path[1:], value),
    }


def overlay(base: Document, top: Document, kind: Kind) -> Document:
    """Merge mappings, `top` first; everything else that `top` holds replaces.

    A mapping in `top` over a reference in `base` that is a word starts from what the word names,
    unless it extends something itself. What only a choice used that `top` replaces is left out.

    Parameters
    ----------
    base, top : Document
        The earlier layer, and the one that wins.
    kind : str
        What both describe: says which fields may hold a reference. Those of a scenario's cluster
        count too.

    Returns
    -------
    Document
        Named as `top` is, with the mark of every value where it was stated and the broken values of
        both.
    """
    references = REFERENCES.get(kind, _NO_REFERENCES)
    if kind == "scenario":
        inner = {("cluster", *path): there for path, there in _TOPOLOGY_REFERENCES.items()}
        references = {**references, **inner}
        base = without_replaced(base, top)
    marks = dict(base.marks)
    marks[()] = top.mark(())
    data = _merged(base.data, top.data, (), (marks, top.marks, references))
    return Document(data, marks, top.file, (*base.broken, *top.broken))


_Marks = tuple[dict[Path_, Mark], Mapping[Path_, Mark], Mapping[Path_, Kind]]


def _merged(base: Any, top: Any, path: Path_, context: _Marks) -> Any:
    marks, top_marks, references = context
    if path in references and isinstance(top, dict) and "extends" not in top:
        if isinstance(base, str):
            marks[(*path, "extends")] = marks[path]
            base = {"extends": base}
    elif path in references:
        base = None
    if not (isinstance(base, dict) and isinstance(top, dict)):
        _replace_marks(path, marks, top_marks)
        return top
    result = dict(base)
    for key, value in top.items():
        entry = (*path, key)
        if key in base:
            result[key] = _merged(base[key], value, entry, context)
        else:
            _replace_marks(entry, marks, top_marks)
            result[key] = value
    return result


def _replace_marks(path: Path_, marks: dict[Path_, Mark], top_marks: Mapping[Path_, Mark]) -> None:
    depth = len(path)
    for at in [at for at in marks if at[:depth] == path]:
        del marks[at]
    marks.update({at: mark for at, mark in top_marks.items() if at[:depth] == path})


def apply_overrides(document: Document, kind: Kind, overrides: Sequence[str]) -> Document:
    """Lay ``a.b=c`` assignments over a document, each marked with the text that set it.

    Parameters
    ----------
    document : Document
        Its references may still be words.
    kind : str
        What it describes.
    overrides : sequence of str
        Applied in order, so that a later one wins; the right side is YAML.

    Returns
    -------
    Document
        Named as before.

    Raises
    ------
    SpecError
        For every text that is no assignment, whose right side is no YAML, or that names a field of
        a value which is neither a mapping nor a reference.
    """
    problems: list[Problem] = []
    for text in overrides:
        try:
            document = _assigned(document, kind, text)
        except SpecError as error:
            problems.extend(error.problems)
    if problems:
        raise SpecError(problems)
    return document


def _assigned(document: Document, kind: Kind, text: str) -> Document:
    where = f"--set {text}"
    left, equals, right = text.partition("=")
    parts: Path_ = tuple(part.strip() for part in left.split("."))
    if not equals or not all(parts):
        fix = "write a path and a value, such as --set parallelism.tensor_parallel=4"
        raise SpecError(Problem("is not an assignment", fix, where))
    value = parse_value(right, where)
    for length in range(1, len(parts)):
        holder = document.get(parts[:length])
        if isinstance(holder, dict) or holder is None or _is_reference(kind, parts[:length]):
            continue
        fix = f"set `{dotted(parts[:length])}` as a whole"
        message = f"`{dotted(parts[:length])}` is {holder!r}, which has no field `{parts[length]}`"
        raise SpecError(Problem(message, fix, where, field=dotted(parts)))
    mark = value.mark(())
    marks = {parts[:length]: mark for length in range(1, len(parts) + 1)}
    marks |= {(*parts, *at): mark for at in value.marks}
    data = _with_value({}, parts, value.data)
    merged = overlay(document, Document(data, {(): document.mark(()), **marks}), kind)
    return replace(merged, file=document.file)


def _is_reference(kind: Kind, path: Path_) -> bool:
    if path in REFERENCES.get(kind, _NO_REFERENCES):
        return True
    inside_cluster = kind == "scenario" and path[:1] == ("cluster",)
    return inside_cluster and path[1:] in _TOPOLOGY_REFERENCES
