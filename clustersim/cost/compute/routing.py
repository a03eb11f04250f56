"""How a router spreads tokens over experts: what the rank under the most load has to compute.

A routing is reduced to four numbers of one rank: its token-expert pairs, its experts with at least
one token, and the row tiles of its grouped products for each tile height. Left out: capacity
limits, correlation between layers, and tokens sent twice to one expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clustersim.errors import ModelDomainError
from clustersim.spec.profile_moe import PairsComputed

Array = NDArray[np.float64]

# Rows of the output that one thread block of a grouped product computes; assumed.
HEIGHTS = np.array([16, 32, 64, 128, 256], dtype=np.float64)
DRAWS = 32  # sampled routings that stand for the expectation
SEED = 20_240_607
KEPT = 2**14  # routings remembered: a fit prices the same shapes hundreds of times
BUSY_RANGE = (1.0, 0.8)  # loads of a skewed routing: from one token to this share of all tokens
SPARSE_RANGE = (0.01, 2.0)  # the same where there are fewer pairs than experts
BALANCED = "balanced"
POWER_LAW = "power_law_"


@dataclass(frozen=True)
class ExpertLoads:
    """What one rank receives, one entry a call.

    Attributes
    ----------
    tokens : ndarray (n,)
        Tokens that enter the layer.
    pairs : ndarray (n,)
        Token-expert pairs of all ranks: tokens times experts per token.
    routed : ndarray (n,)
        Token-expert pairs on this rank.
    active : ndarray (n,)
        Experts of this rank with at least one token.
    row_tiles : ndarray (n, 5)
        Tiles of each of `HEIGHTS` over the rows of all experts; each expert pads its last tile.
    padding : ndarray (n,) or None
        Rows beyond the pairs that the products compute and the activation passes over for nothing;
        None: only what pads a tile, which never reaches memory.
    """

    tokens: Array
    pairs: Array
    routed: Array
    active: Array
    row_tiles: Array
    padding: Array | None = None

    def take(self, rows: NDArray[np.intp]) -> ExpertLoads:
        """The calls of these numbers."""
        columns = (self.tokens, self.pairs, self.routed, self.active, self.row_tiles)
        tokens, pairs, routed, active, tiles = (column[rows] for column in columns)
        padding = None if self.padding is None else self.padding[rows]
        return ExpertLoads(tokens, pairs, routed, active, tiles, padding)

    @property
    def rows(self) -> Array:
        """Rows of the grouped products, (n,)."""
        return self.routed if self.padding is None else self.routed + self.padding


def loads_from_spread(
    tokens: Array, top_k: Array, routed: Array, experts: Array, variation: Array
) -> ExpertLoads:
    """Loads of a rank of which only the spread over its experts is known.

    Parameters
    ----------
    tokens, top_k : ndarray (n,)
        Tokens over all ranks, and experts a token.
    routed : ndarray (n,)
        Token-expert pairs on this rank.
    experts : ndarray (n,)
        Experts of this rank.
    variation : ndarray (n,)
        Coefficient of variation of the tokens of an expert.

    Returns
    -------
    ExpertLoads

    Notes
    -----
    E experts, of which A share the load evenly, have a variation of sqrt(E/A - 1): A = E/(1 + v^2),
    at most the pairs. Loads that are no multiple of a tile waste half a tile less half a row.
    """
    active = np.minimum(experts / (1.0 + variation**2), np.maximum(routed, 0.0))
    padding = active[:, None] * (HEIGHTS - 1.0) / (2.0 * HEIGHTS)
    tiles = np.maximum(routed[:, None] / HEIGHTS + padding, active[:, None])
    return ExpertLoads(tokens, tokens * top_k, routed, active, tiles)


def expert_loads(
    tokens: Array,
    experts: Array,
    top_k: Array,
    ranks: Array,
    exponent: Array,
    computed: PairsComputed = "own",
) -> ExpertLoads:
    """Loads of the rank with the most tokens.

    Parameters
    ----------
    tokens : ndarray (n,)
        Tokens over all ranks.
    experts, top_k, ranks : ndarray (n,)
        Routed experts, experts per token, ranks that share the experts.
    exponent : ndarray (n,)
        Exponent of the popularity of experts; 0 is balanced.
    computed : {"own", "reached", "all"}
        What the kernel multiplies: pairs of the rank's own experts, all pairs of tokens that have
        one of them, or all pairs of all tokens, those of other ranks for nothing.

    Returns
    -------
    ExpertLoads

    Raises
    ------
    ModelDomainError
        If a column is below 1, or experts do not divide over ranks.

    Notes
    -----
    Balanced: pairs / ranks of them on every rank, spread evenly over its experts; a batch with
    fewer pairs than experts touches one expert a pair. Skewed: loads are drawn with density
    x^-exponent on [1, 0.8 tokens] ([0.01, 2] where pairs do not exceed experts), scaled to the
    number of pairs and rounded; missing pairs go to idle experts of all ranks in turn, excess ones
    are taken from the busiest experts. Experts are then dealt to ranks in order and the fullest
    rank is taken; averages are over 32 fixed draws. Ranges are assumed; memory-bound rows agree
    (104 of 128 experts active with 256 pairs). Tokens that reach a rank with a share p of the
    pairs: tokens (1 - (1 - p)^top_k), balanced the lesser of tokens and pairs of the rank.
    """
    columns = [np.asarray(c, dtype=np.float64) for c in (tokens, experts, top_k, ranks, exponent)]
    if not all((column >= 1).all() for column in columns[:4]):  # NaN is none either
        low = float(np.min(columns[:4]))
        raise ModelDomainError(f"tokens, experts, top_k and ranks must be at least 1, not {low:g}")
    uneven = np.flatnonzero(columns[1] % columns[3])
    if uneven.size:
        count, groups = columns[1][uneven[0]], columns[3][uneven[0]]
        raise ModelDomainError(f"{count:g} experts do not divide over {groups:g} ranks")
    keys, place = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    loads = np.empty((len(keys), 2 + HEIGHTS.size))
    even = keys[:, 4] == 0.0
    loads[even] = _balanced(keys[even], computed)
    for row in np.flatnonzero(~even):
        loads[row] = _skewed(tuple(keys[row].tolist()), computed)
    loads = loads[place.reshape(-1)]
    return ExpertLoads(
        tokens=columns[0],
        pairs=columns[0] * columns[2],
        routed=loads[:, 0],
        active=loads[:, 1],
        row_tiles=loads[:, 2:],
    )


def _balanced(keys: Array, computed: PairsComputed) -> Array:
    """Pairs, active experts and row tiles of every rank when loads are even."""
    tokens, experts, top_k, ranks, _ = keys.T
    routed = np.maximum(tokens * top_k / ranks, 1.0)
    active = np.minimum(np.maximum(experts / ranks, 1.0), np.ceil(routed))
    if computed != "own":
        routed = top_k * (np.minimum(tokens, routed) if computed == "reached" else tokens)
    tiles = np.ceil((routed / active)[:, None] / HEIGHTS - 1e-9) * active[:, None]
    return np.column_stack([routed, active, tiles])


@lru_cache(maxsize=KEPT)
def _skewed(key: tuple[float, ...], computed: PairsComputed) -> tuple[float, ...]:
    """Mean pairs, active experts and row tiles of the fullest rank over the draws."""
    tokens, experts, top_k, ranks, exponent = key
    uniform = np.random.default_rng(SEED).random((DRAWS, int(experts)))
    pairs = tokens * top_k
    low, high = BUSY_RANGE[0], max(BUSY_RANGE[1] * tokens, 1.0)
    if pairs <= experts:
        low, high = SPARSE_RANGE
    loads = np.rint(_spread(uniform, low, high, exponent) * pairs)
    loads = _corrected(loads, pairs, int(ranks))
    groups = loads.reshape(len(loads), int(ranks), -1)
    fullest = groups[np.arange(len(loads)), groups.sum(axis=2).argmax(axis=1)]
    active = (fullest > 0).sum() / len(loads)
    if computed != "own":
        own = fullest.sum(axis=1, keepdims=True)
        missed = np.clip(1.0 - own / pairs, 0.0, 1.0) ** top_k
        reached = np.maximum(tokens * (1.0 - missed), own / top_k)
        reached = reached if computed == "reached" else tokens
        fullest = fullest * (top_k * reached / own)
    tiles = np.ceil(fullest[:, :, None] / HEIGHTS).sum(axis=1)
    return (float(fullest.sum() / len(loads)), float(active), *tiles.mean(axis=0).tolist())


def _spread(uniform: Array, low: float, high: float, exponent: float) -> Array:
    """Shares of the pairs for each draw and expert: the inverse of the power law, normalised."""
    if exponent == 1.0:
        sizes = low * (high / low) ** uniform
    else:
        power = 1.0 - exponent
        sizes = (low**power + uniform * (high**power - low**power)) ** (1.0 / power)
    return np.asarray(sizes / sizes.sum(axis=1, keepdims=True))


def _corrected(loads: Array, pairs: float, ranks: int) -> Array:
    """Loads that sum to the pairs: missing ones go to idle experts of all ranks in turn."""
    missing = pairs - loads.sum(axis=1)
    count = loads.shape[1]
    turn = np.arange(count).reshape(ranks, -1)
    turn = (turn % (count // ranks) * ranks + turn // (count // ranks)).reshape(-1)
    key = np.where(missing[:, None] > 0, (loads > 0) * count + turn, -loads)
    place = np.argsort(np.argsort(key, axis=1, kind="stable"), axis=1, kind="stable")
    even, rest = np.divmod(np.abs(missing), count)
    change = even[:, None] + (place < rest[:, None])
    return np.asarray(np.maximum(loads + np.sign(missing)[:, None] * change, 0.0))
