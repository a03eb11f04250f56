"""Metrics of finished requests: latencies, throughput, goodput, and where the time of a run went.

Works on plain arrays of requests, so that a file of requests is analysed without a new run. Times
follow the README of the published rows: TTFT from the arrival in the queue to the first token, TPOT
between first and last token over the tokens after the first.

References
----------
.. [1] Y. Zhong et al., "DistServe: disaggregating prefill and decoding for goodput-optimized large
   language model serving," OSDI 2024, https://arxiv.org/abs/2401.09670 (goodput)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class Answered:
    """Requests of a run, in order of arrival; times are -1 where something did not happen.

    Attributes
    ----------
    queued_s, scheduled_s, first_s, last_s : ndarray (n,)
        When a request was queued, first computed, and got its first and last token. [s]
    input_tokens, output_tokens, made : ndarray (n,)
        Lengths, and tokens generated.
    preempted, hit_tokens : ndarray (n,)
        Times that it lost its blocks, and tokens found in the cache at its start.
    replica : ndarray (n,)
    """

    queued_s: Floats
    scheduled_s: Floats
    first_s: Floats
    last_s: Floats
    input_tokens: Ints
    output_tokens: Ints
    made: Ints
    preempted: Ints
    hit_tokens: Ints
    replica: Ints

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Requests with their last token, (n,)."""
        return np.asarray(self.made >= self.output_tokens)

    def take(self, rows: NDArray[Any]) -> Answered:
        """Some of the requests.

        Parameters
        ----------
        rows : ndarray
            Indices, or bool (n,).

        Returns
        -------
        Answered
            Copies, in the order of `rows`.
        """
        return Answered(**{name: column[rows] for name, column in vars(self).items()})


def spread(values: Floats) -> dict[str, float | None]:
    """Mean and percentiles, by linear interpolation; null where there are no values.

    Parameters
    ----------
    values : ndarray (n,)
        In any unit.

    Returns
    -------
    dict of str to float or None
        `mean` and a key for each of `PERCENTILES`, such as `p50`, in the unit of the values.
    """
    if values.size == 0:
        return {"mean": None, **{f"p{p}": None for p in PERCENTILES}}
    found = np.percentile(values, PERCENTILES)
    each = {f"p{p}": float(v) for p, v in zip(PERCENTILES, found, strict=True)}
    return {"mean": float(values.mean()), **each}


def gap_spread(counts: Ints, first_s: float, step: float) -> dict[str, float | None]:
    """Mean and percentiles of gaps between tokens, from their histogram.

    Parameters
    ----------
    counts : ndarray of int64 (bins,)
        Gaps in each bin: the first reaches from 0 to `first_s`, bin i ends at ``first_s exp(i
        step)``.
    first_s : float
        End of the first bin. [s]
    step : float
        Logarithm of the ratio of two ends.

    Returns
    -------
    dict of str to float or None
        As from `spread`; every gap counts as the geometric middle of its bin, and as 0 in the
        first. [s]
    """
    total = counts.sum()
    if total == 0:
        return {"mean": None, **{f"p{p}": None for p in PERCENTILES}}
    middle_s = first_s * np.exp(step * (np.arange(counts.size) - 0.5))
    middle_s[0] = 0.0
    rising = np.cumsum(counts)
    found = {}
    for p in PERCENTILES:
        found[f"p{p}"] = float(middle_s[np.searchsorted(rising, p / 100.0 * (total - 1) + 1e-9)])
    return {"mean": float((counts * middle_s).sum() / total), **found}


def latencies(answered: Answered) -> dict[str, dict[str, float | None]]:
    """TTFT, TPOT, end-to-end latency and time in the queue of the finished requests.

    Parameters
    ----------
    answered : Answered

    Returns
    -------
    dict of str to dict
        `ttft_s`, `tpot_s`, `e2e_s` and `queue_s`, each as from `spread`. An answer of one token has
        no TPOT. [s]
    """
    done = answered.take(answered.finished)
    later = done.made > 1
    tpot_s = (done.last_s[later] - done.first_s[later]) / (done.made[later] - 1)
    return {
        "ttft_s": spread(done.first_s - done.queued_s),
        "tpot_s": spread(tpot_s),
        "e2e_s": spread(done.last_s - done.queued_s),
        "queue_s": spread(done.scheduled_s - done.queued_s),
    }


def throughput(answered: Answered) -> dict[str, float]:
    """Tokens and requests a second, and the makespan: first arrival to last token.

    Parameters
    ----------
    answered : Answered
        Tokens of unfinished requests count, unfinished requests do not.

    Returns
    -------
    dict of str to float
        Output tokens, all tokens and requests over the makespan; input tokens over the time to the
        last first token; `decode_tokens_per_s`, tokens after the first, over the time from there to
        the last token. All 0 where no token was made. [1/s], [s]
    """
    begun = answered.queued_s >= 0
    made = answered.made > 0
    if not made.any():
        counted = ("output_tokens", "input_tokens", "total_tokens", "decode_tokens", "requests")
        return {**{f"{what}_per_s": 0.0 for what in counted}, "makespan_s": 0.0}
    start_s = float(answered.queued_s[begun].min())
    span_s = float(answered.last_s[made].max()) - start_s
    prompts_s = float(answered.first_s[made].max()) - start_s
    prompts = float(answered.input_tokens[made].sum())
    first_of_last_s = float(answered.first_s[made].max())
    after = float(answered.made[made].sum() - made.sum())
    decoding_s = float(answered.last_s[made].max()) - first_of_last_s
    return {
        "output_tokens_per_s": float(answered.made.sum()) / span_s,
        "input_tokens_per_s": prompts / prompts_s if prompts_s > 0 else 0.0,
        "total_tokens_per_s": (float(answered.made.sum()) + prompts) / span_s,
        "decode_tokens_per_s": after / decoding_s if decoding_s > 0 else 0.0,
        "requests_per_s": float(answered.finished.sum()) / span_s,
        "makespan_s": span_s,
    }


def in_window(answered: Answered, begin_s: float, end_s: float) -> dict[str, float]:
    """Throughput inside a stretch of time, tokens spread evenly between first and last.

    Parameters
    ----------
    answered : Answered
    begin_s, end_s : float
        The end does not belong to the stretch. [s]

    Returns
    -------
    dict of str to float
        Keys of `throughput`. A prompt counts where its first token lies, a request where its last
        does; `makespan_s` is the length of the stretch. [1/s], [s]
    """
    made = answered.made > 0
    one = answered.take(made)
    inside = np.minimum(one.last_s, end_s) - np.maximum(one.first_s, begin_s)
    long_s = np.maximum(one.last_s - one.first_s, 1e-12)
    later = np.clip(inside, 0.0, None) / long_s * (one.made - 1)
    first = (one.first_s >= begin_s) & (one.first_s < end_s)
    span_s = max(end_s - begin_s, 1e-12)
    output = float(later.sum() + first.sum()) / span_s
    prompts = float(one.input_tokens[first].sum()) / span_s
    ended = (one.last_s >= begin_s) & (one.last_s < end_s) & one.finished
    return {
        "output_tokens_per_s": output,
        "input_tokens_per_s": prompts,
        "total_tokens_per_s": output + prompts,
        "decode_tokens_per_s": float(later.sum()) / span_s,
        "requests_per_s": float(ended.sum()) / span_s,
        "makespan_s": span_s,
    }


def goodput(
    answered: Answered, limits: dict[str, float | None], refused: int = 0
) -> dict[str, float]:
    """Requests that keep every limit: their share of the offered ones, and how many a second.

    Parameters
    ----------
    answered : Answered
        Without the requests that were refused.
    limits : dict
        Most `ttft`, `tpot` and `e2e`; null is no limit. [s]
    refused : int
        Requests that were offered and refused.

    Returns
    -------
    dict of str to float
        `fraction` of the offered requests, and `requests_per_s` over the makespan [1/s]. An
        unfinished or refused request keeps no limit.
    """
    good = answered.finished.copy()
    ttft_s = answered.first_s - answered.queued_s
    tpot_s = (answered.last_s - answered.first_s) / np.maximum(answered.made - 1, 1)
    e2e_s = answered.last_s - answered.queued_s
    for name, values in (("ttft", ttft_s), ("tpot", tpot_s), ("e2e", e2e_s)):
        if (most := limits.get(name)) is not None:
            good &= values <= most
    span_s = throughput(answered)["makespan_s"]
    offered = good.size + refused
    return {
        "fraction": float(good.sum()) / offered if offered else 0.0,
        "requests_per_s": float(good.sum()) / span_s if span_s > 0 else 0.0,
    }


def vllm_bench(document: dict[str, Any]) -> dict[str, Any]:
    """The keys of ``vllm bench serve``, in its own units (ms).

    Parameters
    ----------
    document : dict
        An answer that fits, as ``--json`` prints it. [s]

    Returns
    -------
    dict
        Times in ms, but `duration` in seconds; None where the document has none.
    """
    found: dict[str, Any] = {
        "completed": document["requests"]["finished"],
        "duration": document["makespan_s"],
        "request_throughput": document["requests_per_s"],
        "output_throughput": document["output_tokens_per_s"],
        "total_token_throughput": document["total_tokens_per_s"],
    }
    for key, name in (("ttft_s", "ttft"), ("tpot_s", "tpot"), ("itl_s", "itl"), ("e2e_s", "e2el")):
        for stat, label in (("mean", "mean"), ("p50", "median"), ("p99", "p99")):
            value = document[key][stat]
            found[f"{label}_{name}_ms"] = None if value is None else 1e3 * value
    return found
