"""Named random streams: adding a draw under one name moves nothing under another."""

from __future__ import annotations

import zlib

import numpy as np


def named_rng(seed: int, name: str, replication: int = 0) -> np.random.Generator:
    """A random stream of its own for each name and replication."""
    key = (zlib.crc32(name.encode()), replication)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
