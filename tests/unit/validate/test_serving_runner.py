"""Serving rows and points to entries: the contract, sharing, series, files and samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clustersim.validate.entries import Entry
from clustersim.validate.runner import Report, in_sample, validate_files
from clustersim.validate.serving_runner import run_serving
from clustersim.validate.summary import metric_family, serving_summary
from clustersim.validate.table import render
from tests.published_rows import POINT, point, serving_row

KEYS = [
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


def test_every_scored_metric_is_one_entry():
    row = serving_row({"scored": {"tpot_s_mean": 0.001, "power_w": 300, "magic": 1.0}})
    entries = run_serving([row])
    assert [entry.metric for entry in entries] == ["tpot_s_mean", "power_w", "magic"]
    assert [entry.status for entry in entries] == ["ok", "ok", "skipped"]
    first = entries[0]
    assert first.error == pytest.approx((first.predicted or 0.0) / 0.001 - 1)
    assert list(first.document())[: len(KEYS)] == KEYS
    assert entries[2].reason == "magic is not defined by such a run"
    assert any("engine table vllm-0.12" in note for note in first.assumed)


def test_a_row_that_scores_nothing_is_one_skipped_entry():
    entries = run_serving([serving_row({"scored": {}})])
    assert [(entry.metric, entry.status) for entry in entries] == [(None, "skipped")]
    assert entries[0].reason == "nothing of this row is scored"


def test_skipped_entries_keep_their_metric():
    scored = {"ttft_s_mean": 1.0, "tpot_s_mean": 1.0}
    row = serving_row({"device": "Abacus", "scored": scored})
    entries = run_serving([row])
    assert {entry.metric for entry in entries} == set(scored)
    assert {entry.reason for entry in entries} == {"device Abacus is not in the catalogue"}


def test_a_model_that_does_not_fit_is_skipped_with_the_terms():
    row = serving_row({"device": "T4-16GB", "model.layers": 2000})
    (entry,) = run_serving([row])
    assert entry.status == "skipped"
    assert "no room for a KV cache" in (entry.reason or "")


def test_processes_do_not_change_the_result():
    rows = [serving_row({"id": str(n), "workload.batch": n}) for n in (1, 2)]
    rows.append(serving_row({"id": "other", "parallel.tp": 2, "gpus": 2}))
    assert run_serving(rows, jobs=2) == run_serving(rows)


def test_equal_configurations_share_their_result():
    first, second = run_serving([serving_row(), serving_row({"id": "two"})])
    assert first.predicted == second.predicted
    assert replace(first, id="two") == second


def _table(folder: Path, concurrencies: tuple[int, ...]) -> Path:
    lines = [",".join(POINT)]
    for number in concurrencies:
        row = {**POINT, "id": f"c{number}", "concurrency": str(number), "batch_size": str(number)}
        lines.append(",".join({**row, "ttft_ms": str(5 * number)}.values()))
    path = folder / "silicon_e2e.csv"
    path.write_text("\n".join(lines) + "\n")
    (folder / "models.yaml").write_text(
        "models:\n  maker/small: {layers: 4, hidden: 1024, heads: 16, kv_heads: 4, head_dim: null,"
        " ffn: 2816, vocab: 32000, attention: {kind: gqa}, layer_pattern: [full], moe: null}\n"
    )
    return path


def test_points_of_a_file_are_ranked_over_concurrency(tmp_path, predictor, catalogue):
    path = _table(tmp_path, (1, 4, 16, 64))
    report = validate_files([path], predictor, catalogue=catalogue)
    assert {entry.status for entry in report.entries} == {"ok"}
    assert {entry.source for entry in report.entries} == {"silicon_e2e"}
    ranks = report.document()["summary"][-1]
    assert ranks["group"] == "ttft_s_mean over concurrency, by series"
    assert (ranks["cases"], ranks["spearman"]) == (1, 1.0)
    assert "Spearman 1.000 mean" in render(report)


def test_a_sample_is_always_the_same_share(tmp_path, predictor, catalogue):
    path = _table(tmp_path, tuple(range(1, 9)))
    report = validate_files([path], predictor, catalogue=catalogue, sample=0.4)
    chosen = {entry.id for entry in report.entries}
    assert chosen == {f"c{n}" for n in range(1, 9) if in_sample(f"c{n}", 0.4)}
    share = sum(in_sample(str(n), 0.1) for n in range(10_000)) / 10_000
    assert share == pytest.approx(0.1, abs=0.01)


def test_points_without_models_beside_them_say_so(tmp_path, predictor, catalogue):
    path = _table(tmp_path, (4,))
    (tmp_path / "models.yaml").unlink()
    report = validate_files([path], predictor, catalogue=catalogue)
    assert {entry.reason for entry in report.entries} == {
        "no shape of maker/small in models.yaml beside the file"
    }


def _entry(**changes: object) -> Entry:
    blank = Entry("a", "s", None, "ok", None, "ttft_s_mean", 1.0, 1.0, 0.0, series="x")
    return replace(blank, **changes)  # type: ignore[arg-type]


def test_replicates_count_by_their_median_and_flat_series_rank_nothing():
    measured = {1: (1.0,), 2: (2.0, 2.0, 90.0), 3: (3.0,), 4: (4.0,)}
    for predicted, rho in ((lambda n: float(n), 1.0), (lambda n: 1.0, 0.0)):
        entries = [
            _entry(concurrency=n, measured=value, predicted=predicted(n))
            for n, values in measured.items()
            for value in values
        ]
        assert serving_summary(entries)[-1]["spearman"] == rho
    assert len(serving_summary(entries[:4])) == 1


def test_a_row_counts_once_in_a_family_of_metrics():
    entries = [
        _entry(metric="itl_s_p50", error=0.1),
        _entry(metric="itl_s_p99", error=-0.3),
        _entry(metric="output_tokens_per_s", error=0.5),
    ]
    once = serving_summary(entries)[0]
    assert (once["cases"], once["mape"]) == (2, pytest.approx(0.35))
    assert metric_family("step_time_s") is None
    assert metric_family(None) is None


def test_units_follow_the_metric():
    entries = [
        _entry(metric="power_w", predicted=300.0, measured=200.0, error=0.5),
        _entry(metric="output_tokens_per_s", predicted=3.0, measured=2.0, error=0.5),
    ]
    text = render(Report(tuple(entries)))
    assert "300 W" in text
    assert "3 tokens/s" in text


def test_a_point_of_no_number_is_skipped():
    row = point()
    entries = run_serving([replace(row, scored={"ttft_s_mean": None, "tpot_s_mean": 1e-3})])
    assert [entry.status for entry in entries] == ["skipped", "ok"]
