"""Laws of requests: means, order, conservation, and random streams that keep apart."""

from __future__ import annotations

import math
import tempfile
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.errors import SpecError
from clustersim.spec.workload import Workload
from clustersim.workload.arrivals import diurnal_s
from clustersim.workload.requests import Requests, build_requests
from clustersim.workload.traces import read_trace

LENGTHS = {
    "input": {"kind": "lognormal", "mean": 300, "variation": 1.0},
    "output": {"kind": "uniform", "mean": 100, "variation": 0.4},
}
COUNT = 20_000

seeds = st.integers(0, 2**32)
rates = st.floats(1e-3, 1e4)
few = settings(deadline=None, max_examples=30)


def build(seed: int, arrivals: dict[str, Any], **fields: Any) -> Requests:
    asked = {"arrivals": arrivals, "lengths": LENGTHS, "requests": COUNT, **fields}
    return build_requests(Workload.model_validate(asked), seed)


@st.composite
def open_loops(draw: st.DrawFn) -> dict[str, Any]:
    """Arrivals of an open loop."""
    kind = draw(st.sampled_from(["poisson", "gamma", "diurnal"]))
    arrivals: dict[str, Any] = {"kind": kind, "rate": draw(rates)}
    if kind == "gamma":
        arrivals["variation"] = draw(st.floats(0.1, 5.0))
    if kind == "diurnal":
        arrivals["peak_to_mean"] = draw(st.floats(1.0, 2.0))
        arrivals["period"] = draw(st.floats(1.0, 1e5))
    return arrivals


@given(open_loops(), seeds)
@few
def test_arrivals_rise_from_zero_or_later(arrivals: dict[str, Any], seed: int) -> None:
    requests = build(seed, arrivals)
    assert requests.arrival_s[0] >= 0.0
    assert np.all(np.diff(requests.arrival_s) >= 0.0)
    assert np.all(np.isfinite(requests.arrival_s))


@given(rates, st.floats(0.2, 3.0), seeds)
@few
def test_gaps_have_the_mean_and_variation_asked_for(
    rate: float, variation: float, seed: int
) -> None:
    gaps_s = np.diff(build(seed, {"kind": "gamma", "rate": rate, "variation": variation}).arrival_s)
    error = 5.0 * variation / math.sqrt(COUNT)
    assert gaps_s.mean() * rate == pytest.approx(1.0, abs=error)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(variation, rel=0.25)


@given(rates, seeds)
@few
def test_counts_of_a_poisson_process_vary_as_their_mean(rate: float, seed: int) -> None:
    arrival_s = build(seed, {"kind": "poisson", "rate": rate}).arrival_s
    counts = np.histogram(arrival_s, bins=1_000)[0]
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.3)


@given(st.floats(0.0, 1.0), st.floats(0.1, 1e5), st.floats(0.1, 1e6))
@few
def test_the_daily_clock_is_the_inverse_of_the_rate(
    swing: float, period_s: float, span_s: float
) -> None:
    mean_s = np.linspace(0.0, span_s, 500)
    time_s = diurnal_s(mean_s, swing, period_s)
    flow = swing * period_s / (2.0 * np.pi) * (1.0 - np.cos(2.0 * np.pi * time_s / period_s))
    assert time_s + flow == pytest.approx(mean_s, abs=1e-9 * (span_s + period_s))
    assert np.all(np.diff(time_s) >= 0.0)


def test_a_day_has_its_peak_in_its_first_half() -> None:
    arrivals = {"kind": "diurnal", "rate": 100.0, "period": COUNT / 100.0, "peak_to_mean": 1.5}
    first = (build(0, arrivals).arrival_s < COUNT / 200.0).mean()
    assert first == pytest.approx(0.5 + 0.5 / np.pi, abs=0.02)


@given(open_loops(), seeds)
@few
def test_the_same_seed_gives_the_same_bits_and_another_one_others(
    arrivals: dict[str, Any], seed: int
) -> None:
    one, same, other = build(seed, arrivals), build(seed, arrivals), build(seed + 1, arrivals)
    for name in ("arrival_s", "input_tokens", "output_tokens"):
        assert getattr(one, name).tobytes() == getattr(same, name).tobytes()
        assert getattr(one, name).tobytes() != getattr(other, name).tobytes()


@given(open_loops(), seeds)
@few
def test_a_draw_in_one_place_moves_nothing_elsewhere(arrivals: dict[str, Any], seed: int) -> None:
    one = build(seed, arrivals)
    fixed = build(seed, arrivals, lengths={"input": 5, "output": LENGTHS["output"]})
    at_once = build(seed, {"kind": "offline"})
    assert one.arrival_s.tobytes() == fixed.arrival_s.tobytes()
    assert one.output_tokens.tobytes() == fixed.output_tokens.tobytes()
    assert one.input_tokens.tobytes() == at_once.input_tokens.tobytes()


@given(open_loops(), seeds, st.integers(1, 1_000))
@few
def test_more_requests_begin_like_fewer(arrivals: dict[str, Any], seed: int, count: int) -> None:
    long, short = build(seed, arrivals), build(seed, arrivals, requests=count)
    for name in ("arrival_s", "input_tokens", "output_tokens"):
        assert getattr(long, name)[:count].tobytes() == getattr(short, name).tobytes()


@given(
    st.integers(0, 200), st.integers(1, 4), st.integers(1, 5), st.integers(1, 40), seeds,
    st.sampled_from([1, 16, 64]),
)  # fmt: skip
@few
def test_conversations_conserve_what_was_said(
    shared: int, groups: int, turns: int, count: int, seed: int, block_tokens: int
) -> None:
    prefixes = {"shared": shared, "groups": groups, "turns": turns}
    asked = {"arrivals": {"kind": "offline"}, "lengths": LENGTHS, "requests": count}
    alone = build_requests(Workload.model_validate(asked), seed)
    asked["prefixes"] = prefixes
    talking = build_requests(Workload.model_validate(asked), seed, block_tokens=block_tokens)
    assert np.array_equal(alone.output_tokens, talking.output_tokens)
    own = talking.input_tokens.copy()
    follows = np.flatnonzero(talking.after >= 0)
    assert np.array_equal(talking.after[follows], follows - 1)
    own[follows] -= talking.input_tokens[follows - 1] + talking.output_tokens[follows - 1]
    own[talking.after < 0] -= shared
    assert np.array_equal(alone.input_tokens, own)
    check_blocks(talking, block_tokens)


def check_blocks(requests: Requests, block_tokens: int) -> None:
    """Blocks fit in prompt and answer, are numbered without a gap, and are where they belong."""
    rows = [requests.prefix_block[a:b] for a, b in pairwise(requests.prefix_start)]
    sizes = np.array([row.size for row in rows])
    assert np.all(sizes * block_tokens <= requests.input_tokens + requests.output_tokens)
    known = np.unique(requests.prefix_block)
    assert np.array_equal(known, np.arange(known.size))
    for place in np.flatnonzero(requests.after >= 0).tolist():
        before = rows[requests.after[place]]
        assert np.array_equal(rows[place][: before.size], before)
        said = requests.input_tokens[place - 1] + requests.output_tokens[place - 1]
        assert before.size == said // block_tokens


numbers = st.one_of(
    st.integers(-5, 10**12).map(str), st.floats().map(str), st.text(max_size=6), st.just("")
)
headers = st.sampled_from(
    [
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "Timestamp,Request tokens,Response tokens",
        "arrival_s,input_tokens,output_tokens",
        '{"timestamp": 1, "input_length": 2, "output_length": 3}',
    ]
)
rows = st.one_of(
    st.text(max_size=20),
    st.lists(numbers, min_size=2, max_size=4).map(",".join),
    st.tuples(numbers, numbers, numbers).map(
        lambda row: (
            f'{{"timestamp": {row[0]}, "input_length": {row[1]}, "output_length": {row[2]}}}'
        )
    ),
)


@given(headers, st.lists(rows, max_size=6), st.booleans(), st.none() | st.integers(1, 3))
@settings(deadline=None, max_examples=300)
def test_any_text_is_read_or_refused(
    header: str, lines: list[str], skip_bad: bool, most: int | None
) -> None:
    text = "\n".join([header, *lines])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace"
        path.write_bytes(text.encode("utf-8", "replace"))
        try:
            trace = read_trace(path, most=most, skip_bad=skip_bad)
        except SpecError:
            return
    assert trace.arrival_s[0] == 0.0
    assert np.all(np.diff(trace.arrival_s) >= 0.0)
    assert min(trace.input_tokens.min(), trace.output_tokens.min()) >= 1


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=100)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace"
        for content in (data, b"\x1f\x8b" + data, b"arrival_s,input_tokens,output_tokens\n" + data):
            path.write_bytes(content)
            with suppress(SpecError):
                read_trace(path)
