"""A roofline with one point, as plain text and as SVG, from plain numbers.

Both axes are logarithmic. The roof is ``min(peak, slope x)``; what x and y are is told by their
units: arithmetic intensity and FLOP/s, or the size of a message and bytes/s, whose slope is one
over the latency. Left out: several points, further ceilings below the roof.

References
----------
.. [1] S. Williams, A. Waterman and D. Patterson, "Roofline: an insightful visual performance
   model for multicore architectures," Commun. ACM 52(4), 2009.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from xml.sax.saxutils import escape

COLUMNS, ROWS = 64, 13  # of the plotting area in text
MARGIN = 8  # characters left of it
LEAST_Y_DECADES = 2  # below the peak, so that the slope is seen
MOST_DECADES = 9  # of an axis in text and in SVG; what lies lower is drawn at its edge
WIDTH, HEIGHT = 640.0, 400.0  # of the SVG
LEFT, RIGHT, TOP, BOTTOM = 76.0, 24.0, 44.0, 56.0  # margins of the SVG
PREFIXES = {-3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}


@dataclass(frozen=True)
class Roofline:
    """One point under a roof.

    Attributes
    ----------
    x, y : float
        The point, both above 0.
    peak, slope : float
        The roof is the lower of `peak` and `slope` times x.
    x_unit, y_unit : str
        As written on the axes, such as "FLOP/byte" and "FLOP/s".
    peak_label, slope_label, point_label : str
        What the two parts of the roof and the point are.
    """

    x: float
    y: float
    peak: float
    slope: float
    x_unit: str
    y_unit: str
    peak_label: str
    slope_label: str
    point_label: str

    def __post_init__(self) -> None:
        values = (self.x, self.y, self.peak, self.slope)
        assert all(math.isfinite(v) and v > 0.0 for v in values), f"not on a log scale: {values}"

    @property
    def ridge(self) -> float:
        """Where the slope meets the peak."""
        return self.peak / self.slope

    def roof_at(self, x: float) -> float:
        """Height of the roof.

        Parameters
        ----------
        x : float
            In `x_unit`, above 0.

        Returns
        -------
        float
            In `y_unit`.
        """
        return min(self.peak, self.slope * x)


@dataclass(frozen=True)
class Frame:
    """Decades that a picture covers; `place` maps a value to 0 (low end) to 1 (high end)."""

    x_low: int
    x_high: int
    y_low: int
    y_high: int

    def across(self, x: float) -> float:
        """Share of the width at which x stands.

        Parameters
        ----------
        x : float
            Above 0.

        Returns
        -------
        float
            0 to 1; what lies outside the picture stands at its edge.
        """
        return _share(x, self.x_low, self.x_high)

    def up(self, y: float) -> float:
        """Share of the height at which y stands.

        Parameters
        ----------
        y : float
            Above 0.

        Returns
        -------
        float
            0 at the low end to 1; what lies outside the picture stands at its edge.
        """
        return _share(y, self.y_low, self.y_high)


def _share(value: float, low: int, high: int) -> float:
    return min(1.0, max(0.0, (math.log10(value) - low) / (high - low)))


def frame_of(line: Roofline) -> Frame:
    """Decades around the point and the ridge.

    Parameters
    ----------
    line : Roofline

    Returns
    -------
    Frame
        At most `MOST_DECADES` an axis, the high end kept; below the peak `LEAST_Y_DECADES` or more.
    """
    x_high = math.ceil(math.log10(max(line.x, line.ridge)) + 0.3)
    x_low = math.floor(math.log10(min(line.x, line.ridge)) - 1.0)
    y_high = math.ceil(math.log10(max(line.peak, line.y)))
    y_low = math.floor(math.log10(min(line.y, line.peak * 10.0**-LEAST_Y_DECADES)) - 0.1)
    return Frame(
        max(x_low, x_high - MOST_DECADES), x_high, max(y_low, y_high - MOST_DECADES), y_high
    )


def tick(exponent: int) -> str:
    """A power of ten with its prefix: ``100 G``; 10^exponent where there is none.

    Parameters
    ----------
    exponent : int
        Of ten.

    Returns
    -------
    str
    """
    group = 3 * (exponent // 3)
    if group not in PREFIXES:
        return f"1e{exponent}"
    return f"{10 ** (exponent - group)} {PREFIXES[group]}".rstrip()


def roofline_text(line: Roofline) -> str:
    """Draw a roofline in plain text.

    Parameters
    ----------
    line : Roofline

    Returns
    -------
    str
        At most 20 lines of at most 80 characters, without colour: ``/`` the slope, ``-`` the peak,
        ``+`` the ridge, ``X`` the point, ``:`` what it misses below the roof.
    """
    frame = frame_of(line)
    canvas = [[" "] * COLUMNS for _ in range(ROWS)]

    def row_of(y: float) -> int:
        return ROWS - 1 - round(frame.up(y) * (ROWS - 1))

    for column in range(COLUMNS):
        x = 10.0 ** (frame.x_low + (frame.x_high - frame.x_low) * column / (COLUMNS - 1))
        if line.roof_at(x) >= 10.0**frame.y_low:
            canvas[row_of(line.roof_at(x))][column] = "-" if x >= line.ridge else "/"
    ridge, point = (round(frame.across(x) * (COLUMNS - 1)) for x in (line.ridge, line.x))
    canvas[row_of(line.peak)][ridge] = "+"
    for row in range(row_of(line.roof_at(line.x)) + 1, row_of(line.y)):
        canvas[row][point] = ":"
    canvas[row_of(line.y)][point] = "X"
    labels = {row_of(10.0**e): tick(e) for e in _shown(frame.y_low, frame.y_high, ROWS - 1, 2)}
    body = [
        f"{labels.get(row, ''):>{MARGIN - 2}} |{''.join(cells)}".rstrip()
        for row, cells in enumerate(canvas)
    ]
    return "\n".join(
        (
            f"{line.y_unit:>{MARGIN - 2}}",
            *body,
            " " * (MARGIN - 1) + "+" + "-" * COLUMNS,
            _x_ticks(frame, line.x_unit),
            f"  / {line.slope_label}   - {line.peak_label}"[:80],
            f"  X {line.point_label}"[:80],
        )
    )


def _shown(low: int, high: int, cells: int, gap: int) -> list[int]:
    """Decades that can carry a label each, `gap` cells apart."""
    step = max(1, math.ceil(gap * (high - low) / cells))
    return list(range(low, high + 1, step))


def _x_ticks(frame: Frame, unit: str) -> str:
    """Labels of the horizontal axis, each beginning below its decade, and the unit."""
    cells = [" "] * 80
    end = 0
    for exponent in _shown(frame.x_low, frame.x_high, COLUMNS, 8):
        column = MARGIN + round(frame.across(10.0**exponent) * (COLUMNS - 1))
        text = tick(exponent)
        column = min(column, 80 - len(text))
        cells[column : column + len(text)] = text
        end = column + len(text)
    start = min(end + 1, 80 - len(unit))
    if start <= end:
        return "".join(cells[: 80 - len(unit) - 1]).rstrip() + " " + unit
    cells[start : start + len(unit)] = unit
    return "".join(cells).rstrip()


def roofline_svg(line: Roofline, title: str) -> str:
    """Draw a roofline as a complete SVG document.

    Parameters
    ----------
    line : Roofline
    title : str
        Plain text above the picture.

    Returns
    -------
    str
        The same bytes for the same input; no scripts, fonts or links.
    """
    frame = frame_of(line)

    def across(x: float) -> float:
        return LEFT + frame.across(x) * (WIDTH - LEFT - RIGHT)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - frame.up(y) * (HEIGHT - TOP - BOTTOM)

    start = max(10.0**frame.x_low, 10.0**frame.y_low / line.slope)
    roof = [start, line.ridge, 10.0**frame.x_high]
    middle, of_slope = math.sqrt(start * line.ridge), ("start", "#1f4e79")
    points = " ".join(f"{across(x):.1f},{up(line.roof_at(x)):.1f}" for x in roof)
    px, py = across(line.x), up(line.y)
    toward_left = px > 0.6 * WIDTH
    ends = "end" if toward_left else "start"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH:.0f}" height="{HEIGHT:.0f}" '
        f'viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH:.0f}" height="{HEIGHT:.0f}" fill="#ffffff"/>',
        _text(LEFT, 20, title, "start", "#111111"),
        *_grid(frame, across, up),
        f'<polyline points="{points}" fill="none" stroke="#1f4e79" stroke-width="2.5"/>',
        _text(across(10.0**frame.x_high) - 4, up(line.peak) - 6, line.peak_label, "end", "#1f4e79"),
        _text(across(middle) + 10, up(line.roof_at(middle)) + 14, line.slope_label, *of_slope),
        f'<line x1="{px:.1f}" y1="{up(line.roof_at(line.x)):.1f}" x2="{px:.1f}" y2="{py:.1f}" '
        'stroke="#b03a2e" stroke-dasharray="3 3"/>',
        f'<circle cx="{px:.1f}" cy="{py:.1f}" r="5" fill="#b03a2e"/>',
        _text(px + (-10 if toward_left else 10), py + 16, line.point_label, ends, "#b03a2e"),
        _text(WIDTH - RIGHT, HEIGHT - 14, line.x_unit, "end", "#333333"),
        _text(LEFT, TOP - 8, line.y_unit, "end", "#333333"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _text(x: float, y: float, words: str, anchor: str, fill: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{escape(words)}</text>'
    )


def _grid(
    frame: Frame, across: Callable[[float], float], up: Callable[[float], float]
) -> list[str]:
    """Lines and labels of the decades."""
    parts = []
    low, high = 10.0**frame.y_low, 10.0**frame.y_high
    for exponent in range(frame.x_low, frame.x_high + 1):
        x = across(10.0**exponent)
        parts.append(_line(x, up(low), x, up(high)))
        parts.append(_text(x, up(low) + 16, tick(exponent), "middle", "#333333"))
    left, right = across(10.0**frame.x_low), across(10.0**frame.x_high)
    for exponent in range(frame.y_low, frame.y_high + 1):
        y = up(10.0**exponent)
        parts.append(_line(left, y, right, y))
        parts.append(_text(left - 6, y + 4, tick(exponent), "end", "#333333"))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>'
