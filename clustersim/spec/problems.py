"""From pydantic's validation errors to problems with a place, the value seen and a fix."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, Union

from pydantic import BaseModel, ValidationError

from clustersim.errors import Problem, SpecError
from clustersim.spec.documents import Document, Path_, dotted
from clustersim.spec.suggest import did_you_mean

RecordT = TypeVar("RecordT", bound=BaseModel)


def validate(record: type[RecordT], document: Document) -> RecordT:
    """Make a record of a resolved document.

    Parameters
    ----------
    record : type
        A pydantic model.
    document : Document
        Plain data, references resolved.

    Returns
    -------
    Record
        The validated record; nothing was coerced silently.

    Raises
    ------
    SpecError
        With one problem for every mistake in the document.
    """
    problems = [problem for _, problem in document.broken]
    try:
        found = _validated(record, document.data)
    except ValidationError as error:
        broken = tuple(at for at, _ in document.broken)
        problems += problems_of(error, record, document, broken)
        raise SpecError(_in_order(problems)) from None
    if problems:
        raise SpecError(_in_order(problems))
    return found


def _validated(record: type[RecordT], data: Any) -> RecordT:
    # JSON input is what strict mode is lenient about where YAML has no type: lists for tuples.
    text = json.dumps(data)
    return record.model_validate_json(text, strict=True, context={"document": True})


def problems_of(
    error: ValidationError,
    record: type[BaseModel],
    document: Document,
    broken: Iterable[Path_] = (),
) -> list[Problem]:
    """Return one problem for each error, save those of values known to be broken.

    Parameters
    ----------
    error : ValidationError
        Of validating the document's data.
    record : type
        The pydantic model that refused it: its fields are what is suggested for unknown keys.
    document : Document
        For the places.
    broken : iterable of paths
        Values known to be broken, and said already; nothing below them is reported.

    Returns
    -------
    list of Problem
        In pydantic's order, each with the value seen and, where there is one, a fix.
    """
    known = tuple(broken)
    return [
        _problem(item, record, document)
        for item in _errors(error)
        if not any(_path(item["loc"])[: len(at)] == at for at in known)
    ]


def _in_order(problems: list[Problem]) -> list[Problem]:
    """Return problems in the order of the files, each once."""
    unique = {str(problem): problem for problem in problems}
    return sorted(unique.values(), key=lambda problem: (problem.file, problem.line))


def _errors(error: ValidationError) -> list[dict[str, Any]]:
    return [dict(item) for item in error.errors(include_url=False)]


def rest_of(record: type[RecordT], document: Document) -> tuple[RecordT | None, frozenset[Path_]]:
    """Return what is left of a wrong document when its mistakes are taken out.

    Parameters
    ----------
    record : type
        A pydantic model.
    document : Document
        Plain data, references resolved.

    Returns
    -------
    record : Record or None
        None where a required value is missing or wrong, so that nothing can be said of the rest.
    suspect : frozenset of paths
        Fields whose value is not what the author meant.
    """
    suspect: set[Path_] = {at for at, _ in document.broken}
    data = document.data
    for _ in range(3):
        try:
            return _validated(record, data), frozenset(suspect)
        except ValidationError as error:
            for item in _errors(error):
                path = _path(item["loc"])
                data = _without(data, path)
                suspect.add(_intended(record, path) or path)
    return None, frozenset(suspect)


def _without(data: Any, path: Path_) -> Any:
    if not isinstance(data, dict) or not path or path[0] not in data:
        return data
    if len(path) == 1:
        return {key: value for key, value in data.items() if key != path[0]}
    return {**data, path[0]: _without(data[path[0]], path[1:])}


def _intended(record: type[BaseModel], path: Path_) -> Path_ | None:
    """Return the field that a misspelt key most likely meant."""
    fields = _fields_at(record, path[:-1])
    if fields is None or not path or path[-1] in fields:
        return None
    hint = did_you_mean(str(path[-1]), fields)
    return (*path[:-1], hint.split("`")[1]) if "`" in hint else None


def _path(loc: Iterable[str | int]) -> Path_:
    return tuple(part for part in loc if part != "[key]")


def records_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the record types that an annotation mentions.

    Parameters
    ----------
    annotation : type or generic alias
        Of a field, such as ``dict[str, Device] | None``; searched to the bottom.
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from records_in(inner)


def _fields_at(record: type[BaseModel], path: Path_) -> dict[str, Any] | None:
    """Return the fields of the record at a path, or None where there is no record."""
    if not path:
        return dict(record.model_fields)
    field = record.model_fields.get(str(path[0]))
    if field is None:
        return None
    inner = next(records_in(field.annotation), None)
    if inner is None:
        return None
    kind = typing.get_origin(field.annotation)
    steps = 1 if kind in (None, Union, types.UnionType) else 2
    return _fields_at(inner, path[steps:]) if len(path) >= steps else None


def _problem(item: dict[str, Any], record: type[BaseModel], document: Document) -> Problem:
    path = _path(item["loc"])
    fields = _fields_at(record, path[:-1])
    message, fix = _say(item, path, fields or {})
    mark = document.mark(path[:-1] if item["type"] == "missing" else path)
    return mark.problem(message, fix, dotted(path))


def _say(item: dict[str, Any], path: Path_, fields: dict[str, Any]) -> tuple[str, str]:
    """Return the message and the fix for one error of pydantic."""
    kind, seen, context = item["type"], item.get("input"), item.get("ctx") or {}
    name = str(path[-1]) if path else ""
    match kind:
        case "missing":
            about = getattr(fields.get(name), "description", None)
            return f"the key `{name}` is missing", f"add `{name}: ...`" + (
                f" ({about})" if about else ""
            )
        case "extra_forbidden":
            return f"unknown key `{name}`", did_you_mean(name, fields, what="known keys")
        case "literal_error":
            known = [word.strip().strip("'") for word in _choices(context["expected"])]
            return f"{_show(seen)} is not allowed", f"use {_one_of(known)}"
        case "value_error":
            message, _, fix = str(context.get("error", item["msg"])).partition("; ")
            return message, fix
        case _:
            return _say_type(kind, seen, context, item["msg"])


_TYPES = {
    "int_type": ("is not a whole number", "write a whole number, without quotes"),
    "int_from_float": ("is not a whole number", "write a whole number, without quotes"),
    "float_type": ("is not a number", "write a number, without quotes"),
    "bool_type": ("is not true or false", "write true or false"),
    "string_type": ("is not a word", "put it in quotes"),
    "model_type": ("is not a mapping", "write `key: value` lines"),
    "dict_type": ("is not a mapping", "write `key: value` lines"),
    "tuple_type": ("is not a list", "write a list: [1, 2]"),
    "list_type": ("is not a list", "write a list: [1, 2]"),
}


def _say_type(kind: str, seen: Any, context: dict[str, Any], default: str) -> tuple[str, str]:
    if kind in _TYPES:
        what, fix = _TYPES[kind]
        if kind.startswith("int") and isinstance(seen, float):
            fix = f"write {_one_of(_whole(seen))}"
        return f"{_show(seen)} {what}", fix
    bounds = {
        "greater_than": ("gt", "more than"),
        "greater_than_equal": ("ge", "at least"),
        "less_than": ("lt", "less than"),
        "less_than_equal": ("le", "at most"),
    }
    if kind in bounds:
        key, words = bounds[kind]
        limit = f"{words} {context[key]:g}"
        return f"{_show(seen)} is out of range: it must be {limit}", f"use a value of {limit}"
    return f"{_show(seen)}: {default}", ""


def _whole(seen: float) -> list[str]:
    return [str(number) for number in dict.fromkeys((math.floor(seen), math.ceil(seen)))]


def _choices(expected: str) -> list[str]:
    return expected.replace(" or ", ", ").split(", ")


def _one_of(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _show(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
