"""Time of the expert layers of an iteration, with the kernels that an engine has for their format.

Loads of the fullest rank come from `expert_loads`, the time of one layer from `cost/compute/moe`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.moe import ExpertShape, moe_row, moe_s
from clustersim.cost.serving.expert_loads import LoadTable
from clustersim.cost.serving.site import Site
from clustersim.errors import ModelDomainError
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile
from clustersim.spec.serving_engine import ServingEngine
from clustersim.workload.iteration import ExpertLayers

Array = NDArray[np.float64]

# Kernels of expert layers that a library has for a format, beside those measured in that format
# itself: their coefficients with the bytes of the format. Engines run the fastest; those whose own
# kernels were measured (`measured_experts`) run no other.
EXPERT_KERNELS = {
    "fp16": ("bf16",),
    "fp8": ("fp8_block",),
    "fp8_block": ("fp8",),
    "w4a16_int": ("w4a16_mxfp4", "bf16"),
    "w4a16_mxfp4": ("w4a16_int", "bf16"),
    "w4a8_mxfp4_mxfp8": ("fp8",),
}
GENERATED = "nvfp4_min_latency"  # generated kernels, measured in this format alone


def experts_s(layers: ExpertLayers, loads: LoadTable, site: Site, engine: ServingEngine) -> Array:
    """Time of all layers of experts with the fastest kernel of each batch.

    Parameters
    ----------
    layers : ExpertLayers
        Its `count` is applied.
    loads : LoadTable
        By tokens of all ranks.
    site : Site
    engine : ServingEngine
        Says which kernels a library has.

    Returns
    -------
    ndarray (draws, tokens)
        Each draw stands for all layers. [s]

    Raises
    ------
    ModelDomainError
        The profile has no coefficients of experts, or the device no matrix units for the format.
    """
    one = np.ones_like(loads.tokens)
    shape = ExpertShape(
        hidden=layers.hidden * one,
        intermediate=layers.intermediate * one,
        experts=layers.experts.experts / layers.ranks * one,
        gated=np.full(one.size, layers.gated),
    )
    draws_s = np.full((loads.routed.shape[0], one.size), np.inf)
    own = layers.deepgemm or engine.measured_experts
    kernels = expert_kernels(layers.dtype, site.device, site.profile, engine, own)
    for dtype, profile in kernels:
        row = moe_row(site.device, profile, dtype)
        computed = profile.moe[dtype].computed
        for draw in range(draws_s.shape[0]):
            if layers.padded:
                load = loads.padded_loads(layers.experts, layers.ranks, draw)
            else:
                load = loads.loads(layers.experts, draw, computed)
            own_s = moe_s(shape, load, row)[0]
            np.minimum(draws_s[draw], own_s, out=draws_s[draw])
    return layers.count * draws_s


def expert_kernels(
    dtype: str, device: Device, profile: Profile, engine: ServingEngine, own: bool
) -> list[tuple[str, Profile]]:
    """Kernels that a device has for experts of a format.

    Weights are cold: no layer finds its own in L2 when it runs again.

    Parameters
    ----------
    dtype : str
        Format of the experts. mxfp4 takes activations of 8 bits on Blackwell, else of 16; fp16,
        int8 and w8a16_int run as bf16.
    device, profile
        The accelerator and its fitted behaviour.
    engine : ServingEngine
        Formats with generated kernels.
    own : bool
        Kernels of other formats run only where none of this one was measured.

    Returns
    -------
    list of (str, Profile)
        Format, and a profile that prices it with the coefficients of one kernel; at least one.

    Raises
    ------
    ModelDomainError
        If the profile has no coefficients of experts that could stand in.
    """
    if dtype == "mxfp4":
        wide = device.architecture == "blackwell"
        dtype = "w4a8_mxfp4_mxfp8" if wide else "w4a16_mxfp4"
    elif dtype in ("fp16", "int8", "w8a16_int"):
        dtype = "bf16"
    names = [dtype]
    if not (own and dtype in profile.moe):
        names += EXPERT_KERNELS.get(dtype, ())
    if dtype in engine.generated_experts:
        names.append(GENERATED)
    known = [key for key in names if key in profile.moe]
    if not known and "bf16" in profile.moe:
        known = ["bf16"]
    if not known:
        raise ModelDomainError(
            f"profile {profile.name}: no coefficients of expert layers; use a device of which "
            "they were measured, or a profile of your own (clustersim calibrate)"
        )
    cold = {"cache_ratio": 1.0}
    tables = [{dtype: profile.moe[key].model_copy(update=cold)} for key in known]
    return [(dtype, profile.model_copy(update={"moe": table})) for table in tables]
