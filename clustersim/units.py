"""SI inside, words outside: reading and printing quantities.

A quantity is a number, a unit and nothing else: ``312 TFLOP/s``, ``80 GiB``, ``400 Gb/s``. Case
matters, since ``Gb`` is bits and ``GB`` bytes. One spelling a unit: ``Gbps`` and ``FLOPS`` are
refused with the spelling that works, because readers disagree on what they mean. A message has
the form ``seen: what is wrong; what would work``. Left out: arithmetic between units.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from types import MappingProxyType

from clustersim.errors import UnitError

GB, GIB = 10**9, 2**30

_SMALL = {"": Fraction(1), "m": Fraction(1, 10**3), "u": Fraction(1, 10**6)}
_LARGE = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}


def _scaled(base: str, prefixes: dict[str, int], unit: Fraction | int = 1) -> dict[str, Fraction]:
    return {prefix + base: Fraction(scale) * unit for prefix, scale in prefixes.items()}


def _size_units() -> dict[str, Fraction]:
    bit = Fraction(1, 8)
    both = {**_LARGE, **_BINARY}
    words = {"byte": Fraction(1), "bytes": Fraction(1), "bit": bit, "bits": bit}
    return {**_scaled("B", both), **_scaled("b", both, bit), **words}


def _tables() -> dict[str, MappingProxyType[str, Fraction]]:
    """Return, for each SI unit that code asks for, the spellings read and their scale."""
    sizes = _size_units()
    small = {prefix: scale for prefix, scale in _SMALL.items() if prefix}
    seconds = {prefix + "s": scale for prefix, scale in _SMALL.items()}
    seconds |= {"ns": Fraction(1, 10**9), "ps": Fraction(1, 10**12)}
    seconds |= {mu + "s": Fraction(1, 10**6) for mu in "\u00b5\u03bc"}
    seconds |= {"min": Fraction(60), "h": Fraction(3600), "d": Fraction(86400)}
    tables = {
        "s": seconds,
        "bytes": sizes,
        "bytes/s": {f"{name}/s": scale for name, scale in sizes.items()},
        "FLOP": _scaled("FLOP", _LARGE),
        "FLOP/s": _scaled("FLOP/s", _LARGE),
        "W": {**_scaled("W", _LARGE), **{f"{p}W": s for p, s in small.items()}},
        "Hz": _scaled("Hz", _LARGE),
        "J": {
            **_scaled("J", _LARGE),
            **{f"{p}J": s for p, s in small.items()},
            **_scaled("Wh", _LARGE, 3600),
        },
        "requests/s": {
            f"{word}/{per}": Fraction(1, seconds)
            for word in ("requests", "request", "")
            for per, seconds in (("s", 1), ("min", 60), ("h", 3600))
        },
        "": {"": Fraction(1)},
    }
    return {unit: MappingProxyType(table) for unit, table in tables.items()}


UNITS = MappingProxyType(_tables())

EXAMPLES = MappingProxyType(
    {
        "s": "1.8 us",
        "bytes": "80 GiB",
        "bytes/s": "400 Gb/s",
        "FLOP": "1 TFLOP",
        "FLOP/s": "312 TFLOP/s",
        "W": "400 W",
        "Hz": "1.41 GHz",
        "J": "1 kJ",
        "requests/s": "10 requests/s",
        "": "0.5",
    }
)
_WORDS = MappingProxyType(
    {
        "s": "a time",
        "bytes": "a size",
        "bytes/s": "a bandwidth",
        "FLOP": "an amount of work",
        "FLOP/s": "a rate of work",
        "W": "a power",
        "Hz": "a frequency",
        "J": "an energy",
        "requests/s": "a rate of requests",
        "": "a pure number",
    }
)
_COMMON = MappingProxyType(
    {
        "s": ("ns", "us", "ms", "s", "min", "h", "d"),
        "bytes": ("kB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB", "bytes"),
        "bytes/s": ("Mb/s", "Gb/s", "MB/s", "GB/s", "TB/s", "GiB/s"),
        "FLOP": ("GFLOP", "TFLOP", "PFLOP"),
        "FLOP/s": ("GFLOP/s", "TFLOP/s", "PFLOP/s"),
        "W": ("W", "kW", "MW"),
        "Hz": ("MHz", "GHz"),
        "J": ("J", "kJ", "MJ", "kWh"),
        "requests/s": ("requests/s", "requests/min"),
    }
)
_LONGEST = 80
_DIGITS = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_EXPONENT = r"(?:[eE]([+-]?[0-9]{1,4}))?"
_NUMBER = re.compile(rf"\s*([+-]?(?:{_DIGITS}){_EXPONENT})(.*)")
_NOT_FINITE = re.compile(r"\s*[+-]?(?:nan|inf|infinity)\b", re.IGNORECASE)


def parse_quantity(text: str, unit: str) -> float:
    """Read a quantity such as ``"1.8 us"`` into SI.

    Parameters
    ----------
    text : str
        A number and a unit, with or without a space between them.
    unit : str
        The SI unit wanted: one of ``s``, ``bytes``, ``bytes/s``, ``FLOP``, ``FLOP/s``, ``W``,
        ``Hz``, ``J``, ``requests/s``, or the empty string for a pure number.

    Returns
    -------
    float
        The nearest double to the exact decimal value. [unit]

    Raises
    ------
    UnitError
        No unit, an unknown or ambiguous one, another dimension, a negative or infinite value.

    Notes
    -----
    ``parse_quantity(f"{value!r} {unit}", unit) == value`` for every finite value >= 0.
    """
    number, spelling = _split(text, unit)
    scale = UNITS[unit].get(spelling)
    if scale is None:
        raise UnitError(_unknown_unit(text.strip(), number, spelling, unit))
    value = _to_float(number * scale)
    if not math.isfinite(value):
        raise UnitError(_said(text, "is too large", _example(unit)))
    return value


def _split(text: str, unit: str) -> tuple[Fraction, str]:
    """Split a text into its exact number and the spelling of its unit."""
    if len(text) > _LONGEST:
        raise UnitError(_said(f"{text[:20]}...", "is too long for a quantity", _example(unit)))
    match = _NUMBER.fullmatch(text)
    if match is None:
        finite = not _NOT_FINITE.match(text)
        what = f"is not {_WORDS[unit]}" if finite else "is not a finite number"
        raise UnitError(_said(text, what, _example(unit)))
    if abs(int(match[2] or 0)) > 400:
        raise UnitError(_said(text, "is out of range", _example(unit)))
    number = Fraction(match[1])
    if number < 0:
        raise UnitError(_said(text, "is negative", "leave out the sign"))
    return number, match[3].strip()


def _to_float(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _said(text: str, what: str, remedy: str) -> str:
    return f"{text.strip()!r} {what}; {remedy}"


def _example(unit: str) -> str:
    return f"write {_WORDS[unit]} such as '{EXAMPLES[unit]}'"


def _plain(number: Fraction) -> str:
    value = float(number)
    return str(int(value)) if value.is_integer() and value < 1e15 else repr(value)


def _unknown_unit(text: str, number: Fraction, spelling: str, unit: str) -> str:
    """Say why a spelling is not a unit of this dimension, and what to write instead."""
    seen = _plain(number)
    if not spelling:
        own = f" (for example '{seen} {unit}')" if number else ""
        return _said(text, "has no unit", f"{_example(unit)}{own}")
    if unit == "":
        return _said(text, f"has the unit {spelling!r}", "write a pure number, without a unit")
    if re.fullmatch(r"[kMGTPEZ]?flops(/s)?", spelling, re.IGNORECASE):
        prefix = spelling[0].upper() if spelling[0] not in "fF" else ""
        return _said(
            text,
            f"is ambiguous: {spelling!r} is read as an amount and as a rate",
            f"write '{seen} {prefix}FLOP/s' for a rate or '{seen} {prefix}FLOP' for an amount",
        )
    rate = re.fullmatch(r"([kKMGTPE]i?)?(b|B)ps", spelling)
    if rate:
        kind = "bits" if rate[2] == "b" else "bytes"
        prefix = {"K": "k"}.get(rate[1], rate[1] or "")
        remedy = f"write '{seen} {prefix}{rate[2]}/s' ({kind} per second)"
        return _said(text, f"has the unit {spelling!r}, which is not read", remedy)
    return _wrong_case_or_dimension(text, seen, spelling, unit)


def _wrong_case_or_dimension(text: str, seen: str, spelling: str, unit: str) -> str:
    alike = [name for name in UNITS[unit] if name.lower() == spelling.lower()]
    if spelling.startswith("K") and alike:
        alike.append(f"Ki{spelling[1:]}")
    if alike:
        choices = " or ".join(f"'{seen} {name}'{_reading(name)}" for name in alike)
        return _said(text, f"has the ambiguous unit {spelling!r}: case matters", f"write {choices}")
    for other, table in UNITS.items():
        if spelling in table:
            remedy = f"expected {_WORDS[unit]} in {unit}, such as '{EXAMPLES[unit]}'"
            if other == "bytes" and unit == "bytes/s":
                remedy = f"expected a bandwidth, such as '{seen} {spelling}/s'"
            return _said(text, f"is {_WORDS[other]} ({other})", remedy)
    known = ", ".join(_COMMON[unit])
    return _said(text, f"has the unknown unit {spelling!r}", f"{_example(unit)} (units: {known})")


def _reading(spelling: str) -> str:
    """Say bits or bytes where one letter decides it."""
    base = spelling.removesuffix("/s")
    if base.endswith("B"):
        return " (binary bytes)" if base.endswith("iB") else " (bytes)"
    if base.endswith("b"):
        return " (bits)"
    return ""


_TIDY = MappingProxyType(
    {
        "s": ("s", "ms", "us", "ns"),
        "bytes": ("TiB", "GiB", "MiB", "KiB", "TB", "GB", "MB", "kB"),
        "bytes/s": ("TB/s", "GB/s", "MB/s"),
        "FLOP": ("PFLOP", "TFLOP", "GFLOP"),
        "FLOP/s": ("PFLOP/s", "TFLOP/s", "GFLOP/s"),
        "W": ("W",),
        "Hz": ("GHz", "MHz"),
        "J": ("J",),
        "requests/s": ("requests/s",),
    }
)


def write_quantity(value: float, unit: str) -> str:
    """Write a quantity so that `parse_quantity` gives the same bits back.

    Parameters
    ----------
    value : float
        The quantity. [unit]
    unit : str
        Its SI unit, as `parse_quantity` takes it.

    Returns
    -------
    str
        The shortest spelling with a usual prefix, or the bare SI unit where none is exact.
    """
    plain = f"{value!r} {unit}".strip()
    if not (math.isfinite(value) and value > 0):
        return plain
    for spelling in _TIDY.get(unit, ()):
        scale = UNITS[unit][spelling]
        shown = _to_float(Fraction(value) / scale)
        number = f"{shown:.6g}"
        if 0.9999 < shown < 1024 and _to_float(Fraction(number) * scale) == value:
            return f"{number} {spelling}"
    return plain


def quantity_pattern(unit: str) -> str:
    """Return the regular expression of the quantities that `parse_quantity` reads.

    Parameters
    ----------
    unit : str
        Its SI unit, as `parse_quantity` takes it.

    Returns
    -------
    str
        For JSON schemas. It is coarser than `parse_quantity`: it lets through exponents above 400,
        values beyond the largest double, texts that are too long, and line breaks at the unit.
    """
    spellings = "|".join(re.escape(name) for name in UNITS[unit])
    zero = r"0+(?:\.0*)?|\.0+"  # all that may have a minus sign
    number = rf"(?:\+?(?:{_DIGITS})|-(?:{zero})){_EXPONENT}"
    return rf"^\s*{number}\s*({spellings})\s*$"


_READABLE = (1e-6, 1e12)  # magnitudes that are printed without an exponent


def _digits(value: float, digits: int) -> str:
    """Print with so many significant digits, trailing zeros kept; an exponent only far from 1."""
    if value == 0:
        return "0"
    if not _READABLE[0] <= abs(value) < _READABLE[1]:
        return f"{value:.{digits}g}"
    rounded = float(f"{value:.{digits}g}")
    places = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{places}f}" if places >= 0 else f"{value:,.0f}"


def _with_prefix(value: float, steps: tuple[tuple[float, str], ...], digits: int) -> str:
    for scale, name in steps:
        if float(f"{abs(value):.{digits}g}") >= scale:
            return f"{_digits(value / scale, digits)} {name}"
    scale, name = steps[-1]
    return f"{_digits(value / scale, digits)} {name}"


def _spoken(value: float) -> str | None:
    """Return the word for a value that has no digits."""
    return None if math.isfinite(value) else ("unknown" if math.isnan(value) else f"{value}")


def format_seconds(value: float, digits: int = 3) -> str:
    """Print a duration [s] for a reader: ``6.34 s``, ``12.3 ms``, ``1.80 us``, ``2.10 h``.

    Parameters
    ----------
    value : float
        NaN is "unknown". [s]
    digits : int
        Significant digits, trailing zeros kept.

    Returns
    -------
    str
        Nanoseconds to seconds; hours from two hours on, days from two days on.
    """
    steps = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
    if value == 0 or not math.isfinite(value):
        return _spoken(value) or "0 s"
    if value >= 86400.0 * 2:
        return f"{_digits(value / 86400, digits)} d"
    if value >= 7200.0:
        return f"{_digits(value / 3600, digits)} h"
    return _with_prefix(value, steps, digits)


def format_bytes(value: float, digits: int = 3) -> str:
    """Print a size [bytes] in binary multiples: ``80.0 GiB``.

    Parameters
    ----------
    value : float
        NaN is "unknown". [bytes]
    digits : int
        Significant digits, trailing zeros kept.

    Returns
    -------
    str
    """
    steps = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
    return _spoken(value) or _with_prefix(value, steps, digits)


def format_rate(value: float, unit: str = "B/s", digits: int = 3) -> str:
    """Print a rate in decimal multiples: ``25.0 GB/s``, or ``312 TFLOP/s`` with that unit.

    Parameters
    ----------
    value : float
        NaN is "unknown". [unit]
    unit : str
        Written behind the prefix.
    digits : int
        Significant digits, trailing zeros kept.

    Returns
    -------
    str
    """
    steps = tuple((float(_LARGE[p]), f"{p}{unit}") for p in ("E", "P", "T", "G", "M", "k", ""))
    return _spoken(value) or _with_prefix(value, steps, digits)


def format_count(value: float, unit: str = "", digits: int = 3) -> str:
    """Print a count: ``12,288``; from a million on in words of scale: ``175 B`` (10^9).

    Parameters
    ----------
    value : float
        NaN is "unknown".
    unit : str
        Written behind, if not empty.
    digits : int
        Significant digits; a whole number below a million has all of its own.

    Returns
    -------
    str
    """
    spoken = _spoken(value)
    if spoken is not None:
        return spoken
    if abs(value) < 1e6:
        whole = float(value).is_integer()
        text = f"{int(value):,}" if whole else _digits(value, digits)
    else:
        text = _with_prefix(value, ((1e12, "T"), (1e9, "B"), (1e6, "M")), digits)
    return f"{text} {unit}".rstrip()


def format_percent(fraction: float, places: int = 1) -> str:
    """Print a fraction (0 to 1) in percent: ``55.2 %``.

    Parameters
    ----------
    fraction : float
        NaN is "unknown".
    places : int
        Digits behind the point.

    Returns
    -------
    str
    """
    return _spoken(fraction) or f"{format_fixed(100 * fraction, places)} %"


def format_fixed(value: float, places: int = 1, sign: str = "") -> str:
    """Print a number with fixed places: ``172.3``; `sign` "+" also marks what is not negative.

    Parameters
    ----------
    value : float
        NaN is "unknown".
    places : int
        Digits behind the point.
    sign : str
        "" or "+".

    Returns
    -------
    str
        With three significant digits and an exponent from 10^12 on.
    """
    spoken = _spoken(value)
    if spoken is not None:
        return spoken
    return f"{value:{sign},.{places}f}" if abs(value) < _READABLE[1] else f"{value:{sign}.3g}"
