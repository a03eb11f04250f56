"""The first lines of a serving report answer; every number stands once, with its unit."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from clustersim.analysis.screen import chart
from clustersim.analysis.serving_report import (
    binned,
    print_serving_misfit,
    print_serving_report,
    serving_headline,
)
from tests.unit.analysis.served import SERIES, document


def printed(answer, series=SERIES, **options) -> str:
    stream = io.StringIO()
    print_serving_report(answer, Console(file=stream, width=100), series, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "2 output tokens/s, 200 input tokens/s, 0.400 requests/s",
        "TPOT 1.00 s (40.0 ms to 60.0 ms): means of 2 requests",
        "8 GPUs in 2 replicas; bound by products and weights (60.0 % of the time)",
        "offered load 1.20 of capacity: the queue grows; 25.0 % of the requests keep the SLO",
        "2 of 4 requests finished in 5.00 s, 2 unfinished",
        "mean over replicas: 5.00 s",
        "300 of 20.0 ms: 1.5 running requests, 3.0 tokens (means)",
        "1,000 blocks of 16 tokens: 16,000 tokens, 1.95 GiB",
        "20.0 % on average, 50.0 % at most",
        "6.4 % of prompt tokens",
        "the fullest GPU has 1.40 of the mean, which costs 5.0 % of the time",
        "first replica: 500 ms to 4.50 s",
        "Power: 3.50 kW, 700 mJ an output token, cost 2.50 per million output tokens",
        "18.0 GiB of 24.0 GiB a GPU, fits",
        "KV cache  3.00 GiB  12.5 %",
        "300 steps; 3 draws of the requests; digest abc",
        "assumed: host of an engine [round values]",
    ],
)
def test_report_says(text):
    assert text in printed(document())


def test_lines_are_at_most_as_wide_as_the_console():
    assert max(len(line) for line in printed(document(), definitions=True).splitlines()) <= 100


def test_parts_come_largest_first_and_zeros_do_not_come():
    text = printed(document())
    assert text.index("matrix products") < text.index("attention over the KV cache")
    assert "\nexperts " not in text


def test_what_is_not_known_is_left_out():
    bound = {**document()["bound"], "load": None}
    text = printed(document(bound=bound, goodput=None, expert_imbalance=None, interval={}))
    for absent in ("capacity:", "SLO", "imbalance", "40.0 ms to"):
        assert absent not in text


def test_a_cache_that_bounds_the_run_has_no_share_of_the_time():
    bound = {**document()["bound"], "by": "KV cache: requests wait for blocks"}
    assert "bound by KV cache: requests wait for blocks\n" in serving_headline(
        document(bound=bound)
    )


def test_latencies_of_no_request_are_dashes():
    nothing = dict.fromkeys(("mean", "p50", "p90", "p95", "p99"))
    text = printed(document(ttft_s=nothing, tpot_s=nothing, itl_s=nothing))
    assert "TTFT -, TPOT -" in text


def test_without_samples_there_is_no_chart():
    assert "Over time" not in printed(document(), series=None)
    assert "Over time" not in printed(document(), series=np.zeros((0, 6)))


def test_plain_output_has_no_escape_codes_and_ascii_no_blocks():
    assert "\x1b" not in printed(document())
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_serving_report(document(), Console(file=stream, width=100), SERIES)
    stream.flush()
    stream.buffer.getvalue().decode("ascii")


def test_a_model_that_does_not_fit_says_so_first():
    keys = ("name", "gpus", "memory_bytes_per_gpu", "memory_capacity_bytes")
    answer = {**{key: document()[key] for key in keys}, "fits": False, "reason": "no room"}
    first = printed(answer).splitlines()[0]
    assert first == "does not fit: by hand on 8 GPUs has no room for a KV cache"


def test_a_misfit_names_terms_and_changes():
    stream = io.StringIO()
    knobs = [
        {"change": "precision.weights: fp8", "fixed_bytes": 2**33, "kv_tokens": 5000, "fits": True},
        {"change": "engine.x: 1", "fixed_bytes": 2**34, "kv_tokens": 0, "fits": False},
    ]
    answer = {"reason": "the engine takes 1 GiB\n  fix: more GPUs"}
    print_serving_misfit(answer, knobs, Console(file=stream, width=100))
    text = stream.getvalue()
    assert "does not fit: the engine takes 1 GiB" in text
    assert "precision.weights: fp8: 8.00 GiB held, room for 5,000 tokens" in text
    assert "engine.x: 1: 16.0 GiB held, no room" in text
    assert "take a change that fits" in text
    print_serving_misfit(answer, [], Console(file=stream, width=100))
    assert "  fix: more GPUs" in stream.getvalue()


def test_definitions_are_printed_on_request():
    assert "makespan" not in printed(document())
    assert "makespan" in printed(document(), definitions=True)


def test_samples_are_means_of_equal_stretches_and_the_last_one_holds():
    found = binned(np.array([0.0, 0.5, 3.0, 4.0]), np.array([1.0, 3.0, 5.0, 7.0]), 4)
    assert found == [2.0, 2.0, 2.0, 6.0]


def test_a_chart_never_hides_what_is_not_zero():
    console = Console(file=io.StringIO(), width=100)
    assert chart([0.0, 0.001, 0.5, 1.0], 1.0, console) == " ▁▄█"
    assert chart([0.0, 0.0], 0.0, console) == "  "
