"""Named random streams: adding a draw under one name moves nothing under another."""

from __future__ import annotations

import zlib

import numpy as np


def named_rng(seed: int, name: str, replication: int = 0) -> np.random.Generator:
    """A random stream of its own for each name and replication.

    Parameters
    ----------
    seed : int
        Of the scenario, at least 0.
    name : str
        Of the draw, such as "arrivals".
    replication : int
        At least 0.

    Returns
    -------
    numpy.random.Generator
        A fresh one: two calls with the same arguments draw the same numbers.

    Notes
    -----
    The spawn key of NumPy's `SeedSequence` is the CRC-32 of the name, and the replication.
    """
    key = (zlib.crc32(name.encode()), replication)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
