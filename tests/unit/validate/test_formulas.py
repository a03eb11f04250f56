"""FLOP formulas and conversions: by hand, and against what the sources print."""

from __future__ import annotations

import statistics

import pytest

from clustersim.validate.capabilities import NotComparableError
from clustersim.validate.formulas import (
    bound_key,
    formula_of,
    measured_step,
    speed_key,
    step_flop,
)

TOKENS = 64 * 2048


@pytest.mark.parametrize(
    ("measured", "seconds", "derived"),
    [
        ({"iteration_s": 20.0, "tokens_per_s": 1.0}, 20.0, None),
        ({"tokens_per_s": TOKENS / 5}, 5.0, "tokens_per_s"),
        ({"tokens_per_s_per_gpu": TOKENS / 16 / 5}, 5.0, "tokens_per_s_per_gpu"),
        ({"samples_per_s_per_gpu": 0.5, "mfu": 40}, 8.0, "samples_per_s_per_gpu"),
    ],
)
def test_rule_4_takes_the_first_speed(case, measured, seconds, derived):
    row = case().model_copy(update={"measured": measured})
    step = measured_step(row, 64, None)
    assert step.step_time_s == pytest.approx(seconds)
    assert step.derived_from == derived


@pytest.mark.parametrize(
    ("key", "value"), [("tflops_per_gpu", 100.0), ("mfu", 100 / 3.12), ("hfu", 100 / 3.12)]
)
def test_rule_4_inverts_flop_rates(case, key, value):
    row = case().model_copy(update={"measured": {key: value}})
    flop = step_flop(row, 64, key)
    assert measured_step(row, 64, None).step_time_s == pytest.approx(flop / (16 * 100e12))


def test_rule_4_divides_by_the_device_peak_where_none_is_stated(case):
    row = case({"peak_tflops": None}).model_copy(update={"measured": {"mfu": 50.0}})
    at_peak = step_flop(row, 64, "mfu") / (16 * 312e12)
    assert measured_step(row, 64, 312e12).step_time_s == pytest.approx(2 * at_peak)
    with pytest.raises(NotComparableError):
        measured_step(row, 64, None)


def test_bounds_are_not_speeds(case):
    row = case().model_copy(update={"measured": {"tflops_per_gpu_at_least": 100}})
    assert speed_key(row) is None
    assert bound_key(row) == "tflops_per_gpu_at_least"


def test_rule_5_settles_unknown_formulas(case):
    full = case({"flop_formula": "unknown", "recompute": "full"})
    assert formula_of(full, "tflops_per_gpu") == "megatron_hfu"
    assert formula_of(full, "mfu") == "megatron_mfu"
    assert formula_of(case({"flop_formula": "unknown"}), "tflops_per_gpu") == "megatron_mfu"


def test_general_and_printed_formulas_agree_on_plain_gpt_shapes(case):
    general = step_flop(case({"flop_formula": "megatron_mfu"}), 64, "mfu")
    korthikanti = step_flop(case({"flop_formula": "korthikanti_mfu"}), 64, "mfu")
    assert general == pytest.approx(korthikanti)


def test_causal_formulas_count_half_the_attention(case):
    whole = step_flop(case({"flop_formula": "palm_6n_attn"}), 1, "mfu")
    half = step_flop(case({"flop_formula": "palm_6n_attn_causal"}), 1, "mfu")
    core = step_flop(case({"flop_formula": "megatron_core"}), 1, "mfu")
    assert whole - half == pytest.approx(6 * 8 * 2048 * 2048 * 1024)
    assert core == pytest.approx(half)


def test_an_unknown_formula_is_a_reason(case):
    with pytest.raises(NotComparableError, match="novel"):
        step_flop(case({"flop_formula": "novel"}), 1, "mfu")


# "Checked on rows" of the published README: formula over printed TFLOP/s (or MFU), with the
# smallest, the median and the largest ratio.
RATIOS = {
    ("PTD-P", "tflops_per_gpu", ""): (0.9995, 1.0, 1.0005),
    ("BLOOM prequel", "tflops_per_gpu", ""): (0.999, 1.0, 1.0005),
    ("InternEvo", "tflops_per_gpu", ""): (0.9895, 1.0, 1.035),
    ("MegaScale", "mfu", ""): (0.996, 1.003, 1.0155),
    ("Korthikanti", "mfu", ""): (0.999, 1.0, 1.004),
    ("DeepSeek-V3", "tflops_per_gpu", ""): (0.9995, 1.0, 1.0025),
    ("LLM Foundry", "tflops_per_gpu", ""): (0.965, 0.999, 1.0085),
    ("Jean Zay V100", "tflops_per_gpu", ""): (0.99, 1.0, 1.07),
    ("Megatron Bridge", "tflops_per_gpu", "llama"): (0.985, 1.0, 1.025),
    ("Megatron Bridge", "tflops_per_gpu", "qwen3"): (0.9945, 1.0, 1.0095),
}


@pytest.mark.parametrize(("source", "key", "word"), RATIOS)
def test_formulas_reproduce_what_the_sources_print(published, source, key, word):
    ratios = []
    for row in published.cases:
        step_s, printed = row.measured.get("iteration_s"), row.measured.get(key)
        mine = row.source_name == source and word in row.id
        if not (mine and step_s and printed and row.batch.global_ and row.gpus):
            continue
        rate = step_flop(row, row.batch.global_, key) / (step_s * row.gpus * 1e12)
        shown = printed if key == "tflops_per_gpu" else printed / 100 * (row.peak_tflops or 0)
        ratios.append(rate / shown)
    low, middle, high = RATIOS[source, key, word]
    assert ratios
    assert min(ratios) >= low
    assert max(ratios) <= high
    assert statistics.median(ratios) == pytest.approx(middle, abs=0.006)
