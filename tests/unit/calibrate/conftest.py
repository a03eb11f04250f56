"""One small family in the place of GEMM."""

from __future__ import annotations

import pytest

from clustersim.calibrate import tables
from tests.measured_rows import with_small_gemm


@pytest.fixture
def small_gemm(monkeypatch):
    """GEMM has two coefficients."""
    monkeypatch.setattr(tables, "families", with_small_gemm(tables.families))
