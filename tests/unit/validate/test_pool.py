"""Cases in several processes."""

from __future__ import annotations

import pytest

from clustersim.validate.pool import in_processes


def _half(number: int) -> int:
    if number % 2:
        raise ArithmeticError(f"{number} is odd")
    return number // 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_keep_the_order_of_their_items(jobs):
    assert in_processes(_half, range(0, 20, 2), jobs) == list(range(10))


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_first_error_is_raised(jobs):
    with pytest.raises(ArithmeticError, match="3 is odd"):
        in_processes(_half, [2, 3, 4, 5], jobs)
