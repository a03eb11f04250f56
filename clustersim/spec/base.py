"""The base of every record, and quantity types that keep units out of the rest of the code.

A record is a frozen pydantic model that refuses unknown keys. Quantities are plain `float` in SI
units; from a document (validation context ``{"document": True}``) they must carry a unit, from
Python they may be SI floats. Serialised, they carry their unit again, so that a resolved file
read back gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
)

from clustersim.units import EXAMPLES, parse_quantity, quantity_pattern, write_quantity


class Record(BaseModel):
    """A frozen record that refuses unknown keys and coerces nothing silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


def refuse_unused(record: Record, choice: str, owners: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse fields that mean nothing under the choice that a record has taken.

    Parameters
    ----------
    record : Record
    choice : str
        Its field with the choice, such as `kind`.
    owners : mapping of str to tuple of str
        Field -> the choices that read it.

    Raises
    ------
    ValueError
        If one that the choice does not read differs from its default.
    """
    taken = getattr(record, choice)
    for name, kinds in owners.items():
        default = type(record).model_fields[name].default
        if taken not in kinds and getattr(record, name) != default:
            fix = f"leave it out, or use {choice} {' or '.join(kinds)}"
            raise ValueError(f"{choice} {taken} has no {name}; {fix}")


def _reader(unit: str) -> Callable[[Any, ValidationInfo], Any]:
    def read(value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            return parse_quantity(value, unit)
        from_document = bool(info.context and info.context.get("document"))
        if from_document and isinstance(value, int | float) and not isinstance(value, bool):
            return parse_quantity(str(value), unit)  # refuses it: a number has no unit
        return value

    return read


def _schema(unit: str) -> dict[str, Any]:
    return {"type": "string", "pattern": quantity_pattern(unit), "examples": [EXAMPLES[unit]]}


def _quantity(unit: str) -> Any:
    return (
        BeforeValidator(_reader(unit)),
        PlainSerializer(
            lambda value: write_quantity(value, unit), return_type=str, when_used="json"
        ),
        WithJsonSchema(_schema(unit)),
    )


Seconds = Annotated[float, *_quantity("s")]
Bytes = Annotated[float, *_quantity("bytes")]
BytesPerS = Annotated[float, *_quantity("bytes/s")]
FlopPerS = Annotated[float, *_quantity("FLOP/s")]
Watts = Annotated[float, *_quantity("W")]
Hertz = Annotated[float, *_quantity("Hz")]
PerSecond = Annotated[float, *_quantity("requests/s")]
