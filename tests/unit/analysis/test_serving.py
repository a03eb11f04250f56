"""Metrics of requests: what counts as good, and out of how many."""

from __future__ import annotations

import pytest

from clustersim.analysis.serving import goodput
from tests.unit.analysis.served import ANSWERED


def test_goodput_is_a_share_of_the_offered_requests():
    # two of four requests are finished, the second at once
    assert goodput(ANSWERED, {})["fraction"] == 0.5
    found = goodput(ANSWERED, {"ttft": None, "e2e": 1.0}, refused=4)
    assert found["fraction"] == 1 / 8
    assert found["requests_per_s"] == pytest.approx(1 / 5)


def test_nothing_offered_is_no_goodput():
    assert goodput(ANSWERED.take([]), {})["fraction"] == 0.0
