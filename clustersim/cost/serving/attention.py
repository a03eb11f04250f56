"""Tables of attention over the cache: a batch that decodes, and a chunk of a prompt.

References
----------
.. [1] W. Kwon et al., "Efficient memory management for large language model serving with
   PagedAttention," SOSP 2023, https://arxiv.org/abs/2309.06180
.. [2] A. Agrawal et al., "Taming throughput-latency tradeoff in LLM inference with
   Sarathi-Serve," OSDI 2024, https://arxiv.org/abs/2403.02310 (chunks beside decodes)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.attention import AttentionShapes
from clustersim.cost.compute.decode import DecodeShapes, decode_s
from clustersim.cost.compute.mla import MlaShapes, MlaSizes, mla_cache_s, mla_prefill_s
from clustersim.cost.compute.mla_module import MlaBlock, products
from clustersim.cost.compute.prefill import prefill_s
from clustersim.cost.compute.quantised import repeated_s
from clustersim.errors import ModelDomainError
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile
from clustersim.workload.iteration import Core, Iteration

Array = NDArray[np.float64]

MANY_SETS = 1e9  # weights of one layer are gone from L2 when it runs again
RATIOS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)  # longest context over the mean
OCTAVE = 4  # nodes of an axis for each doubling
LONGEST = 2.0**20  # tokens of a context
CROWD = 64  # chunks of a batch in which one more costs its work alone
BYTES = 2.0


@dataclass(frozen=True)
class AttentionTables:
    """Attention of all layers of an iteration.

    Attributes
    ----------
    sequences, contexts, ratios : ndarray
        Axes of `decode_s`: sequences, mean context, longest over mean.
    decode_s : ndarray (sequences, contexts, ratios)
        One new token a sequence. [s]
    chunk, before : ndarray
        Axes of chunks: new tokens, and tokens of the same prompt before them.
    alone_s, added_s : ndarray (chunk, before)
        A chunk by itself, and one more in a large batch of its like. [s]
    """

    sequences: Array
    contexts: Array
    ratios: Array
    decode_s: Array
    chunk: Array
    before: Array
    alone_s: Array
    added_s: Array


def octaves(most: float, first: float = 1.0) -> Array:
    """Nodes of an axis: whole numbers, `OCTAVE` for each doubling.

    Parameters
    ----------
    most : float
        Largest of them, a whole number.
    first : float
        Smallest, unless `most` is below it.

    Returns
    -------
    ndarray (n,)
        Rising, without doubles; float64.
    """
    count = int(np.ceil(np.log2(max(most / first, 2.0)) * OCTAVE)) + 1
    found = np.rint(first * 2.0 ** (np.arange(count) / OCTAVE))
    return np.unique(np.append(found[found < most], most))


def attention_tables(
    iteration: Iteration, device: Device, profile: Profile, sequences: int, budget: int
) -> AttentionTables:
    """Price attention of all layers over the shapes that an engine can form.

    Parameters
    ----------
    iteration : Iteration
        Its cores, or latent attention.
    device, profile
        The accelerator and its fitted behaviour.
    sequences, budget : int
        Most sequences of a batch, and most tokens of a chunk.

    Returns
    -------
    AttentionTables

    Notes
    -----
    Chunks of one kernel share its floor and fill each other's idle SMs: with M what one more chunk
    adds to many and T its time alone, a batch takes sum M + max (T - M).
    """
    ns, contexts, ratios = octaves(float(sequences)), octaves(LONGEST, 16.0), np.array(RATIOS)
    grid = np.meshgrid(ns, contexts, ratios, indexing="ij")
    n, context, ratio = (axis.reshape(-1) for axis in grid)
    decoded = _latent_decode_s if iteration.latent is not None else _decode_s
    chunked = _latent_chunk_s if iteration.latent is not None else _chunk_s
    decode = decoded(iteration, device, profile, n, context, np.minimum(ratio, n))
    q = octaves(float(budget))
    before = np.concatenate((np.zeros(1), octaves(LONGEST, 64.0)))
    new, held = (axis.reshape(-1) for axis in np.meshgrid(q, before, indexing="ij"))
    alone_s = chunked(iteration, device, profile, new, held, 1.0)
    crowd_s = chunked(iteration, device, profile, new, held, float(CROWD))
    added_s = np.minimum((crowd_s - alone_s) / (CROWD - 1.0), alone_s)
    shape = (q.size, before.size)
    return AttentionTables(
        sequences=ns,
        contexts=contexts,
        ratios=ratios,
        decode_s=decode.reshape(ns.size, contexts.size, ratios.size),
        chunk=q,
        before=before,
        alone_s=alone_s.reshape(shape),
        added_s=np.maximum(added_s, 0.0).reshape(shape),
    )


def _decode_s(
    iteration: Iteration, device: Device, profile: Profile, n: Array, mean: Array, ratio: Array
) -> Array:
    """Attention of one new token a sequence over all layers. [s]"""
    total_s, one = np.zeros(n.size), np.ones(n.size)
    for core in iteration.cores:
        seen = np.minimum(mean, _window(core, mean))
        longest = mean * ratio
        shapes = DecodeShapes(
            sequences=n,
            total_keys=n * seen,
            longest_keys=np.minimum(longest, _window(core, longest)),
            longest_context=longest,
            heads=core.heads * one,
            kv_heads=core.kv_heads * one,
            head_dim=core.head_dim * one,
        )
        times = decode_s(shapes, device, profile, iteration.kv_dtype, warm=False)
        total_s += core.count * times.total_s
    return total_s


def _window(core: Core, context: Array) -> Array:
    """Most keys that a token sees at some context: a window, or on average half of a chunk."""
    if core.kind == "full":
        return context
    if core.kind == "window":
        return np.full(context.size, float(core.window))
    inside = (context - 1.0) % core.window + 1.0
    return np.where(context > core.window, core.window / 2.0, inside)


def _chunk_s(
    iteration: Iteration,
    device: Device,
    profile: Profile,
    new: Array,
    before: Array,
    batch: float,
) -> Array:
    """Attention of equal chunks over all layers. [s]"""
    total_s, one = np.zeros(new.size), np.ones(new.size)
    for core in iteration.cores:
        held = before
        if core.kind == "chunked":
            held = np.minimum(before, core.window / 2.0)
        elif core.kind == "window":
            held = np.minimum(before, float(core.window))
        shapes = AttentionShapes(
            batch=batch * one,
            q_len=new,
            kv_len=new + held,
            heads=core.heads * one,
            kv_heads=core.kv_heads * one,
            head_dim=core.head_dim * one,
            causal=np.ones(new.size, dtype=np.bool_),
            window=float(core.window) * one,
        )
        times = prefill_s(shapes, device, profile, "bf16", iteration.kv_dtype, warm=False)
        total_s += core.count * times.total_s
    return total_s


def _sizes(iteration: Iteration) -> MlaSizes:
    latent = iteration.latent
    assert latent is not None
    return MlaSizes(
        hidden=float(iteration.hidden),
        query_latent=float(latent.query_rank or iteration.hidden),
        latent=float(latent.kv_rank),
        rotary=float(latent.rotary_dim),
        key=float(latent.key_dim),
        value=float(latent.value_dim),
    )


def _shapes(iteration: Iteration, batch: Array, q_len: Array, kv_len: Array) -> MlaShapes:
    heads = np.full(batch.size, float(iteration.shards.heads))
    return MlaShapes(batch, q_len, kv_len, heads)


def _block(iteration: Iteration, phase: str) -> MlaBlock:
    return MlaBlock(
        phase=phase,
        kv_dtype=iteration.kv_dtype,
        gemm_dtype=iteration.projection_dtype,
        sizes=_sizes(iteration),
    )


def _streamed(profile: Profile) -> Profile:
    """A profile whose products have no floors: see `mla_module`."""
    gemm = {
        dtype: c.model_copy(update={"kernel_floor_s": 0.0}) for dtype, c in profile.gemm.items()
    }
    return profile.model_copy(update={"gemm": gemm})


def latent_projections_s(
    iteration: Iteration, device: Device, profile: Profile, tokens: Array
) -> Array:
    """Projections and small operators of one block of latent attention, as `mla_module`.

    Parameters
    ----------
    iteration : Iteration
        With latent attention.
    device, profile
        The accelerator and its fitted behaviour.
    tokens : ndarray (n,)
        Of an attention rank, in prompts and decoding alike.

    Returns
    -------
    ndarray (n,)
        Without attention and the products absorbed in it; weights come from memory. [s]

    Raises
    ------
    ModelDomainError
        The profile has no coefficients of blocks that decode.
    """
    if "decode" not in profile.mla_module:
        raise ModelDomainError(
            f"profile {profile.name}: no coefficients of latent attention blocks (mla_module); "
            "use a device of which they were measured"
        )
    c, s = profile.mla_module["decode"], _sizes(iteration)
    shapes = _shapes(iteration, tokens, np.ones_like(tokens), np.ones_like(tokens))
    found, _ = products(shapes, _block(iteration, "decode"))
    total_s = np.zeros(tokens.size)
    streamed, dtype = _streamed(profile), iteration.projection_dtype
    for product in found:
        total_s += repeated_s(product, dtype, device, streamed, most_sets=MANY_SETS)
    shared = 2.0 * s.hidden + s.query_latent + s.latent + s.rotary
    of_heads = iteration.shards.heads * (s.key + s.rotary + s.value)
    moved_s = BYTES * tokens * (shared + of_heads) / device.memory_bandwidth
    return np.asarray(c.projection_ratio * total_s + c.small_operators_s + c.passes * moved_s)


def _latent_decode_s(
    iteration: Iteration, device: Device, profile: Profile, n: Array, mean: Array, ratio: Array
) -> Array:
    """Absorbed products and attention over the latents, all layers. [s]

    A batch of unequal contexts takes as long as one of equal contexts at their mean, or as its
    longest alone.
    """
    c = profile.mla_module["decode"]
    shapes = _shapes(iteration, n, np.ones_like(n), mean)
    _, absorbed = products(shapes, _block(iteration, "decode"))
    total_s, streamed = np.zeros(n.size), _streamed(profile)
    for product in absorbed:
        total_s += repeated_s(product, "bf16", device, streamed, most_sets=MANY_SETS)
    sizes, dtype = _sizes(iteration), _latent_dtype(profile, iteration.kv_dtype)
    core_s = mla_cache_s(shapes, sizes, dtype, device, profile)
    one = np.ones_like(n)
    lone = _shapes(iteration, one, one, mean * ratio)
    core_s = np.maximum(core_s, mla_cache_s(lone, sizes, dtype, device, profile))
    each_s = c.projection_ratio * total_s + c.attention_ratio * core_s
    return np.asarray(iteration.latent_layers * each_s)


def _latent_dtype(profile: Profile, dtype: str) -> str:
    return dtype if dtype in profile.mla_decode else "bf16"


def _latent_chunk_s(
    iteration: Iteration,
    device: Device,
    profile: Profile,
    new: Array,
    before: Array,
    batch: float,
) -> Array:
    """Expansion of keys and values, and attention of equal chunks, all layers. [s]"""
    c = profile.mla_module.get("prefill", profile.mla_module["decode"])
    many = np.full(new.size, batch)
    shapes = _shapes(iteration, many, new, new + before)
    sizes, one = _sizes(iteration), np.ones_like(new)
    width = iteration.shards.heads * (sizes.key + sizes.value)
    expand = (batch * (new + before), width * one, sizes.latent * one, one)
    dtype = iteration.projection_dtype
    products_s = repeated_s(expand, dtype, device, _streamed(profile), most_sets=MANY_SETS)
    kv = iteration.kv_dtype if iteration.kv_dtype in profile.mla_prefill else "bf16"
    core_s = mla_prefill_s(shapes, sizes, kv, device, profile.mla_prefill[kv])
    each_s = c.projection_ratio * products_s + c.attention_ratio * core_s
    return np.asarray(iteration.latent_layers * each_s)
