"""Quantities: what is read, what is refused and how it is said, what is printed."""

from __future__ import annotations

import pytest

from clustersim.errors import UnitError
from clustersim.units import (
    GB,
    GIB,
    UNITS,
    format_bytes,
    format_count,
    format_fixed,
    format_percent,
    format_rate,
    format_seconds,
    parse_quantity,
    quantity_pattern,
    write_quantity,
)


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("1.8 us", "s", 1.8e-6),
        ("1.8 µs", "s", 1.8e-6),
        ("12ms", "s", 0.012),
        ("2 h", "s", 7200.0),
        ("80 GiB", "bytes", 80.0 * GIB),
        ("80 GB", "bytes", 80.0 * GB),
        ("80 Gb", "bytes", 10.0 * GB),
        ("0 bytes", "bytes", 0.0),
        ("400 Gb/s", "bytes/s", 50e9),
        ("2.039 TB/s", "bytes/s", 2.039e12),
        ("1 GiB/s", "bytes/s", float(GIB)),
        ("312 TFLOP/s", "FLOP/s", 312e12),
        ("1.5 PFLOP", "FLOP", 1.5e15),
        (" 1.41 GHz ", "Hz", 1.41e9),
        ("400 W", "W", 400.0),
        ("1 kWh", "J", 3.6e6),
        ("1e3 W", "W", 1000.0),
        (".5 s", "s", 0.5),
        ("0.25", "", 0.25),
    ],
)
def test_a_quantity_is_read_in_si(text, unit, value):
    assert parse_quantity(text, unit) == value


@pytest.mark.parametrize(
    ("text", "unit", "says"),
    [
        ("400", "bytes/s", "has no unit; write a bandwidth such as '400 Gb/s'"),
        ("400 Gbps", "bytes/s", "write '400 Gb/s' (bits per second)"),
        ("25 GBps", "bytes/s", "write '25 GB/s' (bytes per second)"),
        ("312 TFLOPS", "FLOP/s", "write '312 TFLOP/s' for a rate or '312 TFLOP' for an amount"),
        ("312 tflops", "FLOP/s", "is ambiguous"),
        ("312 TFLOPs", "FLOP", "is ambiguous"),
        ("5 gb", "bytes", "write '5 GB' (bytes) or '5 Gb' (bits)"),
        ("80 KB", "bytes", "'80 KiB' (binary bytes)"),
        ("5 GB", "bytes/s", "such as '5 GB/s'"),
        ("5 GB", "s", "is a size (bytes)"),
        ("5 s", "bytes", "is a time (s)"),
        ("-3 s", "s", "is negative"),
        ("nan s", "s", "is not a finite number"),
        ("-inf", "s", "is not a finite number"),
        ("1e999 s", "s", "is out of range"),
        ("1e308 TB", "bytes", "is too large"),
        ("5 parsec", "s", "has the unknown unit 'parsec'"),
        ("9 mhz", "Hz", "write '9 MHz'"),
        ("5 s", "", "write a pure number"),
        ("fast", "W", "is not a power"),
        ("", "W", "is not a power"),
        ("1 000 W", "W", "unknown unit"),
        ("1_000 W", "W", "unknown unit"),
        ("١ s", "s", "is not a time"),
        ("1" * 100 + " s", "s", "is too long"),
    ],
)
def test_a_bad_quantity_is_refused_with_what_would_work(text, unit, says):
    with pytest.raises(UnitError) as caught:
        parse_quantity(text, unit)
    assert says in str(caught.value)
    assert "; " in str(caught.value)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.8e-6, "s", "1.8 us"),
        (50e9, "bytes/s", "50 GB/s"),
        (80.0 * GIB, "bytes", "80 GiB"),
        (312e12, "FLOP/s", "312 TFLOP/s"),
        (1.41e9, "Hz", "1.41 GHz"),
        (0.0, "s", "0.0 s"),
        (1234567.0, "bytes", "1234567.0 bytes"),
        (0.1 + 0.2, "s", "0.30000000000000004 s"),
    ],
)
def test_a_quantity_is_written_short_where_that_is_exact(value, unit, text):
    assert write_quantity(value, unit) == text
    assert parse_quantity(text, unit) == value


def test_numbers_are_printed_for_readers():
    assert format_seconds(6.341) == "6.34 s"
    assert format_seconds(0.0123) == "12.3 ms"
    assert format_seconds(0.9999) == "1.00 s"
    assert format_seconds(0.0) == "0 s"
    assert format_seconds(123.4) == "123 s"
    assert format_seconds(8000.0) == "2.22 h"
    assert format_seconds(1.75 * 86400) == "42.0 h"
    assert format_seconds(1e6) == "11.6 d"
    assert format_seconds(float("nan")) == "unknown"
    assert format_bytes(80 * GIB) == "80.0 GiB"
    assert format_bytes(0) == "0 B"
    assert format_rate(25e9) == "25.0 GB/s"
    assert format_rate(312e12, "FLOP/s") == "312 TFLOP/s"
    assert format_count(12288) == "12,288"
    assert format_count(175e9, "params") == "175 B params"
    assert format_count(0.5) == "0.500"
    assert format_percent(0.552) == "55.2 %"


@pytest.mark.parametrize("value", [1e300, -1e300, 1e-300, 1.7e308, 5e-324])
def test_extreme_numbers_are_printed_with_an_exponent(value):
    formats = (format_seconds, format_bytes, format_rate, format_count, format_percent)
    for write in formats:
        assert len(write(value)) < 24
    assert format_fixed(1e300) == "1e+300"
    assert format_fixed(0.125, 2, "+") == "+0.12"


def test_the_schema_pattern_accepts_what_the_parser_reads():
    import re

    for unit, spellings in UNITS.items():
        for spelling in spellings:
            if spelling:
                assert re.match(quantity_pattern(unit), f"1.5e3 {spelling}")
    assert not re.match(quantity_pattern("bytes/s"), "400 Gbps")
    assert not re.match(quantity_pattern("bytes/s"), "400")


@pytest.mark.parametrize("number", ["1", "+1", "1.", ".5", " 2.5", "+.5e-3", "1E+2", "-0", "-.0e1"])
def test_the_schema_pattern_and_the_parser_read_the_same_numbers(number):
    import re

    for unit, spelling in (("s", "ms"), ("requests/s", "/min"), ("", "")):
        assert parse_quantity(f"{number} {spelling}", unit) >= 0
        assert re.match(quantity_pattern(unit), f"{number} {spelling}")


@pytest.mark.parametrize("number", ["1.2.3", ".", "", "-1", "-0.5", "+-1", "1e", "1e1.5", "1 2"])
def test_the_schema_pattern_and_the_parser_refuse_the_same_numbers(number):
    import re

    for unit, spelling in (("s", "ms"), ("requests/s", "/min"), ("", "")):
        with pytest.raises(UnitError):
            parse_quantity(f"{number} {spelling}", unit)
        assert not re.match(quantity_pattern(unit), f"{number} {spelling}")
