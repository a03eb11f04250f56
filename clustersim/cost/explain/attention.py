"""One fused attention core: blocks, masks, generations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from clustersim.cost.compute.attention import BACKWARD_FLOP
from clustersim.cost.compute.gemm import dtype_bytes, matrix_peak
from clustersim.cost.explain.checks import check_divides, check_keys
from clustersim.cost.explain.parts import (
    FLOOR,
    TRAFFIC,
    Cause,
    better_hints,
    endless_memory,
    explained,
    pairs_seen,
    price_of,
    taken_apart,
    time_of,
    without,
)
from clustersim.cost.explain.record import Explanation, Hint, Site, Term
from clustersim.errors import ModelDomainError
from clustersim.spec.profile import Profile
from clustersim.workload.operators import Category, Kernel, KernelKind

LONGEST_HEAD = 256  # head size that the model of attention is stated for
ATTENTION_CAUSES: tuple[Cause, ...] = (
    (*FLOOR, without("attention", kernel_floor_s=0.0)),
    (*TRAFFIC, endless_memory),
    ("block start and end", "of every tile of queries", without("attention", tile_setup_s=0.0)),
    (
        "inner loop below peak",
        "share of peak of this generation",
        without("attention", forward_efficiency=1.0, backward_efficiency=1.0, head_dim_penalty=0.0),
    ),
)


def explain_attention(
    site: Site,
    batch: int,
    q_len: int,
    heads: int,
    head_dim: int,
    kv_len: int | None = None,
    kv_heads: int | None = None,
    causal: bool = False,
    window: int = 0,
    backward: bool = False,
    generation: str = "",
) -> Explanation:
    """Account for a fused attention core, softmax(Q K^T) V.

    Parameters
    ----------
    site : Site
    batch, q_len, heads, head_dim : int
        At least 1.
    kv_len, kv_heads : int, optional
        As many as queries and heads by default.
    causal, backward : bool
    window : int
        Keys that a query sees at most; 0 is all.
    generation : str
        Of the kernels, a key of the profile; by default the fastest that it has.

    Returns
    -------
    Explanation
    """
    keys, key_heads = kv_len or q_len, kv_heads or heads
    _check_attention(q_len, keys, heads, key_heads, head_dim, causal)
    kernel = _core(
        site,
        batch=batch,
        q_len=q_len,
        kv_len=keys,
        heads=heads,
        kv_heads=key_heads,
        head_dim=head_dim,
        causal=causal,
        window=window,
        backward=backward,
        generation=generation or _fastest(site.profile, backward),
    )
    causes, bare = taken_apart(price_of(kernel), site, ATTENTION_CAUSES)
    peak_s = kernel.flop / matrix_peak(site.device, site.dtype)
    terms = [
        Term("arithmetic at peak", peak_s, "of the keys that queries see"),
        Term(
            "masked tiles, uneven blocks",
            time_of(kernel, bare) - peak_s,
            "tiles cut by the mask, waiting SMs",
        ),
        *reversed(causes),
    ]
    side = "backward" if backward else "forward"
    names = [f"attention {side}", f"attention {side}, training kernels"]
    if not backward and q_len >= 2048:
        names.insert(0, "attention forward, q >= 2048")
    title = f"attention {side} batch={batch} q={q_len} kv={keys} heads={heads}/{key_heads}"
    found = explained(kernel, site, f"{title} d={head_dim} {site.dtype}", terms, names)
    group = site.profile.attention_coefficients(kernel.variant)
    blocks = batch * heads * -(-q_len // group.q_tile)
    return replace(
        found,
        facts={
            "generation": kernel.variant,
            "mask": "causal" if causal else "none",
            "query_tile": group.q_tile,
            "thread_blocks": blocks,
            "thread_blocks_per_sm": blocks / site.device.sms,
            "keys_seen_fraction": pairs_seen(q_len, keys, causal, window) / (float(q_len) * keys),
        },
        rejected=_generations(kernel, site),
        hints=_attention_hints(kernel, site, found),
    )


def _check_attention(
    q_len: int, kv_len: int, heads: int, kv_heads: int, head_dim: int, causal: bool
) -> None:
    check_divides("--kv-heads", kv_heads, "--heads", heads)
    if causal:
        check_keys(q_len, kv_len)
    if head_dim > LONGEST_HEAD:
        raise ModelDomainError(
            f"--head-dim {head_dim} is outside the model's domain\n  fix: use 1 to {LONGEST_HEAD}"
        )


def _fastest(profile: Profile, backward: bool) -> str:
    name = "backward_efficiency" if backward else "forward_efficiency"
    if not profile.attention:
        raise ModelDomainError(
            f"profile {profile.name} has no coefficients of fused attention\n"
            "  fix: explain the two batched products and the softmax apart (gemm, elementwise)"
        )
    return max(sorted(profile.attention), key=lambda key: getattr(profile.attention[key], name))


def _core(site: Site, backward: bool, generation: str, **shape: Any) -> Kernel:
    pairs = pairs_seen(shape["q_len"], shape["kv_len"], shape["causal"], shape["window"])
    width = float(shape["batch"]) * shape["head_dim"]
    queries = width * shape["q_len"] * shape["heads"]
    keys = width * shape["kv_len"] * shape["kv_heads"]
    forward = 4.0 * width * shape["heads"] * pairs
    return Kernel(
        name="attention",
        kind=KernelKind.ATTENTION_BACKWARD if backward else KernelKind.ATTENTION_FORWARD,
        category=Category.ATTENTION,
        dtype=site.dtype,
        flop=forward * (BACKWARD_FLOP if backward else 1.0),
        bytes=(4.0 if backward else 2.0) * (queries + keys) * dtype_bytes(site.dtype),
        variant=generation,
        **shape,
    )


def _generations(kernel: Kernel, site: Site) -> tuple[Term, ...]:
    others = [name for name in site.profile.attention if name != kernel.variant]
    terms = [Term(name, time_of(replace(kernel, variant=name), site)) for name in others]
    return tuple(sorted(terms, key=lambda term: term.seconds))


def _attention_hints(kernel: Kernel, site: Site, now: Explanation) -> tuple[Hint, ...]:
    backward = kernel.kind is KernelKind.ATTENTION_BACKWARD
    shape = {
        name: getattr(kernel, name)
        for name in ("batch", "q_len", "kv_len", "heads", "kv_heads", "head_dim", "causal")
    } | {"window": kernel.window}
    changes: list[tuple[str, dict[str, int]]] = [
        ("twice the batch", {"batch": 2 * kernel.batch}),
        ("twice the queries and keys", {"q_len": 2 * kernel.q_len, "kv_len": 2 * kernel.kv_len}),
    ]
    if kernel.head_dim < 128 and kernel.heads * kernel.head_dim % 128 == 0:
        fewer = kernel.heads * kernel.head_dim // 128
        heads = {"head_dim": 128, "heads": fewer, "kv_heads": min(kernel.kv_heads, fewer)}
        if fewer % heads["kv_heads"] == 0:
            changes.append((f"{fewer} heads of 128, same width", heads))
    tries = [
        (text, _core(site, backward, kernel.variant, **{**shape, **change}))
        for text, change in changes
    ]
    return better_hints(site, tries, now.flop_per_s)
