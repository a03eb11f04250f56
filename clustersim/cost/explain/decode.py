"""Attention of one new token a sequence over its cache: traffic, thread blocks, splits."""

from __future__ import annotations

import math
from dataclasses import replace

from clustersim.cost.compute.decode import QUERY_BYTES, DecodeShapes, decode_s, kernel_sections
from clustersim.cost.compute.gemm import dtype_bytes
from clustersim.cost.compute.sections import AttentionTimes
from clustersim.cost.explain.checks import check_divides, check_group, key_of, stand_in_notes
from clustersim.cost.explain.parts import (
    FLOOR,
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
    seconds_of,
    taken_apart,
    trust_in,
    without,
)
from clustersim.cost.explain.record import Explanation, Hint, Site, Term
from clustersim.spec.profile_attention import pick

SPLITS = ("combining splits", "of contexts that blocks share")
no_setup = without("decode", block_setup_s=0.0, dim_setup_s=0.0, element_setup_s=0.0)
endless_blocks = joined(endless_arithmetic, without("decode", block_bandwidth=math.inf))
DECODE_CAUSES: tuple[Cause, ...] = (
    (*FLOOR, without("decode", kernel_floor_s=0.0, rotate_s=0.0)),
    (*SPLITS, without("decode", split_overhead_s=0.0, element_combine_s=0.0)),
    ("idle SMs", "places of the last wave", without("decode", wave_share=0.0)),
    ("block start and end", "of every thread block", no_setup),
    ("keys through the SMs", "beyond what the traffic hides", endless_blocks),
    (
        "memory below peak",
        "share of bandwidth of this kernel",
        without("decode", memory_efficiency=1.0, miss_s=0.0),
    ),
)
WAYS = {
    "memory": joined(endless_memory, without("decode", miss_s=0.0)),
    "thread blocks": joined(no_setup, endless_blocks),
}


def explain_decode(
    site: Site,
    batch: int,
    context: int,
    heads: int,
    head_dim: int,
    kv_heads: int | None = None,
    kv_dtype: str | None = None,
    window: int = 0,
) -> Explanation:
    """Account for attention of one new token a sequence over a paged cache.

    Parameters
    ----------
    site : Site
    batch, context, heads, head_dim : int
        Sequences, keys in the cache of each, query heads on this GPU and their width; at least 1.
    kv_heads : int, optional
        As many as heads by default.
    kv_dtype : str, optional
        Of the cache; by default that of the arithmetic, which has 16 bits.
    window : int
        Keys that a query sees at most; 0 is all.

    Returns
    -------
    Explanation
        Parts: traffic at peak and below it, keys through the SMs, start of blocks, idle SMs,
        splits, floor.
    """
    key_heads, cache = kv_heads or heads, kv_dtype or site.dtype
    check_divides("--kv-heads", key_heads, "--heads", heads)
    check_group(site.profile, "decode", "attention while decoding")
    keys = min(window, context) if window else context
    sizes = {"sequences": batch, "total_keys": batch * keys, "longest_keys": keys}
    sizes |= {"longest_context": context, "heads": heads, "kv_heads": key_heads}
    columns = {name: column(size) for name, size in sizes.items()}
    shapes = DecodeShapes(**columns, head_dim=column(head_dim))
    price = _price(shapes, cache)
    causes, bare = taken_apart(price, site, DECODE_CAUSES)
    terms = [
        Term("traffic at peak", price(bare), "keys and values once, beyond L2"),
        *reversed(causes),
    ]
    warm, cold = (_times(shapes, site, cache, is_warm) for is_warm in (True, False))
    used = _coefficients(shapes, site, cache)
    hit = _hit_fraction(warm, cold, site.profile.decode[used].l2_ratio)
    names = [f"attention decode {used}", "attention decode"]
    cached = 2.0 * batch * keys * key_heads * head_dim * dtype_bytes(cache)
    moved = cached + 2.0 * QUERY_BYTES * batch * heads * head_dim
    found = explanation(
        site,
        (
            "decode",
            f"decode batch={batch} context={context} heads={heads}/{key_heads} d={head_dim} "
            f"{cache} cache",
            bound_of(price, site, WAYS, seconds_of(terms, FLOOR[0], SPLITS[0])),
        ),
        (4.0 * batch * keys * heads * head_dim, moved),
        (price(site), None),
        terms,
        trust_in(site.profile, "decode", names),
    )
    return replace(
        found,
        cold_s=float(cold.total_s[0]),
        facts={
            "coefficients": used,
            "query_heads_of_a_kv_head": heads // key_heads,
            "keys_seen": keys,
            "cache_bytes": cached,
            "all_blocks_s": float(warm.compute_s[0]),
            "traffic_beyond_l2_s": round((1.0 - hit) * float(cold.memory_s[0]), 12),
            "l2_hit_fraction": hit,
        },
        hints=_hints(site, shapes, cache, found),
        notes=(*stand_in_notes(cache, used.split("_")[0]), *cache_notes(found)),
    )


def _hit_fraction(warm: AttentionTimes, cold: AttentionTimes, l2_ratio: float | None) -> float:
    """Share of the traffic that a repeated call finds in L2, `l2_ratio` times as fast."""
    saved = 1.0 - float(warm.memory_s[0] / cold.memory_s[0])
    return saved / (1.0 - (0.0 if l2_ratio is None else 1.0 / l2_ratio))


def _times(shapes: DecodeShapes, site: Site, cache: str, warm: bool = True) -> AttentionTimes:
    return decode_s(shapes, site.device, site.profile, cache, warm)


def _price(shapes: DecodeShapes, cache: str) -> Price:
    return lambda site: float(_times(shapes, site, cache).total_s[0])


def _coefficients(shapes: DecodeShapes, site: Site, cache: str) -> str:
    """Key of the profile whose coefficients price this step."""
    section = str(kernel_sections(shapes, site.device, site.profile, cache)[0])
    return key_of(site.profile.decode, pick("decode", site.profile.decode, section))


def _hints(site: Site, shapes: DecodeShapes, cache: str, now: Explanation) -> tuple[Hint, ...]:
    """More sequences, more query heads of a KV head, a narrower cache."""
    twice = replace(shapes, sequences=2.0 * shapes.sequences, total_keys=2.0 * shapes.total_keys)
    tries = [("twice the batch", _price(twice, cache)(site), 2.0)]
    if dtype_bytes(cache) > 1.0 and "fp8" in site.profile.decode:
        tries.append(("an fp8 cache", _price(shapes, "fp8")(site), 1.0))
    if float(shapes.kv_heads[0]) % 2.0 == 0.0:
        fewer = replace(shapes, kv_heads=shapes.kv_heads / 2.0)
        text = f"{fewer.kv_heads[0]:,.0f} KV heads (another model)"
        tries.append((text, _price(fewer, cache)(site), 1.0))
    return gains(tries, now.time_s)
