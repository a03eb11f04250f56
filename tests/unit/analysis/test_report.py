"""The first lines answer the question; everything else is optional."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from clustersim.analysis.report import print_misfit, print_report

DOCUMENT = {
    "step_time_s": 6.5,
    "interval": {"low": 6.25, "high": 6.75},
    "mfu": 0.552,
    "hfu": 0.581,
    "tokens_per_s": 1.93e6,
    "gpus": 12288,
    "model_tflops_per_gpu": 172.3,
    "days": 1.8,
    "gpu_hours": 529355.0,
    "memory_bytes_per_gpu": {"parameters": 20 * 2**30, "context": 2**30, "total": 21 * 2**30},
    "memory_capacity_bytes": 80 * 2**30,
    "fits": True,
    "breakdown_s": {"matmul": 6.0, "bubble": 0.6, "jitter": -0.1},
    "breakdown_of": {"stage": 7, "replica_class": 1},
    "critical_path": {
        "by_category": {"matmul": 6.4, "dp_comm": 0.1},
        "by_op": {"forward": 2.6, "backward": 3.9, "optimizer": 0.001},
        "stages": [
            {
                "stage": 7,
                "replica": 6,
                "first_rank": 10800,
                "ranks": 8,
                "seconds": 5.2,
                "share": 0.8,
            },
            {"stage": 0, "first_rank": 0, "ranks": 1, "seconds": 0.026, "share": 0.004},
        ],
    },
    "notes": ["recompute adds nothing"],
    "bound": {"by": "compute", "share": 0.8},
    "sensitivities": [{"change": "+10 % NIC bandwidth", "step_time_change": -0.0034}],
    "stragglers": {
        "slow_ranks": 1,
        "uniform_step_time_s": 6.0,
        "slowdown": 6.5 / 6.0,
        "without": [
            {
                "host": 2,
                "first_rank": 16,
                "stage": 0,
                "replica": 2,
                "slowdown": 0.1,
                "step_time_s": 6.0,
                "step_time_change": -0.077,
            }
        ],
    },
    "assumed": ["optimizer in fp32 [Adam]"],
    "engine": "compiled",
    "engine_ops": 1_000_000,
    "engine_s": 0.05,
    "replications": 32,
    "result_digest": "abc",
}


def printed(document, **options) -> str:
    stream = io.StringIO()
    print_report(document, Console(file=stream, width=100), **options)
    return stream.getvalue()


def test_first_line_is_the_answer():
    first, second = printed(DOCUMENT).splitlines()[:2]
    expected = (
        "6.50 s a step (6.25 s to 6.75 s), MFU 55.2 %, HFU 58.1 %, 1.93 M tokens/s",
        "12,288 GPUs at 172.3 TFLOP/s; bound by compute (80.0 % of the step)",
    )
    assert (first, second) == expected


@pytest.mark.parametrize(
    "text",
    [
        "1.8 days, 529,355 GPU-hours",
        "21.0 GiB of 80.0 GiB a GPU, fits",
        "(stage 7, replica class 1)",
        "ranks: stage 7 of replica 6 (10,800 to 10,807) 80.0 %\n",
        "ops: backward 60.0 %; forward 40.0 %\n",
        "1 slow GPU; 7.7 % of the step is lost to slow GPUs (all nominal and quiet: 6.00 s)",
        "-7.70 %",
        "note: recompute adds nothing",
        "pipeline bubble",
        "-100 ms",
        "+10 % NIC bandwidth",
        "20.0 M ops/s; 32 draws of the fleet; digest abc",
        "assumed: optimizer in fp32 [Adam]",
    ],
)
def test_report_says(text):
    assert text in printed(DOCUMENT)


def test_parts_come_largest_first():
    text = printed(DOCUMENT)
    assert text.index("matrix products") < text.index("pipeline bubble") < text.index("jitter")


def test_lines_are_at_most_as_wide_as_the_console():
    assert max(len(line) for line in printed(DOCUMENT).splitlines()) <= 100


def test_long_remarks_are_wrapped_between_words():
    text = printed({**DOCUMENT, "assumed": ["no published step was compared " * 8]})
    lines = text[text.index("assumed:") :].splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[1].startswith("  ")


def test_no_number_has_three_hundred_digits():
    huge = {**DOCUMENT, "model_tflops_per_gpu": 1e290, "days": 1e300, "step_time_s": 1e300}
    assert max(len(word) for word in printed(huge).split()) < 40


@pytest.mark.parametrize("term", ["replica class", "rank class", "critical path", "slow GPUs"])
def test_definitions_name_the_terms_of_the_report_and_the_files(term):
    assert f"\n{term} " in printed(DOCUMENT, definitions=True)


def test_plain_output_has_no_escape_codes():
    assert "\x1b" not in printed(DOCUMENT)


def test_definitions_are_printed_on_request():
    assert "PaLM" not in printed(DOCUMENT)
    assert "PaLM" in printed(DOCUMENT, definitions=True)


def test_minimal_document_is_enough():
    keys = ("step_time_s", "mfu", "hfu", "tokens_per_s", "gpus", "model_tflops_per_gpu")
    assert "6.50 s a step" in printed({key: DOCUMENT[key] for key in keys})


def test_misfit_names_the_largest_terms_and_the_knobs():
    stream = io.StringIO()
    knobs = [{"change": "training.micro_batch: 1", "total_bytes": 60 * 2**30, "fits": True}]
    document = {**DOCUMENT, "memory_bytes_per_gpu": {"parameters": 9e10, "total": 9e10}}
    print_misfit(document, knobs, Console(file=stream, width=100))
    text = stream.getvalue()
    assert "does not fit: 83.8 GiB of 80.0 GiB" in text
    assert "parameters 83.8 GiB" in text
    assert "training.micro_batch: 1: 60.0 GiB, fits" in text
