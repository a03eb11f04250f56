"""From the peak to the MFU: what each part of a step costs.

At the device's peak the step would be its model FLOP and nothing else, an MFU of 1. Every other
second of the step takes its share of the step time off that, so shares are MFU points, and what
they leave is the MFU. `mfu_without` is the MFU of a step shorter by exactly one part; other waits
may grow, so it is no promise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from clustersim.analysis.breakdown import KEYS


class Loss(TypedDict):
    """One step down from the peak.

    `key` is "ideal" or a key of the breakdown, `seconds` its time [s]. `share` is that over the
    step time: the MFU for "ideal", else the MFU that the part takes; the shares sum to 1.
    `mfu_left` is what is left after this part and those above it, `mfu_without` the MFU of a
    step shorter by exactly this part. All fractions.
    """

    key: str
    seconds: float
    share: float
    mfu_left: float
    mfu_without: float


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
    `ideal_s` is the mean over the GPUs, the parts are those of the gating one: the surplus of its
    stage (output head, uneven layers) shows in "matmul".
    """
    if step_time_s <= 0.0 or ideal_s <= 0.0:
        return []
    excess = {key: parts.get(key, 0.0) for key in KEYS}
    excess["matmul"] -= ideal_s - ideal_attention_s
    excess["attention"] -= ideal_attention_s
    mfu = ideal_s / step_time_s
    losses = [Loss(key="ideal", seconds=ideal_s, share=mfu, mfu_left=1.0, mfu_without=mfu)]
    left = 1.0
    for key, seconds in excess.items():
        if seconds == 0.0:
            continue
        share = seconds / step_time_s
        left -= share
        without = ideal_s / (step_time_s - seconds)
        losses.append(
            Loss(key=key, seconds=seconds, share=share, mfu_left=left, mfu_without=without)
        )
    return losses
