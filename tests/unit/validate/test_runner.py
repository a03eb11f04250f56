"""Entries, memory quantities and the report of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clustersim.errors import ModelDomainError, SimulationError, SpecError
from clustersim.validate.cases import CaseFile
from clustersim.validate.runner import Report, run_case, validate_cases
from clustersim.validate.table import exit_code, markdown, render, write_table

GIB = 2.0**30


def measured(case, quantities, **changes):
    return case(changes).model_copy(update={"measured": quantities})


def test_a_step_is_compared_in_seconds(case, predictor, catalogue):
    (entry,) = run_case(case(), predictor, catalogue).entries
    assert (entry.status, entry.metric, entry.predicted, entry.measured) == (
        "ok",
        "step_time_s",
        16.0,
        20.0,
    )
    assert entry.error == pytest.approx(-0.2)
    assert (entry.derived_from, entry.micro_batches) == (None, 8)


def test_printed_mfu_gives_a_difference_in_points(case, predictor, catalogue):
    row = measured(case, {"mfu": 1.0})
    (entry,) = run_case(row, predictor, catalogue).entries
    assert entry.derived_from == "mfu"
    assert entry.mfu_printed == 0.01
    assert entry.mfu_predicted == pytest.approx(0.01 / (1 + entry.error))


def test_one_step_entry_and_one_entry_a_memory_figure(case, predictor, catalogue):
    row = measured(case, {"iteration_s": 1.0, "mfu": 40, "memory_gib": 10.0, "memory_gb": 20})
    metrics = [entry.metric for entry in run_case(row, predictor, catalogue).entries]
    assert metrics == ["step_time_s", "memory_bytes", "memory_bytes"]


@pytest.mark.parametrize(
    ("kind", "gib"),
    [
        ("allocated", 13.0),
        (None, 13.0),
        ("reserved", 13.0 * 1.05),
        ("nvidia_smi", 13.0 * 1.05 + 1.5),
        ("model_states", 4.0),
        ("activations", 8.0),
    ],
)
def test_rule_19_compares_like_with_like(case, predictor, catalogue, kind, gib):
    row = measured(case, {"memory_gib": 10.0}, memory_kind=kind)
    (entry,) = run_case(row, predictor, catalogue).entries
    assert entry.predicted == pytest.approx(gib * GIB)
    assert entry.measured == 10 * GIB


def test_reserved_memory_is_that_of_the_stage_whose_device_shows_most(case, catalogue, predictor):
    class Cached(type(predictor)):
        def memory_bytes(self, scenario, stage=None):
            live, cached = [(3.0, 0.0), (2.0, 5.0)][stage or 0]
            return {"parameters": live * GIB, "cached_blocks": cached * GIB, "total": live * GIB}

    sizes = {}
    for kind in ("allocated", "reserved"):
        row = measured(case, {"memory_gib": 10.0}, memory_kind=kind)
        (entry,) = run_case(row, Cached(), catalogue).entries
        sizes[kind] = entry.predicted / GIB
    assert sizes == pytest.approx({"allocated": 3.0, "reserved": 2.0 * 1.05 + 5.0})


def test_rule_19_reads_maps_and_breakdowns(case, predictor, catalogue):
    figures = {
        "memory_activation_gib": 4.0,
        "memory_breakdown": {"weights_grads": 2.0, "master_optimizer": 3.0},
    }
    row = measured(case, figures, memory_kind={"memory_activation_gib": "activations"})
    errors = {e.quantity: e.error for e in run_case(row, predictor, catalogue).entries}
    assert errors == {
        "memory_activation_gib": 1.0,
        "memory_breakdown.weights_grads": -0.5,
        "memory_breakdown.master_optimizer": 0.0,
    }


def test_rule_19_compares_shares_of_the_baseline(case, predictor, catalogue):
    shares = {"sequence_parallel": 50.0, "selective_sequence_parallel": 20.0, "full": 25.0}
    row = measured(case, {"activation_pct_of_tp_baseline": shares})
    entries = run_case(row, predictor, catalogue).entries
    errors = [entry.error for entry in entries]
    assert errors == pytest.approx([0.0, 0.25, 0.0])
    assert entries[0].measured == 4 * GIB


def test_a_layer_is_compared_forward_and_backward(case, predictor, catalogue):
    times = {"layer_forward_ms": 7.0, "layer_backward_ms": 10.0, "layer_total_ms": 17.0}
    entries = run_case(measured(case, times), predictor, catalogue).entries
    assert [(e.metric, round(e.error, 6)) for e in entries] == [
        ("layer_forward_s", 0.0),
        ("layer_backward_s", 0.2),
    ]


@pytest.mark.parametrize(
    ("figures", "changes", "metric", "reason"),
    [
        ({"mfu": 40}, {"kind": "context"}, "step_time_s", "kind context"),
        ({"memory_gib": 1.0}, {"precision": "fp8"}, "memory_bytes", "precision fp8"),
        ({"tflops_per_gpu_at_least": 1}, {}, "step_time_s", "only a bound"),
        ({"max_params_b_zero1": 6.2}, {"kind": "memory"}, "memory_bytes", "only max_params"),
        ({"iteration_s": 0}, {}, "step_time_s", "iteration_s is 0"),
    ],
)
def test_a_skipped_entry_keeps_metric_and_reason(
    case, predictor, catalogue, figures, changes, metric, reason
):
    (entry,) = run_case(measured(case, figures, **changes), predictor, catalogue).entries
    assert (entry.status, entry.metric, entry.error) == ("skipped", metric, None)
    assert reason in entry.reason


def test_rule_6_skips_where_the_open_batch_matters(case, catalogue, predictor):
    class Amortised(type(predictor)):
        def step_time_s(self, scenario):
            return scenario.micro_batches + 16.0

    row = measured(case, {"tokens_per_s": 1.0}, batch={"global": None})
    (entry,) = run_case(row, Amortised(), catalogue).entries
    assert "rule 6" in entry.reason
    assert run_case(row, predictor, catalogue).entries[0].status == "ok"


def test_our_refusals_become_reasons_and_other_errors_escape(case, catalogue, predictor):
    class Refuses(type(predictor)):
        def step_time_s(self, scenario):
            raise SimulationError("deadlock at row 3\nmore")

    class Broken(type(predictor)):
        def step_time_s(self, scenario):
            raise KeyError("bug")

    assert run_case(case(), Refuses(), catalogue).entries[0].reason == "deadlock at row 3"
    with pytest.raises(KeyError):
        run_case(case(), Broken(), catalogue)


def test_what_must_not_fit_is_checked(case, predictor, catalogue):
    row = case({"expect_fits": False})
    outcome = run_case(row, predictor, catalogue)
    assert outcome.fit is not None
    assert outcome.fit.predicted
    assert exit_code(Report(outcome.entries, (outcome.fit,))) == 1


def test_a_fit_that_cannot_be_predicted_is_a_skipped_entry(case, predictor, catalogue):
    class Refuses(type(predictor)):
        def memory_bytes(self, scenario, stage=None):
            raise ModelDomainError("no memory of this\nmore")

    outcome = run_case(case({"expect_fits": True}), Refuses(), catalogue)
    step, fit = outcome.entries
    assert (step.status, step.metric) == ("ok", "step_time_s")
    assert (fit.status, fit.metric, fit.reason) == ("skipped", "memory_bytes", "no memory of this")
    assert outcome.fit is None


def test_the_document_has_the_keys_of_the_contract(case, predictor, catalogue):
    files = [CaseFile(Path("x"), cases=(case({"tolerance": 0.1}),))]
    document = validate_cases(files, predictor, catalogue).document()
    entry, summary = document["cases"][0], document["summary"][0]
    keys = [
        "id",
        "source",
        "device",
        "status",
        "reason",
        "metric",
        "predicted",
        "measured",
        "error",
        "assumed",
    ]
    assert list(entry)[: len(keys)] == keys
    assert list(summary) == ["group", "cases", "skipped", "median_ape", "mape", "p90_ape", "bias"]
    json.dumps(document)


def test_jobs_do_not_change_the_report(case, predictor, catalogue):
    cases = tuple(case({"id": f"row-{index}"}) for index in range(6))
    files = [CaseFile(Path("x"), cases=cases)]
    alone = validate_cases(files, predictor, catalogue, jobs=1)
    assert validate_cases(files, predictor, catalogue, jobs=2) == alone


def test_tolerances_decide_the_exit_code(case, predictor, catalogue):
    def code(tolerance):
        files = [CaseFile(Path("x"), cases=(case({"tolerance": tolerance}),))]
        return exit_code(validate_cases(files, predictor, catalogue))

    assert (code(0.1), code(0.21), code(None)) == (1, 0, 0)


def test_the_table_is_written_between_its_marks(case, predictor, catalogue, tmp_path):
    files = [CaseFile(Path("x"), cases=(case({"tolerance": 0.1, "evidence": "held_out"}),))]
    report = validate_cases(files, predictor, catalogue)
    page = tmp_path / "README.md"
    page.write_text("claims\n<!-- table: begin (generated) -->\nold\n<!-- table: end -->\nend\n")
    write_table(report, page)
    write_table(report, page)
    text = page.read_text()
    assert markdown(report) in text
    assert text.startswith("claims\n")
    assert text.endswith("<!-- table: end -->\nend\n")
    assert "old" not in text
    assert "outside tolerance" in render(report)
    (tmp_path / "bare.md").write_text("nothing")
    with pytest.raises(SpecError, match=r"bare\.md: has no place for the table\n  fix: write"):
        write_table(report, tmp_path / "bare.md")
    assert (tmp_path / "bare.md").read_text() == "nothing"
