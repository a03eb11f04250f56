"""A later layer that states a kind of arrivals drops what the earlier kind used, and no more."""

from __future__ import annotations

import pytest

from clustersim.spec.choices import without_replaced
from clustersim.spec.documents import parse_document

POISSON = b"""
workload:
  arrivals: {kind: poisson, rate: 2 requests/s}
  lengths: {input: 1, output: 1}
  requests: 7
"""
TRACED = b"workload: {arrivals: {kind: trace, speed_up: 2}, trace: a.csv, format: azure}"


def left(base: bytes, kind: str) -> dict:
    top = parse_document(f"workload: {{arrivals: {{kind: {kind}}}}}".encode(), "top.yaml")
    return without_replaced(parse_document(base, "base.yaml"), top).data["workload"]


@pytest.mark.parametrize("kind", ["poisson", "gamma", "diurnal"])
def test_a_kind_with_a_rate_keeps_it(kind):
    assert left(POISSON, kind)["arrivals"]["rate"] == "2 requests/s"


@pytest.mark.parametrize("kind", ["closed_loop", "static", "offline", "saturated"])
def test_a_kind_without_a_rate_drops_it_and_keeps_the_lengths(kind):
    workload = left(POISSON, kind)
    assert "rate" not in workload["arrivals"]
    assert workload["lengths"] == {"input": 1, "output": 1}


def test_a_trace_drops_lengths_and_rate_and_keeps_the_number_of_requests():
    assert left(POISSON, "trace") == {"arrivals": {"kind": "poisson"}, "requests": 7}


def test_random_arrivals_drop_the_trace():
    assert left(TRACED, "poisson") == {"arrivals": {"kind": "trace"}}


@pytest.mark.parametrize(
    ("popularity", "kept"),
    [
        ("power_law", {"exponent": 1}),
        ("dirichlet", {"concentration": 2}),
        ("counts", {"counts": "a.csv"}),
        ("uniform", {}),
    ],
)
def test_a_popularity_keeps_its_own_number(popularity, kept):
    base = parse_document(b"routing: {exponent: 1, concentration: 2, counts: a.csv}", "base.yaml")
    top = parse_document(f"routing: {{popularity: {popularity}}}".encode(), "top.yaml")
    assert without_replaced(base, top).data["routing"] == kept


def test_a_layer_without_a_kind_drops_nothing():
    base = parse_document(POISSON, "base.yaml")
    top = parse_document(b"workload: {requests: 9}", "top.yaml")
    assert without_replaced(base, top) == base


@pytest.mark.parametrize("text", [b"workload: 3", b"workload: {arrivals: [1]}", b"name: x"])
def test_what_is_no_workload_is_left_to_the_checks(text):
    base = parse_document(text, "base.yaml")
    top = parse_document(b"workload: {arrivals: {kind: trace}}", "top.yaml")
    assert without_replaced(base, top) == base
