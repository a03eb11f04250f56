"""YAML files as plain data plus the place of every value.

One reader for every small file that people write: YAML 1.2, at most 1 MiB, one mapping. Scalars
become str, int, float, bool or None by the core schema; keys are always strings. Explicit tags
are refused before anything is built, so a file can never run code, and aliases may repeat a
value but not multiply it without bound. Every mistake that does not stop the reading is
collected: two duplicate keys are two problems of one report. Left out: timestamps, merge keys
(`extends` does that), several documents in a file.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from clustersim.errors import Problem, SpecError

MAX_BYTES = 2**20
MAX_NODES = 20_000
MAX_DEPTH = 40

Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Mark:
    """Where a value stands: file as shown, line and column from 1, the text of the line."""

    file: str
    line: int = 0
    column: int = 0
    source_line: str = ""
    folder: str = ""

    def problem(self, message: str, fix: str = "", field: str = "") -> Problem:
        """Return a problem at this place.

        Parameters
        ----------
        message : str
            What is wrong with the value that stands here.
        fix : str
            The change that would work; empty where there is none to name.
        field : str
            Dotted name of the field; empty where the place says enough.

        Returns
        -------
        Problem
            It shows the line of the file without the blanks around it.
        """
        return Problem(
            message, fix, self.file, self.line, self.column, field, self.source_line.strip()
        )


@dataclass(frozen=True)
class Document:
    """Plain data and the mark of each path in it; treated as immutable.

    `broken` holds what is wrong with single values, so that the rest can be judged as well.
    """

    data: Any
    marks: Mapping[Path_, Mark]
    file: str = ""
    broken: tuple[tuple[Path_, Problem], ...] = ()

    def mark(self, path: Path_) -> Mark:
        """Return the mark of a path, or of its nearest ancestor that has one.

        Parameters
        ----------
        path : tuple of str or int
            Keys, and positions in lists from 0; () is the whole document.

        Returns
        -------
        Mark
            The file alone, on line 0, where not even the whole document has a mark.
        """
        for length in range(len(path), -1, -1):
            found = self.marks.get(path[:length])
            if found is not None:
                return found
        return Mark(self.file)

    def get(self, path: Path_) -> Any:
        """Return the value at a path.

        Parameters
        ----------
        path : tuple of str or int
            Keys, and positions in lists from 0; () is all of the data.

        Returns
        -------
        Any
            None where there is none, and also where the value is null: `marks` tells the two apart.
        """
        value = self.data
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value


def dotted(path: Path_) -> str:
    """Write a path as people do: ``parallelism.layers_per_chunk.0``.

    Parameters
    ----------
    path : tuple of str or int
        Keys, and positions in lists from 0.
    """
    return ".".join(str(part) for part in path)


def shown_path(path: Path) -> str:
    """Return a path as messages show it: relative to the current folder where it is below.

    Parameters
    ----------
    path : Path
        Need not exist; a relative one is taken from the current folder.

    Returns
    -------
    str
        As it was given where it lies outside the current folder.
    """
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def read_document(path: Path, *, lenient: bool = False) -> Document:
    """Read a YAML file that holds one mapping.

    Parameters
    ----------
    path : Path
        An existing file.
    lenient : bool
        Return a document with broken values, such as duplicate keys, instead of raising.

    Returns
    -------
    Document
        Its data and the place of every value. Files are read again when they change.

    Raises
    ------
    SpecError
        Empty, binary, too large, not YAML, not a mapping, duplicate keys, tags, too many aliases.
    """
    shown = shown_path(path)
    try:
        status = path.stat()
        if path.is_dir():
            raise SpecError(Problem("is a folder, not a file", "name a YAML file in it", shown))
        if status.st_size > MAX_BYTES:
            size = f"{status.st_size:,} bytes is too large for a file of this kind"
            raise SpecError(Problem(size, f"the limit is {MAX_BYTES:,} bytes", shown))
        folder = str(path.absolute().parent)
        found = _read_cached(str(path), shown, folder, status.st_mtime_ns, status.st_size)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SpecError(Problem(f"cannot be read: {reason}", file=shown)) from None
    return found if lenient else _sound(found)


@functools.lru_cache(maxsize=256)
def _read_cached(path: str, shown: str, folder: str, _mtime_ns: int, _size: int) -> Document:
    return _parse_mapping(Path(path).read_bytes(), shown, folder)


def _sound(document: Document) -> Document:
    """Return the document, or raise where a value of it is broken."""
    if document.broken:
        raise SpecError(problem for _, problem in document.broken)
    return document


def parse_document(raw: bytes, file: str, folder: str = "") -> Document:
    """Parse the bytes of a YAML file that holds one mapping; `read_document` says what is refused.

    Parameters
    ----------
    raw : bytes
        Content of the file.
    file : str
        Its name in messages.
    folder : str
        Folder against which relative references in it are resolved.
    """
    return _sound(_parse_mapping(raw, file, folder))


def _parse_mapping(raw: bytes, file: str, folder: str) -> Document:
    text = _decode(raw, file)
    document = _parse(text, Mark(file, folder=folder))
    if document.data is None:
        raise SpecError(Problem("the file is empty", "write a mapping, `key: value` lines", file))
    if not isinstance(document.data, dict):
        what = "a list" if isinstance(document.data, list) else f"the value {document.data!r:.60}"
        message = f"the file holds {what}, not a mapping"
        raise SpecError(document.mark(()).problem(message, "write `key: value` lines"))
    return document


def parse_value(text: str, file: str) -> Document:
    """Parse one YAML value, as on the right of ``--set a.b=c``.

    Parameters
    ----------
    text : str
        YAML; the empty text is null.
    file : str
        What messages call it.

    Returns
    -------
    Document
        Any value, not only a mapping. Its marks have no line, and relative references in it are
        resolved against the current folder.

    Raises
    ------
    SpecError
        Not YAML, duplicate keys, tags, too many aliases, a number that does not fit.
    """
    return _sound(_parse(text, Mark(file, folder=os.getcwd()), place=False))


def _decode(raw: bytes, file: str) -> str:
    fix = "clustersim reads YAML text in UTF-8"
    if b"\0" in raw:
        position = raw.index(b"\0")
        message = f"is a binary file: it holds a NUL byte at byte {position:,}"
        raise SpecError(Problem(message, fix, file))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"is a binary file: byte {error.start:,} ({raw[error.start]:#04x}) is not UTF-8"
        raise SpecError(Problem(message, fix, file)) from None


def _parse(text: str, origin: Mark, place: bool = True) -> Document:
    """Build data and marks from the events of the parser, and report all problems at once."""
    builder = _Builder(text, origin, place)
    try:
        data = builder.build()
    except MarkedYAMLError as error:
        raise SpecError([*builder.problems, _syntax_problem(error, builder)]) from None
    except (YAMLError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SpecError([*builder.problems, origin.problem(f"is not YAML: {reason}")]) from None
    return Document(data, builder.marks, origin.file, tuple(builder.broken))


def _syntax_problem(error: MarkedYAMLError, builder: _Builder) -> Problem:
    mark = error.problem_mark or error.context_mark
    message = " ".join(str(part) for part in (error.context, error.problem) if part)
    place = builder.mark(mark.line, mark.column) if mark else builder.origin
    fix = ""
    if "mapping values are not allowed" in message:
        fix = "check the indentation, and quote a value that holds ': '"
    elif "\\t" in message:
        fix = "indent with spaces, not tabs"
    return place.problem(f"is not YAML: {message}", fix)


@dataclass
class _Builder:
    """Turns the parser's events into data, one node at a time, refusing what is not allowed."""

    text: str
    origin: Mark
    place: bool
    marks: dict[Path_, Mark] = field(default_factory=dict)
    broken: list[tuple[Path_, Problem]] = field(default_factory=list)
    anchors: dict[str, Any] = field(default_factory=dict)
    nodes: int = 0

    def __post_init__(self) -> None:
        self.lines = self.text.splitlines()
        self.events: Iterator[Event] = iter(YAML(typ="safe", pure=True).parse(self.text))

    @property
    def problems(self) -> list[Problem]:
        return [problem for _, problem in self.broken]

    def mark(self, line: int, column: int) -> Mark:
        if not self.place:
            return self.origin
        source_line = self.lines[line] if line < len(self.lines) else ""
        shown = source_line if len(source_line) <= 120 else source_line[:117] + "..."
        return Mark(self.origin.file, line + 1, column + 1, shown, self.origin.folder)

    def mark_of(self, event: Event) -> Mark:
        return self.mark(event.start_mark.line, event.start_mark.column)

    def stop(self, event: Event, message: str, fix: str = "") -> SpecError:
        return SpecError([*self.problems, self.mark_of(event).problem(message, fix)])

    def build(self) -> Any:
        """Return the data of the only document, None where there is none."""
        data: Any = None
        documents = 0
        for event in self.events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self.stop(event, "a second document begins here", "split the file")
                if event.version and tuple(event.version) != (1, 2):
                    raise self.stop(event, "is not YAML 1.2", "remove the %YAML directive")
            elif not isinstance(event, DocumentEndEvent | StreamEndEvent) and documents:
                self.marks[()] = self.mark_of(event)
                data = self.node(event, (), 0)
        return data

    def node(self, event: Event, path: Path_, depth: int) -> Any:
        """Build the node that starts with `event`."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self.stop(event, f"holds more than {MAX_NODES:,} values")
        if depth > MAX_DEPTH:
            raise self.stop(event, f"is nested more than {MAX_DEPTH} deep")
        if isinstance(event, AliasEvent):
            return self.alias(event, path)
        self.refuse_tag(event)
        if isinstance(event, ScalarEvent):
            value: Any = self.scalar(event, path)
        elif isinstance(event, SequenceStartEvent):
            value = self.sequence(path, depth)
        else:
            assert isinstance(event, MappingStartEvent)
            value = self.mapping(path, depth)
        if event.anchor:
            self.anchors[event.anchor] = value
        return value

    def refuse_tag(self, event: Event) -> None:
        """Raise where a node carries an explicit tag: nothing is ever built from one."""
        tag = getattr(event, "tag", None)
        if tag is not None:
            fix = "remove the tag: clustersim reads plain values only and never runs code"
            shown = str(tag).replace("tag:yaml.org,2002:", "!!")
            raise self.stop(event, f"the YAML tag {shown} is not allowed", fix)

    def alias(self, event: AliasEvent, path: Path_) -> Any:
        """Repeat an anchored value; its copies count towards the limit on values."""
        if event.anchor not in self.anchors:
            fix = f"write `&{event.anchor}` before it, and outside the value it repeats"
            raise self.stop(event, f"the alias *{event.anchor} repeats no complete value", fix)
        value = self.anchors[event.anchor]
        self.nodes += _size(value, MAX_NODES)
        if self.nodes > MAX_NODES:
            message = f"aliases expand to more than {MAX_NODES:,} values"
            raise self.stop(event, message, "write the values out, or use fewer aliases")
        return value

    def sequence(self, path: Path_, depth: int) -> list[Any]:
        items: list[Any] = []
        for event in self.events:
            if isinstance(event, SequenceEndEvent):
                break
            item = (*path, len(items))
            self.marks[item] = self.mark_of(event)
            items.append(self.node(event, item, depth + 1))
        return items

    def mapping(self, path: Path_, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for event in self.events:
            if isinstance(event, MappingEndEvent):
                break
            key = self.key(event)
            place = self.mark_of(event)
            entry = (*path, key)
            value_event = next(self.events)
            if key in found:
                first = self.marks[entry]
                where = f"first on line {first.line}, again on line {place.line}"
                message = f"the key `{key}` is written twice: {where}"
                fix = "keep one of them"
                self.broken.append((entry, place.problem(message, fix, dotted(entry))))
                self.node(value_event, (*path, f"{key} (again)"), depth + 1)
                continue
            self.marks[entry] = place
            found[key] = self.node(value_event, entry, depth + 1)
        return found

    def key(self, event: Event) -> str:
        """Return a key as text; it must be a plain or quoted scalar."""
        if not isinstance(event, ScalarEvent):
            raise self.stop(event, "a key must be a word", "write `key: value`")
        self.refuse_tag(event)
        if event.value == "<<" and event.implicit[0]:
            fix = "use `extends: NAME_OR_PATH` to start from another file"
            raise self.stop(event, "the merge key `<<` is not part of YAML 1.2", fix)
        return str(event.value)

    def scalar(self, event: ScalarEvent, path: Path_) -> Any:
        if not event.implicit[0]:
            return str(event.value)
        value = plain_value(str(event.value))
        too_large = isinstance(value, int) and abs(value) >= 2**63
        if too_large or (isinstance(value, float) and not math.isfinite(value)):
            message = f"{event.value:.40} is not a number that fits"
            problem = self.mark_of(event).problem(message, "write a finite number", dotted(path))
            self.broken.append((path, problem))
            return 0
        return value


_NULL = re.compile(r"(?:~|null|Null|NULL|)")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)")
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL_HEX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INF = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


def plain_value(text: str) -> Any:
    """Return the value of an unquoted scalar by the core schema of YAML 1.2 (section 10.3).

    Parameters
    ----------
    text : str
        As it stands in the file, without quotes or comment.

    Returns
    -------
    None, bool, int, float or str
        Infinite, with its sign, for a whole number of 40 characters or more; NaN and infinity are
        left to the caller to refuse.
    """
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text[0] in "tT"
    if _INT.fullmatch(text):
        if len(text) < 40:
            return int(text)
        return -math.inf if text[0] == "-" else math.inf
    if _OCTAL_HEX.fullmatch(text):
        return int(text, 0) if len(text) < 40 else math.inf
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INF.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def _size(value: Any, limit: int) -> int:
    """Count the values in a value, stopping at the limit."""
    count, pending = 0, [value]
    while pending and count <= limit:
        item = pending.pop()
        count += 1
        if isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return count
