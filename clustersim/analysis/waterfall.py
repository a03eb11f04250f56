"""From the peak to the MFU: what each part of a step costs.

The step starts as its model FLOP at the device's peak, which is an MFU of 1. Each part of the
breakdown makes the step longer and takes MFU points; the last leaves the MFU of the run. Seconds
and shares do not depend on the order of the parts, points do: early parts take more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from clustersim.analysis.breakdown import KEYS


class Loss(TypedDict):
    """One step down from the peak.

    `key` is "ideal" or a key of the breakdown, `seconds` its time [s] and `share` that over the
    step time; the shares sum to 1, and that of "ideal" is the MFU. `mfu_lost` is what the part
    takes and `mfu_left` what is left below it, as fractions.
    """

    key: str
    seconds: float
    share: float
    mfu_lost: float
    mfu_left: float


def waterfall(
    parts: Mapping[str, float],
    step_time_s: float,
    ideal_s: float,
    ideal_attention_s: float = 0.0,
) -> list[Loss]:
    """Losses from the peak to the MFU, in the order of the breakdown.

    Parameters
    ----------
    parts : mapping of str to float
        From `breakdown_s`; they sum to `step_time_s`. [s]
    step_time_s : float
        [s]
    ideal_s : float
        Model FLOP of one GPU over its peak. [s]
    ideal_attention_s : float
        Part of `ideal_s` that belongs to the attention core; without it all of the ideal time is
        set against the matrix products. [s]

    Returns
    -------
    list of Loss
        "ideal" first, then "matmul" (what matrix products take beyond the peak) and the other
        parts that are not zero; the last `mfu_left` is ``ideal_s / step_time_s``.

    Notes
    -----
    `ideal_s` is the mean over the GPUs, the parts are those of the busiest one: the surplus of its
    stage (output head, uneven layers) shows in "matmul".
    """
    if step_time_s <= 0.0 or ideal_s <= 0.0:
        return []
    excess = {key: parts.get(key, 0.0) for key in KEYS}
    excess["matmul"] -= ideal_s - ideal_attention_s
    excess["attention"] -= ideal_attention_s
    losses = [
        Loss(key="ideal", seconds=ideal_s, share=ideal_s / step_time_s, mfu_lost=0.0, mfu_left=1.0)
    ]
    reached_s, left = ideal_s, 1.0
    for key, seconds in excess.items():
        if seconds == 0.0:
            continue
        reached_s += seconds
        below = ideal_s / reached_s if reached_s > 0.0 else left
        share = seconds / step_time_s
        losses.append(
            Loss(key=key, seconds=seconds, share=share, mfu_lost=left - below, mfu_left=below)
        )
        left = below
    return losses
