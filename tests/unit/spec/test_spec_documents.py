"""Documents: plain data by the core schema, and the place of every value."""

from __future__ import annotations

import math

import pytest

from clustersim.spec.documents import parse_document, plain_value

TEXT = b"""\
# a comment
name: x
training:
  batch: {micro: 1,  global: [8, 16]}
list:
- a
- {b: 2}
"""


@pytest.mark.parametrize(
    ("path", "line", "column"),
    [
        (("name",), 2, 1),
        (("training",), 3, 1),
        (("training", "batch", "micro"), 4, 11),
        (("training", "batch", "global"), 4, 22),
        (("training", "batch", "global", 1), 4, 34),
        (("list", 0), 6, 3),
        (("list", 1, "b"), 7, 4),
        (("list", 1, "missing"), 7, 3),
    ],
)
def test_every_value_has_a_place(path, line, column):
    mark = parse_document(TEXT, "x.yaml").mark(path)
    assert (mark.file, mark.line, mark.column) == ("x.yaml", line, column)
    assert mark.source_line == TEXT.decode().splitlines()[line - 1]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("on", "on"),
        ("12", 12),
        ("-3", -3),
        ("0x10", 16),
        ("0o17", 15),
        ("017", 17),
        ("300e9", 300e9),
        ("1.", 1.0),
        (".5", 0.5),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("400 W", "400 W"),
        ("9" * 40, math.inf),
        ("-" + "9" * 40, -math.inf),
    ],
)
def test_unquoted_scalars_follow_the_core_schema(text, value):
    found = plain_value(text)
    assert found == value
    assert type(found) is type(value)


def test_an_alias_repeats_a_value_and_keys_are_text():
    document = parse_document(b"a: &x {1: 2}\nb: *x\nc: '5'\n", "x.yaml")
    assert document.data == {"a": {"1": 2}, "b": {"1": 2}, "c": "5"}
    assert document.mark(("b", "1")).line == 2


def test_a_byte_order_mark_and_windows_lines_are_read():
    document = parse_document(b"\xef\xbb\xbfname: x\r\nb: 1\r\n", "x.yaml")
    assert document.data == {"name": "x", "b": 1}
    assert document.mark(("b",)).line == 2
