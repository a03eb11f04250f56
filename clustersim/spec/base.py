"""The base of every record, and quantity types that keep units out of the rest of the code.

A record is a frozen pydantic model that refuses unknown keys. Quantities are plain `float` in SI
units; from a document (validation context ``{"document": True}``) they must carry a unit, from
Python they may be SI floats. Serialised, they carry their unit again, so that a resolved file
read back gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
)

from clustersim.errors import UnitError
from clustersim.units import parse_quantity, quantity_pattern, write_quantity


class Record(BaseModel):
    """A frozen record that refuses unknown keys and coerces nothing silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


def _reader(unit: str) -> Callable[[Any, ValidationInfo], Any]:
    def read(value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            return parse_quantity(value, unit)
        from_document = bool(info.context and info.context.get("document"))
        if from_document and isinstance(value, int | float) and not isinstance(value, bool):
            raise UnitError(f"{value} has no unit; expected a quantity such as '{value} {unit}'")
        return value

    return read


def _quantity(unit: str) -> Any:
    return (
        BeforeValidator(_reader(unit)),
        PlainSerializer(
            lambda value: write_quantity(value, unit), return_type=str, when_used="json"
        ),
        WithJsonSchema({"type": "string", "pattern": quantity_pattern(unit), "description": unit}),
    )


Seconds = Annotated[float, *_quantity("s")]
Bytes = Annotated[float, *_quantity("bytes")]
BytesPerS = Annotated[float, *_quantity("bytes/s")]
FlopPerS = Annotated[float, *_quantity("FLOP/s")]
Watts = Annotated[float, *_quantity("W")]
Hertz = Annotated[float, *_quantity("Hz")]
