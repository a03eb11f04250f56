"""Multi-head latent attention: over a prompt, over a cache, and as a whole block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from clustersim.cost.compute.gemm import dtype_bytes, matrix_peak
from clustersim.cost.compute.mla import (
    BYTES,
    WIDE,
    WIDE_HEADS,
    MlaShapes,
    mla_cache_s,
    mla_prefill_s,
)
from clustersim.cost.compute.mla_module import MlaBlock, Product, mla_module_s, products
from clustersim.cost.compute.quantised import FORMATS, RESULT_BYTES, format_on, math_dtype
from clustersim.cost.explain.checks import check_group, check_keys, key_of, stand_in_notes
from clustersim.cost.explain.parts import (
    FLOOR,
    TRAFFIC,
    Cause,
    Roofs,
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
    under_roofs,
    without,
)
from clustersim.cost.explain.record import Explanation, Hint, Site, Term
from clustersim.errors import ModelDomainError
from clustersim.spec.suggest import did_you_mean

no_block_setup = without("mla_prefill", block_setup_s=0.0)
PROMPT = Roofs(
    first=(
        (*FLOOR, without("mla_prefill", kernel_floor_s=0.0)),
        ("passes before the kernel", "rotation, copies", without("mla_prefill", serial_passes=0.0)),
    ),
    of_memory=(
        (
            "arithmetic and blocks",
            "beyond what the traffic hides",
            joined(no_block_setup, endless_arithmetic),
        ),
        ("memory below peak", "share of bandwidth", without("mla_prefill", memory_efficiency=1.0)),
    ),
    of_compute=(
        (*TRAFFIC, endless_memory),
        ("block start and end", "of every tile of queries", no_block_setup),
        ("longest block", "which others wait for", without("mla_prefill", tail_ratio=0.0)),
        ("inner loop below peak", "share of peak", without("mla_prefill", efficiency=1.0)),
    ),
    traffic=("traffic at peak", "queries, keys, values and results"),
    unused=("masked tiles", "cut by the mask, or beyond the prompt"),
)
CACHE = Roofs(
    first=(
        (*FLOOR, without("mla_decode", kernel_floor_s=0.0)),
        ("bookkeeping", "of sequences and groups of heads", without("mla_decode", group_s=0.0)),
        ("queries and results", "in and out", without("mla_decode", query_passes=0.0)),
        ("splits", "blocks that share a sequence", without("mla_decode", split_overhead_s=0.0)),
        ("longest block", "keys of one block in turn", without("mla_decode", key_s=0.0)),
    ),
    of_memory=(
        ("arithmetic", "beyond what the traffic hides", endless_arithmetic),
        ("cache read again", "by groups of heads", without("mla_decode", group_reads=0.0)),
        ("memory below peak", "share of bandwidth", without("mla_decode", memory_efficiency=1.0)),
    ),
    of_compute=(
        (*TRAFFIC, endless_memory),
        ("inner loop below peak", "share of peak", without("mla_decode", efficiency=1.0)),
    ),
    traffic=("traffic at peak", "the latents once"),
    unused=("padding", "tiles of heads, pages of keys"),
)
SMALL = ("small operators", "norms, copies, what is left of launches")
BLOCK_CAUSES: tuple[Cause, ...] = (
    (*SMALL, without("mla_module", small_operators_s=0.0)),
    ("activations", "moved between operators", without("mla_module", passes=0.0)),
    ("attention", "", without("mla_module", attention_ratio=0.0)),
    ("products", "", without("mla_module", projection_ratio=0.0)),
)
WORDS = {"prefill": "over prompts", "decode": "over a cache"}


@dataclass(frozen=True)
class _Call:
    """A core or a whole block of latent attention on one rank."""

    batch: int
    q_len: int
    kv_len: int
    heads: int
    block: MlaBlock
    whole: bool

    @property
    def shapes(self) -> MlaShapes:
        """Columns of one row."""
        sizes = (self.batch, self.q_len, self.kv_len, self.heads)
        return MlaShapes(*(column(size) for size in sizes))

    @property
    def group(self) -> str:
        """Of the kernels' coefficients in a profile."""
        return f"mla_{self.block.phase}"

    def price(self, site: Site) -> float:
        """Time of the call.

        Parameters
        ----------
        site : Site
            Its profile has the coefficients of the phase and of the cache's datatype.

        Returns
        -------
        float
            Of the whole block with `whole`, else of the core. [s]
        """
        block, where = self.block, (site.device, site.profile)
        if self.whole:
            return float(mla_module_s(self.shapes, block, *where)[0])
        if block.phase == "decode":
            found = mla_cache_s(self.shapes, block.sizes, block.kv_dtype, *where, block.library)
            return float(found[0])
        c = site.profile.mla_prefill[block.kv_dtype]
        return float(mla_prefill_s(self.shapes, block.sizes, block.kv_dtype, site.device, c)[0])


def explain_mla(
    site: Site,
    phase: str,
    heads: int,
    batch: int = 1,
    q_len: int | None = None,
    kv_len: int | None = None,
    kv_dtype: str = "bf16",
    whole: bool = False,
    gemm_dtype: str = "bf16",
) -> Explanation:
    """Account for latent attention of the widths of DeepSeek-V3, its core or the whole block.

    Parameters
    ----------
    site : Site
    phase : str
        "prefill" or "decode", of one new token a sequence.
    heads, batch : int
        Heads on this GPU, and sequences; at least 1.
    q_len, kv_len : int, optional
        New tokens of a sequence, which a prefill needs, and all of them, which decoding needs.
    kv_dtype : str
        Of the cache, and of the products of the core where the device has it.
    whole : bool
        With projections and small operators, not the core alone.
    gemm_dtype : str
        Of the projections of a whole block.

    Returns
    -------
    Explanation
        Parts of a core as of other attention; of a block: products and attention, each at the
        roof and beyond it, activations, small operators.
    """
    new, keys = _lengths(phase, q_len, kv_len)
    block = MlaBlock(phase, kv_dtype, gemm_dtype)
    call = _Call(batch, new, keys, heads, block, whole)
    site = replace(site, dtype=_arithmetic(site, call))
    roofs, work = PROMPT if phase == "prefill" else CACHE, _core_work(call)
    if whole:
        terms, work = _block_terms(site, call, work)
    else:
        peak_s = work[0] / matrix_peak(site.device, site.dtype)
        terms = under_roofs(call.price, site, roofs, peak_s)
    bound = bound_of(call.price, site, roofs.ways, seconds_of(terms, FLOOR[0], SMALL[0]))
    what = f"mla {'block' if whole else 'core'} {phase}"
    shape = f"batch={batch} q={new} kv={keys} heads={heads}"
    dtypes = f"{kv_dtype} cache" + (f", {gemm_dtype} products" if whole else "")
    group = "mla_module" if whole else call.group
    names = [f"mla_module, {phase}"] if whole else [f"{group}, {kv_dtype} cache"]
    found = explanation(
        site,
        ("mla", f"{what} {shape} {dtypes}", bound),
        work,
        (call.price(site), None),
        terms,
        trust_in(site.profile, group, [*names, group]),
    )
    facts, notes = _facts(site, call)
    notes = (*notes, *cache_notes(found))
    return replace(found, facts=facts, hints=_hints(site, call, found), notes=notes)


def _lengths(phase: str, q_len: int | None, kv_len: int | None) -> tuple[int, int]:
    """New and all tokens of a sequence."""
    if phase == "decode":
        if q_len not in (None, 1):
            raise ModelDomainError(
                f"--q-len {q_len}: decoding has one new token a sequence\n  fix: leave --q-len out"
            )
        if kv_len is None:
            raise ModelDomainError("decoding needs keys\n  fix: give --kv-len")
        return 1, kv_len
    if q_len is None:
        raise ModelDomainError("a prefill needs new tokens\n  fix: give --q-len")
    check_keys(q_len, kv_len or q_len)
    return q_len, kv_len or q_len


def _arithmetic(site: Site, call: _Call) -> str:
    """Datatype of the matrix units, after what a device cannot price is refused."""
    block, profile = call.block, site.profile
    what = f"latent attention {WORDS[block.phase]}"
    check_group(profile, call.group, what, block.kv_dtype)
    if not call.whole:
        return block.kv_dtype if block.kv_dtype in site.device.matrix_peak else "bf16"
    check_group(profile, "mla_module", "blocks of latent attention", block.phase)
    if block.gemm_dtype not in FORMATS:
        hint = did_you_mean(block.gemm_dtype, FORMATS)
        raise ModelDomainError(f"--gemm-dtype `{block.gemm_dtype}` is not known\n  fix: {hint}")
    return math_dtype(site.device, block.gemm_dtype)


def _core_work(call: _Call) -> tuple[float, float]:
    """Arithmetic of the core, and its least traffic. [FLOP], [bytes]"""
    s, block = call.block.sizes, call.block
    rows = float(call.batch) * call.heads
    if block.phase == "prefill":
        width = s.key + s.rotary + s.value
        pairs = pairs_seen(call.q_len, call.kv_len, True, 0)
        return 2.0 * rows * width * pairs, BYTES * rows * width * (call.q_len + call.kv_len)
    width = 2.0 * s.latent + s.rotary
    cached = float(call.batch) * call.kv_len * (s.latent + s.rotary) * dtype_bytes(block.kv_dtype)
    return 2.0 * rows * width * call.kv_len, cached + BYTES * rows * width


def _block_terms(
    site: Site, call: _Call, core: tuple[float, float]
) -> tuple[list[Term], tuple[float, float]]:
    """Parts of a whole block, and its work."""
    causes, _ = taken_apart(call.price, site, BLOCK_CAUSES)
    seconds = {term.name: term.seconds for term in causes}
    projections, absorbed = products(call.shapes, call.block)
    of_products = [
        *_roofs(site, projections, call.block.gemm_dtype),
        *_roofs(site, absorbed, "bf16"),
    ]
    unit = call.block.kv_dtype if call.block.kv_dtype in site.device.matrix_peak else "bf16"
    bandwidth = site.device.memory_bandwidth
    core_s = max(core[0] / matrix_peak(site.device, unit), core[1] / bandwidth)
    terms = []
    for name, roof_s in (("products", sum(s for _, _, s in of_products)), ("attention", core_s)):
        at_s = min(roof_s, seconds[name])  # what L2 holds is read faster than memory
        terms.append(Term(f"{name} at the roof", at_s, "arithmetic or operands at peak"))
        terms.append(Term(f"{name} beyond it", seconds[name] - at_s, "kernels below their peaks"))
    terms += [term for term in reversed(causes) if term.name not in ("products", "attention")]
    flop, moved = (core[i] + sum(each[i] for each in of_products) for i in (0, 1))
    return terms, (flop, moved)


def _roofs(site: Site, found: Sequence[Product], dtype: str) -> list[tuple[float, float, float]]:
    """Arithmetic [FLOP], least traffic [bytes] and the longer time of both [s] of products."""
    form, out = format_on(site.device, dtype), []
    for product in found:
        m, n, k, batch = (float(dim[0]) for dim in product)
        flop = 2.0 * m * n * k * batch
        elements = m * k * form.activation_bytes + k * n * form.weight_bytes + m * n * RESULT_BYTES
        moved = batch * elements
        at_peak_s = flop / matrix_peak(site.device, math_dtype(site.device, dtype))
        out.append((flop, moved, max(at_peak_s, moved / site.device.memory_bandwidth)))
    return out


def _facts(site: Site, call: _Call) -> tuple[dict[str, Any], tuple[str, ...]]:
    """How the call runs, and what to know of its coefficients."""
    block, sizes, profile = call.block, call.block.sizes, site.profile
    wide = f"{block.kv_dtype}{WIDE}"
    is_wide = block.phase == "decode" and wide in profile.mla_decode and call.heads >= WIDE_HEADS
    expanded = block.phase == "prefill"
    facts: dict[str, Any] = {
        "coefficients": wide if is_wide else block.kv_dtype,
        "keys_and_values": "expanded to heads" if expanded else "read as latents",
        "numbers_of_a_key": (sizes.key if expanded else sizes.latent) + sizes.rotary,
    }
    notes = ["widths are those of DeepSeek-V3"]
    if call.whole:
        found = key_of(profile.gemm, profile.gemm_coefficients(block.gemm_dtype))
        notes += stand_in_notes(block.gemm_dtype, found)
        if site.dtype not in ("bf16", "fp16"):
            notes.append(f"the share is of the {site.dtype} peak; attention may run in 16 bits")
    return facts, tuple(notes)


def _hints(site: Site, call: _Call, now: Explanation) -> tuple[Hint, ...]:
    """More sequences, a narrower cache, narrower products."""
    tries = [("twice the batch", replace(call, batch=2 * call.batch).price(site), 2.0)]
    table = getattr(site.profile, call.group)
    if call.block.kv_dtype != "fp8" and "fp8" in table:
        narrow = replace(call, block=replace(call.block, kv_dtype="fp8"))
        tries.append(("an fp8 cache", narrow.price(site), 1.0))
    for name in ("fp8_block", "nvfp4"):
        if call.whole and name != call.block.gemm_dtype and name in site.profile.gemm:
            narrow = replace(call, block=replace(call.block, gemm_dtype=name))
            tries.append((f"{name} products", narrow.price(site), 1.0))
    return gains(tries, now.time_s)
