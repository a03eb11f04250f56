"""Laws of reading and writing quantities."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from clustersim.errors import UnitError
from clustersim.units import (
    UNITS,
    format_bytes,
    format_count,
    format_rate,
    format_seconds,
    parse_quantity,
    write_quantity,
)

values = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
units = st.sampled_from(sorted(UNITS))


@given(value=values, unit=units)
def test_a_printed_value_reads_back_to_the_same_bits(value, unit):
    assert parse_quantity(f"{value!r} {unit}", unit) == value


@given(value=values, unit=units)
def test_a_written_quantity_reads_back_to_the_same_bits(value, unit):
    assert parse_quantity(write_quantity(value, unit), unit) == value


@given(number=st.integers(0, 10**6), unit=units, data=st.data())
def test_a_larger_number_is_never_a_smaller_quantity(number, unit, data):
    spelling = data.draw(st.sampled_from(sorted(UNITS[unit])))
    smaller = parse_quantity(f"{number} {spelling}", unit)
    assert smaller < parse_quantity(f"{number + 1} {spelling}", unit)


@given(text=st.text(max_size=30), unit=units)
def test_any_text_is_read_or_refused(text, unit):
    try:
        value = parse_quantity(text, unit)
    except UnitError:
        return
    assert value >= 0
    assert math.isfinite(value)


@given(value=values)
def test_printing_never_fails(value):
    for printer in (format_seconds, format_bytes, format_rate, format_count):
        assert printer(value)
