"""Attention over whole prompts in a serving framework: passes, blocks, masks, exponentials."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from clustersim.cost.compute.attention import AttentionShapes
from clustersim.cost.compute.gemm import dtype_bytes, matrix_peak
from clustersim.cost.compute.prefill import SOURCE_BYTES, padded_heads, prefill_s, tiles
from clustersim.cost.compute.sections import AttentionTimes
from clustersim.cost.explain.checks import (
    check_divides,
    check_group,
    check_keys,
    key_of,
    stand_in_notes,
)
from clustersim.cost.explain.parts import (
    FLOOR,
    TRAFFIC,
    Cause,
    Price,
    bound_of,
    cache_notes,
    column,
    endless_arithmetic,
    endless_memory,
    explanation,
    gains,
    joined,
    pairs_seen,
    seconds_of,
    taken_apart,
    trust_in,
    without,
)
from clustersim.cost.explain.record import Explanation, Hint, Site, Term
from clustersim.errors import ModelDomainError
from clustersim.spec.profile_attention import pick, prefill_sections

LONGEST_HEAD = 512  # head size that the model of prompts is stated for
ARITHMETIC = ("bf16", "fp16", "fp8")  # datatypes that serving kernels compute in
endless_exponentials = without("prefill", exponentials_per_cycle=math.inf)
PREFILL_CAUSES: tuple[Cause, ...] = (
    (*FLOOR, without("prefill", kernel_floor_s=0.0)),
    ("passes before the kernel", "rotation, copies, quantisation", without("prefill", passes=0.0)),
    (*TRAFFIC, endless_memory),
    (
        "block start and end",
        "of every tile of queries",
        without("prefill", block_setup_s=0.0, dim_setup_s=0.0),
    ),
    ("keys behind the mask", "visited in vain", without("prefill", masked_keys=0.0)),
    ("exponentials", "of the softmax", endless_exponentials),
    (
        "padded head size",
        "to the step of the kernel",
        without("prefill", head_step=1, head_powers=False),
    ),
    (
        "inner loop below peak",
        "share of peak of this kernel",
        without("prefill", efficiency=1.0, head_exponent=0.0),
    ),
)
WAYS = {"memory": endless_memory, "compute": joined(endless_arithmetic, endless_exponentials)}


def explain_prefill(
    site: Site,
    q_len: int,
    heads: int,
    head_dim: int,
    batch: int = 1,
    kv_len: int | None = None,
    kv_heads: int | None = None,
    kv_dtype: str | None = None,
    window: int = 0,
) -> Explanation:
    """Account for causal attention over prompts, the passes that feed it included.

    Parameters
    ----------
    site : Site
    q_len, heads, head_dim, batch : int
        New tokens of a prompt, query heads on this GPU, their width, prompts; at least 1.
    kv_len, kv_heads : int, optional
        All tokens of a prompt, and heads of keys; as many as new ones and as heads by default.
    kv_dtype : str, optional
        Of the cache; by default that of the arithmetic.
    window : int
        Keys that a query sees at most; 0 is all.

    Returns
    -------
    Explanation
        Parts: arithmetic at peak, masked tiles and uneven blocks, inner loop below peak,
        exponentials, start of blocks, traffic, passes, floor.
    """
    keys, key_heads, cache = kv_len or q_len, kv_heads or heads, kv_dtype or site.dtype
    check_divides("--kv-heads", key_heads, "--heads", heads)
    check_keys(q_len, keys)
    _check(site, head_dim)
    sizes = {"batch": batch, "q_len": q_len, "kv_len": keys, "heads": heads}
    sizes |= {"kv_heads": key_heads, "head_dim": head_dim, "window": window}
    columns = {name: column(size) for name, size in sizes.items()}
    shapes = AttentionShapes(**columns, causal=np.ones(1, dtype=np.bool_))
    section = str(prefill_sections(site.dtype, cache, shapes.head_dim)[0])
    used = key_of(site.profile.prefill, pick("prefill", site.profile.prefill, section))
    group = site.profile.prefill[used]
    price = _price(shapes, site.dtype, cache)
    causes, bare = taken_apart(price, site, PREFILL_CAUSES)
    flop = 4.0 * batch * heads * head_dim * pairs_seen(q_len, keys, True, window)
    peak_s = flop / matrix_peak(site.device, group.arithmetic or site.dtype)
    first = Term("arithmetic at peak", peak_s, "of the keys that queries see")
    why = "tiles cut by the mask, waiting SMs"
    terms = [first, Term("masked tiles, uneven blocks", price(bare) - peak_s, why)]
    terms += reversed(causes)
    names = [f"attention prefill {used}", "attention prefill"]
    moved = batch * head_dim * q_len * heads * (SOURCE_BYTES + dtype_bytes(site.dtype))
    moved += 2.0 * batch * head_dim * keys * key_heads * dtype_bytes(cache)
    found = explanation(
        site,
        (
            "prefill",
            f"prefill batch={batch} q={q_len} kv={keys} heads={heads}/{key_heads} d={head_dim} "
            f"{site.dtype}, {cache} cache",
            bound_of(price, site, WAYS, seconds_of(terms, FLOOR[0])),
        ),
        (flop, moved),
        (price(site), None),
        terms,
        trust_in(site.profile, "prefill", names),
    )
    tile = int(tiles(padded_heads(shapes.head_dim, group), group)[0])
    facts = {
        "coefficients": used,
        "query_tile": tile,
        "thread_blocks": batch * heads * -(-q_len // tile),
        "keys_seen_fraction": pairs_seen(q_len, keys, True, window) / (float(q_len) * keys),
    }
    return replace(
        found,
        cold_s=float(_times(shapes, site, site.dtype, cache, warm=False).total_s[0]),
        facts=facts | _bounds(_times(shapes, site, site.dtype, cache)),
        hints=_hints(site, shapes, cache, found),
        notes=(*stand_in_notes(section, used), *cache_notes(found)),
    )


def _bounds(times: AttentionTimes) -> dict[str, float]:
    return {"all_blocks_s": float(times.compute_s[0]), "traffic_s": float(times.memory_s[0])}


def _check(site: Site, head_dim: int) -> None:
    check_group(site.profile, "prefill", "attention over prompts")
    if site.dtype not in ARITHMETIC:
        raise ModelDomainError(
            f"--dtype {site.dtype}: kernels of prompts compute in {', '.join(ARITHMETIC)}\n"
            f"  fix: use one of them"
        )
    if head_dim > LONGEST_HEAD:
        raise ModelDomainError(
            f"--head-dim {head_dim} is outside the model's domain\n  fix: use 1 to {LONGEST_HEAD}"
        )


def _times(
    shapes: AttentionShapes, site: Site, dtype: str, cache: str, warm: bool = True
) -> AttentionTimes:
    return prefill_s(shapes, site.device, site.profile, dtype, cache, warm)


def _price(shapes: AttentionShapes, dtype: str, cache: str) -> Price:
    return lambda site: float(_times(shapes, site, dtype, cache).total_s[0])


def _hints(site: Site, shapes: AttentionShapes, cache: str, now: Explanation) -> tuple[Hint, ...]:
    """More prompts, longer ones, narrower arithmetic."""
    longer = replace(
        shapes, q_len=2.0 * shapes.q_len, kv_len=2.0 * shapes.kv_len, window=2.0 * shapes.window
    )
    twice = replace(shapes, batch=2.0 * shapes.batch)
    tries = [("twice the batch", _price(twice, site.dtype, cache)(site), 2.0)]
    if not shapes.window[0]:
        whole = pairs_seen(int(longer.q_len[0]), int(longer.kv_len[0]), True, 0)
        work = whole / pairs_seen(int(shapes.q_len[0]), int(shapes.kv_len[0]), True, 0)
        time_s = _price(longer, site.dtype, cache)(site)
        tries.append(("prompts of twice the length", time_s, work))
    if site.dtype != "fp8" and {"fp8"} <= set(site.profile.prefill) & set(site.device.matrix_peak):
        tries.append(("fp8 arithmetic and cache", _price(shapes, "fp8", "fp8")(site), 1.0))
    return gains(tries, now.time_s)
