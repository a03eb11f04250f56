"""Pictures that a reader can trust: the point where it is, the roof where it is."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from clustersim.analysis.roofline import (
    COLUMNS,
    MARGIN,
    Roofline,
    frame_of,
    roofline_svg,
    roofline_text,
    tick,
)

LINE = Roofline(
    x=1843.0,
    y=775e12,
    peak=989e12,
    slope=3.35e12,
    x_unit="FLOP/byte",
    y_unit="FLOP/s",
    peak_label="989 TFLOP/s dense bf16",
    slope_label="3.35 TB/s memory",
    point_label="775 TFLOP/s",
)
SVG = "{http://www.w3.org/2000/svg}"

scales = st.floats(-3.0, 17.0).map(lambda exponent: 10.0**exponent)


@st.composite
def rooflines(draw):
    peak, slope, x = draw(scales), draw(scales), draw(scales)
    share = draw(st.floats(1e-3, 1.0))
    return replace(LINE, x=x, y=share * min(peak, slope * x), peak=peak, slope=slope)


@given(rooflines())
def test_text_fits_a_terminal_and_marks_one_point(line):
    lines = roofline_text(line).splitlines()
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 80
    body = [text[MARGIN:] for text in lines if text[MARGIN - 1 : MARGIN] == "|"]
    assert "".join(body).count("X") == 1
    assert roofline_text(line).isascii()


@given(rooflines())
def test_svg_is_well_formed_and_its_point_is_inside(line):
    root = ElementTree.fromstring(roofline_svg(line, "a < b & c"))
    assert root.find(f"{SVG}title").text == "a < b & c"
    circle = root.find(f"{SVG}circle")
    assert 0.0 <= float(circle.get("cx")) <= float(root.get("width"))
    assert 0.0 <= float(circle.get("cy")) <= float(root.get("height"))


@given(rooflines())
def test_nothing_stands_above_the_roof_in_the_picture(line):
    frame = frame_of(line)
    assert frame.up(line.y) <= frame.up(line.roof_at(line.x)) + 1e-9


def test_point_far_above_the_ridge_stands_right_of_it():
    frame = frame_of(LINE)
    assert frame.across(LINE.x) > frame.across(LINE.ridge)
    row = next(text for text in roofline_text(LINE).splitlines() if "X" in text)
    assert row.index("X") == MARGIN + round(frame.across(LINE.x) * (COLUMNS - 1))


def test_what_is_missed_below_the_roof_is_dotted():
    text = roofline_text(replace(LINE, y=20e12))
    assert ":" in text
    assert text.splitlines()[-2:] == [
        "  / 3.35 TB/s memory   - 989 TFLOP/s dense bf16",
        "  X 775 TFLOP/s",
    ]


def test_decades_are_named_with_prefixes():
    assert [tick(e) for e in (-1, 0, 2, 3, 13, 22)] == ["100 m", "1", "100", "1 k", "10 T", "1e22"]


def test_the_same_numbers_give_the_same_bytes():
    assert roofline_svg(LINE, "t") == roofline_svg(replace(LINE), "t")
