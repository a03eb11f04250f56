"""What the power limit leaves to matrix products that share a step with cooler work.

A stream of long matrix products runs at the power limit, below the boost clock: the profile's
`power_fraction` and `training_clock_fraction` say how far below. In a training step memory-bound
kernels and communication draw less than the limit, the regulator averages over them, and products
may draw more. What they gain follows from the cubic law of dynamic power.

Left out: the time constant of the regulator (averaged over a step's passes), temperature, and the
spread of silicon, which belongs to the fleet.

References
----------
.. [1] POLCA, arXiv:2308.12908: an A100 with nothing to do draws 0.2 of its limit; 0.2 to 0.75 where
   training iterations synchronise (GPT-NeoX 0.5).
.. [2] ML.ENERGY, arXiv:2505.06371: memory-bound decoding of one GPU (batch 8) draws 427 to 443 W of
   700 W on H100 and 646 to 760 W of 1,000 W on B200, 0.61 to 0.76 of the limit.
"""

from __future__ import annotations

STATIC_SHARE = 0.2  # of the limit, idle with a context [1]
MEMORY_SHARE = 0.62  # of the limit, memory-bound kernels [2]
WAITING_SHARE = 0.5  # of the limit, communicating [1]
ATTENTION_SHARE = 0.95  # of the limit, attention over a KV cache; fitted to [2]
LEAST_DYNAMIC = 0.05**3  # assumed: a limit near the static power still leaves a twentieth


def product_headroom(product_s: float, memory_s: float, waiting_s: float) -> float:
    """FLOP/s that products sustain in a mix, over what they sustain in an unbroken stream.

    Parameters
    ----------
    product_s, memory_s, waiting_s : float
        Time of a step's passes in matrix products (fused attention among them), in memory-bound
        kernels, and communicating or idle. [s]

    Returns
    -------
    float
        At least 1; 1 where there is nothing but products.

    Notes
    -----
    With shares u, v, w of the three, products draw x times the limit where
    ``u x + v MEMORY_SHARE + w WAITING_SHARE = 1``; dynamic power goes with the cube of the clock:
    ``((x - STATIC_SHARE) / (1 - STATIC_SHARE))^(1/3)``. Products that do not reach the limit are
    bounded by their own main loop.
    """
    total_s = product_s + memory_s + waiting_s
    if product_s <= 0.0:
        return 1.0
    cool_s = MEMORY_SHARE * memory_s + WAITING_SHARE * waiting_s
    drawn = (total_s - cool_s) / product_s
    return float(((drawn - STATIC_SHARE) / (1.0 - STATIC_SHARE)) ** (1.0 / 3.0))


def limit_factor(power_limit_w: float, reference_w: float) -> float:
    """FLOP/s that products sustain under another power limit, over those under the reference.

    Parameters
    ----------
    power_limit_w, reference_w : float
        Limit of the device, and of the device whose profile it uses. [W]

    Returns
    -------
    float
        The cubic law of `product_headroom`; at least what static power leaves of nothing, 0.05.
    """
    drawn = (power_limit_w / reference_w - STATIC_SHARE) / (1.0 - STATIC_SHARE)
    return float(max(drawn, LEAST_DYNAMIC) ** (1.0 / 3.0))


def serving_power_share(
    products_s: float, attention_s: float, waiting_s: float, reached: float
) -> float:
    """Mean power of a GPU that serves, over its limit.

    Parameters
    ----------
    products_s, attention_s, waiting_s : float
        Time in matrix products and passes, in attention, and waiting for GPUs or the host. [s]
    reached : float
        Share of the matrix peak that the products reach in their time.

    Returns
    -------
    float

    Notes
    -----
    Products draw `MEMORY_SHARE` while they wait for weights, and as much more of the limit as they
    reach of the peak, to the limit; attention `ATTENTION_SHARE`, waiting `WAITING_SHARE`. Slope and
    attention's share were fitted to 84 steady runs of [2] on H100 and B200: 13 % mean error, 7 %
    median, with either device held out 16 %.
    """
    total_s = products_s + attention_s + waiting_s
    if total_s <= 0.0:
        return WAITING_SHARE
    level = min(1.0, MEMORY_SHARE + reached)
    drawn_s = level * products_s + ATTENTION_SHARE * attention_s + WAITING_SHARE * waiting_s
    return drawn_s / total_s
