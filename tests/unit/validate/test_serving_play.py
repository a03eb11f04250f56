"""What a run of a published serving row predicts, by the rules of statistics."""

from __future__ import annotations

import numpy as np
import pytest

from clustersim.run.replicas import PriceBook, play
from clustersim.validate.serving_play import predict
from clustersim.validate.serving_rows import convert_row
from clustersim.validate.serving_stack import Stock, shipped_stock
from tests.published_rows import serving_row


@pytest.fixture(scope="module")
def stock() -> Stock:
    return shipped_stock()


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return PriceBook()


def test_a_static_batch_decodes_after_its_last_first_token(stock, book):
    found = predict(convert_row(serving_row(), stock), book)
    assert found["output_tokens_per_s"] == pytest.approx(4 * 16 / found["makespan_s"])
    decoding_s = found["makespan_s"] - found["ttft_s_mean"]  # one step made all first tokens
    assert found["decode_tokens_per_s"] == pytest.approx(4 * 15 / decoding_s)
    assert found["power_w"] > 0


def test_single_tokens_have_no_tpot(stock, book):
    found = predict(convert_row(serving_row({"workload.output_len": 1}), stock), book)
    assert "tpot_s_mean" not in found
    assert found["ttft_s_mean"] > 0


def test_a_closed_loop_obeys_littles_law(stock, book):
    run = convert_row(serving_row({"protocol": "closed_loop", "workload.batch": 2}), stock)
    found = predict(run, book)
    assert found["requests_per_s"] * found["e2e_s_mean"] == pytest.approx(2.0, rel=0.02)


def test_a_saturated_run_is_judged_in_its_second_half(stock, book):
    changes = {"protocol": "saturated", "workload.batch": 3, "workload.output_len": 40}
    run = convert_row(serving_row(changes), stock)
    found = predict(run, book)
    whole = play(run.scenario, None, 0, book)
    end_s = float(whole.answered.queued_s.max())
    gaps = []
    for limit_s in (end_s / 2, end_s):
        limited = run.scenario.run.model_copy(update={"time_limit": limit_s})
        part = play(run.scenario.model_copy(update={"run": limited}), None, 0, book)
        gaps.append(part.replicas[0].tally.gaps)
    counted = gaps[1] - gaps[0]
    assert counted.sum() > 0
    first_s, step = whole.replicas[0].tally.gap_axis
    middle_s = first_s * np.exp(step * (np.arange(counted.size) - 0.5))
    middle_s[0] = 0.0
    mean_s = float((counted * middle_s).sum() / counted.sum())
    assert found["itl_s_mean"] == pytest.approx(mean_s, rel=1e-12)
    assert found["decode_tokens_per_s"] == pytest.approx(3 / found["itl_s_mean"], rel=0.05)


def test_a_stated_cache_bounds_what_runs_at_once(stock, book):
    changes = {"engine.kv_tokens_capacity": 320, "workload.output_len": 32}
    narrow = predict(convert_row(serving_row(changes), stock), book)
    wide = predict(convert_row(serving_row({"workload.output_len": 32}), stock), book)
    assert narrow["ttft_s_p99"] > 2 * wide["ttft_s_p99"]


def test_poisson_arrivals_are_the_mean_of_five_draws(stock, book):
    changes = {
        "protocol": "open_loop_poisson",
        "workload.rate": 40.0,
        "workload.input_len": 16,
        "workload.output_len": 4,
    }
    run = convert_row(serving_row(changes), stock)
    assert run.draws == 5
    assert predict(run, book)["requests_per_s"] == pytest.approx(40.0, rel=0.05)


def test_a_prefill_step_holds_whole_prompts(stock, book):
    changes = {
        "protocol": "single_step_prefill",
        "batch_scope": "per_gpu_tokens",
        "workload.batch": 1024,
    }
    found = predict(convert_row(serving_row(changes), stock), book)
    assert found["input_tokens_per_s"] == pytest.approx(1024 / found["step_time_s"])
    assert found["ttft_s_mean"] == pytest.approx(found["step_time_s"])


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_decode_step_makes_the_accepted_tokens_of_all(stock, book, ranks):
    from tests.published_rows import EXPERTS

    changes = {
        "protocol": "single_step_decode",
        "gpus": ranks,
        "model": EXPERTS,
        "parallel.dp": ranks,
        "parallel.ep": ranks,
        "batch_scope": "per_gpu_sequences",
        "workload.batch": 8,
        "engine.speculative": "MTP 1 layer",
        "measured": {"mean_accept_length": 1.5},
    }
    run = convert_row(serving_row(changes), stock)
    assert run.step is not None
    assert (run.step.sequences, run.step.context) == (8 * ranks, 264)
    found = predict(run, book)
    assert found["decode_tokens_per_s"] == pytest.approx(8 * ranks * 1.5 / found["step_time_s"])


def test_a_decode_step_costs_what_the_replica_needs_for_it(stock, book):
    changes = {
        "protocol": "single_step_decode",
        "workload.kv_len": 300,
        "workload.batch": 4,
    }
    step_s = predict(convert_row(serving_row(changes), stock), book)["step_time_s"]
    static = {"workload.input_len": 299, "workload.output_len": 3}
    played = predict(convert_row(serving_row(static), stock), book)
    assert step_s == pytest.approx(played["tpot_s_mean"], rel=0.01)
