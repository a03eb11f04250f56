"""An iteration of a serving engine priced once for all batches: tables that a replica looks up.

Everything that depends on a number of rows alone (tokens of a rank, tokens of all ranks, sampled
sequences) is one row of seconds by part; attention of decoding depends on sequences, their mean and
their longest context; attention of a chunk on its tokens and those before it. Values between nodes
are interpolated linearly. Left out: overlap of communication with products, and two batches that
hide each other's exchange.

References
----------
.. [1] H. A. David and H. N. Nagaraja, "Order statistics", 3rd ed., Wiley 2003, section 3.1: ranks
   that wait for the last of them.
.. [2] TensorRT-LLM, pull request 5432, "better heuristic for allreduce", 2025: one shot by tokens,
   https://github.com/NVIDIA/TensorRT-LLM/pull/5432
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.collectives.peer import engine_all_reduce_s
from clustersim.cost.collectives.pricing import collective_s
from clustersim.cost.compute.elementwise import Passes, warm_pass_s
from clustersim.cost.compute.quantised import repeated_s
from clustersim.cost.serving.attention import AttentionTables, attention_tables
from clustersim.cost.serving.expert_loads import load_table
from clustersim.cost.serving.experts import experts_s
from clustersim.cost.serving.site import Site
from clustersim.parallel.speeds import largest_of_normals
from clustersim.spec.serving import ServingScenario
from clustersim.spec.serving_engine import ServingEngine
from clustersim.workload.iteration import Exchange, Iteration, Pass, Product

Array = NDArray[np.float64]

# Parts of an iteration; attention, host and waiting come from the replica.
PARTS = ("products", "experts", "exchange", "all_reduce", "passes", "head", "draft")
MANY_SETS = 1e9  # weights of one layer are gone from L2 when it runs again
# Spread of ranks that reach a collective; fitted to times per token of silicon_e2e.csv, in which it
# tells groups of 1, 2, 4 and 8 apart; 2 to 4 us with a model left out (validation/fit_skew.py).
SKEW_S = 4e-6
EXACT_TOKENS = 256  # every number of tokens up to it is priced
TILE_ROWS = 128  # one row beyond full tiles starts further ones
MOST_TILED = 16384  # tokens up to which that is seen
STEPS = ((2048, 16), (16384, 64), (131072, 512), (2**24, 8192))  # up to there, nodes so far apart
# Formats whose activations the kernel before a product quantises: norms, activations, all-reduce.
FUSED_SCALES = ("fp8", "int8", "nvfp4", "mxfp4")


@dataclass(frozen=True)
class IterationPrices:
    """Seconds of one iteration of all stages.

    Attributes
    ----------
    token_s : ndarray (parts, tokens + 1)
        By tokens of the attention rank that has most, from 0.
    all_token_s : ndarray (draws, parts, tokens + 1)
        By tokens of all attention ranks; draws of the experts' loads.
    sequence_s : ndarray (parts, sequences + 1)
        By sequences whose next token is sampled.
    attention : AttentionTables
    imbalance, even_experts_s : ndarray (tokens + 1,)
        Fullest rank over the mean, by tokens of all attention ranks, 1 without experts; and time of
        the experts if ranks were loaded evenly. [1], [s]
    launch_s : float
        Host time to issue all kernels where no graph was captured. [s]
    """

    token_s: Array
    all_token_s: Array
    sequence_s: Array
    attention: AttentionTables
    imbalance: Array
    even_experts_s: Array
    launch_s: float


def price_iteration(
    scenario: ServingScenario, iteration: Iteration, site: Site, counts: Array
) -> IterationPrices:
    """Price a template for every batch that its engine can form.

    Parameters
    ----------
    scenario : ServingScenario
        Its engine bounds the batches, its routing the loads of experts.
    iteration : Iteration
        What is computed.
    site : Site
        Where.
    counts : ndarray (m,)
        Measured choices of experts, for popularity "counts"; else unused.

    Returns
    -------
    IterationPrices

    Raises
    ------
    ModelDomainError
        If the device's profile lacks the coefficients of a kernel.
    """
    budget, sequences = most_tokens(scenario), scenario.engine.max_sequences
    ranks = iteration.shards.attention_ranks
    tokens, all_tokens = nodes(budget), nodes(budget * ranks)
    token_s = np.zeros((len(PARTS), tokens.size))
    _add_rows(token_s, iteration, site, tokens, "tokens", scenario.engine)
    if iteration.latent is not None:
        token_s[0] += latent_products_s(iteration, site, tokens)
    all_s = np.zeros((1, len(PARTS), all_tokens.size))
    _add_rows(all_s[0], iteration, site, all_tokens, "all_tokens", scenario.engine)
    imbalance, even_s = np.ones(all_tokens.size), np.zeros(all_tokens.size)
    if (layers := iteration.experts) is not None:
        loads = load_table(
            all_tokens, layers.experts, scenario.routing, layers.ranks, scenario.run.seed, counts
        )
        draws_s = experts_s(layers, loads, site, scenario.engine)
        even_s = experts_s(layers, loads.even(), site, scenario.engine).mean(axis=0)
        imbalance = loads.imbalance.mean(axis=0)
        all_s = _varied(all_s, draws_s, scenario)
        routed_s = np.interp(tokens * ranks, all_tokens, draws_s.mean(axis=0))
        beside = tokens <= (scenario.engine.shared_expert_stream or 0)
        shared_s = _shared_s(iteration, site, tokens)
        token_s[0] -= np.where(beside, np.minimum(shared_s, routed_s), 0.0)
    every = nodes(sequences)
    sequence_s = np.zeros((len(PARTS), every.size))
    _add_rows(sequence_s, iteration, site, every, "sequences", scenario.engine)
    if scenario.speculation is not None:
        at_s = [np.interp(every, tokens, token_s.sum(axis=0))]
        at_s.append(np.interp(every * ranks, all_tokens, all_s.mean(axis=0).sum(axis=0)))
        head_s = sequence_s.sum(axis=0)
        sequence_s[-1] = _draft_s(scenario, every, at_s[0] + at_s[1], head_s)
    return IterationPrices(
        token_s=_dense(tokens, token_s),
        all_token_s=_dense(all_tokens, all_s),
        sequence_s=_dense(every, sequence_s),
        attention=attention_tables(iteration, site.device, site.profile, sequences, budget),
        imbalance=_dense(all_tokens, imbalance),
        even_experts_s=_dense(all_tokens, even_s),
        launch_s=iteration.kernels * _operator_s(scenario, site),
    )


def _operator_s(scenario: ServingScenario, site: Site) -> float:
    """Host time to issue one kernel: the engine's, or that of an eager loop on this device. [s]"""
    own = scenario.engine.host.launch
    return site.profile.host.operator_s if own is None else own


def _draft_s(scenario: ServingScenario, rows: Array, layers_s: Array, head_s: Array) -> Array:
    """Time of drafting, by rows that are checked at once. [s]

    Each drafted token is a pass of `draft_layers` layers and of the head over one token a sequence,
    one after the other; their attention is counted with that of the model.
    """
    speculation = scenario.speculation
    assert speculation is not None
    sequences = rows / (1.0 + speculation.draft_tokens)
    share = speculation.draft_layers / scenario.model.layers
    each_s = share * np.interp(sequences, rows, layers_s) + np.interp(sequences, rows, head_s)
    return np.asarray(speculation.draft_tokens * each_s)


def most_tokens(scenario: ServingScenario) -> int:
    """Most tokens that one attention rank computes in an iteration.

    Parameters
    ----------
    scenario : ServingScenario

    Returns
    -------
    int
        The budget, or a token and all drafted ones of every sequence where that is more.
    """
    engine = scenario.engine
    drafted = scenario.speculation.draft_tokens if scenario.speculation else 0
    return max(engine.token_budget, engine.max_sequences * (1 + drafted))


def nodes(most: int) -> Array:
    """Numbers of rows that are priced: all small ones, then at distances that grow.

    Full tiles and one row more are among them: there a line between two nodes would hide a step.

    Parameters
    ----------
    most : int
        Largest of them, at least 1.

    Returns
    -------
    ndarray (n,)
        Rising whole numbers from 1, float64.
    """
    found = [np.arange(1.0, min(most, EXACT_TOKENS) + 1.0)]
    start = EXACT_TOKENS
    for end, step in STEPS:
        if start < most:
            found.append(np.arange(start + step, min(end, most) + 1.0, step, dtype=np.float64))
        start = end
    full = np.arange(EXACT_TOKENS, min(most, MOST_TILED), TILE_ROWS, dtype=np.float64)
    found += [full, full + 1.0, np.array([float(most)])]
    return np.unique(np.concatenate(found))


def _dense(at: Array, values: Array) -> Array:
    """Values for every whole number from 0, linear between nodes; nothing costs nothing."""
    every = np.arange(at[-1] + 1.0)
    flat = values.reshape(-1, at.size)
    nothing = np.zeros(1)
    where = np.concatenate((nothing, at))
    lines = [np.interp(every, where, np.concatenate((nothing, line))) for line in flat]
    return np.ascontiguousarray(np.reshape(lines, (*values.shape[:-1], every.size)))


def _varied(rows_s: Array, draws_s: Array, scenario: ServingScenario) -> Array:
    """Layers of experts joined to the other rows: their mean, or draws of so many layers."""
    routing = scenario.routing
    chosen = np.ones((1, draws_s.shape[0])) / draws_s.shape[0]
    if routing.sample_every_step or routing.drift is not None:
        rng = np.random.default_rng((scenario.run.seed, 1))
        layers = max(1, scenario.model.expert_layers)
        of = rng.integers(0, draws_s.shape[0], size=(64, layers))
        chosen = np.stack([np.bincount(row, minlength=draws_s.shape[0]) for row in of]) / layers
    out = np.repeat(rows_s, chosen.shape[0], axis=0)
    out[:, PARTS.index("experts")] += chosen @ draws_s
    return out


def _add_rows(
    out: Array, iteration: Iteration, site: Site, rows: Array, kind: str, engine: ServingEngine
) -> None:
    """Add every entry of one kind of rows to its part."""
    head = kind == "sequences"
    for product in iteration.products:
        if product.rows == kind:
            part = "head" if head else "products"
            out[PARTS.index(part)] += product.count * product_s(product, site, rows)
    for entry in iteration.passes:
        if entry.rows == kind:
            part = "head" if head else "passes"
            out[PARTS.index(part)] += entry.count * pass_s(entry, site, rows)
    for exchange in iteration.exchanges:
        if exchange.rows == kind:
            part = "all_reduce" if exchange.group == "tp" else "exchange"
            out[PARTS.index(part)] += exchange.count * exchange_s(exchange, site, rows, engine)


def _shared_s(iteration: Iteration, site: Site, rows: Array) -> Array:
    """Time of the products of shared experts, all layers. [s]"""
    total_s = np.zeros(rows.size)
    for product in iteration.products:
        if product.shared:
            total_s += product.count * product_s(product, site, rows)
    return total_s


def product_s(product: Product, site: Site, rows: Array) -> Array:
    """Time of one product of a layer; its weights come from memory.

    Parameters
    ----------
    product : Product
        Its `count` is not applied.
    site : Site
    rows : ndarray (n,)
        At least 1.

    Returns
    -------
    ndarray (n,)
        Without quantisation of activations where the kernel before does that (`FUSED_SCALES`). [s]

    Raises
    ------
    ModelDomainError
        The datatype is not known, or the device has no matrix units that could run it.
    """
    one = np.ones_like(rows)
    shape = (rows, product.n * one, product.k * one, one)
    quantised = product.dtype in FUSED_SCALES
    return repeated_s(
        shape,
        product.dtype,
        site.device,
        site.profile,
        sustained=True,
        most_sets=MANY_SETS,
        arrives_quantised=quantised,
        autotuned=True,
    )


def pass_s(entry: Pass, site: Site, rows: Array) -> Array:
    """Time of one memory-bound kernel, over data that the kernel before wrote.

    Parameters
    ----------
    entry : Pass
        Its `count` is not applied.
    site : Site
    rows : ndarray (n,)
        At least 1.

    Returns
    -------
    ndarray (n,)
        [s]

    Raises
    ------
    ModelDomainError
        The profile lacks the class of the kernel.
    """
    one = np.ones_like(rows)
    return warm_pass_s(
        Passes(rows, entry.row_bytes * one, one), entry.kind, site.device, site.profile
    )


def exchange_s(exchange: Exchange, site: Site, rows: Array, engine: ServingEngine) -> Array:
    """Time of one collective; an all-reduce by the engine's own kernel where it has one.

    Benchmarks repeat a collective while all ranks wait in it already. Here ranks come from kernels
    of their own and wait for the last, by `SKEW_S` times the mean of the largest of n normals [1].

    Parameters
    ----------
    exchange : Exchange
        Its `count` is not applied.
    site : Site
        With the path of the group.
    rows : ndarray (n,)
        Tokens whose rows are exchanged.
    engine : ServingEngine
        Whether it has a kernel, and up to how many tokens that runs in one shot; None: by time [2].

    Returns
    -------
    ndarray (n,)
        Messages between stages wait for nobody. [s]
    """
    sizes, path = rows * exchange.row_bytes, site.paths[exchange.group]
    if exchange.collective == "send_recv":
        return collective_s(exchange.collective, sizes, path, site.links)
    skew_s = SKEW_S * largest_of_normals(path.ranks)[0]
    if engine.custom_all_reduce and exchange.collective == "all_reduce":
        one_shot = None if engine.one_shot_tokens is None else rows <= engine.one_shot_tokens
        return skew_s + engine_all_reduce_s(sizes, path, site.links, one_shot)
    return skew_s + collective_s(exchange.collective, sizes, path, site.links)


def latent_products_s(iteration: Iteration, site: Site, tokens: Array) -> Array:
    """Projections and small operators of all blocks of latent attention.

    Parameters
    ----------
    iteration : Iteration
        With latent attention.
    site : Site
    tokens : ndarray (n,)
        Of an attention rank.

    Returns
    -------
    ndarray (n,)
        [s]

    Raises
    ------
    ModelDomainError
        The profile has no coefficients of such blocks.
    """
    from clustersim.cost.serving.attention import latent_projections_s

    layers = iteration.latent_layers
    return layers * latent_projections_s(iteration, site.device, site.profile, tokens)
