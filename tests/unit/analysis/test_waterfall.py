"""From the peak to the MFU, nothing lost on the way."""

from __future__ import annotations

import pytest

from clustersim.analysis.waterfall import waterfall

PARTS = {"matmul": 6.0, "attention": 1.0, "bubble": 2.0, "host": 1.0, "jitter": 0.0}


def test_last_level_is_the_mfu():
    losses = waterfall(PARTS, 10.0, 5.0)
    assert losses[0]["share"] == pytest.approx(0.5)
    assert losses[-1]["mfu_left"] == pytest.approx(0.5)
    assert sum(loss["share"] for loss in losses) == pytest.approx(1.0)
    assert sum(loss["seconds"] for loss in losses) == pytest.approx(10.0)


def test_matmul_row_is_what_products_take_beyond_the_peak():
    losses = {loss["key"]: loss for loss in waterfall(PARTS, 10.0, 5.0)}
    assert losses["matmul"]["seconds"] == pytest.approx(1.0)
    assert losses["bubble"]["mfu_without"] == pytest.approx(5.0 / 8.0)


def test_ideal_time_of_attention_is_set_against_attention():
    losses = {loss["key"]: loss for loss in waterfall(PARTS, 10.0, 5.0, ideal_attention_s=0.5)}
    assert losses["matmul"]["seconds"] == pytest.approx(1.5)
    assert losses["attention"]["seconds"] == pytest.approx(0.5)


def test_parts_that_take_no_time_have_no_row():
    assert "jitter" not in {loss["key"] for loss in waterfall(PARTS, 10.0, 5.0)}


def test_step_without_work_has_no_waterfall():
    assert waterfall(PARTS, 10.0, 0.0) == []
