"""Laws of reading published rows."""

from __future__ import annotations

import statistics

from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.validate.capabilities import NotComparableError
from clustersim.validate.rules import split_uneven
from clustersim.validate.series import fit_line
from clustersim.validate.summary import error_statistics, nearest_rank, spearman

errors = st.lists(st.floats(-1, 10, allow_nan=False), min_size=1, max_size=60)


@settings(deadline=None)
@given(
    layers=st.integers(1, 200),
    pp=st.integers(1, 64),
    vpp=st.integers(1, 16),
    balanced=st.booleans(),
)
def test_split_layers_are_conserved_and_even(layers, pp, vpp, balanced):
    try:
        used, chunks = split_uneven(layers, pp, vpp, balanced, [])
    except NotComparableError:
        assert pp > layers
        return
    assert 1 <= used <= vpp
    if chunks is None:
        assert layers % (pp * used) == 0
        return
    assert len(chunks) == pp * used
    assert sum(chunks) == layers
    assert min(chunks) >= 0
    inner = chunks[1:-1] or chunks
    assert max(inner) - min(inner) <= 1


@given(errors)
def test_summaries_are_ordered(values):
    figures = error_statistics(values)
    sizes = [abs(value) for value in values]
    assert figures["median_ape"] in sizes
    assert figures["median_ape"] <= figures["p90_ape"] <= max(sizes)
    assert abs(figures["bias"]) <= figures["mape"] * (1 + 1e-9)
    assert figures["median_ape"] == statistics.median_low(sizes)


@given(errors, st.floats(0, 1))
def test_a_share_of_the_values_lies_at_or_below_its_percentile(values, share):
    bound = nearest_rank(values, share)
    assert sum(value <= bound for value in values) >= share * len(values) * (1 - 1e-12)


@given(st.lists(st.integers(1, 1000), min_size=3, max_size=30, unique=True))
def test_rank_correlation_ignores_monotone_stretching(values):
    correlation = spearman(values, [value**3 + 7 for value in values])
    assert correlation is not None
    assert abs(correlation - 1) < 1e-9


@given(
    st.lists(st.integers(1, 500), min_size=2, max_size=10, unique=True),
    st.floats(0.01, 10),
    st.floats(-5, 5),
)
def test_exact_lines_are_recovered(counts, slope, intercept):
    line = fit_line(counts, [slope * count + intercept for count in counts])
    assert abs(line.slope_s - slope) <= 1e-7 * max(1, slope)
