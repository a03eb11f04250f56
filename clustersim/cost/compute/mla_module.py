"""Time of a whole block of latent attention: projections, attention, small operators.

The input is projected down to latents, these up to heads; over a prompt keys and values are
expanded, over a cache two small batched products absorb the expansion [1]_; the output is projected
back. Products are priced as anywhere else, attention by its kernel, and what a framework adds
around them by two coefficients of a phase. Left out: streams that run operators side by side.

References
----------
.. [1] DeepSeek-AI, "DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language
   Model," arXiv:2405.04434, 2024, section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.mla import MlaShapes, MlaSizes, mla_cache_s, mla_prefill_s, of_cache
from clustersim.cost.compute.quantised import repeated_s
from clustersim.errors import ModelDomainError
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile

Array = NDArray[np.float64]
Product = tuple[Array, Array, Array, Array]
DEEPSEEK_V3 = MlaSizes()
BYTES = 2.0  # activations between operators are 16-bit


@dataclass(frozen=True)
class MlaBlock:
    """What is common to blocks that are priced together."""

    phase: str  # "prefill" or "decode"
    kv_dtype: str
    gemm_dtype: str
    sizes: MlaSizes = DEEPSEEK_V3
    library: str = ""  # of the decoding kernel, where not the usual one: "triton"


def mla_module_s(shapes: MlaShapes, block: MlaBlock, device: Device, profile: Profile) -> Array:
    """Time of blocks of latent attention on one rank.

    Parameters
    ----------
    shapes : MlaShapes
        Sequences and heads of the rank; a decoding block has one new token a sequence.
    block : MlaBlock
        Phase, datatypes and widths. Absorbed products stay in 16 bits.
    device, profile
        The accelerator and its fitted behaviour: products, latent attention, the block itself.

    Returns
    -------
    ndarray (n,)
        Time of one block. [s]

    Raises
    ------
    ModelDomainError
        The profile has no coefficients of blocks of this phase or of attention over a cache of this
        datatype, or the device no matrix units for a datatype.

    Notes
    -----
    projection_ratio (sum of products) + attention_ratio attention + small_operators + passes
    (activations / bandwidth). Products count without their floors: in a stream of kernels one
    starts while the other ends, and what is left of their launches is in small_operators. A sum of
    times that each grow with every shape.
    """
    c = profile.mla_module[_known(profile, block.phase)]
    products_s, attention_s = module_parts_s(shapes, block, device, profile)
    tokens, s = shapes.batch * shapes.q_len, block.sizes
    shared = 2.0 * s.hidden + s.query_latent + s.latent + s.rotary
    of_heads = shapes.heads * (s.key + s.rotary + s.value)
    moved_s = BYTES * tokens * (shared + of_heads) / device.memory_bandwidth
    return np.asarray(
        c.projection_ratio * products_s
        + c.attention_ratio * attention_s
        + c.small_operators_s
        + c.passes * moved_s
    )


def module_parts_s(
    shapes: MlaShapes, block: MlaBlock, device: Device, profile: Profile
) -> tuple[Array, Array]:
    """Time of the products of a block without their launches, and of its attention alone.

    Parameters
    ----------
    shapes : MlaShapes
        Sequences and heads of the rank.
    block : MlaBlock
        Phase, datatypes and widths. Absorbed products stay in 16 bits.
    device, profile
        The accelerator and its fitted behaviour; the coefficients of the block are not looked at.

    Returns
    -------
    tuple of ndarray (n,)
        Products, attention. [s]

    Raises
    ------
    ModelDomainError
        The device has no matrix units for a datatype, or the profile no coefficients of products or
        of attention over a cache of this datatype.
    """
    s = block.sizes
    streamed = profile.model_copy(
        update={
            "gemm": {
                dtype: c.model_copy(update={"kernel_floor_s": 0.0})
                for dtype, c in profile.gemm.items()
            }
        }
    )
    projections, absorbed = products(shapes, block)
    products_s: Array = np.zeros(shapes.batch.size, dtype=np.float64)
    for product in projections:
        dtype = block.gemm_dtype
        products_s = products_s + repeated_s(product, dtype, device, streamed, dtype, False)
    for product in absorbed:
        products_s = products_s + repeated_s(product, "bf16", device, streamed, "bf16", False)
    if block.phase == "prefill":
        prefill = of_cache(profile.mla_prefill, block.kv_dtype, "mla_prefill", profile)
        return products_s, mla_prefill_s(shapes, s, block.kv_dtype, device, prefill)
    return products_s, mla_cache_s(shapes, s, block.kv_dtype, device, profile, block.library)


def products(shapes: MlaShapes, block: MlaBlock) -> tuple[list[Product], list[Product]]:
    """Projections and absorbed products of a block.

    Parameters
    ----------
    shapes : MlaShapes
        Sequences and heads of the rank.
    block : MlaBlock
        Its phase and widths.

    Returns
    -------
    projections, absorbed : list of Product
        Each as (m, n, k, batch), ndarray (n,); over a prompt the expansion of keys and values is
        the last projection and nothing is absorbed.
    """
    s, heads = block.sizes, shapes.heads
    tokens = shapes.batch * shapes.q_len
    one = np.ones_like(tokens)
    down = s.query_latent + s.latent + s.rotary
    projections = [
        (tokens, down * one, s.hidden * one, one),
        (tokens, heads * (s.key + s.rotary), s.query_latent * one, one),
        (tokens, s.hidden * one, heads * s.value, one),
    ]
    if block.phase == "prefill":
        return [*projections, (tokens, heads * (s.key + s.value), s.latent * one, one)], []
    return projections, [
        (tokens, s.latent * one, s.key * one, heads),
        (tokens, s.value * one, s.latent * one, heads),
    ]


def _known(profile: Profile, phase: str) -> str:
    if phase not in profile.mla_module:
        raise ModelDomainError(
            f"profile {profile.name}: no mla_module coefficients for {phase!r}; "
            f"it has {', '.join(sorted(profile.mla_module)) or 'none'}"
        )
    return phase
