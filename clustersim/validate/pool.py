"""Many cases in several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")


def in_processes(
    function: Callable[[Item], Found], items: Iterable[Item], jobs: int
) -> list[Found]:
    """Results of a function in the order of its items.

    Parameters
    ----------
    function, items
        Both must be picklable.
    jobs : int
        Processes; 1 is this one.

    Notes
    -----
    `Executor.map` cancels what is open when the program is told to end. The pool, whose processes
    have just been ended too, then trips over its cancelled futures [1]_ and never stops; so futures
    are cancelled after an error of the function only.

    References
    ----------
    .. [1] https://github.com/python/cpython/issues/107219
    """
    items = list(items)
    if jobs == 1 or len(items) < 2:
        return [function(item) for item in items]
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except Exception:
            pool.shutdown(cancel_futures=True)
            raise
