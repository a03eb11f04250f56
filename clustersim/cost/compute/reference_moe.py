"""Plain twins of the expert-layer models: one expert, one tile, one token at a time.

References
----------
.. [1] T. Gale et al., "MegaBlocks: Efficient Sparse Training with Mixture-of-Experts," MLSys 2023.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

TILE_ROWS = (16, 32, 64, 128, 256)
TILE_COLUMNS = (128, 256)


@dataclass(frozen=True)
class ExpertMachine:
    """What an expert layer meets; fields as the columns of `moe_row`."""

    sms: int
    sm_flop_per_s: float
    weight_bytes_per_s: float
    pass_bytes_per_s: float
    weight_bytes: float
    activation_bytes: float
    l2_bytes: float
    cache_ratio: float
    sm_bytes_per_s: float
    tile_fill_s: float
    pair_s: float
    sort_s: float
    expert_s: float
    kernel_floor_s: float


@dataclass(frozen=True)
class ExpertLayer:
    """One rank's layer: its dims, tokens of all ranks, and the tokens of each of its experts.

    `padding` rows without a token are read, written and activated beside them.
    """

    hidden: int
    intermediate: int
    gated: bool
    tokens: int
    top_k: int
    expert_tokens: tuple[int, ...]
    padding: int = 0


def moe_s(layer: ExpertLayer, machine: ExpertMachine) -> float:
    """Time of the layer, kernel after kernel [1].

    Parameters
    ----------
    layer : ExpertLayer
        Its experts are those of the rank, its tokens those of all ranks.
    machine : ExpertMachine

    Returns
    -------
    float
        Weights warm as far as L2 holds them. [s]
    """
    width = layer.intermediate * (2 if layer.gated else 1)
    rows = sum(layer.expert_tokens)
    memory_bytes_per_s = warm_bytes_per_s(layer, machine, width)
    total_s = machine.kernel_floor_s
    for columns, depth in ((width, layer.hidden), (layer.hidden, layer.intermediate)):
        moved = layer.padding * (depth * machine.activation_bytes + columns * 2.0)
        for tokens in layer.expert_tokens:
            if tokens:
                moved += columns * depth * machine.weight_bytes
            moved += tokens * (depth * machine.activation_bytes + columns * 2)
        tiles_s = min(
            waves_s(layer.expert_tokens, machine, (high, wide), columns, depth)
            for high in TILE_ROWS
            for wide in TILE_COLUMNS
        )
        total_s += math.hypot(tiles_s, moved / memory_bytes_per_s)
    permute = rows * layer.hidden * (2 + machine.activation_bytes)
    activated = rows + layer.padding
    activate = activated * (width * 2 + layer.intermediate * machine.activation_bytes)
    reduce = rows * layer.hidden * 2 + layer.tokens * layer.hidden * 2
    total_s += (permute + activate + reduce) / machine.pass_bytes_per_s
    blocks = (layer.tokens / 256) ** 2
    total_s += machine.pair_s * layer.tokens * layer.top_k
    total_s += machine.sort_s * blocks / (1 + blocks)
    return total_s + machine.expert_s * len(layer.expert_tokens)


def warm_bytes_per_s(layer: ExpertLayer, machine: ExpertMachine, width: int) -> float:
    """Rate of weights of which a share is still in L2 from the call before.

    Parameters
    ----------
    layer : ExpertLayer
    machine : ExpertMachine
    width : int
        Columns of the first product: twice the intermediate ones where gated.

    Returns
    -------
    float
        Between the rate of memory and `cache_ratio` times that. [bytes/s]
    """
    working = layer.padding * (2.0 * layer.hidden + width) * machine.activation_bytes
    for tokens in layer.expert_tokens:
        if tokens:
            working += (width + layer.intermediate) * layer.hidden * machine.weight_bytes
        working += tokens * (2 * layer.hidden + width) * machine.activation_bytes
    held = 1 / (1 + (working / machine.l2_bytes) ** 2)
    seconds = (1 - held) / machine.weight_bytes_per_s
    return 1 / (seconds + held / (machine.weight_bytes_per_s * machine.cache_ratio))


def waves_s(
    expert_tokens: Sequence[int],
    machine: ExpertMachine,
    tile: tuple[int, int],
    columns: int,
    depth: int,
) -> float:
    """Time of the tiles of all experts, one a SM, wave after wave [1].

    Parameters
    ----------
    expert_tokens : sequence of int
        Rows of each expert of the rank; one without rows has no tiles.
    machine : ExpertMachine
    tile : tuple of int
        Rows and columns of the output of a thread block.
    columns, depth : int
        Of each product: columns of the output, and elements that are summed over.

    Returns
    -------
    float
        [s]
    """
    high, wide = tile
    tiles = 0
    for tokens in expert_tokens:
        tiles += -(-tokens // high) * -(-columns // wide)
    operands = high * machine.activation_bytes + min(columns, wide) * machine.weight_bytes
    step_s = max(2 * high * wide / machine.sm_flop_per_s, operands / machine.sm_bytes_per_s)
    total_s = 0.0
    while tiles > 0:
        total_s += depth * step_s + machine.tile_fill_s
        tiles -= machine.sms
    return total_s


def distinct_groups(groups: int, experts: int, top_k: int) -> Fraction:
    """Mean number of groups that hold one of a token's experts, over all choices of experts.

    Parameters
    ----------
    groups : int
        Ranks or nodes that share the experts alike; a divisor of `experts`.
    experts, top_k : int
        Of the layer, and different ones that a token takes. All choices are listed: keep them few.

    Returns
    -------
    Fraction
        Exact; at most the lesser of groups and top_k.
    """
    size = experts // groups
    choices = list(combinations(range(experts), top_k))
    return Fraction(sum(len({e // size for e in choice}) for choice in choices), len(choices))
