"""Loads of experts for every number of tokens: what the fullest rank of a layer computes.

A popularity says how likely each expert is; tokens choose `top_k` different ones. Loads are counted
over draws that stand for the layers of a model, each with the popularity dealt to its experts anew.
The first tokens are drawn one by one, so that small counts are exact; further ones are added as
binomial increments. All counts come from one nested sample: more tokens never mean less load. Left
out: correlation between tokens that follow each other, and between layers.

References
----------
.. [1] W. Kool, H. van Hoof and M. Welling, "Stochastic beams and where to find them: the Gumbel-
   top-k trick," ICML 2019, https://arxiv.org/abs/1903.06059
.. [2] B. Rosén, "Asymptotic theory for order sampling," J. Stat. Plan. Inference 62, 1997.
.. [3] DeepSeek-AI, "DeepSeek-V3 Technical Report," arXiv:2412.19437, 2024 (node-limited routing).
.. [4] Y. Tang et al., "Pangu Pro MoE: Mixture of Grouped Experts," arXiv:2505.21411, 2025.
.. [5] NVIDIA, TensorRT-LLM, examples/wide_ep/ep_load_balancer: tokens of 32 ranks in the layers of
   DeepSeek-R1, on average 1.56 above the mean on the fullest and 0.48 of it apart; the default
   exponent of the power law, 0.7, gives 1.60 and 0.47.
.. [6] vLLM, pull request 30494, "Optimize deepgemm experts initialization," 2025: from then on
   blocks that no token fills are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.routing import HEIGHTS, ExpertLoads
from clustersim.spec.model import Experts
from clustersim.spec.profile_moe import PairsComputed
from clustersim.spec.serving import Routing

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

DRAWS = 16  # layers that stand for all
DRAWN = 256  # tokens that are drawn one by one
BLOCK_ROWS = 128.0  # of one expert, in DeepGEMM's contiguous layout
GROUP_SCORES = 2  # best experts of a group whose scores rank it [3]


@dataclass(frozen=True)
class LoadTable:
    """Loads of the fullest rank, draws by numbers of tokens.

    Attributes
    ----------
    tokens : ndarray (n,)
        Tokens of all ranks, rising.
    routed, active : ndarray (draws, n)
        Token-expert pairs on the fullest rank, and its experts with at least one.
    row_tiles : ndarray (draws, n, 5)
        Tiles over its rows, for each of `HEIGHTS`.
    mean : tuple of ndarray
        The same three, mean over ranks.
    """

    tokens: Array
    routed: Array
    active: Array
    row_tiles: Array
    mean: tuple[Array, Array, Array]

    @property
    def imbalance(self) -> Array:
        """Fullest rank over the mean, (draws, n); 1 is even."""
        return np.asarray(self.routed / np.maximum(self.mean[0], 1e-300))

    def even(self) -> LoadTable:
        """The same choices, spread evenly over ranks."""
        return LoadTable(self.tokens, *self.mean, self.mean)

    def loads(self, experts: Experts, draw: int, computed: PairsComputed) -> ExpertLoads:
        """Loads of one draw as a kernel computes them.

        Parameters
        ----------
        experts : Experts
            Of the layer.
        draw : int
            From 0.
        computed : {"own", "reached", "all"}
            Pairs that the kernel multiplies, as for `routing.expert_loads`.

        Returns
        -------
        ExpertLoads
            One entry a number of tokens; row tiles grow with the pairs.
        """
        routed, active = self.routed[draw], self.active[draw]
        tiles = self.row_tiles[draw]
        if computed != "own":
            share = np.clip(routed / (self.tokens * experts.top_k), 0.0, 1.0)
            reached = self.tokens * (1.0 - (1.0 - share) ** experts.top_k)
            done = experts.top_k * (reached if computed == "reached" else self.tokens)
            grown = np.maximum(done / np.maximum(routed, 1.0), 1.0)
            routed, tiles = routed * grown, tiles * grown[:, None]
        return ExpertLoads(self.tokens, self.tokens * experts.top_k, routed, active, tiles)

    def padded_loads(self, experts: Experts, ranks: int, draw: int) -> ExpertLoads:
        """Loads of one draw where a kernel skips neither empty experts nor rows without a token.

        Parameters
        ----------
        experts : Experts
            Of the layer.
        ranks : int
            Groups that hold whole experts.
        draw : int
            From 0.

        Returns
        -------
        ExpertLoads
            One entry a number of tokens. Room is made for all pairs of all ranks and `BLOCK_ROWS` -
            1 further rows an expert, in whole blocks, before it is known who chose whom. Blocks
            that no token fills are computed with the weights of expert 0 [6], which L2 holds.
        """
        local, pairs = experts.experts / ranks, self.tokens * experts.top_k
        rows = np.ceil((pairs + local * (BLOCK_ROWS - 1.0)) / BLOCK_ROWS) * BLOCK_ROWS
        tiles = rows[:, None] / np.minimum(HEIGHTS, BLOCK_ROWS)
        routed, active = self.routed[draw], np.minimum(self.active[draw] + 1.0, local)
        return ExpertLoads(self.tokens, pairs, routed, active, tiles, rows - routed)


def popularity(routing: Routing, experts: int, rng: np.random.Generator, counts: Array) -> Array:
    """Probability weights of experts.

    Parameters
    ----------
    routing : Routing
    experts : int
        With null experts.
    rng : Generator
    counts : ndarray (m,)
        Measured choices of each expert; stretched to the number of experts by rank. Only looked at
        for the popularity "counts".

    Returns
    -------
    ndarray (DRAWS, experts)
        Each row dealt anew; it sums to 1.
    """
    match routing.popularity:
        case "power_law":
            weights = np.arange(1.0, experts + 1.0) ** -routing.exponent
        case "counts":
            place = np.linspace(0.0, 1.0, experts)
            ranked = np.sort(np.maximum(counts, counts.sum() * 1e-9))[::-1]
            weights = np.interp(place, np.linspace(0.0, 1.0, ranked.size), ranked)
        case "dirichlet":
            found = rng.dirichlet(np.full(experts, routing.concentration), size=DRAWS)
            return np.asarray(np.maximum(found, 1e-12))
        case _:
            weights = np.ones(experts)
    dealt = np.stack([rng.permutation(weights) for _ in range(DRAWS)])
    return np.asarray(dealt / dealt.sum(axis=1, keepdims=True))


def load_table(
    tokens: Array, experts: Experts, routing: Routing, ranks: int, seed: int, counts: Array
) -> LoadTable:
    """Loads of the fullest rank for rising numbers of tokens.

    Parameters
    ----------
    tokens : ndarray of whole numbers (n,)
        Rising, at least 1.
    experts : Experts
        Of a layer.
    routing : Routing
        Popularity; "balanced" gives every rank and expert the same.
    ranks : int
        Groups that hold whole experts, dealt in order.
    seed : int
        Of the draws.
    counts : ndarray (m,)
        Measured choices, for popularity "counts".

    Returns
    -------
    LoadTable
    """
    if routing.popularity == "balanced":
        return _balanced(tokens, experts, ranks)
    rng = np.random.default_rng(seed)
    all_experts = experts.experts + routing.null_experts
    weights = popularity(routing, all_experts, rng, counts)
    chosen = _counted(tokens.astype(np.int64), weights, experts, rng)
    chosen = chosen[:, :, : experts.experts]
    of_rank = chosen.reshape(*chosen.shape[:2], ranks, -1)
    pairs = of_rank.sum(axis=3)
    fullest = pairs.argmax(axis=2)
    own = np.take_along_axis(of_rank, fullest[:, :, None, None], axis=2)[:, :, 0]
    tiles = np.stack([np.ceil(chosen / height).sum(axis=2) for height in HEIGHTS], axis=2)
    active = (chosen > 0).sum(axis=2)
    return LoadTable(
        tokens=tokens,
        routed=own.sum(axis=2).astype(np.float64),
        active=(own > 0).sum(axis=2).astype(np.float64),
        row_tiles=np.ceil(own[..., None] / HEIGHTS).sum(axis=2),
        mean=(pairs.mean(axis=2), active / ranks, tiles / ranks),
    )


def _balanced(tokens: Array, experts: Experts, ranks: int) -> LoadTable:
    """Loads that are exactly even, one draw; see `load_table`."""
    pairs = tokens * experts.top_k / ranks
    active = np.minimum(experts.experts / ranks, np.ceil(pairs))
    tiles = np.ceil((pairs / active)[:, None] / HEIGHTS - 1e-9) * active[:, None]
    loads = (pairs[None], active[None], tiles[None])
    return LoadTable(tokens, *loads, loads)


def _counted(tokens: Counts, weights: Array, experts: Experts, rng: np.random.Generator) -> Counts:
    """Choices of every expert, (draws, n, experts): drawn tokens, then binomial increments."""
    draws, count = weights.shape
    most = int(min(tokens[-1], DRAWN))
    scores = np.log(weights)[:, None, :] + rng.gumbel(size=(draws, most, count))
    taken = np.cumsum(_choices(scores, experts), axis=1, dtype=np.int64)
    found = np.empty((draws, tokens.size, count), dtype=np.int64)
    drawn = tokens <= most
    found[:, drawn] = taken[:, tokens[drawn] - 1]
    if drawn.all():
        return found
    odds = _inclusion(weights, experts)
    have, at = taken[:, -1], most
    for column in np.flatnonzero(~drawn):
        have = have + rng.binomial(int(tokens[column] - at), odds)
        found[:, column], at = have, int(tokens[column])
    return found


def _choices(scores: Array, experts: Experts) -> NDArray[np.bool_]:
    """Which experts each token takes: the best scores [1], in the groups that are allowed."""
    k, groups, shape = experts.top_k, experts.groups, scores.shape
    if groups > 1 and shape[2] % groups == 0:
        grouped = scores.reshape(*shape[:2], groups, -1)
        if experts.top_k_groups >= groups and k % groups == 0:  # a share of each group [4]
            return _best(grouped, k // groups).reshape(shape)
        best = np.sort(grouped, axis=3)[..., -min(GROUP_SCORES, grouped.shape[3]) :].sum(axis=3)
        allowed = _best(best, min(experts.top_k_groups, groups))
        scores = np.where(allowed[..., None], grouped, -np.inf).reshape(shape)
    return _best(scores, k)


def _best(scores: Array, count: int) -> NDArray[np.bool_]:
    if count >= scores.shape[-1]:
        return np.ones(scores.shape, dtype=np.bool_)
    bound = np.partition(scores, -count, axis=-1)[..., [-count]]
    return np.asarray(scores >= bound)


def _inclusion(weights: Array, experts: Experts) -> Array:
    """Probability that a token takes each expert, (draws, experts): 1 - exp(-m w), to k in all [2].

    Where each group gives its share, that holds in every group.
    """
    k, groups = float(experts.top_k), experts.groups
    shares = groups > 1 and experts.top_k_groups >= groups and experts.top_k % groups == 0
    parts = groups if shares and weights.shape[1] % groups == 0 else 1
    w = weights.reshape(weights.shape[0], parts, -1)
    k /= parts
    low, high = np.zeros((*w.shape[:2], 1)), np.full((*w.shape[:2], 1), 1e12)
    for _ in range(100):
        middle = np.sqrt(np.maximum(low, 1e-9) * high)
        over = (1.0 - np.exp(-middle * w)).sum(axis=2, keepdims=True) > k
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    return np.asarray((1.0 - np.exp(-high * w)).reshape(weights.shape)).clip(0.0, 1.0)
