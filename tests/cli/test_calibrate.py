"""``clustersim calibrate`` as people type it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from clustersim.calibrate import tables
from clustersim.cli.app import app
from clustersim.spec.resolve import dump_record, load_device
from tests.measured_rows import gemm_rows, with_small_gemm, write_csv

runner = CliRunner()


@pytest.fixture(autouse=True)
def small_gemm(monkeypatch):
    monkeypatch.setattr(tables, "families", with_small_gemm(tables.families))


def invoke(*words: object, code: int = 0):
    result = runner.invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.stderr or result.stdout
    return result


def test_profile_is_written_and_the_table_printed(tmp_path):
    path, out = write_csv(tmp_path / "gemm.csv", gemm_rows()), tmp_path / "p.yaml"
    result = invoke("calibrate", path, "--device", "h100_sxm", "--out", out)
    assert "gemm/bf16" in result.stdout
    assert f"wrote {out}" in result.stderr
    assert out.is_file()


def test_json_is_one_document(tmp_path):
    path, out = write_csv(tmp_path / "gemm.csv", gemm_rows()), tmp_path / "p.yaml"
    words = ("calibrate", path, "--device", "h100_sxm", "--out", out, "--json", "--seed", 4)
    found = json.loads(invoke(*words).stdout)["calibration"]
    assert found["seed"] == 4
    assert found["written"] == [str(out)]
    assert found["sections"][0]["status"] == "fitted"


def test_run_uses_the_profile_of_a_device_file(tmp_path):
    path, out = write_csv(tmp_path / "gemm.csv", gemm_rows()), tmp_path / "p.yaml"
    invoke("calibrate", path, "--device", "h100_sxm", "--out", out)
    device = load_device("h100_sxm").model_copy(update={"profile": str(out)})
    file = tmp_path / "mine.yaml"
    file.write_text(dump_record(device))
    words = ("run", "smallest", "--json", "--set", f"cluster.node.device={file}")
    assert json.loads(invoke(*words).stdout)["step_time_s"] > 0


def test_wrong_rows_write_nothing_and_are_bad_input(tmp_path):
    rows = [*gemm_rows(), "h100_sxm,bf16,1,2,3,-1", "h100_sxm,bf16,1,2,3,nan"]
    path, out = write_csv(tmp_path / "gemm.csv", rows), tmp_path / "p.yaml"
    result = invoke("calibrate", path, "--device", "h100_sxm", "--out", out, code=2)
    assert f"{path}:52: latency_s" in result.stderr
    assert f"{path}:53: latency_s" in result.stderr
    assert [item.name for item in tmp_path.iterdir()] == ["gemm.csv"]


def test_nothing_to_fit_is_a_no(tmp_path):
    path, out = write_csv(tmp_path / "gemm.csv", gemm_rows()[:3]), tmp_path / "p.yaml"
    result = invoke("calibrate", path, "--device", "h100_sxm", "--out", out, code=1)
    assert "the answer is no" in result.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("device", "out", "said"),
    [("h9000", "p.yaml", "h9000"), ("h100_sxm", "p.txt", "p.txt"), ("h100_sxm", "", "a folder")],
)
def test_wrong_words_are_bad_input(tmp_path, device, out, said):
    path = write_csv(tmp_path / "gemm.csv", gemm_rows())
    words = ("calibrate", path, "--device", device, "--out", tmp_path / out)
    assert said in invoke(*words, code=2).stderr


def test_device_file_is_not_overwritten(tmp_path):
    path, mine = write_csv(tmp_path / "gemm.csv", gemm_rows()), tmp_path / "mine.yaml"
    mine.write_text(dump_record(load_device("h100_sxm")))
    before = mine.read_text()
    invoke("calibrate", path, "--device", mine, "--out", mine, code=2)
    assert mine.read_text() == before
